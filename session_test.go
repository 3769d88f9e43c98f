package session_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

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

// world is an auth server, a store, and a bot's Service between them.
type world struct {
	t     *testing.T
	auth  *sessiontest.AuthServer
	store session.Store
	svc   *session.Service
	log   *logged
}

// newWorld has one account, alice's, that no Matrix user is linked to.
func newWorld(t *testing.T, store session.Store, opts ...session.Option) *world {
	t.Helper()
	w := &world{t: t, auth: sessiontest.New(sessiontest.WithLoginLimit(0)), store: store, log: newLogged()}
	t.Cleanup(w.auth.Close)
	w.auth.AddUser(email, password)
	w.auth.AddUser("bob@example.com", password)
	w.svc = w.service(opts...)
	return w
}

// service is another bot's Service on the same store and auth server.
func (w *world) service(opts ...session.Option) *session.Service {
	w.t.Helper()
	svc, err := session.New(append([]session.Option{
		session.WithAuthURL(w.auth.URL),
		session.WithHTTPClient(w.auth.Client()),
		session.WithServiceKey(sessiontest.DefaultServiceKey),
		session.WithStore(w.store),
		session.WithLoginLimit(0, 0), // tests log in over and over
		session.WithLogger(slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
	}, opts...)...)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, svc.Close()) })
	return svc
}

func (w *world) login(svc *session.Service) *session.Session {
	w.t.Helper()
	s, err := svc.Login(w.t.Context(), alice, email, password)
	require.NoError(w.t, err)
	return s
}

// loginDead logs alice in with a token that runs out within the 60 seconds in
// which it is not handed out again; what is minted next lives as usual.
func (w *world) loginDead() *session.Session {
	w.t.Helper()
	w.auth.SetTokenTTL(30 * time.Second)
	s := w.login(w.svc)
	w.auth.SetTokenTTL(15 * time.Minute)
	w.auth.ResetCalls()
	return s
}

// put stores a value under a user as other software does.
func (w *world) put(userID, value string) {
	w.t.Helper()
	old, err := w.store.Get(w.t.Context(), userID)
	if err != nil {
		old = session.Record{UserID: userID}
	}
	_, err = w.store.Swap(w.t.Context(), old, session.Record{
		UserID: userID, Value: value, Expires: time.Now().Add(time.Hour),
	})
	require.NoError(w.t, err)
}

// stored is what the store holds for alice; nothing is "".
func (w *world) stored(userID string) string {
	w.t.Helper()
	rec, err := w.store.Get(w.t.Context(), userID)
	if err != nil {
		require.ErrorIs(w.t, err, session.ErrNotFound)
	}
	return rec.Value
}

// tsRecord is a record as the TypeScript service writes it.
func tsRecord(token, email string, data string) string {
	expires := time.Now().Add(7 * 24 * time.Hour).UTC().Format("2006-01-02T15:04:05.000Z")
	return fmt.Sprintf(`{"token":%q,"email":%q,"expiresAt":%q,"data":%s}`, token, email, expires, data)
}

// onEveryStore runs a flow in memory, on miniredis and on a real redis-server.
func onEveryStore(t *testing.T, flow func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) {
		store := session.NewMemoryStore()
		t.Cleanup(func() { store.Close() })
		flow(t, newWorld(t, store))
	})
	t.Run("miniredis", func(t *testing.T) {
		flow(t, newWorld(t, newRedisStore(t, newClient(t, miniredis.RunT(t).Addr()))))
	})
	t.Run("redis", func(t *testing.T) {
		flow(t, newWorld(t, newRedisStore(t, newClient(t, redistest.Start(t).Addr))))
	})
}

// logged collects log lines.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func newLogged() *logged {
	l := &logged{}
	everyLog.mu.Lock()
	defer everyLog.mu.Unlock()
	everyLog.logs = append(everyLog.logs, l)
	return l
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// gate is an HTTP transport that holds calls back until it is opened.
type gate struct {
	base    http.RoundTripper
	arrived chan *http.Request
	open    chan struct{}
}

func newGate(base http.RoundTripper) *gate {
	return &gate{base, make(chan *http.Request, 1000), make(chan struct{})}
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	g.arrived <- req
	select {
	case <-g.open:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	return g.base.RoundTrip(req)
}

func mustToken(t *testing.T, svc *session.Service, userID string) string {
	t.Helper()
	token, err := svc.Token(t.Context(), userID)
	require.NoError(t, err)
	return token
}

// eventually is for what another goroutine does soon.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 10*time.Second, 2*time.Millisecond, what)
}

// never looks for what must not happen for a while. Unlike require.Never it does
// not go on looking when the test is over.
func never(t *testing.T, what string, happened func() bool, while time.Duration) {
	t.Helper()
	for over := time.After(while); ; {
		require.False(t, happened(), what)
		select {
		case <-over:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestCloseLeavesNoGoroutineBehind(t *testing.T) {
	for name, newStore := range map[string]func(t *testing.T) (session.Store, func()){
		"memory": func(*testing.T) (session.Store, func()) {
			store := session.NewMemoryStore()
			return store, func() { _ = store.Close() }
		},
		"redis": func(t *testing.T) (session.Store, func()) {
			client := redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr})
			store, err := session.NewRedisStore(client)
			require.NoError(t, err)
			return store, func() { _ = store.Close(); _ = client.Close() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, closeStore := newStore(t)
			before := goleak.IgnoreCurrent()
			w := newWorld(t, store)
			w.loginDead()
			mustToken(t, w.svc, alice)
			w.cache()
			w.auth.Link(bob, email)
			w.auth.Inject(sessiontest.LinkFetch, 1, w.auth.Hang())
			asked := make(chan error, 1)
			go func() {
				_, err := w.svc.Token(context.WithoutCancel(t.Context()), bob)
				asked <- err
			}()
			eventually(t, "a flight", func() bool { return w.auth.Calls(sessiontest.LinkFetch) > 1 })
			require.NoError(t, w.svc.Close())
			require.ErrorIs(t, <-asked, session.ErrClosed)
			closeStore()
			goleak.VerifyNone(t, before)
		})
	}
}
