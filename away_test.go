package session_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// link is one process's way to a store that several share, and that it may lose.
type link struct {
	*session.MemoryStore
	tombs *tombs

	away       atomic.Bool  // nothing gets through
	hangs      atomic.Bool  // reads hang while the store is away
	readOnly   atomic.Bool  // records can be read, and logouts noted
	loseAnswer atomic.Bool  // writes get through, their answers do not
	panics     atomic.Bool  // on every write
	dropped    atomic.Value // a chan struct{} that is closed with the connections
}

type tombs struct {
	mu sync.Mutex
	at map[string]time.Time
}

var errAway = errors.New("no route to the store")

func newLink(t *testing.T) *link {
	store := session.NewMemoryStore()
	t.Cleanup(func() { store.Close() })
	return (&link{MemoryStore: store, tombs: &tombs{at: make(map[string]time.Time)}}).another()
}

// another is another process's link to the same store.
func (l *link) another() *link {
	other := &link{MemoryStore: l.MemoryStore, tombs: l.tombs}
	other.dropped.Store(make(chan struct{}))
	return other
}

func (l *link) lose() {
	l.away.Store(true)
	close(l.dropped.Load().(chan struct{}))
}

func (l *link) restore() {
	l.dropped.Store(make(chan struct{}))
	l.away.Store(false)
}

func (l *link) write(do func() error) error {
	if l.panics.Load() {
		panic("a bug in the store")
	}
	if l.away.Load() {
		return errAway
	}
	if err := do(); err != nil || !l.loseAnswer.Load() {
		return err
	}
	return errAway
}

func (l *link) Get(ctx context.Context, userID string) (rec session.Record, err error) {
	if l.away.Load() {
		if l.hangs.Load() {
			<-ctx.Done()
		}
		return rec, errAway
	}
	return l.MemoryStore.Get(ctx, userID)
}

func (l *link) Swap(ctx context.Context, old, next session.Record) (rec session.Record, err error) {
	if l.readOnly.Load() {
		return rec, errAway
	}
	return rec, l.write(func() error { rec, err = l.MemoryStore.Swap(ctx, old, next); return err })
}

func (l *link) Delete(ctx context.Context, old session.Record) error {
	if l.readOnly.Load() {
		return errAway
	}
	return l.write(func() error { return l.MemoryStore.Delete(ctx, old) })
}

func (l *link) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (lease session.Lease, rec session.Record, err error) {
	err = l.write(func() error { lease, rec, err = l.MemoryStore.Acquire(ctx, userID, owner, ttl); return err })
	return lease, rec, err
}

func (l *link) Release(ctx context.Context, userID, owner, note string, keep time.Duration) error {
	return l.write(func() error { return l.MemoryStore.Release(ctx, userID, owner, note, keep) })
}

func (l *link) SwapLeased(ctx context.Context, owner string, old, next session.Record) (rec session.Record, err error) {
	return rec, l.write(func() error { rec, err = l.MemoryStore.SwapLeased(ctx, owner, old, next); return err })
}

func (l *link) Watch(ctx context.Context, feed session.Feed) error {
	if l.away.Load() {
		return errAway
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dropped := l.dropped.Load().(chan struct{})
	go func() {
		select {
		case <-dropped:
			cancel(errAway)
		case <-ctx.Done():
		}
	}()
	err := l.MemoryStore.Watch(ctx, feed)
	return errors.Join(err, context.Cause(ctx))
}

func (l *link) MarkLoggedOut(ctx context.Context, old session.Record, at time.Time, _ time.Duration) error {
	if l.readOnly.Load() {
		return errAway
	}
	return l.write(func() error {
		if err := l.MemoryStore.Delete(ctx, old); err != nil {
			return err
		}
		l.tombs.mu.Lock()
		defer l.tombs.mu.Unlock()
		if at.After(l.tombs.at[old.UserID]) {
			l.tombs.at[old.UserID] = at
		}
		return nil
	})
}

func (l *link) LoggedOutAt(ctx context.Context, userID string) (session.Record, time.Time, error) {
	rec, err := l.Get(ctx, userID)
	if errors.Is(err, session.ErrNotFound) {
		rec, err = session.Record{UserID: userID, Version: rec.Version}, nil
	}
	l.tombs.mu.Lock()
	defer l.tombs.mu.Unlock()
	return rec, l.tombs.at[userID], err
}

// twoProcesses is a world of two processes, of which the first can lose the store.
type twoProcesses struct {
	*world
	link  *link
	other *session.Service
}

// duringAnOutage runs a flow in a bubble, with alice logged in and known to
// both processes.
func duringAnOutage(t *testing.T, flow func(t *testing.T, a *twoProcesses)) {
	synctest.Test(t, func(t *testing.T) {
		near := newLink(t)
		a := &twoProcesses{world: newWorld(t, near), link: near}
		far := *a.world
		far.store = near.another()
		a.other = far.service()
		a.login(a.svc)
		require.NoError(t, a.svc.SetData(t.Context(), alice, "theme", "dark"))
		a.known()
		a.pass(time.Millisecond) // no flow's login is as old as this one
		flow(t, a)
	})
}

func (a *twoProcesses) known() {
	mustToken(a.t, a.svc, alice)
	mustToken(a.t, a.other, alice)
}

// pass lets time go by, for clocks to tell events apart.
func (a *twoProcesses) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// back ends the outage and waits for the queue to be drained.
func (a *twoProcesses) back() {
	a.t.Helper()
	require.NotZero(a.t, a.svc.Health(a.t.Context()).Queued)
	a.link.restore()
	a.pass(time.Second)
	require.Zero(a.t, a.svc.Health(a.t.Context()).Queued)
	a.pass(5 * time.Second) // until the watch is back
}

func (a *twoProcesses) loggedOut(svc *session.Service) {
	a.t.Helper()
	_, err := svc.Token(a.t.Context(), alice)
	require.ErrorIs(a.t, err, session.ErrNotLoggedIn)
}

func (a *twoProcesses) theme(svc *session.Service) string {
	a.t.Helper()
	theme, _, err := session.DataAs[string](a.t.Context(), svc, alice, "theme")
	require.NoError(a.t, err)
	return theme
}

// first is an auth server before whose answer something happens.
func first(do func()) sessiontest.Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		do()
		answer(w, r)
	}
}

// drop loses the record, as an eviction does.
func (a *twoProcesses) drop(userID string) {
	a.t.Helper()
	rec, err := a.link.MemoryStore.Get(a.t.Context(), userID)
	require.NoError(a.t, err)
	require.NoError(a.t, a.link.MemoryStore.Delete(a.t.Context(), rec))
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
