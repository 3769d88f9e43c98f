package nearcache

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const alice = "@alice:matrix.example"

func trusted(until time.Time, maxAge time.Duration) *Cache[string] {
	c := New[string](10, 1<<20)
	c.Trust(until, maxAge)
	return c
}

func item(value string, end time.Time) Item[string] {
	return Item[string]{Value: value, FreshUntil: end.Add(-time.Minute).Unix(), LiveUntil: end, ReadAt: time.Now(), Size: 100}
}

func (c *Cache[V]) fillNow(userID string, item Item[V]) { c.Fill(userID, c.Ticket(userID), item) }

func hour() time.Time { return time.Now().Add(time.Hour) }

func TestFillThatANoticeOvertookIsDiscarded(t *testing.T) {
	c := trusted(time.Time{}, 0)
	for name, notice := range map[string]func(){"a write": func() { c.Changed(alice) }, "a removal": func() { c.Ended(alice) }, "a flush": c.Flush} {
		ticket := c.Ticket(alice)
		notice() // between the read and the fill
		c.Fill(alice, ticket, item("old", hour()))
		_, ok := c.Fresh(alice, time.Now())
		require.False(t, ok, name)
	}
	c.fillNow(alice, item("new", hour()))
	value, ok := c.Fresh(alice, time.Now())
	require.True(t, ok)
	require.Equal(t, "new", value)
}

func TestWriteElsewhereLeavesTheEntryForAnOutageARemovalDoesNot(t *testing.T) {
	c := trusted(time.Time{}, 0)
	c.fillNow(alice, item("v", hour()))
	c.Changed(alice)
	_, ok := c.Fresh(alice, time.Now())
	require.False(t, ok)
	got, believed, ok := c.Get(alice, time.Now())
	require.True(t, ok)
	require.False(t, believed)
	require.Equal(t, "v", got.Value)
	_, ok = c.Unwritten(alice)
	require.False(t, ok)
	c.Ended(alice)
	_, _, ok = c.Get(alice, time.Now())
	require.False(t, ok)
}

func TestOwnWriteIsReadBeforeItIsBelievedAndGoesWithARemoval(t *testing.T) {
	c := trusted(time.Time{}, 0)
	c.Wrote(alice, c.Ticket(alice), item("v", hour()))
	_, believed, ok := c.Get(alice, time.Now())
	require.True(t, ok)
	require.False(t, believed)
	ticket := c.Ticket(alice)
	c.Ended(alice)
	c.Wrote(alice, ticket, item("late", hour()))
	_, _, ok = c.Get(alice, time.Now())
	require.False(t, ok, "it ended while it was being written")
}

func TestReadThatFoundNothingDropsTheEntryUnlessItIsOlder(t *testing.T) {
	c := trusted(time.Time{}, 0)
	c.fillNow(alice, item("v", hour()))
	ticket := c.Ticket(alice)
	c.Changed(alice)
	c.Drop(alice, ticket)
	_, _, ok := c.Get(alice, time.Now())
	require.True(t, ok, "somebody wrote since")
	c.Drop(alice, c.Ticket(alice))
	_, _, ok = c.Get(alice, time.Now())
	require.False(t, ok)
}

func TestTrustEndsWithItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := trusted(time.Now().Add(time.Second), 0)
		c.fillNow(alice, item("v", hour()))
		_, ok := c.Fresh(alice, time.Now())
		require.True(t, ok)
		time.Sleep(time.Second)
		_, ok = c.Fresh(alice, time.Now())
		require.False(t, ok)
		_, believed, known := c.Get(alice, time.Now())
		require.False(t, believed)
		require.True(t, known, "there is nothing else to serve from in an outage")
		c.Trust(time.Now().Add(time.Second), 0)
		_, ok = c.Fresh(alice, time.Now())
		require.True(t, ok, "nothing was missed meanwhile, or there had been a flush")
	})
}

func TestDoubtAndCloseEndAllTrust(t *testing.T) {
	c := trusted(time.Time{}, 0)
	c.fillNow(alice, item("v", hour()))
	c.Doubt()
	_, ok := c.Fresh(alice, time.Now())
	require.False(t, ok)
	require.False(t, c.Believing(time.Now()))
	c.Trust(time.Time{}, 0)
	c.fillNow(alice, item("v", hour()))
	_, ok = c.Fresh(alice, time.Now())
	require.True(t, ok)
	c.Close()
	c.Trust(time.Time{}, 0)
	c.fillNow(alice, item("v", hour()))
	_, ok = c.Fresh(alice, time.Now())
	require.False(t, ok, "for good")
}

