package session

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is stored may be the work of the TypeScript service, which keeps neither
// the refresh token nor when a session began.
func TestReconcileWithWhatTheTypeScriptServiceWrote(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	jwt := func(subject string, expires time.Time) token {
		claims := fmt.Sprintf(`{"sub":%q,"exp":%d}`, subject, expires.Unix())
		return parseToken("e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".sig")
	}
	old := &login{
		userID: "@a:h", token: jwt("a", at), email: "a@h", refresh: newSecret("r0"),
		since: at.Add(-time.Hour), expires: at.Add(6 * 24 * time.Hour), data: `{"k":1}`,
	}
	began := &pending{userID: "@a:h", began: true, since: at, login: &login{
		userID: "@a:h", token: jwt("a", at.Add(15*time.Minute)), email: "a@h", refresh: newSecret("r1"),
		since: at, expires: at.Add(defaultSessionTTL),
	}}
	refreshed := *old
	refreshed.token = jwt("a", at.Add(15*time.Minute))
	byLink := &pending{userID: "@a:h", since: old.since, base: old, login: &refreshed}
	succeeded := refreshed
	succeeded.refresh = newSecret("r1")
	byToken := &pending{userID: "@a:h", since: old.since, base: old, login: &succeeded, spent: true}

	// As the TypeScript service leaves a record: after a data update, a refresh
	// by the link, a login.
	updated := *old
	updated.since, updated.refresh, updated.data = time.Time{}, secret{}, `{"k":2}`
	relinked := login{userID: "@a:h", token: jwt("a", at.Add(20*time.Minute)), expires: at.Add(time.Second).Add(defaultSessionTTL)}
	loggedIn := relinked
	loggedIn.email = "a@h"
	stranger := relinked
	stranger.token = jwt("b", at.Add(20*time.Minute))

	for name, c := range map[string]struct {
		pending *pending
		stored  *login
		want    string // token's expiry after at, refresh token, data; empty: overtaken
	}{
		"login over a data update":         {began, &updated, `15m0s r1 {"k":2}`},
		"login over a refresh":             {began, &relinked, "15m0s r1 "},
		"login over a later login":         {began, &loggedIn, ""},
		"refresh over a data update":       {byLink, &updated, `15m0s  {"k":2}`},
		"refresh over a later refresh":     {byLink, &relinked, ""},
		"refresh over a later login":       {byLink, &loggedIn, ""},
		"refresh over another account":     {byLink, &stranger, ""},
		"refresh over nothing":             {byLink, nil, ""},
		"successor over a data update":     {byToken, &updated, `15m0s r1 {"k":2}`},
		"successor over a later refresh":   {byToken, &relinked, "20m0s r1 "},
		"successor over a later login":     {byToken, &loggedIn, ""},
		"successor over another account":   {byToken, &stranger, ""},
		"successor over nothing":           {byToken, nil, `15m0s r1 {"k":1}`},
		"login over nothing":               {began, nil, "15m0s r1 "},
		"login over an older, full record": {began, old, `15m0s r1 {"k":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if next := c.pending.over(c.stored, time.Time{}); next != nil {
				got = fmt.Sprintf("%s %s %s", next.token.expires.Sub(at), next.refresh.reveal(), next.data)
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestRefreshDoesNotMakeASessionYounger(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	refresh := &login{userID: "@a:h", email: "a@h", expires: at.Add(time.Hour + defaultSessionTTL)}
	for name, c := range map[string]struct {
		since time.Time
		email string
		want  time.Time
	}{
		"of this package":        {at.Add(-time.Minute), "a@h", at.Add(-time.Minute)},
		"of the other, by login": {time.Time{}, "a@h", at},
		"of the other, by link":  {time.Time{}, "", unknownSince},
	} {
		t.Run(name, func(t *testing.T) {
			old := &login{userID: "@a:h", email: c.email, since: c.since, expires: at.Add(defaultSessionTTL)}
			old.token.subject, refresh.token.subject = "a", "a"
			next, same := refreshed{base: old, next: refresh}.replaces(at)
			require.True(t, same)
			require.WithinDuration(t, c.want, next.began(), 0)
		})
	}
}

// The logout was just before the session began, by a clock that runs ahead.
func TestSessionThatIsStoredHasNotBeenLoggedOut(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	old := &login{userID: "@a:h", email: "a@h", refresh: newSecret("r0"), since: at, expires: at.Add(time.Hour)}
	next := *old
	next.refresh = newSecret("r1")
	successor := &pending{userID: "@a:h", since: at, base: old, login: &next, spent: true}
	got := successor.over(old, at.Add(time.Second))
	require.NotNil(t, got)
	require.Equal(t, "r1", got.refresh.reveal())
	require.Nil(t, successor.over(nil, at.Add(time.Second)), "but what is gone has")
}

func TestOlderEventDoesNotReplaceANewerOneInTheOutbox(t *testing.T) {
	o := newOutbox(&records{near: newNearCache(10, 0, defaultSessionTTL)}, new(counters), slog.New(slog.DiscardHandler))
	order := newOrder()
	older, newer := order.begin("@a:h", true), order.begin("@a:h", true)
	logout := &pending{userID: "@a:h"}
	require.True(t, newer.claim())
	require.True(t, o.put(newer, logout, nil))
	require.True(t, o.put(older, &pending{userID: "@a:h", login: &login{}}, nil), "overtaken, not refused")
	require.Same(t, logout, o.of("@a:h"))
	o.doneBefore(older)
	require.Same(t, logout, o.of("@a:h"))
	older.answer()
	require.False(t, o.put(older, &pending{userID: "@a:h", login: &login{}}, nil), "nobody waits for it")
	o.doneBefore(newer)
	require.Nil(t, o.of("@a:h"))
	older.end()
	newer.end()
	for i := range order.shards {
		require.Empty(t, order.shards[i].users, "the order is forgotten with the last event")
	}
}
