package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

const (
	alice    = "@alice:matrix.example"
	bob      = "@bob:matrix.example"
	email    = "alice@example.com"
	password = "correct horse"
)

// asProgram has the test binary be the program, for tests that kill it.
const asProgram = "MANA_SESSION_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(process())
	}
	os.Exit(m.Run())
}

// world is a Redis, an auth server, and bots.
type world struct {
	*testing.T
	redis  *redistest.Server
	auth   *sessiontest.AuthServer
	client *redis.Client
	tokens []string // which no output is to show

	columns uint16 // of a terminal
}

// newWorld also sets the environment, as the bots have it.
func newWorld(t *testing.T, opts ...redistest.Option) *world {
	t.Helper()
	w := &world{T: t, redis: redistest.Start(t, opts...), auth: sessiontest.NewAuthServer(t, sessiontest.WithLoginLimit(0)), columns: 120}
	w.client = redis.NewClient(&redis.Options{Addr: w.redis.Addr})
	t.Cleanup(func() { w.client.Close() })
	w.auth.AddUser(email, password)
	w.auth.AddUser("bob@example.com", password)
	for _, name := range []string{"REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "SESSION_STORAGE_MODE", "SESSION_ENCRYPTION_KEYS", "NO_COLOR"} {
		t.Setenv(name, "")
	}
	t.Setenv("REDIS_URL", "redis://"+w.redis.Addr)
	t.Setenv("MANA_CORE_AUTH_URL", w.auth.URL)
	t.Setenv("MANA_CORE_SERVICE_KEY", sessiontest.DefaultServiceKey)
	return w
}

// store is a store of a bot's.
func (w *world) store(opts ...session.RedisOption) *session.RedisStore {
	w.Helper()
	store, err := session.NewRedisStore(w.client, opts...)
	require.NoError(w, err)
	w.Cleanup(func() { store.Close() })
	return store
}

// bot is a bot that shares the store.
func (w *world) bot(opts ...session.Option) *session.Service {
	w.Helper()
	opts = append(append(w.auth.Options(), session.WithStore(w.store()), session.WithBotName("weather-bot")), opts...)
	svc, err := session.New(opts...)
	require.NoError(w, err)
	w.Cleanup(func() { svc.Close() })
	return svc
}

// login logs alice in.
func (w *world) login(bot *session.Service) *session.Session {
	w.Helper()
	s, err := bot.Login(w.Context(), alice, email, password)
	require.NoError(w, err)
	w.tokens = append(w.tokens, s.Token())
	return s
}

// result is what a run of the program came to.
type result struct {
	code     int
	out, err string
}

var looksSecret = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}|[A-Z2-7]{40,}|correct horse|service-key-for-tests`)

// run runs the program, and sees to it that what it prints has no secret in it.
func (w *world) run(args ...string) result {
	w.Helper()
	r := w.reveal(args...)
	w.noSecrets(r.out + r.err)
	return r
}

func (w *world) noSecrets(text string) {
	w.Helper()
	require.NotRegexp(w, looksSecret, text)
	for _, token := range w.tokens {
		for part := range strings.SplitSeq(token, ".") {
			require.NotContains(w, text, part)
		}
	}
}

// reveal runs the program where secrets may be printed.
func (w *world) reveal(args ...string) result {
	w.Helper()
	var out, errOut bytes.Buffer
	code := run(w.Context(), args, strings.NewReader(""), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

// runJSON runs the program with --json, and reads what it prints.
func runJSON[T any](w *world, code int, args ...string) (v T) {
	w.Helper()
	r := w.run(append(args, "--json")...)
	require.Equal(w, code, r.code, "%s%s", r.out, r.err)
	require.Empty(w, r.err)
	decoder := json.NewDecoder(strings.NewReader(r.out))
	decoder.DisallowUnknownFields()
	require.NoError(w, decoder.Decode(&v), r.out)
	return v
}

// buffer is written by the program and read by a test.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits for something that takes a moment.
func eventually(t require.TestingT, what string, ok func() bool) {
	if h, is := t.(interface{ Helper() }); is {
		h.Helper()
	}
	require.Eventually(t, ok, 20*time.Second, 10*time.Millisecond, what)
}
