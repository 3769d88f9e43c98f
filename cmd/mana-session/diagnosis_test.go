package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/mana/session"
)

// The times of the trails below.
var (
	noon  = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	week  = 7 * 24 * time.Hour
	began = session.TrailEvent{Kind: session.TrailBegan, By: "login", Bot: "weather-bot", First: noon, Last: noon, Count: 1, SessionEnds: noon.Add(week)}
)

func event(kind session.TrailKind, by, reason string, at time.Time) session.TrailEvent {
	e := session.TrailEvent{Kind: kind, By: by, Reason: reason, Bot: "weather-bot", First: at, Last: at, Count: 1}
	if kind != session.TrailEnded {
		e.SessionEnds = at.Add(week)
	}
	return e
}

func TestTheDiagnosisNamesTheCause(t *testing.T) {
	later := noon.Add(time.Hour)
	there := session.Record{UserID: alice, Value: "x"}
	alive := &session.Session{MatrixUserID: alice, ExpiresAt: noon.Add(week), TokenExpiresAt: later.Add(10 * time.Minute)}
	ranOut := &session.Session{MatrixUserID: alice, ExpiresAt: noon.Add(week), TokenExpiresAt: later}
	for name, c := range map[string]struct {
		facts facts
		now   time.Time
		cause cause
		says  string
		notes string
	}{
		"no trace": {facts{}, later, causeUnknown, "left no trace", "never logged in"},
		"a logout": {facts{trail: []session.TrailEvent{event(session.TrailEnded, "logout", "", later), began}, loggedOut: later},
			later, causeLogout, "was logged out on weather-bot, at 2026-11-25 13:00:00 UTC", ""},
		"a logout by a bot that keeps no trails": {facts{loggedOut: noon}, later, causeLogout, "was logged out, at 2026-11-25 12:00:00 UTC", "keeps none"},
		"a logout after the trail":               {facts{trail: []session.TrailEvent{began}, loggedOut: later}, later, causeLogout, "13:00:00", "nothing in the trail"},
		"a logout before the trail":              {facts{trail: []session.TrailEvent{began}, loggedOut: noon.Add(-time.Hour)}, later, causeRemoved, "ahead of its time", "evicted it"},
		"the auth server's no, without a link": {facts{trail: []session.TrailEvent{event(session.TrailEnded, "auth server", "link fetch: auth server answered 404: No link found for this Matrix user", later)}},
			later, causeRefused, "No link found", ""},
		"the auth server's no to a refresh token": {facts{trail: []session.TrailEvent{event(session.TrailEnded, "auth server", "refresh: auth server answered 401: Invalid refresh token", later)}},
			later, causeRefused, "Invalid refresh token", ""},
		"expired, and noted": {facts{trail: []session.TrailEvent{event(session.TrailEnded, "expiry", "not used since 2026-11-18T12:00:00Z", later)}},
			later, causeExpired, "not used since", ""},
		"expired, and dropped by Redis": {facts{trail: []session.TrailEvent{began}}, noon.Add(week + time.Minute), causeExpired, "expired at 2026-12-02 12:00:00 UTC", ""},
		"expired, with its record there": {facts{record: there, trail: []session.TrailEvent{began}}, noon.Add(week + time.Minute),
			causeExpired, "though its record is still there", "TypeScript"},
		"gone before its end": {facts{trail: []session.TrailEvent{began}}, later, causeRemoved, "it was to last until 2026-12-02", "other software removed it, or Redis evicted it"},
		"gone, though it had no end": {facts{trail: []session.TrailEvent{{Kind: session.TrailRefreshed, By: "link", First: noon, Last: noon, Count: 1}}},
			later, causeRemoved, "it had no end", "evicted it"},
		"sealed without the key": {facts{record: there, sealed: true, unread: "sealed, and there is no key"}, later, causeSealed, "cannot open: sealed, and there is no key", "takes the user for logged out"},
		"no session":             {facts{record: there, unread: "not JSON"}, later, causeUnreadable, "no session: not JSON", "Other software wrote it"},
		"logged in":              {facts{record: there, session: alive, trail: []session.TrailEvent{began}}, later, causeLoggedIn, "ends in 6 d 23 h", ""},
		"logged in for ever":     {facts{record: there, session: &session.Session{}}, later, causeLoggedIn, "never ends by itself", ""},
		"a refused refresh token": {facts{record: there, session: alive, trail: []session.TrailEvent{event(session.TrailWeakened, "auth server", "refresh: 401", noon), began}},
			later, causeLoggedIn, "", "will be logged out when the token has run out"},
		"a refused refresh token, and a token that ran out": {facts{record: there, session: ranOut, trail: []session.TrailEvent{event(session.TrailRefreshed, "link", "", later), event(session.TrailWeakened, "auth server", "refresh: 401", noon), began}},
			later, causeLoggedIn, "", "the next command finds the user logged out"},
		"a token that ran out": {facts{record: there, session: ranOut, trail: []session.TrailEvent{began}}, later, causeLoggedIn, "", "the next command has it replaced"},
		"logged in again": {facts{record: there, session: alive, trail: []session.TrailEvent{began, event(session.TrailEnded, "auth server", "refresh: 401", noon.Add(-time.Hour))}},
			later, causeLoggedIn, "", "Before that the user was logged out: The auth server ended the session"},
		"another account": {facts{record: there, session: alive, trail: []session.TrailEvent{event(session.TrailReplaced, "link", "the account of the session was another", noon)}},
			later, causeLoggedIn, "", "The SSO-Link led to another account"},
		"gone, and begun again by the link": {facts{record: there, session: alive, trail: []session.TrailEvent{event(session.TrailBegan, "link", "", later), began}},
			later, causeLoggedIn, "", "was gone ahead of its time"},
		"gone, and logged in again": {facts{record: there, session: alive, trail: []session.TrailEvent{event(session.TrailBegan, "login", "", later), began}}, later, causeLoggedIn, "",
			"Before a login began a new session at 2026-11-25 13:00:00 UTC, the record of the one before was gone ahead of its time"},
		"logged in over a session": {facts{record: there, session: alive, trail: []session.TrailEvent{event(session.TrailBegan, "login", "over the session that there was", later), began}},
			later, causeLoggedIn, "is logged in", ""},
		"unreadable, and logged in again": {facts{record: there, session: alive, trail: []session.TrailEvent{event(session.TrailBegan, "login", "the record that was there is no session, or cannot be read", later), began}},
			later, causeLoggedIn, "", "the record that was there is no session"},
		"expired, and logged in again": {facts{record: there, session: &session.Session{ExpiresAt: noon.Add(3 * week)}, trail: []session.TrailEvent{event(session.TrailBegan, "login", "", noon.Add(2*week)), began}},
			noon.Add(2 * week), causeLoggedIn, "", "The session before had expired, at 2026-12-02 12:00:00 UTC; then a login"},
		"logged out by a bot that keeps no trails, and in again": {facts{record: there, session: alive, loggedOut: noon.Add(time.Minute), trail: []session.TrailEvent{event(session.TrailBegan, "login", "", later), began}},
			later, causeLoggedIn, "", "was logged out, at 2026-11-25 12:01:00 UTC, by a bot that keeps no trail"},
		"expired, and begun again by the link": {facts{record: there, session: &session.Session{ExpiresAt: noon.Add(3 * week)}, trail: []session.TrailEvent{event(session.TrailBegan, "link", "", noon.Add(2*week)), began}},
			noon.Add(2 * week), causeLoggedIn, "", "The session before had expired"},
		"not sealed as it is to be": {facts{record: there, session: alive, reseal: true}, later, causeLoggedIn, "", "mana-session migrate"},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.facts.diagnose(c.now)
			assert.Equal(t, c.cause, got.cause)
			assert.Contains(t, got.because, c.says)
			if c.notes == "" {
				assert.Empty(t, got.notes)
			} else {
				assert.Contains(t, got.notes[0], c.notes)
			}
			if got.cause != causeLoggedIn {
				assert.NotEmpty(t, got.remedy, "what to do")
			}
		})
	}
}

