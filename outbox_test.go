package session_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

func TestPendingWriteOfAUserIsWrittenByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, h)
		h.on(away, everything...)
		w.login(w.svc)
		var running, most atomic.Int32
		h.on(func(ctx context.Context, _ string, do func(context.Context) error) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(300 * time.Millisecond) // longer than the outbox pauses
			return do(ctx)
		}, writes...)
		for range 5 {
			go func() { _ = w.svc.SetData(context.Background(), alice, "k", 1) }() // which flushes it
		}
		time.Sleep(200 * time.Millisecond)
		go func() { _, _ = w.svc.Token(context.Background(), alice) }()
		time.Sleep(50 * time.Millisecond)
		require.EqualValues(t, 1, most.Load())
		h.off()
		time.Sleep(5 * time.Second)
		mustToken(t, w.svc, alice)
	})
}

// quiet is a store that vouches for its changes and announces none of them.
type quiet struct {
	*hooked
}

func (q quiet) Watch(ctx context.Context, feed session.Feed) error {
	feed.Flush()
	feed.Trust(time.Time{}, 0)
	<-ctx.Done()
	return ctx.Err()
}

func TestWriteOfUnknownOutcomeIsReadBeforeItIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, quiet{h})
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		h.on(func(ctx context.Context, _ string, do func(context.Context) error) error {
			h.off()
			_ = do(ctx)
			return errLost // the answer
		}, "Swap")
		require.ErrorIs(t, w.svc.SetData(t.Context(), alice, "k", 1), session.ErrStoreUnavailable)
		time.Sleep(2 * time.Second)
		found, err := w.svc.Data(t.Context(), alice, "k", new(int))
		require.NoError(t, err)
		require.True(t, found, "it got through")
	})
}

// A login that is pending and is refreshed meanwhile is still a login, and as
// old as it was.
func TestPendingLoginThatIsRefreshedStaysALogin(t *testing.T) {
	begin := func(t *testing.T) (*world, *hooked, *session.Service) {
		h := newHooked()
		t.Cleanup(func() { h.MemoryStore.Close() })
		w := newWorld(t, h)
		w.auth.Link(alice, email)
		other := (&world{t: t, auth: w.auth, log: w.log, store: h.another()}).service()
		h.on(away, everything...)
		w.login(w.svc)
		return w, h, other
	}
	refreshed := func(t *testing.T, w *world) {
		before := w.auth.Calls(sessiontest.LinkFetch)
		time.Sleep(15 * time.Minute)
		mustToken(t, w.svc, alice)
		require.Greater(t, w.auth.Calls(sessiontest.LinkFetch), before)
	}
	t.Run("it makes a session where there is none", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, h, _ := begin(t)
			refreshed(t, w)
			h.off()
			time.Sleep(time.Second)
			require.NotEmpty(t, w.stored(alice))
		})
	})
	t.Run("a logout elsewhere that came between ends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, h, other := begin(t)
			time.Sleep(time.Second)
			require.NoError(t, other.Logout(t.Context(), alice))
			refreshed(t, w)
			h.off()
			time.Sleep(time.Second)
			require.Empty(t, w.stored(alice))
		})
	})
	t.Run("a login elsewhere that came between wins", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, h, other := begin(t)
			time.Sleep(time.Second)
			_, err := other.Login(t.Context(), alice, "bob@example.com", password)
			require.NoError(t, err)
			refreshed(t, w)
			h.off()
			time.Sleep(2 * time.Second)
			wantAccount(t, w.svc, "bob@example.com")
		})
	})
}

// Who asks after a logout does not wait for a flight that began before it.
func TestLogoutLetsALinkedUserBeginAnewAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(5*time.Second))
		flight := later(func() error { _, err := w.svc.Token(t.Context(), alice); return err })
		require.NoError(t, w.svc.Logout(t.Context(), alice))
		began := time.Now()
		token := mustToken(t, w.svc, alice)
		require.Less(t, time.Since(began), time.Second)
		<-flight
		require.Equal(t, token, mustToken(t, w.svc, alice))
	})
}
