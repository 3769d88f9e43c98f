package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/bounded"
	"github.com/mana/session/internal/race"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A room full of strangers: everybody whom a bot sees asks it something.
func TestFloodOfUnlinkedUsersIsBoundedInMemory(t *testing.T) {
	remembered, workers := maxRemembered, 8
	if race.Enabled || testing.Short() {
		remembered /= 10
	}
	flood := remembered * 11 / 10
	notLinked := transport(func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusNotFound, Header: http.Header{}, Request: r,
			Body: io.NopCloser(strings.NewReader(fmt.Sprintf(
				`{"statusCode":404,"message":"No link found for this Matrix user","timestamp":"2026-11-25T00:00:00.000Z","path":%q}`, r.URL.Path))),
		}, nil
	})
	store := NewMemoryStore()
	defer store.Close()
	svc, err := New(WithStore(store), WithServiceKey("key"), WithHTTPClient(&http.Client{Transport: notLinked}))
	require.NoError(t, err)
	defer svc.Close()
	svc.refresher.unlinked = bounded.New[time.Time](remembered)
	before := heap()
	var flooding sync.WaitGroup
	for worker := range workers {
		flooding.Go(func() {
			for i := worker; i < flood; i += workers {
				if _, err := svc.Token(t.Context(), fmt.Sprintf("@stranger%d:matrix.example", i)); err == nil {
					t.Error("a token for a stranger")
				}
			}
		})
	}
	flooding.Wait()
	grown := heap() - before
	require.LessOrEqual(t, svc.refresher.unlinked.Len(), remembered+workers)
	require.Zero(t, store.entries.Size(), "neither records nor leases stay")
	require.Zero(t, svc.near.Len())
	require.Zero(t, svc.near.Waiting())
	require.Zero(t, svc.refresher.attempts.users.Len())
	require.Zero(t, svc.loginLimit.users.Len())
	require.Less(t, grown, int64(48<<20))
	t.Logf("heap after %d strangers: %.1f MiB more, %d remembered", flood, float64(grown)/(1<<20), svc.refresher.unlinked.Len())
	runtime.KeepAlive(svc)
}

// stepClock makes the process see what it would see after its wall clock was
// stepped by d: every wall time that it or others noted before is d further in
// the past. (A test cannot step the machine's clock, and the clock of synctest
// only goes on. What is measured by the monotonic clock, timers, back-offs,
// leases in memory, does not take part in a step.)
func (s *Service) stepClock(d time.Duration) {
	s.refresher.clock.last.Add(-d.Microseconds())
	for _, p := range s.outbox.all() {
		p.event.user.turn <- struct{}{} // nobody else looks at it
		p.since = p.since.Add(-d)
		if p.login != nil {
			l := *p.login
			l.since = l.since.Add(-d)
			p.login = &l
		}
		<-p.event.user.turn
	}
	s.near.StepClock(d, func(k known) known {
		l := *k.login
		l.expires, l.token.expires = l.expires.Add(-d), l.token.expires.Add(-d)
		return known{k.raw, &l}
	})

}

// stepRecord is the same for what is in the store.
func stepRecord(t *testing.T, store Store, userID string, d time.Duration, token string) {
	t.Helper()
	rec, err := store.Get(t.Context(), userID)
	require.NoError(t, err)
	var w wireRecord
	require.NoError(t, json.Unmarshal([]byte(rec.Value), &w))
	ends, err := time.Parse(time.RFC3339Nano, w.ExpiresAt)
	require.NoError(t, err)
	w.Token, w.ExpiresAt = token, ends.Add(-d).Format(time.RFC3339Nano)
	value, err := json.Marshal(w)
	require.NoError(t, err)
	_, err = store.Swap(t.Context(), rec, Record{UserID: userID, Value: string(value), Expires: ends.Add(-d)})
	require.NoError(t, err)
}

