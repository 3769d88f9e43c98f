package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

const newPrefix = "mana:session:"

// trailOf is what why --json says of a user under the new prefix.
func (w *world) trailOf(code int, user string) []session.TrailEvent {
	w.Helper()
	return runJSON[explained](w, code, "why", user, "--key-prefix", newPrefix).Trail
}

func TestMigratePrefixMovesRecordsAndTrailsWithTheirTTLs(t *testing.T) {
	w := newWorld(t)
	values := w.seed(300)
	before := w.ttls("bot:session:", values)
	bot := w.bot(session.WithNearCache(0))
	w.login(bot)
	require.NoError(t, bot.Logout(t.Context(), userID(7)))
	delete(values, userID(7))
	delete(before, userID(7))
	trailTTL := w.redis.MustDo("PEXPIRETIME", "bot:session-trail:{bot:session:"+alice+"}")
	w.redis.MustDo("SET", "bot:session:nobody", "no user")
	w.redis.MustDo("SET", "bot:session:@endless:matrix.example", values[userID(0)])
	w.redis.MustDo("RPUSH", "bot:session:@list:matrix.example", "a list")
	w.redis.MustDo("PEXPIRE", "bot:session:@list:matrix.example", "600000")
	w.redis.MustDo("SET", "bot:session:@large:matrix.example", strings.Repeat("x", 2<<20))

	dry := runJSON[migrated](w, exitFailed, "migrate", "prefix", newPrefix)
	assert.Equal(t, 301, dry.Changed)
	assert.Equal(t, 1, dry.Trails)
	assert.Equal(t, map[string]int{"the key is not that of a user": 1, "the key holds no string": 1, "larger than any session": 1}, dry.Reasons)
	assert.Empty(t, w.redis.MustDo("KEYS", newPrefix+"*"), "a dry run writes nothing")

	wet := runJSON[migrated](w, exitFailed, "migrate", "prefix", newPrefix, "--write")
	assert.Equal(t, 301, wet.Changed)
	assert.Equal(t, 3, wet.Left)
	assert.Equal(t, 1, wet.Trails)
	for user, value := range values {
		require.Equal(t, value, w.redis.MustDo("GET", newPrefix+user))
	}
	assert.Equal(t, before, w.ttls(newPrefix, values), "TTLs stay, to the millisecond")
	assert.Equal(t, "-1", w.redis.MustDo("PTTL", newPrefix+"@endless:matrix.example"))
	assert.Equal(t, trailTTL, w.redis.MustDo("PEXPIRETIME", "mana:session-trail:{"+newPrefix+alice+"}"))
	assert.Equal(t, "3", w.redis.MustDo("DEL", "bot:session:nobody", "bot:session:@list:matrix.example", "bot:session:@large:matrix.example"))
	assert.Empty(t, w.redis.MustDo("KEYS", "bot:session:*"))
	assert.Empty(t, w.redis.MustDo("KEYS", "bot:session-trail:*"))

	trail := w.trailOf(exitOK, alice)
	require.Len(t, trail, 1)
	assert.Equal(t, session.TrailBegan, trail[0].Kind)
	gone := w.trailOf(exitNothing, userID(7))
	require.Len(t, gone, 1)
	assert.Equal(t, "logout", gone[0].By)

	again := runJSON[migrated](w, exitOK, "migrate", "prefix", newPrefix, "--write")
	assert.Zero(t, again.Records)
}

func TestMigratePrefixDoesNotUndoWhatBotsDidUnderTheNewOne(t *testing.T) {
	w := newWorld(t)
	w.seed(4)
	newBot, err := session.New(append(w.auth.Options(), session.WithNearCache(0),
		session.WithStore(w.store(session.WithKeyPrefix(newPrefix))))...)
	require.NoError(t, err)
	t.Cleanup(func() { newBot.Close() })
	_, err = newBot.Login(t.Context(), userID(1), email, password)
	require.NoError(t, err)
	theirs := w.redis.MustDo("GET", newPrefix+userID(1))
	_, err = newBot.Login(t.Context(), userID(2), email, password)
	require.NoError(t, err)
	require.NoError(t, newBot.Logout(t.Context(), userID(2)))

	r := runJSON[migrated](w, exitFailed, "migrate", "prefix", newPrefix, "--write")
	assert.Equal(t, 2, r.Changed)
	assert.Equal(t, map[string]int{
		"there is a session under both prefixes":       1,
		"the user was logged out under the new prefix": 1,
	}, r.Reasons)
	assert.Equal(t, theirs, w.redis.MustDo("GET", newPrefix+userID(1)))
	assert.Empty(t, w.redis.MustDo("GET", newPrefix+userID(2)), "a logout stays one")
	assert.NotEmpty(t, w.redis.MustDo("GET", "bot:session:"+userID(1)), "nothing is thrown away")
}

func TestMigratePrefixWaitsForTheBotsOfTheOldOneToStop(t *testing.T) {
	w := newWorld(t)
	w.seed(5)
	bot, err := session.New(append(w.auth.Options(), session.WithStore(w.store()))...)
	require.NoError(t, err)
	eventually(t, "a heartbeat", func() bool { return w.redis.MustDo("KEYS", "bot:session-heartbeat:*") != "" })
	r := w.run("migrate", "prefix", newPrefix, "--write")
	assert.Equal(t, exitFailed, r.code)
	assert.Contains(t, r.err, "bots run (1) under the prefix bot:session:: stop them first")
	assert.Empty(t, w.redis.MustDo("KEYS", newPrefix+"*"))
	require.NoError(t, bot.Close())
	eventually(t, "it counts as stopped", func() bool { return w.run("migrate", "prefix", newPrefix, "--write").code == exitOK })
	assert.NotEmpty(t, w.redis.MustDo("GET", newPrefix+userID(1)))
}

