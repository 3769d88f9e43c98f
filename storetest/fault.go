package storetest

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mana/session"
)

// Method is a method of a store, by its name.
type Method string

// The methods of session.Store and of its optional capabilities.
const (
	Get           Method = "Get"
	Swap          Method = "Swap"
	Delete        Method = "Delete"
	All           Method = "All"
	Acquire       Method = "Acquire"
	Release       Method = "Release"
	SwapLeased    Method = "SwapLeased"
	MarkLoggedOut Method = "MarkLoggedOut"
	LoggedOutAt   Method = "LoggedOutAt"
	Watch         Method = "Watch"
	Trail         Method = "Trail"
)

// Writes are the methods that change a record.
func Writes() []Method { return []Method{Swap, SwapLeased, Delete, MarkLoggedOut} }

// Call is a call of a store on its way.
type Call struct {
	Method Method
	UserID string                      // "" for All and Watch
	Do     func(context.Context) error // makes the call, or what an older fault makes of it
}

// Fault is what happens to a call: it returns what the caller is told, and may
// make the call before, after, later, or not at all. A nil error without Do
// having been called means success with nothing found.
type Fault func(ctx context.Context, call Call) error

// ErrLost is what the caller of a lost call is told.
var ErrLost = errors.New("storetest: connection lost")

// Away loses calls at once, like a server that refuses connections.
func Away(context.Context, Call) error { return ErrLost }

// Hang loses calls when their callers give up, like a network that drops packets.
func Hang(ctx context.Context, _ Call) error {
	<-ctx.Done()
	return ErrLost
}

// LoseAnswer makes the call, and loses what it returns.
func LoseAnswer(ctx context.Context, call Call) error {
	if err := call.Do(ctx); err != nil {
		return err
	}
	return ErrLost
}

// Panic is a store with a bug.
func Panic(context.Context, Call) error { panic("storetest: a bug in the store") }

// DeliverLate returns a Fault like Hang whose calls do arrive: all of them, in
// the order in which they were made, when deliver is called, which returns what
// came of each.
func DeliverLate() (fault Fault, deliver func() []error) {
	var mu sync.Mutex
	var late []Call
	return func(ctx context.Context, call Call) error {
			mu.Lock()
			late = append(late, call)
			mu.Unlock()
			<-ctx.Done()
			return ErrLost
		}, func() (errs []error) {
			mu.Lock()
			defer mu.Unlock()
			for _, call := range late {
				errs = append(errs, call.Do(context.Background()))
			}
			late = nil
			return errs
		}
}

// Only has a fault happen to the calls about one user.
func Only(userID string, fault Fault) Fault {
	return func(ctx context.Context, call Call) error {
		if call.UserID != userID {
			return call.Do(ctx)
		}
		return fault(ctx, call)
	}
}

// FaultStore is one process's connection to a store in memory, with all optional
// capabilities, on which calls can be held up, lost, repeated, or made to arrive
// late. It is safe for concurrent use, and works in a testing/synctest bubble.
type FaultStore struct {
	*session.MemoryStore // what is stored: calls of it meet no fault
	logouts              *logoutNotes

	mu     sync.Mutex
	faults []*injected // guarded by mu; the oldest first
	some   atomic.Bool // len(faults) > 0
	cut    chan struct{}
}

type injected struct {
	fault   Fault
	methods []Method // empty: all
}

type logoutNotes struct {
	mu sync.Mutex
	at map[string]time.Time // guarded by mu
}

// NewFaultStore returns an empty store without faults. Its Close stops the timer
// of the memory store.
func NewFaultStore() *FaultStore {
	return (&FaultStore{
		MemoryStore: session.NewMemoryStore(),
		logouts:     &logoutNotes{at: make(map[string]time.Time)},
	}).Another()
}

// Another returns another process's connection to the same store, without
// faults.
func (f *FaultStore) Another() *FaultStore {
	return &FaultStore{MemoryStore: f.MemoryStore, logouts: f.logouts, cut: make(chan struct{})}
}

// Inject has a fault happen to the calls of the given methods, or of all if none
// is given, until remove is called. Of several the newest happens first, and its
// Call.Do is what the older ones make of the call.
func (f *FaultStore) Inject(fault Fault, methods ...Method) (remove func()) {
	in := &injected{fault, methods}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(slices.Clone(f.faults), in)
	f.some.Store(true)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.faults = slices.DeleteFunc(slices.Clone(f.faults), func(other *injected) bool { return other == in })
		f.some.Store(len(f.faults) > 0)
	}
}

// Clear removes all faults.
func (f *FaultStore) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
	f.some.Store(false)
}

// Cut breaks off the change feeds that run over this connection, as a lost
// connection does. What comes next is up to the fault for Watch.
func (f *FaultStore) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.cut)
	f.cut = make(chan struct{})
}

// call passes a call through the faults.
func (f *FaultStore) call(ctx context.Context, method Method, userID string, do func(context.Context) error) error {
	if !f.some.Load() {
		return do(ctx)
	}
	f.mu.Lock()
	faults := f.faults
	f.mu.Unlock()
	for _, in := range faults {
		if len(in.methods) == 0 || slices.Contains(in.methods, method) {
			call := Call{Method: method, UserID: userID, Do: do}
			do = func(ctx context.Context) error { return in.fault(ctx, call) }
		}
	}
	return do(ctx)
}

