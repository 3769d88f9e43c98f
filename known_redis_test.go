package session_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
)

// As TestKnownUserIsServedAtOnceWhenTheStoreGoesAway, on a server that is killed
// or frozen.
func TestKnownUserIsServedWhenRedisGoesAway(t *testing.T) {
	t.Parallel()
	for name, become := range map[string]func(t *testing.T, w *world, other *session.Service){
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
					w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
					other := (&world{t: t, auth: w.auth, log: w.log, store: newRedisStore(t, newClient(t, server.Addr))}).service()
					become(t, w, other)
					away(server)
					if how == "frozen" {
						defer server.Resume()
					}
					<-time.After(wait)
					for range 20 {
						began := time.Now()
						mustToken(t, w.svc, alice)
						_, err := w.svc.Session(t.Context(), alice)
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
	w := cached(t, newRedisStore(t, newClient(t, server.Addr)))
	other := (&world{t: t, auth: w.auth, log: w.log, store: newRedisStore(t, newClient(t, server.Addr))}).service()
	require.NoError(t, other.Logout(t.Context(), alice))
	eventually(t, "it is told of the logout", func() bool {
		_, err := w.svc.Token(t.Context(), alice)
		return err != nil
	})
	server.Kill()
	_, err := w.svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
}
