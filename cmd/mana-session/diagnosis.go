package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/mana/session"
)

// cause is why a user is logged out, or that they are not. docs/cli.md has the list.
type cause string

const (
	causeLoggedIn   cause = "logged-in"
	causeLogout     cause = "logout"
	causeRefused    cause = "refused"    // by the auth server
	causeExpired    cause = "expired"    // by the session's end
	causeRemoved    cause = "removed"    // by other software, or evicted
	causeSealed     cause = "sealed"     // this program has no key that opens it
	causeUnreadable cause = "unreadable" // no session under the key
	causeUnknown    cause = "unknown"    // no trace
)

// The words of trails.
const (
	byLogin  = "login"
	byLink   = "link"
	byToken  = "refresh token"
	byServer = "auth server"
	byLogout = "logout"
	byExpiry = "expiry"
)

// diagnosis is what facts come to.
type diagnosis struct {
	cause   cause
	because string // goes on after the user ID
	at      time.Time
	notes   []string
	remedy  string
}

// slack is for the fence and the trail, which are dated one after the other.
const slack = time.Second

const loginAgain = "the user logs in again. "

// diagnose is pure: everything that it goes by is in the facts.
func (f facts) diagnose(now time.Time) diagnosis {
	switch {
	case f.session != nil:
		return f.loggedIn(now)
	case f.unread != "":
		return f.unreadable()
	case f.record.Exists():
		return diagnosis{
			cause:   causeExpired,
			because: "is logged out: the session has expired by its own end, though its record is still there.",
			notes:   []string{"Something wrote the record with a longer life on Redis than its session has, as the TypeScript service does."},
			remedy:  loginAgain + "The record counts for nothing and goes with its TTL.",
		}
	}
	return f.gone(now)
}

// loggedIn also looks for an interruption that the user may have meant.
func (f facts) loggedIn(now time.Time) diagnosis {
	d := diagnosis{cause: causeLoggedIn, because: "is logged in; the session never ends by itself."}
	if ends := f.session.ExpiresAt; !ends.IsZero() {
		d.because = fmt.Sprintf("is logged in; without further use the session ends in %s.", length(ends.Sub(now)))
	}
	if len(f.trail) > 0 {
		d.at = f.trail[0].First
	}
	expires := f.session.TokenExpiresAt
	weakened := weakenedLast(f.trail)
	switch ranOut := !expires.IsZero() && expires.Sub(now) <= handOut; {
	case weakened != nil && ranOut:
		d.notes = append(d.notes, "The token has run out, and the auth server refused the refresh token ("+reason(*weakened)+"): without a link the next command finds the user logged out.")
		d.remedy = "have the user log in again, unless they are linked."
	case weakened != nil:
		d.notes = append(d.notes, "The auth server refused the refresh token ("+reason(*weakened)+"): without a link the user will be logged out when the token has run out.")
		d.remedy = "have the user log in again, unless they are linked."
	case ranOut:
		d.notes = append(d.notes, "The token has run out; the next command has it replaced.")
	}
	if before := f.interrupted(); before != "" {
		d.notes = append(d.notes, before)
	}
	if f.reseal {
		d.notes = append(d.notes, "The record is not sealed as this program's keys say; see mana-session migrate.")
	}
	return d
}

// weakenedLast is the refusal of the refresh token, if there was none since.
func weakenedLast(trail []session.TrailEvent) *session.TrailEvent {
	for i, e := range trail {
		switch {
		case e.Kind == session.TrailWeakened:
			return &trail[i]
		case e.Kind == session.TrailBegan, e.Kind == session.TrailReplaced, e.Kind == session.TrailEnded, e.By == byToken:
			return nil
		}
	}
	return nil
}

// interrupted says how a session came to be interrupted before the one that there is.
func (f facts) interrupted() string {
	for i, e := range f.trail {
		began := "a login"
		if e.By == byLink {
			began = "the link"
		}
		began += " began a new session at " + moment(e.First)
		switch before := f.trail[min(i+1, len(f.trail)-1)]; {
		case e.Kind == session.TrailEnded:
			return "Before that the user was logged out: " + sentence(e)
		case e.Kind == session.TrailReplaced:
			return "The session took the place of another account's: " + sentence(e)
		case e.Kind != session.TrailBegan:
		case e.By == byLogin && strings.Contains(e.Reason, "cannot be read"):
			return "Before " + began + ", " + e.Reason + ": other software wrote it, it was damaged, or that bot lacked its key."
		case e.By == byLogin && e.Reason != "", i+1 == len(f.trail), before.Kind == session.TrailEnded:
			// A login over a session interrupts nothing.
		case f.loggedOut.After(before.Last.Add(slack)) && f.loggedOut.Before(e.First.Add(slack)):
			return "Before " + began + ", the user was logged out, at " + moment(f.loggedOut) + ", by a bot that keeps no trail."
		case before.SessionEnds.IsZero() || before.SessionEnds.After(e.First):
			return "Before " + began + ", the record of the one before was gone ahead of its time: other software removed it, or Redis evicted it."
		default:
			return "The session before had expired, at " + moment(before.SessionEnds) + "; then " + began + "."
		}
	}
	return ""
}

