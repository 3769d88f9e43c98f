package session

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func nearLogin(userID string, expires time.Time) *login {
	return &login{userID: userID, token: token{raw: newSecret("t"), readable: true, expires: expires}, expires: expires.Add(time.Hour)}
}

// A time whose wall clock was stepped, or whose monotonic clock stood still
// while the machine slept.
func stepped(now time.Time, wall time.Duration) time.Time { return now.Round(0).Add(wall) }

func TestTokenAndSessionEndByTheWallClock(t *testing.T) {
	n := newNearCache(10, 0, 0)
	n.Trust(time.Time{}, 0)
	now := time.Now()
	n.fill(n.Ticket("@a:h"), nearLogin("@a:h", now.Add(10*time.Minute).Truncate(time.Second)), now)
	_, ok := n.Fresh("@a:h", stepped(now, 8*time.Minute))
	require.True(t, ok)
	_, ok = n.Fresh("@a:h", stepped(now, 9*time.Minute+time.Second))
	require.False(t, ok, "a minute or less is left by the wall clock")
}

func TestHitsDoNotAllocate(t *testing.T) {
	svc, err := New(WithSessionTTL(time.Hour))
	require.NoError(t, err)
	defer svc.Close()
	require.Eventually(t, func() bool { // once the memory store vouches for its changes
		svc.near.fill(svc.near.Ticket("@a:h"), nearLogin("@a:h", time.Now().Add(time.Hour)), time.Now())
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
		n.fill(n.Ticket(l.userID), l, time.Now())
	}
	for i := range size {
		fill(i, 100)
	}
	require.Equal(t, size, n.Len(), "small ones fit by number")
	for i := range 100 {
		fill(i, 1<<20)
	}
	require.LessOrEqual(t, n.Weight(), int64(size*nearEntrySize))
	require.NotZero(t, n.Len())
	for i := range size {
		n.Remove(fmt.Sprintf("@user%d:h", i))
	}
	require.Zero(t, n.Weight(), "what is gone weighs nothing")
}
