package world

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// Link is one process's way to a store that several share, and that it may lose.
type Link struct {
	*storetest.FaultStore

	Away       atomic.Bool // nothing gets through
	Hangs      atomic.Bool // reads hang while the store is away
	ReadOnly   atomic.Bool // records can be read, and leases taken
	LoseAnswer atomic.Bool // writes get through, their answers do not
	Panics     atomic.Bool // on every write
}

func NewLink(t *testing.T) *Link {
	store := storetest.NewFaultStore()
	t.Cleanup(func() { store.Close() })
	return newLink(store)
}

func newLink(store *storetest.FaultStore) *Link {
	l := &Link{FaultStore: store}
	l.Inject(l.through)
	return l
}

// Another is another process's link to the same store.
func (l *Link) Another() *Link { return newLink(l.FaultStore.Another()) }

// Lose breaks off all connections.
func (l *Link) Lose() {
	l.Away.Store(true)
	l.Cut()
}

func (l *Link) Restore() { l.Away.Store(false) }

func (l *Link) through(ctx context.Context, call storetest.Call) error {
	away := l.Away.Load()
	switch call.Method {
	case storetest.All:
		return call.Do(ctx)
	case storetest.Get, storetest.LoggedOutAt:
		if away && l.Hangs.Load() {
			return storetest.Hang(ctx, call)
		}
	case storetest.Swap, storetest.Delete, storetest.MarkLoggedOut:
		away = away || l.ReadOnly.Load()
		fallthrough
	case storetest.Acquire, storetest.Release, storetest.SwapLeased:
		switch {
		case l.Panics.Load():
			return storetest.Panic(ctx, call)
		case !away && l.LoseAnswer.Load():
			return storetest.LoseAnswer(ctx, call)
		}
	}
	if away {
		return storetest.ErrLost
	}
	return call.Do(ctx)
}

// First is an auth server before whose answer something happens.
func First(do func()) sessiontest.Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		do()
		answer(w, r)
	}
}