// unreadable is about a record that is no session to this program.
func (f facts) unreadable() diagnosis {
	if f.sealed {
		return diagnosis{
			cause:   causeSealed,
			because: "has a record that this program cannot open: " + f.unread + ".",
			notes:   []string{"A bot with the same keys takes the user for logged out, and writes over the record when they log in."},
			remedy: "give this program all keys of the bots in SESSION_ENCRYPTION_KEYS and ask again; if it can then be opened, a bot " +
				"lacks that key. If no key of yours opens it, the user logs in again.",
		}
	}
	return diagnosis{
		cause:   causeUnreadable,
		because: "is logged out: what lies under their key is no session: " + f.unread + ".",
		notes:   []string{"Other software wrote it, or it is damaged."},
		remedy:  loginAgain + "That writes over it. Find out what else writes under this key prefix.",
	}
}

// gone is about a user without a record.
func (f facts) gone(now time.Time) diagnosis {
	var last session.TrailEvent
	if len(f.trail) > 0 {
		last = f.trail[0]
	}
	switch {
	case f.loggedOut.After(last.Last.Add(slack)):
		return diagnosis{
			cause: causeLogout, at: f.loggedOut,
			because: "was logged out, at " + moment(f.loggedOut) + ".",
			notes:   []string{"The bot that did it left nothing in the trail: it keeps none, or there was no session any more."},
			remedy:  loginAgain + "A logout is meant by whoever asked for it.",
		}
	case len(f.trail) == 0:
		return diagnosis{
			cause:   causeUnknown,
			because: "is logged out, and left no trace: there is neither a record nor a trail, nor a logout in the last 7 days.",
			notes: []string{"They never logged in, or it is more than a week since their session ended, or the bots keep no trails " +
				"(WithTrail(false)), or all keys were removed at once (FLUSHALL, a restart of a Redis that does not persist)."},
			remedy: "check the user ID, which is case-sensitive. If others are missing, too, compare Redis, database and key prefix with the " +
				"bots': mana-session status counts what there is, mana-session doctor looks for faults.",
		}
	case last.Kind == session.TrailEnded:
		return ended(last)
	case !last.SessionEnds.IsZero() && !last.SessionEnds.After(now):
		return diagnosis{
			cause: causeExpired, at: last.SessionEnds,
			because: fmt.Sprintf("is logged out: the session expired at %s, having been used last at %s or a little later.",
				moment(last.SessionEnds), moment(last.Last)),
			remedy: loginAgain + "How long a session lasts without use is set by WithSessionTTL, 7 days by default.",
		}
	}
	until := "it had no end"
	if !last.SessionEnds.IsZero() {
		until = "it was to last until " + moment(last.SessionEnds)
	}
	return diagnosis{
		cause:   causeRemoved,
		because: "is logged out: the record is gone ahead of its time (" + until + "), and no bot ended it.",
		notes:   []string{"After " + moment(last.Last) + " other software removed it, or Redis evicted it or lost it in a restart or a failover."},
		remedy: loginAgain + "Look for what else writes to this Redis (the TypeScript service, scripts, DEL and FLUSHALL), and have " +
			"mana-session doctor look at eviction.",
	}
}

// ended is about a session that a bot, or this program, ended.
func ended(e session.TrailEvent) diagnosis {
	where := ""
	if e.Bot != "" {
		where = " on " + e.Bot
	}
	switch e.By {
	case byLogout:
		return diagnosis{
			cause: causeLogout, at: e.Last,
			because: fmt.Sprintf("was logged out%s, at %s.", where, moment(e.Last)),
			remedy:  loginAgain + "A logout is meant by whoever asked for it; mana-session as the bot is an operator's.",
		}
	case byExpiry:
		return diagnosis{
			cause: causeExpired, at: e.Last,
			because: fmt.Sprintf("is logged out: the session expired (%s).", reason(e)),
			remedy:  loginAgain + "How long a session lasts without use is set by WithSessionTTL, 7 days by default.",
		}
	}
	d := diagnosis{
		cause: causeRefused, at: e.Last,
		because: fmt.Sprintf("was logged out by the auth server's clear no%s, at %s: %s.", where, moment(e.Last), reason(e)),
		remedy:  loginAgain,
	}
	switch said := strings.ToLower(e.Reason); {
	case strings.Contains(said, "user not found"):
		d.remedy += "The account is not there any more: it was deleted, or the auth server has lost it."
	case strings.Contains(said, "expired"):
		d.remedy += "The refresh token had run out: it lasts a week, and no bot used the session for that long."
	case strings.Contains(said, "link"):
		d.remedy += "The account has no link to this Matrix user, and no refresh token that works: it was unlinked or deleted, or the refresh token " +
			"was revoked, used elsewhere or older than a week."
	default:
		d.remedy += "The refresh token was revoked, used elsewhere (the TypeScript service drops it), or is older than a week."
	}
	d.remedy += " If many users are hit at once, look at the auth server's log."
	return d
}

// blameEviction says more about a record that is gone, by what Redis counts.
func (d *diagnosis) blameEviction(evicted int64, policies []string) {
	switch counted := fmt.Sprintf("Redis has evicted %d keys since it was started (maxmemory-policy %s)", evicted, strings.Join(policies, ", ")); {
	case evicted == 0:
	case d.cause == causeUnknown:
		d.notes = append(d.notes, counted+": that may have taken the record and the trail.")
		d.remedy += " Give Redis more memory, and set maxmemory-policy noeviction."
	default:
		d.notes = append(d.notes, counted+": that is the likely cause.")
		d.remedy = loginAgain + "Give Redis more memory, and set maxmemory-policy noeviction."
	}
}

func reason(e session.TrailEvent) string {
	if e.Reason == "" {
		return "no reason was noted"
	}
	return e.Reason
}
