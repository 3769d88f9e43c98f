package session_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// methods are all that take a user ID.
func methods(svc *session.Service) map[string]func(ctx context.Context, userID string) error {
	return map[string]func(context.Context, string) error{
		"Token":      func(ctx context.Context, id string) error { _, err := svc.Token(ctx, id); return err },
		"Login":      func(ctx context.Context, id string) error { _, err := svc.Login(ctx, id, email, password); return err },
		"Logout":     func(ctx context.Context, id string) error { return svc.Logout(ctx, id) },
		"LoggedIn":   func(ctx context.Context, id string) error { _, err := svc.LoggedIn(ctx, id); return err },
		"Session":    func(ctx context.Context, id string) error { _, err := svc.Session(ctx, id); return err },
		"Email":      func(ctx context.Context, id string) error { _, err := svc.Email(ctx, id); return err },
		"Refresh":    func(ctx context.Context, id string) error { _, err := svc.Refresh(ctx, id, ""); return err },
		"SetData":    func(ctx context.Context, id string) error { return svc.SetData(ctx, id, "k", 1) },
		"Data":       func(ctx context.Context, id string) error { _, err := svc.Data(ctx, id, "k", new(int)); return err },
		"DeleteData": func(ctx context.Context, id string) error { return svc.DeleteData(ctx, id, "k") },
		"Client": func(ctx context.Context, id string) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://backend.test", nil)
			if err != nil {
				return err
			}
			_, err = svc.Client(id).Do(req)
			return err
		},
	}
}

func TestEveryMethodChecksItsUserItsContextAndClose(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.login(w.svc)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	w.auth.ResetCalls()
	for name, call := range methods(w.svc) {
		require.ErrorIs(t, call(t.Context(), "@no domain"), session.ErrInvalidUserID, name)
		require.ErrorIs(t, call(cancelled, alice), context.Canceled, name)
	}
	require.NoError(t, w.svc.Close())
	for name, call := range methods(w.svc) {
		require.ErrorIs(t, call(t.Context(), alice), session.ErrClosed, name)
	}
	require.Zero(t, w.auth.Calls(sessiontest.Any))
	require.NotEmpty(t, w.stored(alice))
}

func TestEveryCounterCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		ctx := t.Context()
		_, err := w.svc.Login(ctx, alice, email, "wrong")
		require.Error(t, err)
		w.loginDead()                  // a login
		mustToken(t, w.svc, alice)     // a miss, and the refresh token
		w.auth.Link(bob, email)        //
		mustToken(t, w.svc, bob)       // a miss, and the link
		mustToken(t, w.svc, bob)       // a miss that fills the near cache
		mustToken(t, w.svc, bob)       // a hit
		w.put("@x:h", "not a session") // unreadable
		_, err = w.svc.Token(ctx, "@x:h")
		require.ErrorIs(t, err, session.ErrNotLoggedIn) // a miss; not linked
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(401, "Valid service key required"))
		_, err = w.svc.Token(ctx, "@y:h") // a miss; service key
		require.ErrorIs(t, err, session.ErrServiceKeyRejected)
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(500, "down"))
		_, err = w.svc.Token(ctx, "@z:h") // a miss; unavailable
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.NoError(t, w.svc.Logout(ctx, bob))

		w.auth.RevokeRefreshTokens(email)
		time.Sleep(15 * time.Minute)
		_, err = w.svc.Token(ctx, alice) // a miss, for the entry was never filled; ended
		require.ErrorIs(t, err, session.ErrNotLoggedIn)

		stats, err := w.svc.Stats(ctx)
		require.NoError(t, err)
		require.GreaterOrEqual(t, stats.Unreadable, int64(1))
		require.NotZero(t, stats.Hits)
		require.NotZero(t, stats.Misses)
		stats.Unreadable, stats.Hits, stats.Misses = 0, 0, 0
		require.Equal(t, session.Stats{
			Total: 1, StorageMode: "memory", SSOLinkEnabled: true, // what is unreadable takes up room
			RefreshesByLink: 1, RefreshesByToken: 1, SessionsEnded: 1,
			FailedNotLinked: 2, FailedServiceKey: 1, FailedUnavailable: 1,
			Logins: 1, LoginFailures: 1, Logouts: 1,
			Active: 1,
		}, stats)
	})
}

func TestRefreshTokenStandsInForAMissingRoute(t *testing.T) {
	for name, fault := range map[string]sessiontest.Fault{
		"missing": sessiontest.Status(404, "Cannot GET /x"), "redirected": sessiontest.Redirect(301, "http://elsewhere.test/"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, session.NewMemoryStore())
			w.loginDead()
			w.auth.Inject(sessiontest.LinkFetch, -1, fault)
			mustToken(t, w.svc, alice)
		})
	}
}

// A route that one bot has wrong is not a failure for all.
func TestWrongLinkPathOfOneBotHarmsNoOther(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.auth.Link(alice, email)
	_, err := w.service(session.WithLinkPath("/wrong")).Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	mustToken(t, w.svc, alice)
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
		w := newWorld(t, &unsteady{MemoryStore: session.NewMemoryStore(), failures: 5})
		w.loginDead()
		token := mustToken(t, w.svc, alice)
		require.Equal(t, token, mustToken(t, w.svc, alice))
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh))
	})
}

func TestIdempotentCallsAreRepeatedAndTheBreakerOpensOnOutagesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		w.auth.Inject(sessiontest.LinkFetch, 2, sessiontest.Status(503, "busy"))
		mustToken(t, w.svc, alice)
		require.Equal(t, 3, w.auth.Calls(sessiontest.LinkFetch))

		w.auth.Link(bob, email)
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(429, "slow down", "Retry-After", "2"))
		started := time.Now()
		mustToken(t, w.svc, bob)
		require.GreaterOrEqual(t, time.Since(started), 2*time.Second)

		for range 6 {
			_, err := w.svc.Login(t.Context(), alice, email, "wrong")
			require.ErrorIs(t, err, session.ErrInvalidCredentials)
		}
		w.login(w.svc)

		w.auth.ResetCalls()
		w.auth.Inject(sessiontest.Login, -1, sessiontest.Status(500, "connect ECONNREFUSED"))
		for range 7 {
			_, err := w.svc.Login(t.Context(), alice, email, password)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
		}
		require.Equal(t, 5, w.auth.Calls(sessiontest.Login), "the breaker is open")
		w.auth.ClearFaults()
		time.Sleep(6 * time.Second)
		w.login(w.svc)
	})
}