func TestEvictionIsNamedWhenRedisHasEvicted(t *testing.T) {
	d := facts{trail: []session.TrailEvent{began}}.diagnose(noon.Add(time.Hour))
	d.blameEviction(0, []string{"noeviction"})
	assert.Len(t, d.notes, 1)
	gone := facts{}.diagnose(noon)
	gone.blameEviction(12, []string{"allkeys-lru"})
	assert.Equal(t, causeUnknown, gone.cause)
	assert.Contains(t, gone.notes[1], "evicted 12 keys since it was started (maxmemory-policy allkeys-lru): that may have taken")
	assert.Contains(t, gone.remedy, "check the user ID")
	assert.Contains(t, gone.remedy, "noeviction")
	d.blameEviction(12, []string{"allkeys-lru"})
	assert.Contains(t, d.notes[1], "evicted 12 keys since it was started (maxmemory-policy allkeys-lru)")
	assert.Contains(t, d.remedy, "noeviction")
}

// What to do about a "no" is told by the server's words.
func TestTheRemedyIsThatForTheServersNo(t *testing.T) {
	for reason, remedy := range map[string]string{
		"refresh: auth server answered 401: Invalid refresh token":                     "revoked, used elsewhere",
		"refresh: auth server answered 401: User not found":                            "it was deleted",
		"refresh: auth server answered 401: Refresh token expired":                     "had run out",
		"link fetch: auth server answered 404: No link found for this Matrix user":     "has no link",
		"refresh: auth server answered 401: something that nobody has thought of here": "revoked, used elsewhere",
	} {
		d := facts{trail: []session.TrailEvent{event(session.TrailEnded, "auth server", reason, noon), began}}.diagnose(noon.Add(time.Hour))
		assert.Equal(t, causeRefused, d.cause)
		assert.Contains(t, d.because, reason)
		assert.Contains(t, d.remedy, remedy, reason)
	}
}

