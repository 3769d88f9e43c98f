package outage_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
)

// As TestKnownUserIsServedAtOnceWhenTheStoreGoesAway, on a server that is killed
// or frozen.
func TestKnownUserIsServedWhenRedisGoesAway(t *testing.T) {
	t.Parallel()
	for name, become := range map[string]func(t *testing.T, w *world.World, other *session.Service){
		"login":                    becomesKnown["login"],
		"first token of a link":    becomesKnown["first token of a link"],
		"data write":               becomesKnown["data write"],
		"refresh":                  becomesKnown["refresh"],
		"another bot's data write": becomesKnown["another bot's data write"],
		"another bot's refresh":    becomesKnown["another bot's refresh"],
	} {
		for how, away := range map[string]func(*redistest.Server){
			"killed": (*redistest.Server).Kill, "frozen": (*redistest.Server).Pause,
		} {
			for when, wait := range map[string]time.Duration{"at once": 0, "1.5 s later": 1500 * time.Millisecond} {
				t.Run(name+"/"+how+"/"+when, func(t *testing.T) {
					t.Parallel()
					server := redistest.Start(t)
					w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
					other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: world.NewRedisStore(t, world.NewClient(t, server.Addr))}).Service()
					become(t, w, other)
					away(server)
					if how == "frozen" {
						defer server.Resume()
					}
					<-time.After(wait)
					for range 20 {
						began := time.Now()
						world.MustToken(t, w.Svc, world.Alice)
						_, err := w.Svc.Session(t.Context(), world.Alice)
						require.NoError(t, err)
						require.Less(t, time.Since(began), 2*time.Second)
					}
				})
			}
		}
	}
}

func TestUserWhoLoggedOutElsewhereIsUnknownWhenRedisGoesAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.Cached(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: world.NewRedisStore(t, world.NewClient(t, server.Addr))}).Service()
	require.NoError(t, other.Logout(t.Context(), world.Alice))
	world.Eventually(t, "it is told of the logout", func() bool {
		_, err := w.Svc.Token(t.Context(), world.Alice)
		return err != nil
	})
	server.Kill()
	_, err := w.Svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
}
