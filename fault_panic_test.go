package session_test

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
		w := newWorld(t, lost{store})
		w.auth.Link(alice, email)
		require.ErrorIs(t, askToken(w), session.ErrStoreUnavailable)
		time.Sleep(time.Second)
		require.NoError(t, w.svc.Close())
	})
}

func TestPanicInACallersTransportIsBadHealth(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	svc := w.service(session.WithHTTPClient(&http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		panic("a caller's transport: " + password)
	})}))
	h := svc.Health(t.Context())
	require.False(t, h.Auth.OK)
	require.True(t, h.Store.OK)
	require.Contains(t, h.Auth.LastError, "panic")
	require.NotContains(t, h.Auth.LastError, password)
}

// A panic in the caller's own goroutine is theirs to recover; one in a goroutine
// of the Service would end the bot.
func TestPanicInAnyMethodOfACallersStoreWedgesNothing(t *testing.T) {
	for _, method := range []string{"Get", "Swap", "Delete", "All", "Acquire", "Release", "SwapLeased", "Watch"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStalling()
				store.panics = true
				w := newWorld(t, store)
				w.loginDead()
				w.auth.Link(bob, email)
				other := w.service()
				store.stall(method)
				calls := methods(w.svc)
				delete(calls, "Logout") // alice's session is needed below
				delete(calls, "Client") // is Token, and a network
				calls["Health"] = func(ctx context.Context, _ string) error { w.svc.Health(ctx); return nil }
				calls["Stats"] = func(ctx context.Context, _ string) error { _, err := w.svc.Stats(ctx); return err }
				calls["Cleanup"] = func(ctx context.Context, _ string) error { _, err := w.svc.Cleanup(ctx); return err }
				for range 2 {
					for _, call := range calls {
						for _, userID := range []string{alice, bob} {
							waiting := make(chan struct{}, 5)
							for range cap(waiting) {
								go func() {
									defer func() { _ = recover(); waiting <- struct{}{} }()
									if err := call(t.Context(), userID); err != nil && strings.Contains(err.Error(), password) {
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
				require.NoError(t, w.right(alice))
				mustToken(t, w.svc, alice)
				mustToken(t, other, bob)
				require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
				require.NoError(t, w.svc.Logout(t.Context(), alice))
				require.True(t, w.svc.Health(t.Context()).Store.OK)
				require.NotContains(t, w.log.String(), password)
				require.NoError(t, w.svc.Close(), "no call is still counted as running")
			})
		})
	}
}
