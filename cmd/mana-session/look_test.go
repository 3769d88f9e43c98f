package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

func TestShowTellsEverythingButTheToken(t *testing.T) {
	w := newWorld(t)
	s := w.login(w.bot())
	r := w.run("show", alice)
	require.Equal(t, exitOK, r.code, r.err)
	for _, line := range []string{
		`user +@alice:matrix\.example`, `email +alice@example\.com`, `subject +` + s.Subject, `session +ends in 6 d 23 h, `,
		`token +runs out in 14 min \d+ s`, ` sub +"` + s.Subject + `"`, ` aud +"manacore"`, `at rest +plain text`, `began by login, on weather-bot`,
	} {
		assert.Regexp(t, line, r.out)
	}

	j := runJSON[shown](w, exitOK, "show", alice)
	assert.True(t, j.LoggedIn)
	assert.Equal(t, email, j.Email)
	assert.Equal(t, s.Subject, j.Subject)
	assert.WithinDuration(t, s.ExpiresAt, *j.EndsAt, time.Millisecond)
	assert.InDelta(t, 7*24*3600, *j.EndsIn, 60)
	assert.True(t, s.TokenExpiresAt.Equal(*j.Token.ExpiresAt))
	assert.InDelta(t, 900, *j.Token.ExpiresIn, 60)
	assert.Equal(t, s.Subject, j.Token.Claims["sub"])
	assert.Empty(t, j.Token.Value)
	require.Len(t, j.Trail, 1)

	revealed := w.reveal("show", alice, "--reveal")
	assert.Contains(t, revealed.out, s.Token())
	var with shown
	require.NoError(t, json.Unmarshal([]byte(w.reveal("show", alice, "--reveal", "--json").out), &with))
	assert.Equal(t, s.Token(), with.Token.Value)
	assert.NotContains(t, revealed.out, refreshTokenIn(w.redis.MustDo("GET", "bot:session:"+alice)))
}

// refreshTokenIn is the refresh token in a record.
func refreshTokenIn(value string) string {
	var record struct{ RefreshToken string }
	_ = json.Unmarshal([]byte(value), &record)
	return record.RefreshToken
}

func TestLookingAtALinkedUserBeginsNoSession(t *testing.T) {
	w := newWorld(t)
	w.auth.Link(alice, email)
	assert.Equal(t, exitNothing, w.run("show", alice).code)
	assert.Equal(t, exitNothing, w.run("why", alice).code)
	assert.Empty(t, w.redis.MustDo("KEYS", "*"), "nothing is written")
	assert.Zero(t, w.auth.Calls(sessiontest.Any), "and nobody asked")
}

func TestShowOfASealedRecordTakesTheKey(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot(withKeys(t, newKey)))
	r := w.run("show", alice)
	assert.Equal(t, exitNothing, r.code)
	assert.Contains(t, r.out, "unreadable: sealed, and there is no key")
	keys := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(keys, []byte(newKey+"\n"), 0o600))
	assert.Equal(t, email, runJSON[shown](w, exitOK, "show", alice, "--encryption-keys-file", keys).Email)
	t.Setenv("SESSION_ENCRYPTION_KEYS", oldKey+","+newKey)
	j := runJSON[shown](w, exitOK, "show", alice)
	assert.True(t, j.Sealed)
}

