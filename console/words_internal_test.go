package console

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

func TestNumbersAndDurationsInWords(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 7: "7", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567", -100: "-100", -1000: "-1,000",
	} {
		require.Equal(t, want, count(n))
	}
	require.Equal(t, "1 session", some(1, "session"))
	require.Equal(t, "1,000 sessions", some(1000, "session"))
	for d, want := range map[time.Duration]string{
		-time.Hour: "less than a second", 0: "less than a second", 999 * time.Millisecond: "less than a second",
		time.Second: "1 second", 59 * time.Second: "59 seconds", 61 * time.Second: "1 minute 1 second",
		15*time.Minute + 30*time.Second: "15 minutes", time.Hour + time.Second: "1 hour", 26 * time.Hour: "1 day 2 hours",
		7*24*time.Hour - time.Second: "6 days 23 hours", 400 * 24 * time.Hour: "400 days",
	} {
		require.Equal(t, want, span(d), d)
	}
	require.Equal(t, "less than 1 ms", latency(time.Microsecond))
	require.Equal(t, "1,500 ms", latency(1500*time.Millisecond))
}

func TestEventsInSentences(t *testing.T) {
	for want, e := range map[string]session.TrailEvent{
		"Logged in with email and password, at todo bot.":                                {Kind: session.TrailBegan, By: "login", Bot: "todo bot", Count: 1},
		"A session began by the SSO-Link, without a password.":                           {Kind: session.TrailBegan, By: "link", Count: 1},
		"The token was replaced, by the SSO-Link, 1,200 times.":                          {Kind: session.TrailRefreshed, By: "link", Count: 1200},
		"The token was replaced, by the refresh token.":                                  {Kind: session.TrailRefreshed, By: "refresh token", Count: 1},
		"The session was used, and so got its whole life again, 2 times.":                {Kind: session.TrailExtended, By: "use", Count: 2},
		"The auth server refused the refresh token; the session stayed: refresh: 401 x.": {Kind: session.TrailWeakened, By: "auth server", Count: 1, Reason: "refresh: 401 x."},
		"A session of another account took the place of the one before, by the login.":   {Kind: session.TrailReplaced, By: "login", Count: 1},
		"Logged out.":                                    {Kind: session.TrailEnded, By: "logout", Count: 1},
		"The auth server ended the session: no.":         {Kind: session.TrailEnded, By: "auth server", Count: 1, Reason: "no"},
		"The session ended because it was not used.":     {Kind: session.TrailEnded, By: "expiry", Count: 1},
		"ended, by something newer.":                     {Kind: session.TrailEnded, By: "something newer", Count: 1},
		"renewed, by a later version of the package: x.": {Kind: "renewed", By: "a later version of the package", Count: 1, Reason: "x"},
	} {
		require.Equal(t, want, sentence(e))
	}
}

func TestErrorsInSentences(t *testing.T) {
	store := fmt.Errorf("%w: delete: READONLY", session.ErrStoreUnavailable)
	require.Equal(t, "The store did not answer, or refused: store unavailable: delete: READONLY.", trouble(store))
	require.Equal(t, "The auth server does not accept the service key: service key rejected.", trouble(session.ErrServiceKeyRejected))
	require.Equal(t, "The service has been closed.", trouble(session.ErrClosed))
	require.Equal(t, "This went wrong: odd.", trouble(errors.New("odd")))

	link := &session.AuthError{Op: "link remove", StatusCode: 500}
	_, sentences := logoutFailure(errors.Join(store, link))
	require.Equal(t, []string{
		"The user is logged out in this process, and everywhere when the store is back, unless they log in again before.",
		"Their link is not removed.",
		"The store did not answer, or refused: store unavailable: delete: READONLY; link remove: auth server answered 500.",
	}, sentences)
	_, sentences = logoutFailure(errors.New("odd"))
	require.Contains(t, sentences[0], "is not known")
}

// A list of sessions that never end is no division by zero, and none is longer than
// its bar.
func TestBarsOfTheList(t *testing.T) {
	now := time.Now()
	require.Equal(t, userRow{Name: "@a:b", Link: "user?id=%40a%3Ab", Left: "Never ends", Bar: barWidth}, newUserRow(listed{userID: "@a:b"}, 0))
	require.Zero(t, newUserRow(listed{"@a:b", now.Add(-time.Second).Unix()}, time.Hour).Bar)
	require.Equal(t, barWidth, newUserRow(listed{"@a:b", now.Add(2 * time.Hour).Unix()}, time.Hour).Bar)
	require.Equal(t, 1, newUserRow(listed{"@a:b", now.Add(2 * time.Second).Unix()}, 1000*time.Hour).Bar, "there is something left")
	half := newUserRow(listed{"@a:b", now.Add(time.Hour).Unix()}, 2*time.Hour).Bar
	require.InDelta(t, barWidth/2, half, 1)
}

func TestSessionsThatNeverEndComeLastByEnd(t *testing.T) {
	l := &listing{at: time.Unix(0, 0), sessions: []listed{{"@c:h", 0}, {"@a:h", 20}, {"@b:h", 10}}}
	l.sort()
	require.Equal(t, 20*time.Second, l.longest)
	byID, _, _, _ := l.page("", false, 1, 10)
	require.Equal(t, []listed{{"@a:h", 20}, {"@b:h", 10}, {"@c:h", 0}}, byID)
	byEnd, _, _, _ := l.page("H", true, 1, 10)
	require.Equal(t, []listed{{"@b:h", 10}, {"@a:h", 20}, {"@c:h", 0}}, byEnd)
}
