package session_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// What is sent on some connections to Redis arrives late: after what other
// connections brought meanwhile. As TestWriteThatArrivesLateIsRefused, on the
// real server.

// lateWorld is a bot whose open connections can be held up, and another bot.
func lateWorld(t *testing.T, opts *redis.Options) (w *world, proxy *redistest.Proxy, other *session.Service) {
	t.Helper()
	server := redistest.Start(t)
	proxy = redistest.NewProxy(t, server.Addr)
	opts.Addr = proxy.Addr
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	w = newWorld(t, newRedisStore(t, client))
	other = (&world{t: t, auth: w.auth, log: w.log, store: newRedisStore(t, newClient(t, server.Addr))}).service()
	return w, proxy, other
}

// settled is alice's state as every bot sees it, for a while.
func settled(t *testing.T, want string, bots ...*session.Service) {
	t.Helper()
	right := func() bool {
		for _, svc := range bots {
			s, err := svc.Session(t.Context(), alice)
			if want == "" && err == nil || want != "" && (err != nil || s.Email != want) {
				return false
			}
		}
		return true
	}
	eventually(t, "the later event counts: "+want, right)
	never(t, "something else came back", func() bool { return !right() }, 3*time.Second)
}

func TestWhatArrivesLateAtRedisDoesNotCount(t *testing.T) {
	t.Parallel()
	options := map[string]func() *redis.Options{
		"repeated by the client": func() *redis.Options { return &redis.Options{ReadTimeout: 500 * time.Millisecond} },
		"as by default":          func() *redis.Options { return &redis.Options{} },
	}
	loginAsBob := func(t *testing.T, svc *session.Service) {
		_, err := svc.Login(t.Context(), alice, "bob@example.com", password)
		require.NoError(t, err)
	}
	for how, opts := range options {
		for name, flow := range map[string]func(t *testing.T, w *world, proxy *redistest.Proxy, other *session.Service) string{
			"login, then logout": func(t *testing.T, w *world, proxy *redistest.Proxy, other *session.Service) string {
				_, _ = w.svc.Login(t.Context(), alice, email, password)
				eventually(t, "it is stored", func() bool { in, err := other.LoggedIn(t.Context(), alice); return err == nil && in })
				require.NoError(t, other.Logout(t.Context(), alice))
				return ""
			},
			"login, then logout here": func(t *testing.T, w *world, proxy *redistest.Proxy, other *session.Service) string {
				_, _ = w.svc.Login(t.Context(), alice, email, password)
				eventually(t, "it says so", func() bool { return w.svc.Logout(t.Context(), alice) == nil })
				return ""
			},
			"login, then login as another account": func(t *testing.T, w *world, proxy *redistest.Proxy, other *session.Service) string {
				_, _ = w.svc.Login(t.Context(), alice, email, password)
				eventually(t, "it is stored", func() bool { in, err := other.LoggedIn(t.Context(), alice); return err == nil && in })
				loginAsBob(t, other)
				return "bob@example.com"
			},
			"logout, then login": func(t *testing.T, w *world, proxy *redistest.Proxy, other *session.Service) string {
				_ = w.svc.Logout(t.Context(), alice)
				loginAsBob(t, other)
				return "bob@example.com"
			},
			"logout, then login here": func(t *testing.T, w *world, proxy *redistest.Proxy, other *session.Service) string {
				_ = w.svc.Logout(t.Context(), alice)
				loginAsBob(t, w.svc)
				return "bob@example.com"
			},
			"first session of a link, then logout that unlinks": func(t *testing.T, w *world, proxy *redistest.Proxy, other *session.Service) string {
				w.auth.Link(alice, email)
				_, _ = w.svc.Token(t.Context(), alice)
				require.NoError(t, other.Logout(t.Context(), alice, session.AndUnlink()))
				return ""
			},
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				w, proxy, other := lateWorld(t, opts())
				_, err := w.svc.Token(t.Context(), bob) // opens connections
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
				proxy.BlackholeExisting()
				want := flow(t, w, proxy, other)
				proxy.Restore() // what was held up arrives
				settled(t, want, w.svc, other)
			})
		}
	}
}

// The connection on which the successor of a refresh token is to be stored is
// dead; meanwhile something else happens to the user.
func TestSuccessorThatArrivesLateAtRedisDoesNotCount(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(t *testing.T, svc *session.Service)
		want string
	}{
		"logout": {func(t *testing.T, svc *session.Service) { require.NoError(t, svc.Logout(t.Context(), alice)) }, ""},
		"login as another account": {func(t *testing.T, svc *session.Service) {
			_, err := svc.Login(t.Context(), alice, "bob@example.com", password)
			require.NoError(t, err)
		}, "bob@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, proxy, other := lateWorld(t, &redis.Options{})
			w.loginDead()
			w.auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(200*time.Millisecond))
			result := make(chan error, 1)
			go func() { _, err := w.svc.Token(t.Context(), alice); result <- err }()
			eventually(t, "the refresh token is sent", func() bool { return w.auth.Calls(sessiontest.Refresh) == 1 })
			proxy.BlackholeExisting()
			c.do(t, other)
			<-result
			settled(t, c.want, other)
			proxy.Restore()
			settled(t, c.want, w.svc, other)
		})
	}
}
