package console

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/mana/session"
)

// count is a number with its thousands apart.
func count[T int | int64](n T) string {
	digits := strconv.FormatInt(int64(n), 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// some is a number of things: "1 session", "12 sessions".
func some[T int | int64](n T, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return count(n) + " " + thing + "s"
}

// span is a duration in words, to its two largest units.
func span(d time.Duration) string {
	if d < time.Second {
		return "less than a second"
	}
	units := []struct {
		name string
		size time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}}
	for i, unit := range units {
		n := int64(d / unit.size)
		if n == 0 {
			continue
		}
		words := some(n, unit.name)
		if rest := d % unit.size; i+1 < len(units) && n < 10 {
			if m := int64(rest / units[i+1].size); m > 0 {
				words += " " + some(m, units[i+1].name)
			}
		}
		return words
	}
	return ""
}

func latency(d time.Duration) string {
	if d < time.Millisecond {
		return "less than 1 ms"
	}
	return count(d.Milliseconds()) + " ms"
}

// moment is a point in time, for a time element.
type moment struct{ time.Time }

func (m moment) Machine() string { return m.UTC().Format(time.RFC3339) }
func (m moment) Human() string   { return m.UTC().Format("2006-01-02 15:04:05") + " UTC" }

// Away says how far from now it is.
func (m moment) Away() string {
	switch d := time.Until(m.Time); {
	case d > 0:
		return "in " + span(d)
	case d > -time.Second:
		return "just now"
	default:
		return span(-d) + " ago"
	}
}

// visible is a text from outside as it is shown: what nobody could see in it, or what
// turns the text around it, is written out.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\u{%x}", r)
		}
	}
	return b.String()
}

// trouble is what an error means to an operator, and what it says.
func trouble(err error) string {
	meaning := "This went wrong"
	switch {
	case errors.Is(err, session.ErrClosed):
		return "The service has been closed."
	case errors.Is(err, context.DeadlineExceeded):
		return "There was no answer in time."
	case errors.Is(err, session.ErrStoreUnavailable):
		meaning = "The store did not answer, or refused"
	case errors.Is(err, session.ErrServiceKeyRejected):
		meaning = "The auth server does not accept the service key"
	case errors.Is(err, session.ErrAuthUnavailable):
		meaning = "The auth server did not answer, or made no sense"
	}
	return meaning + ": " + strings.NewReplacer("session: ", "", "\n", "; ").Replace(err.Error()) + "."
}

// sentence tells an event of a trail.
func sentence(e session.TrailEvent) string {
	var s string
	switch e.Kind {
	case session.TrailBegan:
		s = map[string]string{
			"login": "Logged in with email and password",
			"link":  "A session began by the SSO-Link, without a password",
		}[e.By]
	case session.TrailRefreshed:
		s = map[string]string{
			"link":          "The token was replaced, by the SSO-Link",
			"refresh token": "The token was replaced, by the refresh token",
		}[e.By]
	case session.TrailExtended:
		s = "The session was used, and so got its whole life again"
	case session.TrailWeakened:
		s = "The auth server refused the refresh token; the session stayed"
	case session.TrailReplaced:
		s = "A session of another account took the place of the one before, by the " + e.By
	case session.TrailEnded:
		s = map[string]string{
			"logout":      "Logged out",
			"auth server": "The auth server ended the session",
			"expiry":      "The session ended because it was not used",
		}[e.By]
	}
	if s == "" {
		s = fmt.Sprintf("%s, by %s", e.Kind, e.By)
	}
	if e.Count > 1 {
		s += fmt.Sprintf(", %s times", count(e.Count))
	}
	if e.Bot != "" {
		s += ", at " + e.Bot
	}
	if e.Reason != "" {
		s += ": " + strings.TrimSuffix(e.Reason, ".")
	}
	return visible(s) + "."
}

// absence says what is known of why a user has no session. What the trail does not
// tell is no bot's doing that keeps trails, unless writes are still queued.
func absence(trail []session.TrailEvent, now time.Time, queued bool) string {
	switch {
	case len(trail) == 0:
		return "There is no session, and no trail of one: the user has not logged in for a week or more, or no bot keeps trails here."
	case trail[0].Kind == session.TrailEnded:
		return "There is no session: " + lowerFirst(sentence(trail[0]))
	case !trail[0].SessionEnds.IsZero() && !trail[0].SessionEnds.After(now):
		return "There is no session: it was not used until it ended, on " + moment{trail[0].SessionEnds}.Human() + "."
	case queued:
		return "There is no session here. Writes wait for the store, and a logout of this user may be one of them."
	default:
		return "There is no session that this bot can read, and no bot ended it before its time. Either other software removed it, or Redis evicted it, or the record is damaged or sealed with a key that this bot lacks."
	}
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }
