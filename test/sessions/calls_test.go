package sessions_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestBadUserIDsTouchNothing(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	ctx := t.Context()
	for _, id := range []string{
		"", ".", "..", "@", "alice", "@alice", "@:", "@a:", "alice:h", "@a\n:h", "@a:h/x", "@a:h x", "@a\xff:h",
		"@a:h\x00", "@" + strings.Repeat("a", 255) + ":h", "@a:ü",
	} {
		_, err := w.Svc.Token(ctx, id)
		require.ErrorIs(t, err, session.ErrInvalidUserID, "%q", id)
		_, err = w.Svc.Login(ctx, id, world.Email, world.Password)
		require.ErrorIs(t, err, session.ErrInvalidUserID)
		require.ErrorIs(t, w.Svc.Logout(ctx, id, session.AndUnlink()), session.ErrInvalidUserID)
		require.ErrorIs(t, w.Svc.SetData(ctx, id, "k", 1), session.ErrInvalidUserID)
	}
	require.Zero(t, w.Auth.Calls(sessiontest.Any))
	for _, id := range []string{"@a:h", "@A:h", "@a/b=._-+:h:8448", "@ü!$&'*:h", "@:h", "@a b:h", "@a:[::1]:80", "@" + strings.Repeat("a", 252) + ":h"} {
		_, err := w.Svc.Token(ctx, id)
		require.ErrorIs(t, err, session.ErrNotLoggedIn, "%q", id)
	}
}

func TestCallsAfterCloseSaySo(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	world.MustToken(t, w.Svc, world.Alice)
	world.MustToken(t, w.Svc, world.Alice)
	require.NoError(t, w.Svc.Close())
	require.NoError(t, w.Svc.Close())
	ctx := t.Context()
	_, err := w.Svc.Token(ctx, world.Alice)
	require.ErrorIs(t, err, session.ErrClosed)
	_, err = w.Svc.Login(ctx, world.Alice, world.Email, world.Password)
	require.ErrorIs(t, err, session.ErrClosed)
	require.ErrorIs(t, w.Svc.Logout(ctx, world.Alice), session.ErrClosed)
	require.ErrorIs(t, w.Svc.SetData(ctx, world.Alice, "k", 1), session.ErrClosed)
	_, err = w.Svc.Stats(ctx)
	require.ErrorIs(t, err, session.ErrClosed)
	_, err = w.Svc.Cleanup(ctx)
	require.ErrorIs(t, err, session.ErrClosed)
	for _, err := range w.Svc.Users(ctx) {
		require.ErrorIs(t, err, session.ErrClosed)
	}
	w.Svc.Health(ctx)
}

func TestCloseEndsAFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 1, w.Auth.Hang())
		result := make(chan error, 1)
		go func() {
			_, err := w.Svc.Token(t.Context(), world.Alice)
			result <- err
		}()
		synctest.Wait()
		require.NoError(t, w.Svc.Close())
		require.ErrorIs(t, <-result, session.ErrClosed)
	})
}

func TestCancelledContextIsHonoured(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := w.Svc.Token(ctx, world.Alice)
		require.ErrorIs(t, err, context.Canceled)
		_, err = w.Svc.Login(ctx, world.Alice, world.Email, world.Password)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, w.Svc.Logout(ctx, world.Alice), context.Canceled)
		require.ErrorIs(t, w.Svc.SetData(ctx, world.Alice, "k", 1), context.Canceled)
	})
}

// panicStore panics where told to.
type panicStore struct{ session.Store }

func (p *panicStore) Swap(context.Context, session.Record, session.Record) (session.Record, error) {
	panic("out of order: " + world.Password)
}

func TestPanicInACallersStoreIsAnError(t *testing.T) {
	w := world.New(t, &panicStore{Store: session.NewMemoryStore()})
	w.Auth.Link(world.Alice, world.Email)
	for range 2 {
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.NotContains(t, err.Error(), world.Password)
	}
	require.NotContains(t, w.Log.String(), world.Password)
}
