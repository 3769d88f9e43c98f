package sessions_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// ends is an observer that keeps how each operation ended.
type ends struct {
	mu  sync.Mutex
	all map[session.Operation][]error // guarded by mu
}

func (e *ends) Begin(ctx context.Context, op session.Operation) (context.Context, func(error)) {
	return ctx, func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.all == nil {
			e.all = make(map[session.Operation][]error)
		}
		e.all[op] = append(e.all[op], err)
	}
}

func (e *ends) of(op session.Operation) []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all[op]
}

func TestObserverHearsOfARefreshAheadThatTheServerDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, heard := world.New(t, session.NewMemoryStore()), new(ends)
		svc := w.Service(session.WithObserver(heard), session.WithSSOLink(false))
		w.Auth.SetTokenTTL(2 * time.Minute) // near its end from the beginning
		w.Login(svc)
		w.Auth.RevokeRefreshTokens(world.Email)
		world.MustToken(t, svc, world.Alice)
		synctest.Wait()
		require.Len(t, heard.of(session.OpRefresh), 1)
		require.ErrorIs(t, heard.of(session.OpRefresh)[0], session.ErrNotLoggedIn)
		require.ErrorIs(t, heard.of(session.OpAuthRefresh)[0], session.ErrNotLoggedIn)
	})
}

func TestObserverHearsOfARefreshThatALogoutOvertook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, heard := world.New(t, session.NewMemoryStore()), new(ends)
		svc := w.Service(session.WithObserver(heard))
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(time.Second))
		go func() { _, _ = svc.Token(t.Context(), world.Alice) }()
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, svc.Logout(t.Context(), world.Alice))
		time.Sleep(time.Minute)
		require.ErrorIs(t, heard.of(session.OpRefresh)[0], session.ErrConflict)
		require.Nil(t, heard.of(session.OpLogout)[0])
	})
}

func TestObserverHearsOfAUserWithoutALink(t *testing.T) {
	w, heard := world.New(t, session.NewMemoryStore()), new(ends)
	svc := w.Service(session.WithObserver(heard))
	_, err := svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.ErrorIs(t, heard.of(session.OpAuthLinkFetch)[0], session.ErrNotLoggedIn)
}
