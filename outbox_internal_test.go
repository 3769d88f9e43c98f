package session

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func newTestOutbox() (*outbox, *order) {
	o := newOutbox(&records{near: newNearCache(10, 0, 0)}, new(counters), slog.New(slog.DiscardHandler))
	o.forget = func(string) {}
	return o, newOrder()
}

func TestFinishedWriteDoesNotRemoveANewerLogout(t *testing.T) {
	o, order := newTestOutbox()
	login, logout := order.begin("@a:h", true), order.begin("@a:h", true)
	defer login.end()
	defer logout.end()
	written := &pending{userID: "@a:h", login: sessionOf("@a:h")}
	require.True(t, login.claim())
	require.True(t, o.put(login, written, nil))
	newer := &pending{userID: "@a:h"}
	require.True(t, logout.claim())
	require.True(t, o.put(logout, newer, nil))
	o.done(written)
	require.Same(t, newer, o.of("@a:h"))
	o.overtaken(written)
	require.Same(t, newer, o.of("@a:h"))
	o.doneBefore(login)
	require.Same(t, newer, o.of("@a:h"))
}

func TestPlacesOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		order := newOrder()
		refresh, login, logout := order.begin("@a:h", false), order.begin("@a:h", true), order.begin("@a:h", true)
		other := order.begin("@b:h", false)
		require.True(t, logout.claim())
		require.True(t, refresh.overtaken(), "by a logout")
		require.False(t, login.overtaken(), "its caller waits: it comes after the logout")
		require.False(t, other.overtaken(), "another user's")
		later := order.begin("@a:h", false)
		require.False(t, later.overtaken(), "it began after the logout")
		login.answer()
		require.True(t, login.overtaken(), "its caller has gone")
		require.False(t, login.claim())
		_, _, err := login.write(t.Context())
		require.ErrorIs(t, err, errOvertaken)
		_, _, err = refresh.write(t.Context())
		require.ErrorIs(t, err, errOvertaken)

		writing, done, err := later.write(t.Context())
		require.NoError(t, err)
		_, _, err = logout.tryWrite(t.Context())
		require.ErrorIs(t, err, errNotNow, "one at a time")
		waits := make(chan error, 1)
		go func() {
			_, done, err := logout.write(t.Context())
			if err == nil {
				done()
			}
			waits <- err
		}()
		synctest.Wait()
		require.NoError(t, writing.Err())
		require.True(t, logout.claim())
		require.ErrorIs(t, context.Cause(writing), errOvertaken, "what it writes is given up at once")
		require.Empty(t, waits)
		done()
		require.NoError(t, <-waits)
		ctx, cancel := context.WithCancel(t.Context())
		_, done, err = logout.write(ctx)
		require.NoError(t, err)
		cancel()
		_, _, err = logout.write(ctx)
		require.ErrorIs(t, err, context.Canceled)
		done()
	})
}

func TestTimesOfEventsGoForward(t *testing.T) {
	c := new(clock)
	at := c.now()
	for range 1000 {
		next := c.now()
		require.True(t, next.After(at))
		at = next
	}
	ahead := time.Now().Add(time.Hour)
	require.True(t, c.after(ahead).After(ahead), "later than what was seen")
	require.WithinDuration(t, time.Now(), c.now(), time.Minute, "but others are not dragged along")
	require.WithinDuration(t, time.Now(), c.after(time.Now().AddDate(100, 0, 0)), time.Minute, "nor is nonsense believed")
}

func sessionOf(userID string) *login { return &login{userID: userID} }
