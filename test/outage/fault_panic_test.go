package outage_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/storetest"
)

// panics is a caller's store with a bug.
func panics(context.Context, storetest.Call) error { panic("a caller's store: " + world.Password) }

func TestPanicWhileGivingALostLeaseBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaultStore()
		store.Inject(storetest.LoseAnswer, storetest.Acquire)
		store.Inject(panics, storetest.Release)
		w := world.New(t, world.WithoutLogoutLog(store))
		w.Auth.Link(world.Alice, world.Email)
		require.ErrorIs(t, world.AskToken(w), session.ErrStoreUnavailable)
		time.Sleep(time.Second)
		require.NoError(t, w.Svc.Close())
	})
}

func TestPanicInACallersTransportIsBadHealth(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	svc := w.Service(session.WithHTTPClient(&http.Client{Transport: world.RoundTripper(func(*http.Request) (*http.Response, error) {
		panic("a caller's transport: " + world.Password)
	})}))
	h := svc.Health(t.Context())
	require.False(t, h.Auth.OK)
	require.True(t, h.Store.OK)
	require.Contains(t, h.Auth.LastError, "panic")
	require.NotContains(t, h.Auth.LastError, world.Password)
}

// A panic in the caller's own goroutine is theirs to recover; one in a goroutine
// of the Service would end the bot.
func TestPanicInAnyMethodOfACallersStoreWedgesNothing(t *testing.T) {
	for _, method := range []storetest.Method{
		storetest.Get, storetest.Swap, storetest.Delete, storetest.All, storetest.Acquire, storetest.Release, storetest.SwapLeased, storetest.Watch,
	} {
		t.Run(string(method), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewFaultStore()
				w := world.New(t, world.WithoutLogoutLog(store))
				w.LoginDead()
				w.Auth.Link(world.Bob, world.Email)
				other := w.Service()
				store.Inject(panics, method)
				calls := world.Methods(w.Svc)
				delete(calls, "Logout") // alice's session is needed below
				delete(calls, "Client") // is Token, and a network
				calls["Health"] = func(ctx context.Context, _ string) error { w.Svc.Health(ctx); return nil }
				calls["Stats"] = func(ctx context.Context, _ string) error { _, err := w.Svc.Stats(ctx); return err }
				calls["Cleanup"] = func(ctx context.Context, _ string) error { _, err := w.Svc.Cleanup(ctx); return err }
				for range 2 {
					for _, call := range calls {
						for _, userID := range []string{world.Alice, world.Bob} {
							waiting := make(chan struct{}, 5)
							for range cap(waiting) {
								go func() {
									defer func() { _ = recover(); waiting <- struct{}{} }()
									if err := call(t.Context(), userID); err != nil && strings.Contains(err.Error(), world.Password) {
										t.Error("the panic's value is in the error")
									}
								}()
							}
							for range cap(waiting) {
								<-waiting
							}
						}
					}
				}
				store.Clear()
				time.Sleep(16 * time.Second) // at most for as long as a lease
				require.NoError(t, w.Right(world.Alice))
				world.MustToken(t, w.Svc, world.Alice)
				world.MustToken(t, other, world.Bob)
				require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
				require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
				require.True(t, w.Svc.Health(t.Context()).Store.OK)
				require.NotContains(t, w.Log.String(), world.Password)
				require.NoError(t, w.Svc.Close(), "no call is still counted as running")
			})
		})
	}
}