// answer is what a call returned beside its error. A call that arrives after its
// caller has gone must not write where the caller reads.
type answer[T any] struct {
	mu    sync.Mutex
	value T // guarded by mu
}

func (a *answer[T]) set(value T, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.value = value
	return err
}

func (a *answer[T]) get() T {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.value
}

// Get implements session.Store.
func (f *FaultStore) Get(ctx context.Context, userID string) (session.Record, error) {
	var rec answer[session.Record]
	err := f.call(ctx, Get, userID, func(ctx context.Context) error { return rec.set(f.MemoryStore.Get(ctx, userID)) })
	return rec.get(), err
}

// Swap implements session.Store.
func (f *FaultStore) Swap(ctx context.Context, old, next session.Record) (session.Record, error) {
	var rec answer[session.Record]
	err := f.call(ctx, Swap, next.UserID, func(ctx context.Context) error { return rec.set(f.MemoryStore.Swap(ctx, old, next)) })
	return rec.get(), err
}

// Delete implements session.Store.
func (f *FaultStore) Delete(ctx context.Context, old session.Record) error {
	return f.call(ctx, Delete, old.UserID, func(ctx context.Context) error { return f.MemoryStore.Delete(ctx, old) })
}

// All implements session.Store.
func (f *FaultStore) All(ctx context.Context) iter.Seq2[session.Record, error] {
	return func(yield func(session.Record, error) bool) {
		stopped := false
		err := f.call(ctx, All, "", func(ctx context.Context) error {
			for rec, err := range f.MemoryStore.All(ctx) {
				if !yield(rec, err) {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(session.Record{}, err)
		}
	}
}

// Acquire implements session.Locker.
func (f *FaultStore) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (session.Lease, session.Record, error) {
	var lease answer[session.Lease]
	var rec answer[session.Record]
	err := f.call(ctx, Acquire, userID, func(ctx context.Context) error {
		l, r, err := f.MemoryStore.Acquire(ctx, userID, owner, ttl)
		_ = lease.set(l, nil)
		return rec.set(r, err)
	})
	return lease.get(), rec.get(), err
}

// Release implements session.Locker.
func (f *FaultStore) Release(ctx context.Context, userID, owner, note string, keep time.Duration) error {
	return f.call(ctx, Release, userID, func(ctx context.Context) error {
		return f.MemoryStore.Release(ctx, userID, owner, note, keep)
	})
}

// SwapLeased implements session.Locker.
func (f *FaultStore) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	var rec answer[session.Record]
	err := f.call(ctx, SwapLeased, next.UserID, func(ctx context.Context) error {
		return rec.set(f.MemoryStore.SwapLeased(ctx, owner, old, next))
	})
	return rec.get(), err
}

// MarkLoggedOut implements session.LogoutLog. Notes are kept for good.
func (f *FaultStore) MarkLoggedOut(ctx context.Context, old session.Record, at time.Time, _ time.Duration) error {
	return f.call(ctx, MarkLoggedOut, old.UserID, func(ctx context.Context) error {
		err := f.MemoryStore.Delete(ctx, old)
		f.logouts.mu.Lock()
		defer f.logouts.mu.Unlock()
		if err == nil && at.After(f.logouts.at[old.UserID]) {
			f.logouts.at[old.UserID] = at
		}
		return err
	})
}

// LoggedOutAt implements session.LogoutLog.
func (f *FaultStore) LoggedOutAt(ctx context.Context, userID string) (session.Record, time.Time, error) {
	var rec answer[session.Record]
	var at answer[time.Time]
	err := f.call(ctx, LoggedOutAt, userID, func(ctx context.Context) error {
		stored, err := f.MemoryStore.Get(ctx, userID)
		if errors.Is(err, session.ErrNotFound) {
			stored, err = session.Record{UserID: userID, Version: stored.Version}, nil
		}
		f.logouts.mu.Lock()
		noted := f.logouts.at[userID]
		f.logouts.mu.Unlock()
		_ = at.set(noted, nil)
		return rec.set(stored, err)
	})
	return rec.get(), at.get(), err
}

// Trail implements session.TrailLog.
func (f *FaultStore) Trail(ctx context.Context, userID string) ([]session.TrailEntry, error) {
	var entries answer[[]session.TrailEntry]
	err := f.call(ctx, Trail, userID, func(ctx context.Context) error {
		return entries.set(f.MemoryStore.Trail(ctx, userID))
	})
	return entries.get(), err
}

// Watch implements session.Watcher.
func (f *FaultStore) Watch(ctx context.Context, feed session.Feed) error {
	return f.call(ctx, Watch, "", func(ctx context.Context) error {
		f.mu.Lock()
		cut := f.cut
		f.mu.Unlock()
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		go func() {
			select {
			case <-cut:
				cancel(ErrLost)
			case <-ctx.Done():
			}
		}()
		err := f.MemoryStore.Watch(ctx, feed)
		return errors.Join(err, context.Cause(ctx))
	})
}
