package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mana/session"
)

func locker(t *testing.T, store session.Store) session.Locker {
	t.Helper()
	l, ok := store.(session.Locker)
	if !ok {
		t.Skip("not a session.Locker")
	}
	return l
}

func take(t *testing.T, l session.Locker, owner string, ttl time.Duration) (session.Lease, session.Record) {
	t.Helper()
	lease, rec, err := l.Acquire(t.Context(), alice, owner, ttl)
	noError(t, err)
	return lease, rec
}

func wantHeld(t *testing.T, l session.Locker, owner string, want bool) session.Record {
	t.Helper()
	lease, rec := take(t, l, owner, time.Minute)
	if lease.Held != want {
		t.Fatalf("lease held by %s: %v, want %v", owner, lease.Held, want)
	}
	return rec
}

func (s *suite) leaseHasOneHolder(t *testing.T, store session.Store) {
	l := locker(t, store)
	var held atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			lease, _, err := l.Acquire(t.Context(), alice, string(rune('a'+i)), time.Minute)
			if err != nil {
				t.Error(err)
			}
			if lease.Held {
				held.Add(1)
			}
		})
	}
	all.Wait()
	if held.Load() != 1 {
		t.Fatalf("%d of 16 hold the lease", held.Load())
	}
	lease, _, err := l.Acquire(t.Context(), bob, "other", time.Minute)
	noError(t, err)
	if !lease.Held {
		t.Fatal("a lease on one user keeps another from theirs")
	}
}

func (s *suite) leaseRunsOut(t *testing.T, store session.Store) {
	l := locker(t, store)
	take(t, l, "first", 30*time.Millisecond)
	wantHeld(t, l, "second", false)
	s.pass(60 * time.Millisecond)
	wantHeld(t, l, "second", true)
}

func (s *suite) leaseComesWithRecord(t *testing.T, store session.Store) {
	l := locker(t, store)
	if rec := wantHeld(t, l, "first", true); rec.Exists() || rec.UserID != alice {
		t.Fatalf("record beside the lease is %+v, want none of %s", rec, alice)
	}
	must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "1")))
	if rec := wantHeld(t, l, "second", false); rec.Value != "1" {
		t.Fatalf("record beside the refused lease is %q", rec.Value)
	}
}

func (s *suite) noteSpeaks(t *testing.T, store session.Store) {
	l := locker(t, store)
	wantHeld(t, l, "first", true)
	noError(t, l.Release(t.Context(), alice, "first", "out of order", 30*time.Millisecond))
	lease, _ := take(t, l, "second", time.Minute)
	if lease.Held || lease.Note != "out of order" {
		t.Fatalf("lease is %+v, want the note", lease)
	}
	s.pass(60 * time.Millisecond)
	wantHeld(t, l, "second", true)
	noError(t, l.Release(t.Context(), alice, "second", "", 0))
	wantHeld(t, l, "third", true)
}

func (s *suite) swapLeasedReleases(t *testing.T, store session.Store) {
	l := locker(t, store)
	base := wantHeld(t, l, "first", true)
	must[session.Record](t)(l.SwapLeased(t.Context(), "first", base, record(alice, "1")))
	wantValue(t, store, alice, "1")
	base = wantHeld(t, l, "second", true)
	_, err := l.SwapLeased(t.Context(), "second", nothing(alice), record(alice, "x"))
	wantError(t, err, session.ErrConflict)
	wantHeld(t, l, "third", false) // a conflict leaves the lease
	must[session.Record](t)(l.SwapLeased(t.Context(), "second", base, record(alice, "2")))
	wantHeld(t, l, "third", true)
}

func (s *suite) overtakenCanReplace(t *testing.T, store session.Store) {
	l := locker(t, store)
	base := must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "base")))
	take(t, l, "slow", 30*time.Millisecond)
	s.pass(60 * time.Millisecond)
	wantHeld(t, l, "quick", true)
	must[session.Record](t)(l.SwapLeased(t.Context(), "slow", base, record(alice, "of slow")))
	wantHeld(t, l, "third", false) // the lease of quick is untouched
	_, err := l.SwapLeased(t.Context(), "quick", base, record(alice, "of quick"))
	wantError(t, err, session.ErrConflict)
	wantValue(t, store, alice, "of slow")
}

func (s *suite) overtakenCannotCreate(t *testing.T, store session.Store) {
	l := locker(t, store)
	take(t, l, "slow", 30*time.Millisecond)
	s.pass(60 * time.Millisecond)
	_, err := l.SwapLeased(t.Context(), "slow", nothing(alice), record(alice, "late"))
	wantError(t, err, session.ErrConflict)
	wantHeld(t, l, "quick", true)
	_, err = l.SwapLeased(t.Context(), "slow", nothing(alice), record(alice, "late"))
	wantError(t, err, session.ErrConflict)
	wantNothing(t, store, alice)
}

