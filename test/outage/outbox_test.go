package outage_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

func TestPendingWriteOfAUserIsWrittenByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		back := h.Inject(storetest.Away)
		w.Login(w.Svc)
		var running, most atomic.Int32
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(300 * time.Millisecond) // longer than the outbox pauses
			return call.Do(ctx)
		}, storetest.Writes()...)
		back()
		for range 5 {
			go func() { _ = w.Svc.SetData(context.Background(), world.Alice, "k", 1) }() // which flushes it
		}
		time.Sleep(200 * time.Millisecond)
		go func() { _, _ = w.Svc.Token(context.Background(), world.Alice) }()
		time.Sleep(50 * time.Millisecond)
		require.EqualValues(t, 1, most.Load())
		h.Clear()
		time.Sleep(5 * time.Second)
		world.MustToken(t, w.Svc, world.Alice)
	})
}

// quiet is a store that vouches for its changes and announces none of them.
type quiet struct {
	*storetest.FaultStore
}

func (q quiet) Watch(ctx context.Context, feed session.Feed) error {
	feed.Flush()
	feed.Trust(time.Time{}, 0)
	<-ctx.Done()
	return ctx.Err()
}

func TestWriteOfUnknownOutcomeIsReadBeforeItIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, quiet{h})
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			h.Clear()
			_ = call.Do(ctx)
			return storetest.ErrLost // the answer
		}, storetest.Swap)
		require.ErrorIs(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1), session.ErrStoreUnavailable)
		time.Sleep(2 * time.Second)
		found, err := w.Svc.Data(t.Context(), world.Alice, "k", new(int))
		require.NoError(t, err)
		require.True(t, found, "it got through")
	})
}

// A login that is pending and is refreshed meanwhile is still a login, and as
// old as it was.
func TestPendingLoginThatIsRefreshedStaysALogin(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) (*world.World, *storetest.FaultStore, *session.Service) {
		h := storetest.NewFaultStore()
		t.Cleanup(func() { h.Close() })
		w := world.New(t, h)
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.SetTokenTTL(2 * time.Minute)
		other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: h.Another()}).Service()
		h.Inject(storetest.Away)
		w.Login(w.Svc)
		return w, h, other
	}
	refreshed := func(t *testing.T, w *world.World) {
		before := w.Auth.Calls(sessiontest.LinkFetch)
		time.Sleep(2 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice)
		require.Greater(t, w.Auth.Calls(sessiontest.LinkFetch), before)
	}
	t.Run("it makes a session where there is none", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, h, _ := begin(t)
			refreshed(t, w)
			h.Clear()
			time.Sleep(time.Second)
			require.NotEmpty(t, w.Stored(world.Alice))
		})
	})
	t.Run("a logout elsewhere that came between ends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, h, other := begin(t)
			time.Sleep(time.Second)
			require.NoError(t, other.Logout(t.Context(), world.Alice))
			refreshed(t, w)
			h.Clear()
			time.Sleep(time.Second)
			require.Empty(t, w.Stored(world.Alice))
		})
	})
	t.Run("a login elsewhere that came between wins", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, h, other := begin(t)
			time.Sleep(time.Second)
			_, err := other.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
			require.NoError(t, err)
			refreshed(t, w)
			h.Clear()
			time.Sleep(2 * time.Second)
			world.WantAccount(t, w.Svc, "bob@example.com")
		})
	})
}

// Who asks after a logout does not wait for a flight that began before it.
func TestLogoutLetsALinkedUserBeginAnewAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(5*time.Second))
		flight := world.Later(func() error { _, err := w.Svc.Token(t.Context(), world.Alice); return err })
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		began := time.Now()
		token := world.MustToken(t, w.Svc, world.Alice)
		require.Less(t, time.Since(began), time.Second)
		<-flight
		require.Equal(t, token, world.MustToken(t, w.Svc, world.Alice))
	})
}
