package session_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestMain(m *testing.M) { world.Main(m) }

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
			w := world.New(t, store)
			w.LoginDead()
			world.MustToken(t, w.Svc, world.Alice)
			w.Cache()
			w.Auth.Link(world.Bob, world.Email)
			w.Auth.Inject(sessiontest.LinkFetch, 1, w.Auth.Hang())
			asked := make(chan error, 1)
			go func() {
				_, err := w.Svc.Token(context.WithoutCancel(t.Context()), world.Bob)
				asked <- err
			}()
			world.Eventually(t, "a flight", func() bool { return w.Auth.Calls(sessiontest.LinkFetch) > 1 })
			require.NoError(t, w.Svc.Close())
			require.ErrorIs(t, <-asked, session.ErrClosed)
			closeStore()
			goleak.VerifyNone(t, before)
		})
	}
}