func TestAgeCapBoundsBelief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := trusted(time.Time{}, time.Second)
		c.fillNow(alice, item("v", hour()))
		_, ok := c.Fresh(alice, time.Now())
		require.True(t, ok)
		time.Sleep(time.Second)
		_, ok = c.Fresh(alice, time.Now())
		require.False(t, ok)
	})
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

// stepped is a time whose wall clock was stepped, or whose monotonic clock stood
// still while the machine slept.
func stepped(now time.Time, wall time.Duration) time.Time { return now.Round(0).Add(wall) }

func TestTrustDoesNotSurviveASleepOrAStepOfTheClock(t *testing.T) {
	now := time.Now()
	c := trusted(now.Add(time.Second), 0)
	require.True(t, c.Believing(now))
	for _, step := range []time.Duration{time.Hour, -time.Hour, 2 * time.Second} {
		require.False(t, c.Believing(stepped(now, step)), "step of %s", step)
	}
}

// A promise that was made before the machine slept is as old as the wall clock
// says.
func TestTrustOfBeforeASleepIsNotBelieved(t *testing.T) {
	// As if the wall clock had gone on for an hour since, and the monotonic not:
	// a time without a monotonic reading is compared by the wall clock alone.
	c := trusted(stepped(time.Now().Add(time.Second), -time.Hour), 0)
	c.fillNow(alice, item("v", hour()))
	_, ok := c.Fresh(alice, time.Now())
	require.False(t, ok)
}

// The wall clock was set back: by it there is time left.
func TestTrustLapsesThoughTheClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := trusted(time.Now().Add(time.Second), 0)
		defer c.Close()
		c.fillNow(alice, item("v", hour()))
		_, ok := c.Fresh(alice, time.Now())
		require.True(t, ok)
		c.renew(func(t *trust) { t.given += int64(500 * time.Millisecond) })
		time.Sleep(1100 * time.Millisecond)
		_, ok = c.Fresh(alice, time.Now())
		require.False(t, ok)
	})
}

func TestFreshnessAndLifeEndByTheWallClock(t *testing.T) {
	c := trusted(time.Time{}, 0)
	now := time.Now()
	c.fillNow(alice, item("v", now.Add(10*time.Minute).Truncate(time.Second)))
	_, ok := c.Fresh(alice, stepped(now, 8*time.Minute))
	require.True(t, ok)
	_, ok = c.Fresh(alice, stepped(now, 9*time.Minute+time.Second))
	require.False(t, ok)
	_, _, ok = c.Get(alice, stepped(now, 9*time.Minute+time.Second))
	require.True(t, ok)
	_, _, ok = c.Get(alice, stepped(now, 10*time.Minute))
	require.False(t, ok)
}

func TestCacheIsBoundedByNumberAndBytes(t *testing.T) {
	c := New[string](1000, 1000*100)
	c.Trust(time.Time{}, 0)
	var fills sync.WaitGroup
	for worker := range 4 {
		fills.Go(func() {
			for i := range 5000 {
				c.fillNow(fmt.Sprintf("@%d-%d:h", worker, i), item("v", hour()))
			}
		})
	}
	fills.Wait()
	require.LessOrEqual(t, c.Len(), 1004)
	require.Greater(t, c.Len(), 500)
	for i := range 100 {
		large := item("v", hour())
		large.Size = 1 << 14
		c.fillNow(fmt.Sprintf("@large%d:h", i), large)
	}
	require.LessOrEqual(t, c.Weight(), int64(1000*100))
	require.NotZero(t, c.Len())

	off := New[string](0, 1<<20)
	off.Trust(time.Time{}, 0)
	off.fillNow(alice, item("v", hour()))
	_, ok := off.Fresh(alice, time.Now())
	require.False(t, ok)
}

func TestWhoWaitsIsWokenByTheNextNotice(t *testing.T) {
	c := trusted(time.Time{}, 0)
	for name, notice := range map[string]func(){"a write": func() { c.Changed(alice) }, "a removal": func() { c.Ended(alice) }} {
		changed, stop := c.Watch(alice)
		require.Equal(t, 1, c.Waiting())
		c.Changed("@bob:matrix.example")
		select {
		case <-changed:
			t.Fatal("woken by another user's notice")
		default:
		}
		notice()
		<-changed
		require.Zero(t, c.Waiting(), name)
		stop()
	}
	_, stop := c.Watch(alice)
	stop()
	require.Zero(t, c.Waiting())
}
