package sessions_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// watched records operations.
type watched struct {
	mu    sync.Mutex
	began []session.Operation
	ended []error
}

type observedKey struct{}

func (o *watched) Begin(ctx context.Context, op session.Operation) (context.Context, func(error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.began = append(o.began, op)
	return context.WithValue(ctx, observedKey{}, op), func(err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.ended = append(o.ended, err)
	}
}

func (o *watched) since(t *testing.T, do func()) []session.Operation {
	t.Helper()
	o.mu.Lock()
	o.began, o.ended = nil, nil
	o.mu.Unlock()
	do()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	require.Len(t, o.ended, len(o.began), "each is ended once")
	return o.began
}

func TestObserverIsToldOfWhatTakesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var o, second watched
		bot := w.Service(session.WithObserver(&o), session.WithObserver(&second))
		require.Equal(t, []session.Operation{
			session.OpLogin, session.OpAuthLogin, session.OpStoreRead, session.OpStoreWrite, session.OpAuthLinkCreate,
		}, o.since(t, func() { w.Login(bot) })[:5])
		require.Equal(t, o.began[:2], second.began[:2])
		world.MustToken(t, bot, world.Alice) // reads what the login wrote
		require.Empty(t, o.since(t, func() { world.MustToken(t, bot, world.Alice) }), "a hit is none")

		time.Sleep(15 * time.Minute)
		require.Equal(t, []session.Operation{
			session.OpRefresh, session.OpStoreLease, session.OpAuthLinkFetch, // which there is none of
			session.OpStoreLease, session.OpAuthRefresh, session.OpStoreWrite,
		}, o.since(t, func() { world.MustToken(t, bot, world.Alice) }))

		require.Equal(t, session.OpLogout, o.since(t, func() { require.NoError(t, bot.Logout(t.Context(), world.Alice)) })[0])
		require.Equal(t, []session.Operation{session.OpStoreList}, o.since(t, func() { _, _ = bot.Stats(t.Context()) }))

		w.Auth.Inject(sessiontest.Login, 1, sessiontest.Status(500, "down"))
		o.since(t, func() { _, _ = bot.Login(t.Context(), world.Alice, world.Email, world.Password) })
		require.True(t, errors.Is(o.ended[len(o.ended)-1], session.ErrAuthUnavailable))
	})
}

func TestOperationsRunUnderTheObserversContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		var seen []any
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			seen = append(seen, ctx.Value(observedKey{}))
			return call.Do(ctx)
		}, storetest.Swap)
		w.Login(w.Service(session.WithObserver(new(watched))))
		require.Equal(t, []any{session.OpStoreWrite}, seen)
	})
}

func TestObserverIsNeeded(t *testing.T) {
	_, err := session.New(session.WithObserver(nil))
	require.Error(t, err)
	_, err = session.New(session.WithObserver((*watched)(nil)))
	require.Error(t, err)
}