func TestUsersAreListedSortedFilteredAndLimited(t *testing.T) {
	w := newWorld(t)
	in := func(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }
	w.redis.MustDo("SET", "bot:session:@b:one.example", "x", "PX", in(time.Hour))
	w.redis.MustDo("SET", "bot:session:@a:two.example", "x", "PX", in(3*time.Hour))
	w.redis.MustDo("SET", "bot:session:@c:one.example", "x", "PX", in(2*time.Hour))
	w.redis.MustDo("SET", "bot:session:@d:two.example", `{"token":"a.b.c"}`) // never ends
	w.redis.MustDo("SET", "bot:session:nobody", "x", "PX", in(time.Hour))
	list := func(args ...string) (users []string) {
		l := runJSON[listed](w, exitOK, append([]string{"users"}, args...)...)
		for _, u := range l.Users {
			users = append(users, u.User)
		}
		return users
	}
	assert.Equal(t, []string{"@b:one.example", "@c:one.example", "@a:two.example", "@d:two.example"}, list())
	assert.Equal(t, []string{"@a:two.example", "@b:one.example", "@c:one.example", "@d:two.example"}, list("--sort", "user"))
	assert.Equal(t, []string{"@d:two.example", "@c:one.example"}, list("--sort", "user", "--reverse", "--limit", "2")[:2])
	assert.Equal(t, []string{"@b:one.example", "@c:one.example"}, list("--filter", `:one\.`))
	assert.Empty(t, list("--filter", "nobody"))
	l := runJSON[listed](w, exitOK, "users", "--limit", "1")
	assert.Equal(t, 4, l.Found)
	assert.InDelta(t, 3600, *l.Users[0].EndsIn, 5)
	assert.Equal(t, listed{Users: []listedUser{}}, runJSON[listed](w, exitOK, "users", "--filter", "nobody"))
	r := w.run("users", "--limit", "1")
	assert.Regexp(t, `(?m)^USER +LEFT +ENDS$`, r.out)
	assert.Regexp(t, `(?m)^@b:one\.example +59 min 5\d s +20`, r.out)
	assert.Equal(t, "1 of 4\n", r.err)
	for _, bad := range [][]string{{"--filter", "("}, {"--sort", "age"}, {"--limit", "-1"}, {"--limit", "x"}, {"one"}} {
		assert.Equal(t, exitUsage, w.run(append([]string{"users"}, bad...)...).code, bad)
	}
}

func TestLogoutEndsSessionsOnAllBots(t *testing.T) {
	w := newWorld(t)
	bot := w.bot()
	w.login(bot)
	_, err := bot.Login(t.Context(), bob, "bob@example.com", password)
	require.NoError(t, err)
	r := w.run("logout", alice, bob, "@carol:matrix.example")
	assert.Equal(t, exitOK, r.code)
	assert.Equal(t, alice+": logged out\n"+bob+": logged out\n@carol:matrix.example: had no session\n", r.out)
	eventually(t, "the bot knows", func() bool {
		_, err := bot.Token(t.Context(), alice)
		return err != nil
	})
	e := runJSON[explained](w, exitNothing, "why", alice)
	assert.Equal(t, causeLogout, e.Cause)
	assert.Contains(t, e.Because, "on mana-session")
}

func TestLogoutOfALinkedUserLastsWithUnlink(t *testing.T) {
	w := newWorld(t)
	w.auth.Link(alice, email)
	w.login(w.bot())
	out := runJSON[[]loggedOut](w, exitOK, "logout", alice, "--unlink")
	assert.Equal(t, []loggedOut{{User: alice, LoggedOut: true, HadRecord: true, Unlinked: true}}, out)
	assert.False(t, w.auth.Linked(alice))

	w.auth.Link(alice, email)
	w.login(w.bot())
	w.auth.SetServiceKey("another")
	r := w.run("logout", alice, "--unlink")
	assert.Equal(t, exitAuth, r.code)
	assert.Contains(t, r.out, "logged out, but the link is still there")
	assert.Empty(t, w.redis.MustDo("GET", "bot:session:"+alice))
	assert.True(t, w.auth.Linked(alice))
}

func TestLogoutLooksAtAllUserIDsBeforeItBegins(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	r := w.run("logout", alice, "nobody")
	assert.Equal(t, exitUsage, r.code)
	assert.Contains(t, r.err, `"nobody": invalid Matrix user ID`)
	assert.Equal(t, exitOK, w.run("show", alice).code)
}

