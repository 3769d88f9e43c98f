package world

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// Link is one process's way to a store that several share, and that it may lose.
type Link struct {
	*session.MemoryStore
	tombs *Tombs

	Away       atomic.Bool  // nothing gets through
	Hangs      atomic.Bool  // reads hang while the store is away
	ReadOnly   atomic.Bool  // records can be read, and logouts noted
	LoseAnswer atomic.Bool  // writes get through, their answers do not
	Panics     atomic.Bool  // on every write
	dropped    atomic.Value // a chan struct{} that is closed with the connections
}

type Tombs struct {
	mu sync.Mutex
	at map[string]time.Time
}

var ErrAway = errors.New("no route to the store")

func NewLink(t *testing.T) *Link {
	store := session.NewMemoryStore()
	t.Cleanup(func() { store.Close() })
	return (&Link{MemoryStore: store, tombs: &Tombs{at: make(map[string]time.Time)}}).Another()
}

// Another is another process's link to the same store.
func (l *Link) Another() *Link {
	other := &Link{MemoryStore: l.MemoryStore, tombs: l.tombs}
	other.dropped.Store(make(chan struct{}))
	return other
}

func (l *Link) Lose() {
	l.Away.Store(true)
	close(l.dropped.Load().(chan struct{}))
}

func (l *Link) Restore() {
	l.dropped.Store(make(chan struct{}))
	l.Away.Store(false)
}

func (l *Link) write(do func() error) error {
	if l.Panics.Load() {
		panic("a bug in the store")
	}
	if l.Away.Load() {
		return ErrAway
	}
	if err := do(); err != nil || !l.LoseAnswer.Load() {
		return err
	}
	return ErrAway
}

func (l *Link) Get(ctx context.Context, userID string) (rec session.Record, err error) {
	if l.Away.Load() {
		if l.Hangs.Load() {
			<-ctx.Done()
		}
		return rec, ErrAway
	}
	return l.MemoryStore.Get(ctx, userID)
}

func (l *Link) Swap(ctx context.Context, old, next session.Record) (rec session.Record, err error) {
	if l.ReadOnly.Load() {
		return rec, ErrAway
	}
	return rec, l.write(func() error { rec, err = l.MemoryStore.Swap(ctx, old, next); return err })
}

func (l *Link) Delete(ctx context.Context, old session.Record) error {
	if l.ReadOnly.Load() {
		return ErrAway
	}
	return l.write(func() error { return l.MemoryStore.Delete(ctx, old) })
}

func (l *Link) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (lease session.Lease, rec session.Record, err error) {
	err = l.write(func() error { lease, rec, err = l.MemoryStore.Acquire(ctx, userID, owner, ttl); return err })
	return lease, rec, err
}

func (l *Link) Release(ctx context.Context, userID, owner, note string, keep time.Duration) error {
	return l.write(func() error { return l.MemoryStore.Release(ctx, userID, owner, note, keep) })
}

func (l *Link) SwapLeased(ctx context.Context, owner string, old, next session.Record) (rec session.Record, err error) {
	return rec, l.write(func() error { rec, err = l.MemoryStore.SwapLeased(ctx, owner, old, next); return err })
}

func (l *Link) Watch(ctx context.Context, feed session.Feed) error {
	if l.Away.Load() {
		return ErrAway
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dropped := l.dropped.Load().(chan struct{})
	go func() {
		select {
		case <-dropped:
			cancel(ErrAway)
		case <-ctx.Done():
		}
	}()
	err := l.MemoryStore.Watch(ctx, feed)
	return errors.Join(err, context.Cause(ctx))
}

func (l *Link) MarkLoggedOut(ctx context.Context, old session.Record, at time.Time, _ time.Duration) error {
	if l.ReadOnly.Load() {
		return ErrAway
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

func (l *Link) LoggedOutAt(ctx context.Context, userID string) (session.Record, time.Time, error) {
	rec, err := l.Get(ctx, userID)
	if errors.Is(err, session.ErrNotFound) {
		rec, err = session.Record{UserID: userID, Version: rec.Version}, nil
	}
	l.tombs.mu.Lock()
	defer l.tombs.mu.Unlock()
	return rec, l.tombs.at[userID], err
}

// First is an auth server before whose answer something happens.
func First(do func()) sessiontest.Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		do()
		answer(w, r)
	}
}