func (s *suite) overtakenCannotRelease(t *testing.T, store session.Store) {
	l := locker(t, store)
	take(t, l, "slow", 30*time.Millisecond)
	s.pass(60 * time.Millisecond)
	wantHeld(t, l, "quick", true)
	noError(t, l.Release(t.Context(), alice, "slow", "late", time.Minute))
	wantHeld(t, l, "third", false)
	wantHeld(t, l, "quick", true) // taking one's own lease again is allowed
}

func (s *suite) deletingBreaksLease(t *testing.T, store session.Store) {
	l := locker(t, store)
	base := wantHeld(t, l, "first", true)
	noError(t, store.Delete(t.Context(), nothing(alice)))
	_, err := l.SwapLeased(t.Context(), "first", base, record(alice, "late"))
	wantError(t, err, session.ErrConflict)
	wantNothing(t, store, alice)
	wantHeld(t, l, "second", true)
}

func (s *suite) conditionalDeleteKeepsLease(t *testing.T, store session.Store) {
	l := locker(t, store)
	must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "1")))
	base := wantHeld(t, l, "first", true)
	noError(t, store.Delete(t.Context(), base))
	wantNothing(t, store, alice)
	wantHeld(t, l, "second", false)
}

func (s *suite) leaseIsNoRecord(t *testing.T, store session.Store) {
	l := locker(t, store)
	wantHeld(t, l, "first", true)
	wantNothing(t, store, alice)
	for rec, err := range store.All(t.Context()) {
		t.Fatalf("All yields %+v, %v for a lease", rec, err)
	}
	noError(t, l.Release(t.Context(), alice, "first", "note", time.Minute))
	for rec, err := range store.All(t.Context()) {
		t.Fatalf("All yields %+v, %v for a note", rec, err)
	}
}

// notices is a session.Feed that remembers.
type notices struct {
	mu      sync.Mutex
	changed map[string]int // guarded by mu
	trusted bool           // guarded by mu
	event   chan struct{}
}

func (n *notices) note(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	select {
	case n.event <- struct{}{}:
	default:
	}
}

func (n *notices) Changed(userID string) { n.note(func() { n.changed[userID]++ }) }
func (n *notices) Flush()                { n.note(func() {}) }
func (n *notices) Trust(time.Time, time.Duration) {
	n.note(func() { n.trusted = true })
}

// until waits for a condition on what has been announced.
func (n *notices) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.After(5 * time.Second)
	for {
		n.mu.Lock()
		met := ok()
		n.mu.Unlock()
		if met {
			return
		}
		select {
		case <-n.event:
		case <-limit:
			t.Fatalf("not announced in 5 s: %s", what)
		}
	}
}

// watch starts the store's Watch and waits until it vouches for its notices.
func watch(t *testing.T, store session.Store) (*notices, <-chan error, context.CancelFunc) {
	t.Helper()
	w, ok := store.(session.Watcher)
	if !ok {
		t.Skip("not a session.Watcher")
	}
	n := &notices{changed: make(map[string]int), event: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Watch(ctx, n) }()
	t.Cleanup(cancel)
	n.until(t, "trust", func() bool { return n.trusted })
	return n, ended, cancel
}

func (s *suite) watcherAnnounces(t *testing.T, store session.Store) {
	n, ended, cancel := watch(t, store)
	next := func(what string, change func()) {
		t.Helper()
		n.mu.Lock()
		before := n.changed[alice]
		n.mu.Unlock()
		change()
		n.until(t, what, func() bool { return n.changed[alice] > before })
	}
	next("creating", func() {
		must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "1")))
	})
	next("replacing", func() {
		must[session.Record](t)(store.Swap(t.Context(), wantValue(t, store, alice, "1"), record(alice, "2")))
	})
	next("deleting", func() { noError(t, store.Delete(t.Context(), wantValue(t, store, alice, "2"))) })
	if l, ok := store.(session.Locker); ok {
		wantHeld(t, l, "me", true)
		next("creating under a lease", func() {
			must[session.Record](t)(l.SwapLeased(t.Context(), "me", nothing(alice), record(alice, "3")))
		})
	}
	next("deleting whatever there is", func() { noError(t, store.Delete(t.Context(), nothing(alice))) })
	cancel()
	<-ended
}

func (s *suite) watcherEnds(t *testing.T, store session.Store) {
	_, ended, cancel := watch(t, store)
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("Watch returned %v, want context.Canceled", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Watch goes on after its context ended")
	}
}

// announcedInTime checks the order that a cache relies upon: once a write has
// returned, its notice comes without any further write.
func (s *suite) announcedInTime(t *testing.T, store session.Store) {
	n, _, _ := watch(t, store)
	rec := nothing(alice)
	for range 50 {
		n.mu.Lock()
		before := n.changed[alice]
		n.mu.Unlock()
		rec = must[session.Record](t)(store.Swap(t.Context(), rec, record(alice, time.Now().String())))
		n.until(t, "a write", func() bool { return n.changed[alice] > before })
	}
}
