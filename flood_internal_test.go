package session

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mana/session/internal/bounded"
	"github.com/mana/session/internal/race"
	"github.com/stretchr/testify/require"
)

func TestFloodOfUsersNeitherGrowsTheLoginLimitNorResetsIt(t *testing.T) {
	users := maxRemembered
	if race.Enabled || testing.Short() {
		users /= 10
	}
	flood := 4 * users
	l := newLoginLimit(defaultLoginBurst, defaultLoginEvery, users)
	now := time.Now()
	const hammering = "@hammering:h"
	for range defaultLoginBurst {
		require.Zero(t, l.take(hammering, now))
	}
	before := heap()
	largest := 0
	for i := range flood {
		require.Zero(t, l.take(fmt.Sprintf("@%d:h", i), now))
		largest = max(largest, l.users.Len())
		if i%1000 == 0 {
			require.Positive(t, l.take(hammering, now), "after %d others", i)
		}
	}
	require.LessOrEqual(t, largest, users)
	grown := heap() - before
	require.Less(t, grown, int64(64<<20))
	t.Logf("heap of the login limit after %d users: %.1f MiB", flood, float64(grown)/(1<<20))
	runtime.KeepAlive(l)
}

func TestLoginLimitForgetsAnybodyWhenAllAreAtTheirLimit(t *testing.T) {
	l := newLoginLimit(1, time.Hour, 1000)
	now := time.Now()
	for i := range 5000 {
		require.Zero(t, l.take(fmt.Sprintf("@%d:h", i), now), "nobody is locked out by others")
		require.LessOrEqual(t, l.users.Len(), 1000)
	}
}

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

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