func TestClockThatIsStepped(t *testing.T) {
	const alice, email, password = "@alice:matrix.example", "alice@example.com", "correct horse"
	for name, c := range map[string]struct {
		step  time.Duration
		calls int // of the auth server, in 100 calls of Token
	}{
		// The server's tokens are dead when they come: they are handed out as
		// they are, and none is kept.
		"ahead": {time.Hour, 100},
		"back":  {-time.Hour, 1},
	} {
		t.Run(name, func(t *testing.T) {
			step := c.step
			server := redistest.Start(t)
			client := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer client.Close()
			auth := sessiontest.New()
			defer auth.Close()
			auth.AddUser(email, password)
			auth.Link(alice, email)
			svc, err := New(WithRedis(client), WithAuthURL(auth.URL), WithHTTPClient(auth.Client()), WithServiceKey(sessiontest.DefaultServiceKey))
			require.NoError(t, err)
			defer func() { require.NoError(t, svc.Close()) }()
			hit := func() bool {
				before := svc.count.hits.sum()
				_, err := svc.Token(t.Context(), alice)
				require.NoError(t, err)
				return svc.count.hits.sum() > before
			}
			require.Eventually(t, hit, 10*time.Second, time.Millisecond)

			// The trust was given an hour before or after now: it ends at once,
			// for the process may have slept and missed what changed.
			_, ok := svc.near.Fresh(alice, time.Now())
			require.True(t, ok)
			svc.stepClock(step)
			_, ok = svc.near.Fresh(alice, time.Now())
			require.False(t, ok, "nothing is believed over a step")

			// The token is an hour older or younger than it was, and so is the
			// server's clock from here.
			auth.SetClockSkew(-step)
			stepRecord(t, svc.records.store, alice, step, auth.MintToken(email, time.Now().Add(15*time.Minute-step)))
			auth.ResetCalls()
			for range 100 {
				_, err := svc.Token(t.Context(), alice)
				require.NoError(t, err)
			}
			require.LessOrEqual(t, auth.Calls(sessiontest.Any), c.calls, "no storm of refreshes")
			h := svc.Health(t.Context())
			require.True(t, h.Store.OK)
			require.True(t, h.Auth.OK)

			// The clock is put right.
			svc.stepClock(-step)
			auth.SetClockSkew(0)
			stepRecord(t, svc.records.store, alice, -step, auth.MintToken(email, time.Now().Add(15*time.Minute)))
			auth.ResetCalls()
			require.Eventually(t, hit, 10*time.Second, time.Millisecond, "the next heartbeat renews the trust")
			require.LessOrEqual(t, auth.Calls(sessiontest.Any), 1)
			users := 0
			for _, err := range svc.Users(t.Context()) {
				require.NoError(t, err)
				users++
			}
			require.Equal(t, 1, users, "the session is kept")
		})
	}
}

// severed is a store that can be away.
type severed struct {
	*MemoryStore
	away atomic.Bool
}

var errSevered = errors.New("no route to the store")

func (s *severed) Get(ctx context.Context, userID string) (Record, error) {
	if s.away.Load() {
		return Record{}, errSevered
	}
	return s.MemoryStore.Get(ctx, userID)
}

func (s *severed) Swap(ctx context.Context, old, next Record) (Record, error) {
	if s.away.Load() {
		return Record{}, errSevered
	}
	return s.MemoryStore.Swap(ctx, old, next)
}

func (s *severed) Delete(ctx context.Context, old Record) error {
	if s.away.Load() {
		return errSevered
	}
	return s.MemoryStore.Delete(ctx, old)
}

func (s *severed) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (Lease, Record, error) {
	if s.away.Load() {
		return Lease{}, Record{}, errSevered
	}
	return s.MemoryStore.Acquire(ctx, userID, owner, ttl)
}

// What happened in one process happened in the order in which it did, whatever
// the clock said at the time.
func TestClockThatIsSetBackDoesNotReorderLoginsAndLogouts(t *testing.T) {
	const alice, email, password = "@alice:matrix.example", "alice@example.com", "correct horse"
	synctest.Test(t, func(t *testing.T) {
		store := &severed{MemoryStore: NewMemoryStore()}
		defer store.Close()
		auth := sessiontest.New()
		defer auth.Close()
		auth.AddUser(email, password)
		svc, err := New(WithStore(store), WithAuthURL(auth.URL), WithHTTPClient(auth.Client()), WithNearCache(0))
		require.NoError(t, err)
		defer func() { require.NoError(t, svc.Close()) }()
		login := func() {
			_, err := svc.Login(t.Context(), alice, email, password)
			require.NoError(t, err)
		}
		in := func() bool {
			_, err := svc.Token(t.Context(), alice)
			if err != nil {
				require.ErrorIs(t, err, ErrNotLoggedIn)
			}
			return err == nil
		}
		store.away.Store(true)
		login()
		svc.stepClock(-time.Hour)
		require.ErrorIs(t, svc.Logout(t.Context(), alice), ErrStoreUnavailable)
		require.False(t, in(), "a logout after a login")
		svc.stepClock(-time.Hour)
		login()
		require.True(t, in(), "a login after a logout")
		store.away.Store(false)
		time.Sleep(time.Second)
		require.Zero(t, svc.Health(t.Context()).Queued)
		require.True(t, in())

		store.away.Store(true)
		svc.stepClock(-time.Hour)
		require.ErrorIs(t, svc.Logout(t.Context(), alice), ErrStoreUnavailable)
		store.away.Store(false)
		time.Sleep(time.Second)
		require.False(t, in(), "a logout of a session that is stored with a later time")
	})
}
