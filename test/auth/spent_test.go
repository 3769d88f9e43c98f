package auth_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

func TestSuccessorIsStoredOverADeadTokenThatAnotherBotPutThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.LoginDead()
		w.Auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(time.Second))
		result := world.Later(func() error { _, err := w.Svc.Token(t.Context(), world.Alice); return err })
		dead := w.Auth.MintToken(world.Email, time.Now().Add(30*time.Second))
		w.Put(world.Alice, strings.Replace(w.Stored(world.Alice), tokenIn(w.Stored(world.Alice)), dead, 1))
		require.NoError(t, <-result)
		time.Sleep(15 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice) // by the successor of the refresh token
	})
}

// tokenIn is the token in a record.
func tokenIn(record string) string {
	_, rest, _ := strings.Cut(record, `"token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

func TestSuccessorFitsThoughDataFillTheRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.LoginDead()
		size := 1 << 20
		for step := size / 2; step > 0; step /= 2 { // to the brim
			if err := w.Svc.SetData(t.Context(), world.Alice, "k", strings.Repeat("x", size-step)); err != nil {
				require.ErrorIs(t, err, session.ErrTooLarge)
				size -= step
			}
		}
		require.Greater(t, len(w.Stored(world.Alice)), 1<<20-1024)
		w.Auth.Inject(sessiontest.Refresh, 1, longer)
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(15 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice)
		require.ErrorIs(t, w.Svc.SetData(t.Context(), world.Alice, "l", strings.Repeat("x", 4096)), session.ErrTooLarge)
	})
}

// What arrives while nobody can tell whether the token is a good one.
func TestSuccessorIsStoredThoughTheVerifierCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		w := world.New(t, session.NewMemoryStore())
		svc := w.Service(session.WithTokenVerifier(func(context.Context, string) error {
			if down.Load() {
				return session.ErrAuthUnavailable
			}
			return nil
		}))
		w.LoginDead()
		w.Auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(time.Second))
		result := world.Later(func() error { _, err := svc.Token(t.Context(), world.Alice); return err })
		w.Put(world.Alice, strings.Replace(w.Stored(world.Alice), tokenIn(w.Stored(world.Alice)), w.Auth.MintToken(world.Email, time.Now().Add(40*time.Second)), 1))
		down.Store(true)
		require.ErrorIs(t, <-result, session.ErrAuthUnavailable)
		down.Store(false)
		time.Sleep(5 * time.Second)
		world.MustToken(t, svc, world.Alice)
		require.Equal(t, 2, w.Auth.Calls(sessiontest.Refresh), "the second with the successor")
	})
}

func TestCloseWaitsForARefreshTokenThatIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		w.LoginDead()
		svc := w.Service()
		w.Auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(7*time.Second))
		result := world.Later(func() error { _, err := svc.Token(t.Context(), world.Alice); return err })
		began := time.Now()
		require.NoError(t, svc.Close())
		require.InDelta(t, 7, time.Since(began).Seconds(), 0.1)
		<-result
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(15 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestNothingOutlivesClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.LoginDead()
		svc := w.Service()
		w.Auth.Inject(sessiontest.Refresh, 1, w.Auth.Hang())
		result := world.Later(func() error { _, err := svc.Token(context.WithoutCancel(t.Context()), world.Alice); return err })
		began := time.Now()
		_ = svc.Close()
		require.LessOrEqual(t, time.Since(began), 14*time.Second)
		closed := time.Now()
		require.Error(t, <-result)
		require.Zero(t, time.Since(closed))
	})
}

func TestFailuresOfOneUserAreBackedOffFrom(t *testing.T) {
	for name, c := range map[string]struct {
		had  func(w *world.World)
		most int // calls of the auth server in 15 s
	}{
		"404 but linked": {func(w *world.World) {
			w.LoginDead()
			w.Auth.Link(world.Alice, world.Email)
			w.Auth.DeleteUser(world.Email)
		}, 30},
		"signing is broken": {func(w *world.World) {
			w.Auth.Link(world.Alice, world.Email)
			w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now()), world.Email, "{}"))
			w.Auth.BreakSigning(true)
		}, 16},
		"wrong service key": {func(w *world.World) {
			w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now()), world.Email, "{}"))
			w.Auth.SetServiceKey("another")
		}, 8},
		"wrong service key, no session": {func(w *world.World) {
			w.Auth.SetServiceKey("another")
		}, 8},
		"429 that asks for a minute": {func(w *world.World) {
			w.LoginDead()
			w.Auth.Inject(sessiontest.Refresh, -1, sessiontest.Status(429, "ThrottlerException: Too Many Requests", "Retry-After", "60"))
		}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
				if _, leases := w.Store.(session.Locker); !leases && name == "429 that asks for a minute" {
					return // refresh tokens are not spent then
				}
				c.had(w)
				w.Auth.ResetCalls()
				for range 150 {
					_, err := w.Svc.Token(t.Context(), world.Alice)
					require.Error(t, err)
					require.NotErrorIs(t, err, session.ErrNotLoggedIn)
					time.Sleep(100 * time.Millisecond)
				}
				require.LessOrEqual(t, w.Auth.Calls(sessiontest.Any), c.most)
				if _, leases := w.Store.(session.Locker); leases && name == "404 but linked" {
					require.NotContains(t, w.Stored(world.Alice), "refreshToken", "it was refused")
				}
			})
		})
	}
}

func TestBackOffEndsWithALoginAndWithASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.SetServiceKey("another")
		for range 50 {
			_, err := w.Svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrServiceKeyRejected)
		}
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestHolderThatDiedWhileAskingForTheLinkIsWaitedForBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		w.Auth.Link(world.Alice, world.Email)
		dies := h.Another()
		holder := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: dies}).Service()
		w.Auth.Inject(sessiontest.LinkFetch, 1, func() sessiontest.Fault {
			return w.Auth.Hang()
		}())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		result := world.Later(func() error { _, err := holder.Token(ctx, world.Alice); return err })
		time.Sleep(1500 * time.Millisecond) // it has renewed its lease
		dies.Inject(storetest.Away)         // as if killed
		began := time.Now()
		world.MustToken(t, w.Svc, world.Alice)
		require.LessOrEqual(t, time.Since(began), 4*time.Second)
		cancel()
		<-result
	})
}

// A link call that takes longer than the lease does not lose the lease.
func TestLivingHolderKeepsItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(9*time.Second))
		other := w.Service()
		result := world.Later(func() error { _, err := w.Svc.Token(t.Context(), world.Alice); return err })
		world.MustToken(t, other, world.Alice)
		require.NoError(t, <-result)
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkFetch))
	})
}

// longer answers a refresh with a token that is longer than those before.
var longer = world.Changed(func(claims, _ map[string]any) { claims["roles"] = strings.Repeat("r", 2000) })
