package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestManyDeadTokensAreNotAsManyCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := world.Crowded(t, 0, 20*time.Millisecond)
		began := time.Now()
		var callers sync.WaitGroup
		var failed atomic.Int64
		for i := range world.Crowd() {
			callers.Go(func() {
				if _, err := w.Svc.Token(t.Context(), world.UserID(i)); err != nil {
					failed.Add(1)
				}
			})
		}
		callers.Wait()
		require.Zero(t, failed.Load())
		require.Equal(t, world.Crowd(), w.Auth.Calls(sessiontest.Any))
		require.LessOrEqual(t, c.Most, int64(64))
		t.Logf("at most %d calls at a time, %s in all at 20ms each", c.Most, time.Since(began))
	})
}

func TestThoseWhoWaitForATurnHeedTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := world.Crowded(t, 0, 20*time.Millisecond)
		w.Auth.Inject(sessiontest.LinkFetch, -1, sessiontest.Status(500, "down"))
		before := w.Stored(world.UserID(7))
		var callers sync.WaitGroup
		for i := range world.Crowd() {
			callers.Go(func() {
				_, err := w.Svc.Token(t.Context(), world.UserID(i))
				if !errors.Is(err, session.ErrAuthUnavailable) {
					t.Errorf("%v", err)
				}
			})
		}
		callers.Wait()
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Any), 64+5)
		require.Equal(t, before, w.Stored(world.UserID(7)))
		w.Auth.ClearFaults()
		time.Sleep(6 * time.Second)
		world.MustToken(t, w.Svc, world.UserID(7))
	})
}

// A server that is slow for all: whoever gets no turn is told within the bound,
// gives up when they like, and costs nobody the session.
func TestWaitingForATurnIsBoundedAndBelongsToTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := world.Crowded(t, 0, 9*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		type result struct {
			userID string
			err    error
		}
		results := make(chan result, 1000)
		other := w.Service() // with turns of its own
		began := time.Now()
		for i := range 1000 {
			go func() {
				ctx := ctx
				if i%2 == 0 {
					ctx = t.Context()
				}
				_, err := w.Svc.Token(ctx, world.UserID(i))
				results <- result{world.UserID(i), err}
			}()
		}
		served, turnedAway := 0, 0
		for range 1000 {
			r := <-results
			switch {
			case r.err == nil:
				served++
			case errors.Is(r.err, context.DeadlineExceeded):
				require.Equal(t, 2*time.Second, time.Since(began))
			default:
				require.ErrorIs(t, r.err, session.ErrAuthUnavailable)
				if turnedAway++; turnedAway == 1 {
					// Another process does not take it for the server's failure.
					world.MustToken(t, other, r.userID)
				}
			}
		}
		require.LessOrEqual(t, time.Since(began), 10*time.Second)
		require.Positive(t, served)
		require.Positive(t, turnedAway)
		require.LessOrEqual(t, c.Most, int64(64))
		require.True(t, w.Svc.Health(t.Context()).Auth.OK, "too many callers are no outage")
	})
}

func TestHealthThatGetsNoTurnIsNotBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := world.Crowded(t, 0, 4*time.Second)
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() { _, _ = w.Svc.Token(t.Context(), world.UserID(i)) })
		}
		synctest.Wait()
		began := time.Now()
		short, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		require.True(t, w.Svc.Health(short).Auth.OK)
		impatient, giveUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, giveUp)
		require.True(t, w.Svc.Health(impatient).Auth.OK)
		require.LessOrEqual(t, time.Since(began), 2*time.Second)
		callers.Wait()
	})
}

func TestUnlinkingThatIsGivenUpIsNotTheServersFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := world.Crowded(t, 0, 4*time.Second)
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() { _, _ = w.Svc.Token(t.Context(), world.UserID(i)) })
		}
		synctest.Wait()
		ctx, giveUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, giveUp)
		err := w.Svc.Logout(ctx, world.UserID(500), session.AndUnlink())
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, session.ErrAuthUnavailable)
		callers.Wait()
		require.Empty(t, w.Stored(world.UserID(500)))
	})
}

func TestLoginDoesNotWaitForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := world.Crowded(t, 0, 9*time.Second)
		var callers sync.WaitGroup
		for i := range 1000 {
			callers.Go(func() { _, _ = w.Svc.Token(t.Context(), world.UserID(i)) })
		}
		synctest.Wait()
		c.Takes.Store(int64(time.Second))
		began := time.Now()
		require.NoError(t, w.Right(world.Alice))
		require.LessOrEqual(t, time.Since(began), 2*time.Second, "the login, and making the link")
		callers.Wait()
	})
}

func TestRefreshTokenIsNotSpentWithoutTheTimeToHearItsFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := world.Crowded(t, 0, 9*time.Second)
		w.LoginDead()
		before := w.Stored(world.Alice)
		var callers sync.WaitGroup
		for i := range 1000 {
			callers.Go(func() { _, _ = w.Svc.Token(t.Context(), world.UserID(i)) })
		}
		synctest.Wait()
		// Without the link, which would wait for a turn itself.
		unlinked := w.Service(session.WithHTTPClient(&http.Client{Transport: c}), session.WithSSOLink(false))
		var others sync.WaitGroup
		for i := range 64 {
			w.Put(world.UserID(20_000+i), refreshable(w, i))
			others.Go(func() { _, _ = unlinked.Token(t.Context(), world.UserID(20_000+i)) })
		}
		synctest.Wait()
		calls := w.Auth.Calls(sessiontest.Refresh)
		began := time.Now()
		_, err := unlinked.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.ErrorContains(t, err, "too many calls at once")
		require.LessOrEqual(t, time.Since(began), 3*time.Second)
		require.Equal(t, calls, w.Auth.Calls(sessiontest.Refresh))
		require.Equal(t, before, w.Stored(world.Alice))
		others.Wait()
		callers.Wait()
		_, err = unlinked.Token(t.Context(), world.Alice)
		require.NoError(t, err, "it was not spent")
	})
}

// refreshable is a record of a dead token and a refresh token of nobody.
func refreshable(w *world.World, i int) string {
	return fmt.Sprintf(`{"token":%q,"email":"","expiresAt":%q,"data":{},"refreshToken":"r%d"}`,
		w.Auth.MintToken(world.Email, time.Now()), time.Now().Add(time.Hour).UTC().Format(time.RFC3339), i)
}

func TestManyTokensOfOneSecondAreRefreshedAhead(t *testing.T) {
	for name, takes := range map[string]time.Duration{"quick server": 20 * time.Millisecond, "slow server": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { refreshedAhead(t, takes) }) })
	}
}

func refreshedAhead(t *testing.T, takes time.Duration) {
	w, c := world.Crowded(t, 5*time.Minute+10*time.Second, takes)
	waited := time.Duration(0)
	for range 30 { // all users are active: each asks every 5 s, for 150 s
		began := time.Now()
		for i := range world.Crowd() {
			world.MustToken(t, w.Svc, world.UserID(i))
			if i%20 == 19 {
				waited = max(waited, time.Since(began))
				time.Sleep(5 * time.Second / time.Duration(world.Crowd()/20))
				began = time.Now()
			}
		}
	}
	require.Zero(t, waited, "nobody waits")
	require.Equal(t, world.Crowd(), w.Auth.Calls(sessiontest.Any), "each is refreshed once")
	require.LessOrEqual(t, c.Most, int64(32))
	require.LessOrEqual(t, c.Busiest(), world.Crowd()/20, "spread over the better part of a minute")
	t.Logf("at most %d calls at a time, %d in the busiest second", c.Most, c.Busiest())
}
