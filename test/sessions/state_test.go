package sessions_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestPeekBeginsNoSession(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Bob, "bob@example.com")
		_, err := w.Svc.Peek(t.Context(), world.Bob)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.Zero(t, w.Auth.Calls(sessiontest.Any))

		was := w.Login(w.Svc)
		got, err := w.Svc.Peek(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, was.Email, got.Email)
		require.Equal(t, was.Subject, got.Subject)
		require.WithinDuration(t, was.ExpiresAt, got.ExpiresAt, time.Second)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		_, err = w.Svc.Peek(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestPeekDoesNotExtendASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore(), session.WithSessionTTL(time.Hour))
		ends := w.Login(w.Svc).ExpiresAt
		time.Sleep(50 * time.Minute)
		for range 3 {
			got, err := w.Svc.Peek(t.Context(), world.Alice)
			require.NoError(t, err)
			synctest.Wait()
			require.True(t, got.ExpiresAt.Equal(ends))
		}
		time.Sleep(11 * time.Minute)
		_, err := w.Svc.Peek(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestStateTellsOfFeedBreakerAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		synctest.Wait()
		require.Equal(t, session.State{StorageMode: "memory", SSOLinkEnabled: true, Watches: true, FeedTrusted: true}, w.Svc.State())
		unwatched := w.Service(session.WithNearCache(0), session.WithServiceKey(""))
		require.Equal(t, session.State{StorageMode: "memory"}, unwatched.State())

		w.Auth.Stop()
		for i := range 5 {
			_, err := w.Svc.Token(t.Context(), world.UserID(i))
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
		}
		require.True(t, w.Svc.State().BreakerOpen)
		require.True(t, w.Svc.State().LoginsStopped)
		time.Sleep(10 * time.Second)
		require.False(t, w.Svc.State().BreakerOpen, "it may be asked again")

		require.False(t, w.Svc.State().Closed)
		require.NoError(t, w.Svc.Close())
		require.True(t, w.Svc.State().Closed)
		require.False(t, w.Svc.State().FeedTrusted)
	})
}

func TestStateTellsThatRedisIsNotHeardOf(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	world.Eventually(t, "the feed", func() bool { return w.Svc.State().FeedTrusted })
	server.Kill()
	world.Eventually(t, "its end", func() bool { return !w.Svc.State().FeedTrusted })
	require.True(t, w.Svc.State().Watches)
	server.Start()
	world.Eventually(t, "the feed again", func() bool { return w.Svc.State().FeedTrusted })
}