// What Redis or other software did leaves no event, and is named all the same.
func TestWhyNamesCausesThatLeaveNoEvent(t *testing.T) {
	w := newWorld(t)
	key := "bot:session:" + alice
	why := func() explained { return runJSON[explained](w, exitNothing, "why", alice) }
	assert.Equal(t, causeUnknown, why().Cause)

	w.login(w.bot(session.WithSessionTTL(time.Minute)))
	record := w.redis.MustDo("GET", key)
	w.redis.MustDo("DEL", key)
	removed := why()
	assert.Equal(t, causeRemoved, removed.Cause)
	assert.Len(t, removed.Trail, 1)
	text := w.run("why", alice)
	assert.Equal(t, exitNothing, text.code)
	assert.Contains(t, text.out, alice+" is logged out: the record is gone ahead of its time")
	assert.Contains(t, text.out, "What to do: the user logs in again.")
	assert.Contains(t, text.out, "A login began a session, at ")

	for value, reason := range map[string]string{"no JSON": "not JSON", `{"email":"x"}`: "no token in it", "sealed9:x": "sealed in a way that this version does not know"} {
		w.redis.MustDo("SET", key, value)
		assert.Contains(t, why().Because, reason)
	}
	w.redis.MustDo("DEL", key)
	w.redis.MustDo("RPUSH", key, "a list")
	assert.Equal(t, causeUnreadable, why().Cause)
	w.redis.MustDo("DEL", key)
	w.redis.MustDo("SET", key, strings.Replace(record, `"expiresAt":"2`, `"expiresAt":"1`, 1))
	assert.Equal(t, causeExpired, why().Cause)
}

func TestWhyNamesTheServersNo(t *testing.T) {
	w := newWorld(t)
	bot := w.bot()
	w.auth.SetTokenTTL(30 * time.Second)
	w.login(bot)
	w.auth.RevokeRefreshTokens(email)
	_, err := bot.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	e := runJSON[explained](w, exitNothing, "why", alice)
	assert.Equal(t, causeRefused, e.Cause)
	assert.Contains(t, e.Because, "401")
	assert.Contains(t, e.Story[0], "The auth server ended the session")
}

func TestWhyNamesEviction(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot(session.WithNearCache(0)))
	w.redis.MustDo("DEL", "bot:session:"+alice) // which eviction would choose, perhaps
	w.redis.MustDo("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
	w.redis.MustDo("SET", "short", "x", "PX", "100000")
	w.redis.MustDo("CONFIG", "SET", "maxmemory", "1")
	_, _ = w.redis.Do("SET", "more", "x")
	w.redis.MustDo("CONFIG", "SET", "maxmemory", "0")
	require.NotContains(t, w.redis.MustDo("INFO", "stats"), "evicted_keys:0\r")
	// The trail may have gone with it: the record is put back, and removed once more.
	w.login(w.bot(session.WithNearCache(0)))
	w.redis.MustDo("DEL", "bot:session:"+alice)
	e := runJSON[explained](w, exitNothing, "why", alice)
	assert.Equal(t, causeRemoved, e.Cause)
	assert.Contains(t, e.Notes[1], "maxmemory-policy volatile-ttl")
}

// A record is written by anybody who may write to Redis.
func TestTextFromOutsideDoesNotReachTheTerminalAsItIs(t *testing.T) {
	w := newWorld(t)
	token := w.auth.Sign(map[string]any{"sub": "a\u001b[31mb", "exp": time.Now().Add(time.Hour).Unix(), "\u001b]0;x": "\u202e"})
	w.tokens = append(w.tokens, token)
	record, err := json.Marshal(map[string]any{"token": token, "email": "a\u001b[2Jb@example.com", "expiresAt": time.Now().Add(time.Hour).UTC(), "data": map[string]any{}})
	require.NoError(t, err)
	w.redis.MustDo("SET", "bot:session:@a\u202eb:matrix.example", string(record), "PX", "100000")
	for _, args := range [][]string{{"show", "@a\u202eb:matrix.example"}, {"users"}, {"why", "@a\u202eb:matrix.example"}} {
		r := w.run(args...)
		assert.Equal(t, exitOK, r.code, args)
		assert.NotContains(t, r.out+r.err, "\x1b")
		assert.NotContains(t, r.out+r.err, "\u202e")
		assert.Contains(t, r.out, `@a\u202eb:matrix.example`)
	}
}
