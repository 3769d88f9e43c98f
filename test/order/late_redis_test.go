package order_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// What is sent on some connections to Redis arrives late: after what other
// connections brought meanwhile. As TestWriteThatArrivesLateIsRefused, on the
// real server.

// lateWorld is a bot whose open connections can be held up, and another bot.
func lateWorld(t *testing.T, opts *redis.Options) (w *world.World, proxy *redistest.Proxy, other *session.Service) {
	t.Helper()
	server := redistest.Start(t)
	proxy = redistest.NewProxy(t, server.Addr)
	opts.Addr = proxy.Addr
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	w = world.New(t, world.NewRedisStore(t, client))
	other = (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: world.NewRedisStore(t, world.NewClient(t, server.Addr))}).Service()
	return w, proxy, other
}

// settled is alice's state as every bot sees it, for a while.
func settled(t *testing.T, want string, bots ...*session.Service) {
	t.Helper()
	right := func() bool {
		for _, svc := range bots {
			s, err := svc.Session(t.Context(), world.Alice)
			if want == "" && err == nil || want != "" && (err != nil || s.Email != want) {
				return false
			}
		}
		return true
	}
	world.Eventually(t, "the later event counts: "+want, right)
	world.Never(t, "something else came back", func() bool { return !right() }, 3*time.Second)
}

func TestWhatArrivesLateAtRedisDoesNotCount(t *testing.T) {
	t.Parallel()
	options := map[string]func() *redis.Options{
		"repeated by the client": func() *redis.Options { return &redis.Options{ReadTimeout: 500 * time.Millisecond} },
		"as by default":          func() *redis.Options { return &redis.Options{} },
	}
	loginAsBob := func(t *testing.T, svc *session.Service) {
		_, err := svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
		require.NoError(t, err)
	}
	for how, opts := range options {
		for name, flow := range map[string]func(t *testing.T, w *world.World, proxy *redistest.Proxy, other *session.Service) string{
			"login, then logout": func(t *testing.T, w *world.World, proxy *redistest.Proxy, other *session.Service) string {
				_, _ = w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
				world.Eventually(t, "it is stored", func() bool { in, err := other.LoggedIn(t.Context(), world.Alice); return err == nil && in })
				require.NoError(t, other.Logout(t.Context(), world.Alice))
				return ""
			},
			"login, then logout here": func(t *testing.T, w *world.World, proxy *redistest.Proxy, other *session.Service) string {
				_, _ = w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
				world.Eventually(t, "it says so", func() bool { return w.Svc.Logout(t.Context(), world.Alice) == nil })
				return ""
			},
			"login, then login as another account": func(t *testing.T, w *world.World, proxy *redistest.Proxy, other *session.Service) string {
				_, _ = w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
				world.Eventually(t, "it is stored", func() bool { in, err := other.LoggedIn(t.Context(), world.Alice); return err == nil && in })
				loginAsBob(t, other)
				return "bob@example.com"
			},
			"logout, then login": func(t *testing.T, w *world.World, proxy *redistest.Proxy, other *session.Service) string {
				_ = w.Svc.Logout(t.Context(), world.Alice)
				loginAsBob(t, other)
				return "bob@example.com"
			},
			"logout, then login here": func(t *testing.T, w *world.World, proxy *redistest.Proxy, other *session.Service) string {
				_ = w.Svc.Logout(t.Context(), world.Alice)
				loginAsBob(t, w.Svc)
				return "bob@example.com"
			},
			"first session of a link, then logout that unlinks": func(t *testing.T, w *world.World, proxy *redistest.Proxy, other *session.Service) string {
				w.Auth.Link(world.Alice, world.Email)
				_, _ = w.Svc.Token(t.Context(), world.Alice)
				require.NoError(t, other.Logout(t.Context(), world.Alice, session.AndUnlink()))
				return ""
			},
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				w, proxy, other := lateWorld(t, opts())
				_, err := w.Svc.Token(t.Context(), world.Bob) // opens connections
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
				proxy.BlackholeExisting()
				want := flow(t, w, proxy, other)
				proxy.Restore() // what was held up arrives
				settled(t, want, w.Svc, other)
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
		"logout": {func(t *testing.T, svc *session.Service) { require.NoError(t, svc.Logout(t.Context(), world.Alice)) }, ""},
		"login as another account": {func(t *testing.T, svc *session.Service) {
			_, err := svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
			require.NoError(t, err)
		}, "bob@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, proxy, other := lateWorld(t, &redis.Options{})
			w.LoginDead()
			w.Auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(200*time.Millisecond))
			result := make(chan error, 1)
			go func() { _, err := w.Svc.Token(t.Context(), world.Alice); result <- err }()
			world.Eventually(t, "the refresh token is sent", func() bool { return w.Auth.Calls(sessiontest.Refresh) == 1 })
			proxy.BlackholeExisting()
			c.do(t, other)
			<-result
			settled(t, c.want, other)
			proxy.Restore()
			settled(t, c.want, w.Svc, other)
		})
	}
}
