package outage_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
)

// lost is a store that takes leases, says that it did not, and panics when they
// are given back.
type lost struct{ *stalling }

func (l lost) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (session.Lease, session.Record, error) {
	if _, _, err := l.stalling.Acquire(ctx, userID, owner, ttl); err != nil {
		return session.Lease{}, session.Record{}, err
	}
	return session.Lease{}, session.Record{}, errors.New("no answer")
}

func TestPanicWhileGivingALostLeaseBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStalling()
		store.panics = true
		store.stall("Release")
		w := world.New(t, lost{store})
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
	for _, method := range []string{"Get", "Swap", "Delete", "All", "Acquire", "Release", "SwapLeased", "Watch"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStalling()
				store.panics = true
				w := world.New(t, store)
				w.LoginDead()
				w.Auth.Link(world.Bob, world.Email)
				other := w.Service()
				store.stall(method)
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
				store.stall("")
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
