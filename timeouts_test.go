package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimeoutsAddUp(t *testing.T) {
	require.GreaterOrEqual(t, leaseTTL, 2*leaseRenewal+leaseRenewal/2, "a renewal may be lost or late")
	require.LessOrEqual(t, leaseTTL+pollLast+knownWait, 4*time.Second, "a holder that died is waited for 4 s at most")
	require.GreaterOrEqual(t, spendingTTL, spendPatience+authTimeout+storeTimeout, "the lease outlives what its owner does under it")
	require.LessOrEqual(t, spendingTTL, 16*time.Second)
	require.GreaterOrEqual(t, askTimeout, linkPatience+spendPatience+authTimeout+commitTime, "a slow link leaves the time to spend a refresh token")
	require.Greater(t, flightTimeout, spendingTTL+askTimeout, "who waits for another process can still take over")
	require.Greater(t, commitTime, storeTimeout, "one attempt to store may fail")
	require.GreaterOrEqual(t, spentTimeout, authTimeout+commitTime, "Close waits for what a refresh token brings")
	require.Less(t, knownWaitSilent, knownWait)
	require.Less(t, storeBrief, storeTimeout)
	require.Greater(t, commitTime, checkTimeout+storeTimeout)
	require.GreaterOrEqual(t, writeBackTimeout, 2*storeTimeout, "a read and a write")
}

func TestAgeIsTakenByBothClocks(t *testing.T) {
	for name, c := range map[string]struct {
		monotonic, wall time.Duration
		want            bool
	}{
		"young":                    {900 * time.Millisecond, 900 * time.Millisecond, true},
		"old":                      {time.Second, time.Second, false},
		"the machine slept":        {100 * time.Millisecond, time.Hour, false},
		"the clock was set back":   {2 * time.Second, 100 * time.Millisecond, false},
		"set back beyond the read": {100 * time.Millisecond, -time.Hour, false},
	} {
		require.Equal(t, c.want, within(c.monotonic, c.wall, time.Second), name)
	}
}

// A promise that was made before the machine slept is as old as the wall clock
// says.
func TestTrustOfBeforeASleepIsNotBelieved(t *testing.T) {
	n := newNearCache(10, 0, 0)
	defer n.close()
	// As if the wall clock had gone on for an hour since, and the monotonic not.
	until := time.Now().Add(time.Second)
	n.Trust(wallOnly(until, -time.Hour), 0)
	n.fill(n.ticket("@a:h"), nearLogin("@a:h", time.Now().Add(time.Hour)), time.Now())
	_, ok := n.fresh("@a:h", time.Now())
	require.False(t, ok)
}

// wallOnly is t by the monotonic clock, and d later by the wall clock. A
// time.Time cannot be made like that, but one that has no monotonic reading is
// compared by the wall clock alone.
func wallOnly(t time.Time, d time.Duration) time.Time { return t.Round(0).Add(d) }

// The wall clock was set back: by it there is time left.
func TestTrustLapsesThoughTheClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNearCache(10, 0, 0)
		defer n.close()
		n.Trust(time.Now().Add(time.Second), 0)
		n.fill(n.ticket("@a:h"), nearLogin("@a:h", time.Now().Add(time.Hour)), time.Now())
		_, ok := n.fresh("@a:h", time.Now())
		require.True(t, ok)
		n.renew(func(t *trust) { t.given += int64(500 * time.Millisecond) })
		time.Sleep(1100 * time.Millisecond)
		_, ok = n.fresh("@a:h", time.Now())
		require.False(t, ok)
	})
}
