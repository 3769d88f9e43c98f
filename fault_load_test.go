package session_test

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
	"github.com/mana/session/sessiontest"
)

// busyness is an HTTP transport that sees how many calls run at a time, and when
// they began.
type busyness struct {
	base    http.RoundTripper
	takes   atomic.Int64 // what a call takes, as a time.Duration
	running atomic.Int64

	mu      sync.Mutex
	most    int64         // guarded by mu
	seconds map[int64]int // guarded by mu; calls by the second they began in
}

func (c *busyness) RoundTrip(req *http.Request) (*http.Response, error) {
	now := c.running.Add(1)
	defer c.running.Add(-1)
	c.mu.Lock()
	c.most = max(c.most, now)
	if c.seconds == nil {
		c.seconds = make(map[int64]int)
	}
	c.seconds[time.Now().Unix()]++
	c.mu.Unlock()
	select {
	case <-time.After(time.Duration(c.takes.Load())):
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	return c.base.RoundTrip(req)
}

// busiest is the most calls that began in one second.
func (c *busyness) busiest() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := 0
	for _, n := range c.seconds {
		most = max(most, n)
	}
	return most
}

const tenThousand = 10_000

// crowded is a world of 10,000 linked users whose tokens run out in one second.
func crowded(t *testing.T, left, takes time.Duration) (*world, *busyness) {
	w := newWorld(t, session.NewMemoryStore())
	c := &busyness{base: w.auth.Client().Transport}
	c.takes.Store(int64(takes))
	w.svc = w.service(session.WithHTTPClient(&http.Client{Transport: c}))
	record := tsRecord(w.auth.MintToken(email, time.Now().Add(left)), email, "{}")
	for i := range tenThousand {
		w.put(userID(i), record)
		w.auth.Link(userID(i), email)
	}
	return w, c
}

func TestTenThousandDeadTokensAreNotTenThousandCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := crowded(t, 0, 20*time.Millisecond)
		began := time.Now()
		var callers sync.WaitGroup
		var failed atomic.Int64
		for i := range tenThousand {
			callers.Go(func() {
				if _, err := w.svc.Token(t.Context(), userID(i)); err != nil {
					failed.Add(1)
				}
			})
		}
		callers.Wait()
		require.Zero(t, failed.Load())
		require.Equal(t, tenThousand, w.auth.Calls(sessiontest.Any))
		require.LessOrEqual(t, c.most, int64(64))
		t.Logf("at most %d calls at a time, %s in all at 20ms each", c.most, time.Since(began))
	})
}

func TestThoseWhoWaitForATurnHeedTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := crowded(t, 0, 20*time.Millisecond)
		w.auth.Inject(sessiontest.LinkFetch, -1, sessiontest.Status(500, "down"))
		before := w.stored(userID(7))
		var callers sync.WaitGroup
		for i := range tenThousand {
			callers.Go(func() {
				_, err := w.svc.Token(t.Context(), userID(i))
				if !errors.Is(err, session.ErrAuthUnavailable) {
					t.Errorf("%v", err)
				}
			})
		}
		callers.Wait()
		require.LessOrEqual(t, w.auth.Calls(sessiontest.Any), 64+5)
		require.Equal(t, before, w.stored(userID(7)))
		w.auth.ClearFaults()
		time.Sleep(6 * time.Second)
		mustToken(t, w.svc, userID(7))
	})
}

// A server that is slow for all: whoever gets no turn is told within the bound,
// gives up when they like, and costs nobody the session.
func TestWaitingForATurnIsBoundedAndBelongsToTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := crowded(t, 0, 9*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		type result struct {
			userID string
			err    error
		}
		results := make(chan result, 1000)
		other := w.service() // with turns of its own
		began := time.Now()
		for i := range 1000 {
			go func() {
				ctx := ctx
				if i%2 == 0 {
					ctx = t.Context()
				}
				_, err := w.svc.Token(ctx, userID(i))
				results <- result{userID(i), err}
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
					mustToken(t, other, r.userID)
				}
			}
		}
		require.LessOrEqual(t, time.Since(began), 10*time.Second)
		require.Positive(t, served)
		require.Positive(t, turnedAway)
		require.LessOrEqual(t, c.most, int64(64))
		require.True(t, w.svc.Health(t.Context()).Auth.OK, "too many callers are no outage")
	})
}

func TestHealthThatGetsNoTurnIsNotBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := crowded(t, 0, 4*time.Second)
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() { _, _ = w.svc.Token(t.Context(), userID(i)) })
		}
		synctest.Wait()
		began := time.Now()
		short, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		require.True(t, w.svc.Health(short).Auth.OK)
		impatient, giveUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, giveUp)
		require.True(t, w.svc.Health(impatient).Auth.OK)
		require.LessOrEqual(t, time.Since(began), 2*time.Second)
		callers.Wait()
	})
}

func TestUnlinkingThatIsGivenUpIsNotTheServersFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := crowded(t, 0, 4*time.Second)
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() { _, _ = w.svc.Token(t.Context(), userID(i)) })
		}
		synctest.Wait()
		ctx, giveUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, giveUp)
		err := w.svc.Logout(ctx, userID(500), session.AndUnlink())
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, session.ErrAuthUnavailable)
		callers.Wait()
		require.Empty(t, w.stored(userID(500)))
	})
}

func TestLoginDoesNotWaitForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := crowded(t, 0, 9*time.Second)
		var callers sync.WaitGroup
		for i := range 1000 {
			callers.Go(func() { _, _ = w.svc.Token(t.Context(), userID(i)) })
		}
		synctest.Wait()
		c.takes.Store(int64(time.Second))
		began := time.Now()
		require.NoError(t, w.right(alice))
		require.LessOrEqual(t, time.Since(began), 2*time.Second, "the login, and making the link")
		callers.Wait()
	})
}

func TestRefreshTokenIsNotSpentWithoutTheTimeToHearItsFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := crowded(t, 0, 9*time.Second)
		w.loginDead()
		before := w.stored(alice)
		var callers sync.WaitGroup
		for i := range 1000 {
			callers.Go(func() { _, _ = w.svc.Token(t.Context(), userID(i)) })
		}
		synctest.Wait()
		// Without the link, which would wait for a turn itself.
		unlinked := w.service(session.WithHTTPClient(&http.Client{Transport: c}), session.WithSSOLink(false))
		var others sync.WaitGroup
		for i := range 64 {
			w.put(userID(20_000+i), refreshable(w, i))
			others.Go(func() { _, _ = unlinked.Token(t.Context(), userID(20_000+i)) })
		}
		synctest.Wait()
		calls := w.auth.Calls(sessiontest.Refresh)
		began := time.Now()
		_, err := unlinked.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.ErrorContains(t, err, "too many calls at once")
		require.LessOrEqual(t, time.Since(began), 3*time.Second)
		require.Equal(t, calls, w.auth.Calls(sessiontest.Refresh))
		require.Equal(t, before, w.stored(alice))
		others.Wait()
		callers.Wait()
		_, err = unlinked.Token(t.Context(), alice)
		require.NoError(t, err, "it was not spent")
	})
}

// refreshable is a record of a dead token and a refresh token of nobody.
func refreshable(w *world, i int) string {
	return fmt.Sprintf(`{"token":%q,"email":"","expiresAt":%q,"data":{},"refreshToken":"r%d"}`,
		w.auth.MintToken(email, time.Now()), time.Now().Add(time.Hour).UTC().Format(time.RFC3339), i)
}

func TestTenThousandTokensOfOneSecondAreRefreshedAhead(t *testing.T) {
	for name, takes := range map[string]time.Duration{"quick server": 20 * time.Millisecond, "slow server": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { refreshedAhead(t, takes) }) })
	}
}

func refreshedAhead(t *testing.T, takes time.Duration) {
	w, c := crowded(t, 5*time.Minute+10*time.Second, takes)
	waited := time.Duration(0)
	for range 30 { // all users are active: each asks every 5 s, for 150 s
		began := time.Now()
		for i := range tenThousand {
			mustToken(t, w.svc, userID(i))
			if i%20 == 19 {
				waited = max(waited, time.Since(began))
				time.Sleep(10 * time.Millisecond)
				began = time.Now()
			}
		}
	}
	require.Zero(t, waited, "nobody waits")
	require.Equal(t, tenThousand, w.auth.Calls(sessiontest.Any), "each is refreshed once")
	require.LessOrEqual(t, c.most, int64(32))
	require.LessOrEqual(t, c.busiest(), tenThousand/20, "spread over the better part of a minute")
	t.Logf("at most %d calls at a time, %d in the busiest second", c.most, c.busiest())
}