func TestMigratePrefixThatIsKilledIsRunAgain(t *testing.T) {
	w := newWorld(t)
	values := w.seed(2000)
	before := w.ttls("bot:session:", values)
	moved := func() int {
		n, err := strconv.Atoi(w.redis.MustDo("EVAL", "return #redis.call('KEYS', ARGV[1])", "0", newPrefix+"*"))
		require.NoError(t, err)
		return n
	}
	for range 3 {
		began := moved()
		killed := w.program("migrate", "prefix", newPrefix, "--write", "--rate", "1500")
		require.NoError(t, killed.Start())
		eventually(t, "a part is done", func() bool { return moved() > began+100 })
		require.NoError(t, killed.Process.Kill())
		require.Error(t, killed.Wait())
		require.Less(t, moved(), 2000, "it was killed in the middle")
	}
	r := runJSON[migrated](w, exitOK, "migrate", "prefix", newPrefix, "--write")
	assert.Zero(t, r.Left)
	for user, value := range values {
		require.Equal(t, value, w.redis.MustDo("GET", newPrefix+user))
	}
	assert.Equal(t, before, w.ttls(newPrefix, values))
	assert.Empty(t, w.redis.MustDo("KEYS", "bot:session:*"))
}

func TestTwoPrefixMigrationsBesideABotLoseNothing(t *testing.T) {
	w := newWorld(t)
	values := w.seed(600)
	bot := w.bot(session.WithNearCache(0))
	written := make(map[string]int)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			user := userID(n % len(values))
			err := bot.SetData(context.WithoutCancel(ctx), user, "n", n)
			if errors.Is(err, session.ErrNotLoggedIn) {
				continue // it has moved
			}
			if !assert.NoError(t, err) {
				return
			}
			written[user] = n
		}
	})
	eventually(t, "the bot writes", func() bool { return w.redis.MustDo("GET", "bot:session:"+userID(5)) != values[userID(5)] })
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			// One may come by a record that the other is about to follow the bot with: it
			// leaves it, and says so.
			r := w.run("migrate", "prefix", newPrefix, "--write", "--force", "--rate", "2000", "--json")
			assert.Contains(t, []int{exitOK, exitFailed}, r.code, r.out)
		})
	}
	both.Wait()
	stop()
	all.Wait()
	newBot, err := session.New(append(w.auth.Options(), session.WithStore(w.store(session.WithKeyPrefix(newPrefix))))...)
	require.NoError(t, err)
	t.Cleanup(func() { newBot.Close() })
	require.NotEmpty(t, written)
	for user, n := range written {
		var got int
		found, err := newBot.Data(t.Context(), user, "n", &got)
		require.NoError(t, err, user)
		require.True(t, found && got == n, "%s: %d, want %d", user, got, n)
	}
}

// What other software has put where a trail belongs is left there, and keeps nothing
// else from moving.
func TestMigratePrefixLeavesATrailThatIsNone(t *testing.T) {
	w := newWorld(t)
	values := w.seed(3)
	w.redis.MustDo("RPUSH", "bot:session-trail:{bot:session:"+userID(1)+"}", "a list")
	w.redis.MustDo("RPUSH", "bot:session-trail:{bot:session:"+bob+"}", "a list")
	w.login(w.bot(session.WithNearCache(0)))
	require.Equal(t, exitNothing, w.run("why", bob).code)
	for _, args := range [][]string{{}, {"--write"}} {
		r := runJSON[migrated](w, exitOK, append([]string{"migrate", "prefix", newPrefix}, args...)...)
		assert.Equal(t, 4, r.Changed)
		assert.Zero(t, r.Trails)
	}
	for user, value := range values {
		assert.Equal(t, value, w.redis.MustDo("GET", newPrefix+user))
	}
	assert.Len(t, w.trailOf(exitOK, alice), 1)
	for _, user := range []string{userID(1), bob} {
		assert.Equal(t, "list", w.redis.MustDo("TYPE", "bot:session-trail:{bot:session:"+user+"}"))
	}
}

// Keys beside the records of one prefix must not be records of the other.
func TestPrefixesThatMeetAreRefused(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot(session.WithNearCache(0)))
	for _, c := range [][2]string{
		{"bot:session:", "bot:session:"}, {"bot:session:", "bot:session:v2:"}, {"bot:session:", "bot:"}, {"bot:session:", "b"},
		{"bot:session:", "bot:session-"}, {"bot:session:", "bot:session-trail:"}, {"bot:session:", "bot:session-lock:{"}, {"bot:session:", "bot:session-logout:x"},
		{"bot:session:", "bot:session-heartbeat:"}, {"bot:session-", "bot:session:"}, {"", newPrefix}, {"bot:session:", ""},
	} {
		for _, args := range [][]string{{}, {"--write", "--force"}} {
			r := w.run(append([]string{"migrate", "prefix", c[1], "--key-prefix", c[0]}, args...)...)
			assert.Equal(t, exitUsage, r.code, "%v: %s", c, r.out)
		}
	}
	for _, free := range []string{"x:bot:session:", "bot:session-v2:", "bot:sessions:", "bot:Session:", "{bots}:session:", "bot*"} {
		r := runJSON[migrated](w, exitOK, "migrate", "prefix", free, "--write")
		assert.Equal(t, 1, r.Changed, free)
		back := runJSON[migrated](w, exitOK, "migrate", "prefix", "bot:session:", "--key-prefix", free, "--write", "--force")
		assert.Equal(t, 1, back.Changed, free)
		assert.Equal(t, exitOK, w.run("show", alice).code, free)
	}
}
