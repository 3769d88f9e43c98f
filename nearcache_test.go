package session

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func nearLogin(userID string, expires time.Time) *login {
	return &login{userID: userID, token: token{raw: newSecret("t"), readable: true, expires: expires}, expires: expires.Add(time.Hour)}
}

func TestFillThatANoticeOvertookIsDiscarded(t *testing.T) {
	n := newNearCache(10, 0, 0)
	n.Trust(time.Time{}, 0)
	l := nearLogin("@a:h", time.Now().Add(time.Hour))

	ticket := n.ticket("@a:h")
	n.Changed("@a:h") // between the read and the fill
	n.fill(ticket, l, time.Now())
	_, ok := n.fresh("@a:h", time.Now())
	require.False(t, ok)

	ticket = n.ticket("@a:h")
	n.Flush()
	n.fill(ticket, l, time.Now())
	_, ok = n.fresh("@a:h", time.Now())
	require.False(t, ok)

	n.fill(n.ticket("@a:h"), l, time.Now())
	_, ok = n.fresh("@a:h", time.Now())
	require.True(t, ok)
	n.Changed("@a:h")
	_, ok = n.fresh("@a:h", time.Now())
	require.False(t, ok)
}

func TestTrustEndsWithItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNearCache(10, 0, 0)
		n.Trust(time.Now().Add(time.Second), 0)
		n.fill(n.ticket("@a:h"), nearLogin("@a:h", time.Now().Add(time.Hour)), time.Now())
		_, ok := n.fresh("@a:h", time.Now())
		require.True(t, ok)
		time.Sleep(time.Second)
		_, ok = n.fresh("@a:h", time.Now())
		require.False(t, ok)
		_, believed, known := n.get("@a:h", time.Now())
		require.False(t, believed)
		require.True(t, known, "there is nothing else to serve from in an outage")
		n.Trust(time.Now().Add(time.Second), 0)
		_, ok = n.fresh("@a:h", time.Now())
		require.True(t, ok, "nothing was missed meanwhile, or there had been a flush")
	})
}

func TestAgeCapBoundsBelief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNearCache(10, 0, 0)
		n.Trust(time.Time{}, time.Second)
		n.fill(n.ticket("@a:h"), nearLogin("@a:h", time.Now().Add(time.Hour)), time.Now())
		_, ok := n.fresh("@a:h", time.Now())
		require.True(t, ok)
		time.Sleep(time.Second)
		_, ok = n.fresh("@a:h", time.Now())
		require.False(t, ok)
	})
}

// A time whose wall clock was stepped, or whose monotonic clock stood still
// while the machine slept.
func stepped(now time.Time, wall time.Duration) time.Time { return now.Round(0).Add(wall) }

func TestTrustDoesNotSurviveASleepOrAStepOfTheClock(t *testing.T) {
	n := newNearCache(10, 0, 0)
	now := time.Now()
	n.Trust(now.Add(time.Second), 0)
	n.fill(n.ticket("@a:h"), nearLogin("@a:h", now.Add(24*time.Hour)), now)
	_, ok := n.fresh("@a:h", now)
	require.True(t, ok)
	for _, step := range []time.Duration{time.Hour, -time.Hour, 2 * time.Second} {
		tr := n.trust.Load()
		require.False(t, tr.holds(stepped(now, step)), "step of %s", step)
	}
}

func TestTokenAndSessionEndByTheWallClock(t *testing.T) {
	n := newNearCache(10, 0, 0)
	n.Trust(time.Time{}, 0)
	now := time.Now()
	n.fill(n.ticket("@a:h"), nearLogin("@a:h", now.Add(10*time.Minute).Truncate(time.Second)), now)
	_, ok := n.fresh("@a:h", stepped(now, 8*time.Minute))
	require.True(t, ok)
	_, ok = n.fresh("@a:h", stepped(now, 9*time.Minute+time.Second))
	require.False(t, ok, "a minute or less is left by the wall clock")
}

func TestNearCacheIsBounded(t *testing.T) {
	n := newNearCache(1000, 0, 0)
	n.Trust(time.Time{}, 0)
	var fills sync.WaitGroup
	for worker := range 4 {
		fills.Go(func() {
			for i := range 5000 {
				id := fmt.Sprintf("@%d-%d:h", worker, i)
				n.fill(n.ticket(id), nearLogin(id, time.Now().Add(time.Hour)), time.Now())
			}
		})
	}
	fills.Wait()
	require.LessOrEqual(t, n.entries.m.Size(), 1004)
	require.Greater(t, n.entries.m.Size(), 500)

	off := newNearCache(0, 0, 0)
	off.Trust(time.Time{}, 0)
	off.fill(off.ticket("@a:h"), nearLogin("@a:h", time.Now().Add(time.Hour)), time.Now())
	_, ok := off.fresh("@a:h", time.Now())
	require.False(t, ok)
}

func TestHitsDoNotAllocate(t *testing.T) {
	svc, err := New(WithSessionTTL(time.Hour))
	require.NoError(t, err)
	defer svc.Close()
	require.Eventually(t, func() bool { // once the memory store vouches for its changes
		svc.near.fill(svc.near.ticket("@a:h"), nearLogin("@a:h", time.Now().Add(time.Hour)), time.Now())
		_, err := svc.Token(t.Context(), "@a:h")
		return err == nil
	}, time.Second, time.Millisecond)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := svc.Token(t.Context(), "@a:h"); err != nil {
			t.Fatal(err)
		}
	}))
}

func TestRefreshAheadIsSpreadPerToken(t *testing.T) {
	n := newNearCache(10, 5*time.Minute, 0)
	seen := make(map[time.Duration]bool)
	for range 100 {
		ahead := n.jittered()
		require.LessOrEqual(t, ahead, 5*time.Minute)
		require.GreaterOrEqual(t, ahead, 4*time.Minute)
		seen[ahead.Truncate(time.Second)] = true
	}
	require.Greater(t, len(seen), 20)
}

func TestNearCacheIsBoundedByBytes(t *testing.T) {
	const size = 1000
	n := newNearCache(size, 0, 0)
	n.Trust(time.Time{}, 0)
	fill := func(i, bytes int) {
		l := nearLogin(fmt.Sprintf("@user%d:h", i), time.Now().Add(time.Hour))
		l.stored.Value = strings.Repeat("x", bytes)
		n.fill(n.ticket(l.userID), l, time.Now())
	}
	for i := range size {
		fill(i, 100)
	}
	require.Equal(t, size, n.entries.m.Size(), "small ones fit by number")
	for i := range 100 {
		fill(i, 1<<20)
	}
	require.LessOrEqual(t, n.entries.weight.Load(), int64(size*nearEntrySize))
	require.NotZero(t, n.entries.m.Size())
	for i := range size {
		n.remove(fmt.Sprintf("@user%d:h", i))
	}
	require.Zero(t, n.entries.weight.Load(), "what is gone weighs nothing")
}