func TestEveryKindOfEventIsASentence(t *testing.T) {
	seen := make(map[string]bool)
	for _, e := range []session.TrailEvent{
		event(session.TrailBegan, "login", "", noon), event(session.TrailBegan, "link", "", noon),
		event(session.TrailRefreshed, "link", "", noon), event(session.TrailRefreshed, "refresh token", "", noon),
		event(session.TrailExtended, "use", "", noon), event(session.TrailWeakened, "auth server", "401", noon),
		event(session.TrailReplaced, "login", "", noon), event(session.TrailReplaced, "link", "", noon), event(session.TrailReplaced, "refresh token", "", noon),
		event(session.TrailEnded, "logout", "", noon), event(session.TrailEnded, "auth server", "401", noon), event(session.TrailEnded, "expiry", "", noon),
		event("of tomorrow", "somebody", "", noon),
	} {
		text := sentence(e)
		assert.Regexp(t, `^[A-Z].* at 2026-11-25 12:00:00 UTC on weather-bot(: 401)?\.$`, text)
		assert.False(t, seen[text], text)
		seen[text] = true
	}
	many := began
	many.Kind, many.By, many.Count, many.Last = session.TrailRefreshed, "link", 12, noon.Add(time.Hour)
	assert.Equal(t, "The token was replaced by the SSO-Link, 12 times from 2026-11-25 12:00:00 UTC to 2026-11-25 13:00:00 UTC on weather-bot.", sentence(many))
}

func TestLengthsAndTextsAreForPeople(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"6 d 23 h": 7*24*time.Hour - time.Second, "14 min 59 s": 15*time.Minute - time.Second, "2 h": 2 * time.Hour,
		"less than 1 s": 20 * time.Millisecond, "1 s": time.Second, "-3 min": -3 * time.Minute, "1 d": 24*time.Hour + time.Minute,
	} {
		assert.Equal(t, want, length(d))
	}
	assert.Equal(t, `a\u001b[31mb\u202ec\u000ad\u009b`, clean("a\x1b[31mb\u202ec\nd\u009b"))
	assert.Equal(t, "ü@é:x y", clean("ü@é:x y"))
}
