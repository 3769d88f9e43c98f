package world

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mana/session"
)

// Hooked is a store whose calls go through a hook of the test's, which may hold
// them up, lose them or their answers, or deliver them late.
type Hooked struct {
	*session.MemoryStore
	Hook atomic.Pointer[Hook]
	log  *LogoutLog
}

type LogoutLog struct {
	mu sync.Mutex
	at map[string]time.Time // guarded by mu
}

// Hook gets the name of a method, and the call itself.
type Hook func(ctx context.Context, method string, do func(context.Context) error) error

var ErrLost = errors.New("connection reset by peer")

// NewHooked makes a store whose calls go through until a hook is set.
func NewHooked() *Hooked {
	return &Hooked{MemoryStore: session.NewMemoryStore(), log: &LogoutLog{at: make(map[string]time.Time)}}
}

// Another is another process's way to the same store.
func (h *Hooked) Another() *Hooked { return &Hooked{MemoryStore: h.MemoryStore, log: h.log} }

// On sets the hook for some methods; the others go through.
func (h *Hooked) On(f Hook, methods ...string) {
	only := Hook(func(ctx context.Context, method string, do func(context.Context) error) error {
		for _, m := range methods {
			if m == method {
				return f(ctx, method, do)
			}
		}
		return do(ctx)
	})
	h.Hook.Store(&only)
}

func (h *Hooked) Off() { h.Hook.Store(nil) }

func (h *Hooked) call(ctx context.Context, method string, do func(context.Context) error) error {
	if f := h.Hook.Load(); f != nil {
		return (*f)(ctx, method, do)
	}
	return do(ctx)
}

var Writes = []string{"Swap", "SwapLeased", "Delete", "MarkLoggedOut"}

var Everything = append([]string{"Get", "Acquire", "Release", "LoggedOutAt"}, Writes...)

// Away is a store that cannot be reached.
func Away(context.Context, string, func(context.Context) error) error { return ErrLost }

// Hangs holds a call until its caller gives up, and then loses it.
func Hangs(ctx context.Context, _ string, _ func(context.Context) error) error {
	<-ctx.Done()
	return ErrLost
}

// DeliversLate is hangs, but the calls arrive when the returned function is
// called, in the order in which they were made.
func DeliversLate() (Hook, func() []error) {
	var mu sync.Mutex
	var held []func(context.Context) error
	return func(ctx context.Context, _ string, do func(context.Context) error) error {
			mu.Lock()
			held = append(held, do)
			mu.Unlock()
			<-ctx.Done()
			return ErrLost
		}, func() (errs []error) {
			mu.Lock()
			defer mu.Unlock()
			for _, do := range held {
				errs = append(errs, do(context.Background()))
			}
			held = nil
			return errs
		}
}

func (h *Hooked) Get(ctx context.Context, userID string) (rec session.Record, err error) {
	err = h.call(ctx, "Get", func(ctx context.Context) (err error) {
		rec, err = h.MemoryStore.Get(ctx, userID)
		return err
	})
	return rec, err
}

func (h *Hooked) Swap(ctx context.Context, old, next session.Record) (session.Record, error) {
	var rec session.Record
	err := h.call(ctx, "Swap", func(ctx context.Context) error {
		stored, err := h.MemoryStore.Swap(ctx, old, next)
		if ctx.Err() == nil {
			rec = stored
		}
		return err
	})
	return rec, err
}

func (h *Hooked) SwapLeased(ctx context.Context, owner string, old, next session.Record) (rec session.Record, err error) {
	err = h.call(ctx, "SwapLeased", func(ctx context.Context) (err error) {
		rec, err = h.MemoryStore.SwapLeased(ctx, owner, old, next)
		return err
	})
	return rec, err
}

func (h *Hooked) Delete(ctx context.Context, old session.Record) error {
	return h.call(ctx, "Delete", func(ctx context.Context) error { return h.MemoryStore.Delete(ctx, old) })
}

func (h *Hooked) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (lease session.Lease, rec session.Record, err error) {
	err = h.call(ctx, "Acquire", func(ctx context.Context) (err error) {
		lease, rec, err = h.MemoryStore.Acquire(ctx, userID, owner, ttl)
		return err
	})
	return lease, rec, err
}

func (h *Hooked) Release(ctx context.Context, userID, owner, note string, keep time.Duration) error {
	return h.call(ctx, "Release", func(ctx context.Context) error {
		return h.MemoryStore.Release(ctx, userID, owner, note, keep)
	})
}

func (h *Hooked) MarkLoggedOut(ctx context.Context, old session.Record, at time.Time, _ time.Duration) error {
	return h.call(ctx, "MarkLoggedOut", func(ctx context.Context) error {
		err := h.MemoryStore.Delete(ctx, old)
		h.log.mu.Lock()
		defer h.log.mu.Unlock()
		if err == nil && at.After(h.log.at[old.UserID]) {
			h.log.at[old.UserID] = at
		}
		return err
	})
}

func (h *Hooked) LoggedOutAt(ctx context.Context, userID string) (rec session.Record, at time.Time, err error) {
	err = h.call(ctx, "LoggedOutAt", func(ctx context.Context) (err error) {
		rec, err = h.MemoryStore.Get(ctx, userID)
		if errors.Is(err, session.ErrNotFound) {
			rec, err = session.Record{UserID: userID, Version: rec.Version}, nil
		}
		h.log.mu.Lock()
		defer h.log.mu.Unlock()
		at = h.log.at[userID]
		return err
	})
	return rec, at, err
}

// The same store with fewer capabilities.
type (
	noLogoutLog struct {
		session.Store
		session.Locker
		session.Watcher
	}
	noCapability struct{ session.Store }
	noWatcher    struct {
		session.Store
		session.Locker
		session.LogoutLog
	}
)

// WithoutWatcher is the same store without a change feed.
func (h *Hooked) WithoutWatcher() session.Store { return noWatcher{h, h, h} }

// Capabilities are the kinds of store that a hooked one can be.
func Capabilities(h *Hooked) map[string]session.Store {
	return map[string]session.Store{
		"all":           h,
		"no logout log": noLogoutLog{h, h, h},
		"no watcher":    h.WithoutWatcher(),
		"none":          noCapability{h},
	}
}
