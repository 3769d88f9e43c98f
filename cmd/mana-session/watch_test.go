package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
)

// watching runs watch until the test has seen enough.
func (w *world) watching(args ...string) (out *buffer, stop func() int) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	out = new(buffer)
	code := make(chan int, 1)
	go func() { code <- run(ctx, append([]string{"watch"}, args...), strings.NewReader(""), out, out) }()
	w.Cleanup(cancel)
	w.sees(out, "watching")
	return out, func() int {
		cancel()
		w.noSecrets(out.String())
		return <-code
	}
}

func (w *world) sees(out *buffer, text string) {
	w.Helper()
	eventually(w, "watch says "+text, func() bool { return strings.Contains(out.String(), text) })
}

func TestWatchShowsChangesAsTheyCome(t *testing.T) {
	w := newWorld(t)
	out, stop := w.watching()
	bot := w.bot()
	w.login(bot)
	w.sees(out, alice+"  began by login, on weather-bot")
	require.NoError(t, bot.SetData(t.Context(), alice, "n", 1))
	w.redis.MustDo("SET", "bot:session:"+bob, "x")
	w.sees(out, bob+"  changed, and no bot says what")
	w.redis.MustDo("DEL", "bot:session:"+bob)
	w.sees(out, bob+"  gone, and no bot says that it did it")
	require.NoError(t, bot.Logout(t.Context(), alice))
	w.sees(out, alice+"  ended by logout, on weather-bot")
	w.redis.MustDo("FLUSHALL")
	w.sees(out, "anything may have changed unnoticed")
	assert.Equal(t, exitOK, stop(), "an interrupt is how it is meant to end")
}

func TestWatchPrintsJSONLines(t *testing.T) {
	w := newWorld(t)
	out, stop := w.watching("--json", "--filter", "^@alice:")
	bot := w.bot()
	_, err := bot.Login(t.Context(), bob, "bob@example.com", password)
	require.NoError(t, err)
	w.login(bot)
	w.sees(out, `"began"`)
	require.NoError(t, bot.Logout(t.Context(), alice))
	w.sees(out, `"ended"`)
	assert.Equal(t, exitOK, stop())
	var lines []change
	for line := range strings.Lines(out.String()) {
		var c change
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&c))
		lines = append(lines, c)
	}
	assert.Equal(t, "watching", lines[0].Event)
	assert.Equal(t, "tracking", lines[0].Feed)
	last := lines[len(lines)-1]
	assert.Equal(t, "gone", last.Event)
	assert.Equal(t, session.TrailEnded, last.What.Kind)
	assert.NotContains(t, out.String(), bob)
}

func TestWatchGoesOnWhenRedisComesBack(t *testing.T) {
	w := newWorld(t)
	out, stop := w.watching()
	w.redis.Kill()
	w.sees(out, "the feed is lost")
	w.redis.Start()
	eventually(t, "it watches again", func() bool { return strings.Count(out.String(), "watching, by tracking") == 2 })
	w.redis.MustDo("SET", "bot:session:"+bob, "x")
	w.sees(out, bob)
	assert.Equal(t, exitOK, stop())
}

func TestWatchMakesDoWithoutTracking(t *testing.T) {
	w := newWorld(t, redistest.WithACL("bot on >secret ~bot:session* &bot:session* +@all -client|tracking", "default on nopass ~* &* +@all"))
	t.Setenv("REDIS_URL", "redis://bot:secret@"+w.redis.Addr)
	out, stop := w.watching()
	w.sees(out, "watching, by pubsub")
	w.login(w.bot())
	w.sees(out, alice+"  began by login")
	assert.Equal(t, exitOK, stop())
}

func TestWatchEndsOnAnInterrupt(t *testing.T) {
	w := newWorld(t)
	watch := w.program("watch")
	lines, err := watch.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, watch.Start())
	text, err := bufio.NewReader(lines).ReadString('\n')
	require.NoError(t, err)
	assert.Contains(t, text, "watching")
	require.NoError(t, watch.Process.Signal(os.Interrupt))
	require.NoError(t, watch.Wait(), "exit code 0")
}

// A machine whose clock is wrong is no reason to say that nobody did it.
func TestWatchGoesByTheClockOfRedis(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	d, err := (&config{keyPrefix: "bot:session:", linkPath: "/x"}).open(t.Context(), false)
	require.NoError(t, err)
	defer d.close()
	d.measureClock(t.Context())
	assert.Less(t, time.Duration(d.behind.Load()).Abs(), time.Second)
	for _, behind := range []time.Duration{0, time.Minute, -time.Hour} {
		d.behind.Store(int64(behind))
		c := change{At: time.Now().Add(-behind), Event: "changed", User: alice}
		d.lookUp(t.Context(), &c)
		require.NotNil(t, c.What, behind)
		c = change{At: time.Now().Add(-behind - time.Minute), Event: "changed", User: alice}
		d.lookUp(t.Context(), &c)
		assert.Nil(t, c.What, "that was before")
	}
}
