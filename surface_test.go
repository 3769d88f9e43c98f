package session_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestEveryMethodChecksItsUserItsContextAndClose(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	w.Auth.ResetCalls()
	for name, call := range world.Methods(w.Svc) {
		require.ErrorIs(t, call(t.Context(), "@no domain"), session.ErrInvalidUserID, name)
		require.ErrorIs(t, call(cancelled, world.Alice), context.Canceled, name)
	}
	require.NoError(t, w.Svc.Close())
	for name, call := range world.Methods(w.Svc) {
		require.ErrorIs(t, call(t.Context(), world.Alice), session.ErrClosed, name)
	}
	require.Zero(t, w.Auth.Calls(sessiontest.Any))
	require.NotEmpty(t, w.Stored(world.Alice))
}

func TestEveryCounterCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		ctx := t.Context()
		_, err := w.Svc.Login(ctx, world.Alice, world.Email, "wrong")
		require.Error(t, err)
		w.LoginDead()                          // a login
		world.MustToken(t, w.Svc, world.Alice) // a miss, and the refresh token
		w.Auth.Link(world.Bob, world.Email)    //
		world.MustToken(t, w.Svc, world.Bob)   // a miss, and the link
		world.MustToken(t, w.Svc, world.Bob)   // a miss that fills the near cache
		world.MustToken(t, w.Svc, world.Bob)   // a hit
		w.Put("@x:h", "not a session")         // unreadable
		_, err = w.Svc.Token(ctx, "@x:h")
		require.ErrorIs(t, err, session.ErrNotLoggedIn) // a miss; not linked
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(401, "Valid service key required"))
		_, err = w.Svc.Token(ctx, "@y:h") // a miss; service key
		require.ErrorIs(t, err, session.ErrServiceKeyRejected)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(500, "down"))
		_, err = w.Svc.Token(ctx, "@z:h") // a miss; unavailable
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.NoError(t, w.Svc.Logout(ctx, world.Bob))

		w.Auth.RevokeRefreshTokens(world.Email)
		time.Sleep(15 * time.Minute)
		_, err = w.Svc.Token(ctx, world.Alice) // a miss, for the entry was never filled; ended
		require.ErrorIs(t, err, session.ErrNotLoggedIn)

		stats, err := w.Svc.Stats(ctx)
		require.NoError(t, err)
		require.GreaterOrEqual(t, stats.Unreadable, int64(1))
		require.NotZero(t, stats.Hits)
		require.NotZero(t, stats.Misses)
		stats.Unreadable, stats.Hits, stats.Misses = 0, 0, 0
		require.Equal(t, session.Stats{
			Total: 1, StorageMode: "memory", SSOLinkEnabled: true, // what is unreadable takes up room
			Active: 1,
			Counters: session.Counters{
				RefreshesByLink: 1, RefreshesByToken: 1, SessionsEnded: 1,
				FailedNotLinked: 2, FailedServiceKey: 1, FailedUnavailable: 1,
				Logins: 1, LoginFailures: 1, Logouts: 1,
			},
		}, stats)
	})
}

func TestRefreshTokenStandsInForAMissingRoute(t *testing.T) {
	for name, fault := range map[string]sessiontest.Fault{
		"missing": sessiontest.Status(404, "Cannot GET /x"), "redirected": sessiontest.Redirect(301, "http://elsewhere.test/"),
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.LoginDead()
			w.Auth.Inject(sessiontest.LinkFetch, -1, fault)
			world.MustToken(t, w.Svc, world.Alice)
		})
	}
}

// A route that one bot has wrong is not a failure for all.
func TestWrongLinkPathOfOneBotHarmsNoOther(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	_, err := w.Service(session.WithLinkPath("/wrong")).Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	world.MustToken(t, w.Svc, world.Alice)
}

// unsteady fails the first writes under a lease.
type unsteady struct {
	*session.MemoryStore
	failures int
}

func (u *unsteady) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	if u.failures > 0 {
		u.failures--
		return session.Record{}, errors.New("away")
	}
	return u.MemoryStore.SwapLeased(ctx, owner, old, next)
}

func TestSuccessorOfARefreshTokenIsWrittenUntilTheStoreTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, &unsteady{MemoryStore: session.NewMemoryStore(), failures: 5})
		w.LoginDead()
		token := world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, token, world.MustToken(t, w.Svc, world.Alice))
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
	})
}

func TestIdempotentCallsAreRepeatedAndTheBreakerOpensOnOutagesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 2, sessiontest.Status(503, "busy"))
		world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 3, w.Auth.Calls(sessiontest.LinkFetch))

		w.Auth.Link(world.Bob, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(429, "slow down", "Retry-After", "2"))
		started := time.Now()
		world.MustToken(t, w.Svc, world.Bob)
		require.GreaterOrEqual(t, time.Since(started), 2*time.Second)

		for range 6 {
			_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, "wrong")
			require.ErrorIs(t, err, session.ErrInvalidCredentials)
		}
		w.Login(w.Svc)

		w.Auth.ResetCalls()
		w.Auth.Inject(sessiontest.Login, -1, sessiontest.Status(500, "connect ECONNREFUSED"))
		for range 7 {
			_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
		}
		require.Equal(t, 5, w.Auth.Calls(sessiontest.Login), "the breaker is open")
		w.Auth.ClearFaults()
		time.Sleep(6 * time.Second)
		w.Login(w.Svc)
	})
}
