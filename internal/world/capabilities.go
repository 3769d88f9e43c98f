package world

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/storetest"
)

// The same store with fewer capabilities.
type (
	noLogoutLog struct {
		session.Store
		session.Locker
		session.Watcher
	}
	noWatcher struct {
		session.Store
		session.Locker
		session.LogoutLog
	}
	noCapability struct{ session.Store }
)

// WithoutLogoutLog is the same store without notes of logouts.
func WithoutLogoutLog(h *storetest.FaultStore) session.Store { return noLogoutLog{h, h, h} }

// WithoutWatcher is the same store without a change feed.
func WithoutWatcher(h *storetest.FaultStore) session.Store { return noWatcher{h, h, h} }

// WithoutCapabilities is the same store with none of the optional ones.
func WithoutCapabilities(h *storetest.FaultStore) session.Store { return noCapability{h} }

// Capabilities are the kinds of store that one with all capabilities can be.
func Capabilities(h *storetest.FaultStore) map[string]session.Store {
	return map[string]session.Store{
		"all":           h,
		"no logout log": WithoutLogoutLog(h),
		"no watcher":    WithoutWatcher(h),
		"none":          WithoutCapabilities(h),
	}
}

// OnEveryCapability runs a flow in a bubble over a store whose calls the test
// controls, with all optional capabilities and with fewer.
func OnEveryCapability(t *testing.T, flow func(t *testing.T, w *World, h *storetest.FaultStore)) {
	for name := range Capabilities(storetest.NewFaultStore()) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := storetest.NewFaultStore()
				defer h.Close()
				flow(t, New(t, Capabilities(h)[name]), h)
			})
		})
	}
}

// Later runs a call in a goroutine and returns where its error arrives.
func Later(call func() error) chan error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	synctest.Wait()
	return result
}

// WantLoggedOut is that alice is not served here, now and for a while.
func WantLoggedOut(t *testing.T, w *World, svc *session.Service) {
	t.Helper()
	for range 20 {
		_, err := svc.Token(t.Context(), Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		time.Sleep(time.Second)
	}
	require.Zero(t, svc.Health(t.Context()).Queued)
	require.Empty(t, w.Stored(Alice))
}

// WantAccount is that alice is served as the account, now and for a while.
func WantAccount(t *testing.T, svc *session.Service, email string) {
	t.Helper()
	for range 20 {
		s, err := svc.Session(t.Context(), Alice)
		require.NoError(t, err)
		require.Equal(t, email, s.Email)
		MustToken(t, svc, Alice)
		time.Sleep(time.Second)
	}
}

func WantLoggedOutHere(t *testing.T, svc *session.Service) {
	t.Helper()
	_, err := svc.Token(t.Context(), Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
}
