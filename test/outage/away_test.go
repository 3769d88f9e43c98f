package outage_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
)

// twoProcesses is a world of two processes, of which the first can lose the store.
type twoProcesses struct {
	*world.World
	link  *world.Link
	other *session.Service
}

// duringAnOutage runs a flow in a bubble, with alice logged in and known to
// both processes.
func duringAnOutage(t *testing.T, flow func(t *testing.T, a *twoProcesses)) {
	synctest.Test(t, func(t *testing.T) {
		near := world.NewLink(t)
		a := &twoProcesses{World: world.New(t, near), link: near}
		far := *a.World
		far.Store = near.Another()
		a.other = far.Service()
		a.Login(a.Svc)
		require.NoError(t, a.Svc.SetData(t.Context(), world.Alice, "theme", "dark"))
		a.known()
		a.pass(time.Millisecond) // no flow's login is as old as this one
		flow(t, a)
	})
}

func (a *twoProcesses) known() {
	world.MustToken(a.T, a.Svc, world.Alice)
	world.MustToken(a.T, a.other, world.Alice)
}

// pass lets time go by, for clocks to tell events apart.
func (a *twoProcesses) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// back ends the outage and waits for the queue to be drained.
func (a *twoProcesses) back() {
	a.T.Helper()
	require.NotZero(a.T, a.Svc.Health(a.T.Context()).Queued)
	a.link.Restore()
	a.pass(time.Second)
	require.Zero(a.T, a.Svc.Health(a.T.Context()).Queued)
	a.pass(5 * time.Second) // until the watch is back
}

func (a *twoProcesses) loggedOut(svc *session.Service) {
	a.T.Helper()
	_, err := svc.Token(a.T.Context(), world.Alice)
	require.ErrorIs(a.T, err, session.ErrNotLoggedIn)
}

func (a *twoProcesses) theme(svc *session.Service) string {
	a.T.Helper()
	theme, _, err := session.DataAs[string](a.T.Context(), svc, world.Alice, "theme")
	require.NoError(a.T, err)
	return theme
}

// drop loses the record, as an eviction does.
func (a *twoProcesses) drop(userID string) {
	a.T.Helper()
	rec, err := a.link.MemoryStore.Get(a.T.Context(), userID)
	require.NoError(a.T, err)
	require.NoError(a.T, a.link.MemoryStore.Delete(a.T.Context(), rec))
}

// late hands answers on when it is opened.
type late struct {
	base    http.RoundTripper
	open    chan struct{}
	arrived chan *http.Request
}

func (l *late) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.base.RoundTrip(r)
	l.arrived <- r
	<-l.open
	return resp, err
}
