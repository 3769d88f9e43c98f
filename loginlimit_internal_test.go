package session

import (
	"fmt"
	"runtime"
	"testing"
	"time"

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

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
