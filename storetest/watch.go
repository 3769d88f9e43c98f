package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mana/session"
)

// notices is a session.Feed that remembers.
type notices struct {
	mu      sync.Mutex
	changed map[string]int // guarded by mu
	ended   map[string]int // guarded by mu
	flushed bool           // guarded by mu
	trusted bool           // guarded by mu
	early   bool           // guarded by mu: trusted before flushed
	event   chan struct{}
}

func newNotices() *notices {
	return &notices{changed: make(map[string]int), ended: make(map[string]int), event: make(chan struct{}, 1)}
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
func (n *notices) Flush()                { n.note(func() { n.flushed = true }) }
func (n *notices) Trust(time.Time, time.Duration) {
	n.note(func() {
		n.trusted = true
		n.early = n.early || !n.flushed
	})
}

// endNotices is notices that are told the end of a session, too.
type endNotices struct{ *notices }

func (n endNotices) Ended(userID string) {
	n.note(func() {
		n.changed[userID]++
		n.ended[userID]++
	})
}

func (n *notices) count(of map[string]int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return of[alice]
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
			t.Fatalf("the feed was not told of %s within 5 s", what)
		}
	}
}

// watch starts the store's Watch and waits until it vouches for its notices.
func watch(t *testing.T, store session.Store, n *notices, feed session.Feed) (<-chan error, context.CancelFunc) {
	t.Helper()
	w, ok := store.(session.Watcher)
	if !ok {
		t.Skip("not a session.Watcher")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Watch(ctx, feed) }()
	t.Cleanup(cancel)
	n.until(t, "trust", func() bool { return n.trusted })
	return ended, cancel
}

// held reads alice's record, if the store announces nothing else.
func (s *suite) held(t *testing.T, store session.Store) {
	t.Helper()
	if !s.noticesOfReads {
		return
	}
	if _, err := store.Get(t.Context(), alice); !errors.Is(err, session.ErrNotFound) {
		noError(t, "Get", err)
	}
}

func (s *suite) watcherAnnounces(t *testing.T, store session.Store) {
	n := newNotices() // no EndFeed: it is told of ends as of changes
	ended, cancel := watch(t, store, n, n)
	next := func(what string, change func()) {
		t.Helper()
		s.held(t, store)
		before := n.count(n.changed)
		change()
		n.until(t, what, func() bool { return n.changed[alice] > before })
	}
	next("creating", func() { create(t, store, alice, "1") })
	next("replacing", func() { swap(t, store, wantValue(t, store, alice, "1"), record(alice, "2")) })
	next("deleting", func() { remove(t, store, wantValue(t, store, alice, "2")) })
	if l, ok := store.(session.Locker); ok {
		base := wantHeld(t, l, "me", true)
		next("creating under a lease", func() { swapLeased(t, l, "me", base, record(alice, "3")) })
	} else {
		create(t, store, alice, "3")
	}
	next("deleting whatever there is", func() { remove(t, store, nothing(alice)) })
	if log, ok := store.(session.LogoutLog); ok {
		next("a logout", func() { mark(t, log, nothing(alice), time.Now()) })
	}
	cancel()
	<-ended
}

// watcherTellsEnds: a watcher that tells ends from other changes tells every end
// and nothing else. One that does not calls Changed.
func (s *suite) watcherTellsEnds(t *testing.T, store session.Store) {
	n := newNotices()
	watch(t, store, n, endNotices{n})
	s.held(t, store)
	rec := create(t, store, alice, "1")
	n.until(t, "creating", func() bool { return n.changed[alice] > 0 })
	s.held(t, store)
	before := n.count(n.changed)
	rec = swap(t, store, rec, record(alice, "2"))
	n.until(t, "replacing", func() bool { return n.changed[alice] > before })
	if told := n.count(n.ended); told != 0 {
		t.Fatalf("the feed was told %d times that a session ended, want 0: it was created and replaced", told)
	}
	s.held(t, store)
	before = n.count(n.changed)
	remove(t, store, rec)
	n.until(t, "deleting", func() bool { return n.changed[alice] > before })
}

func (s *suite) watcherFlushes(t *testing.T, store session.Store) {
	n := newNotices()
	watch(t, store, n, n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.early {
		t.Fatal("Watch calls Trust before Flush, want Flush first")
	}
}

func (s *suite) watcherEnds(t *testing.T, store session.Store) {
	n := newNotices()
	ended, cancel := watch(t, store, n, n)
	cancel()
	select {
	case err := <-ended:
		wantError(t, "Watch whose context was cancelled", err, context.Canceled)
	case <-time.After(5 * time.Second):
		t.Fatal("Watch goes on 5 s after its context ended, want it to return")
	}
	create(t, store, alice, "1")
	if told := n.count(n.changed); told != 0 {
		t.Fatalf("the feed is told of %d changes after Watch returned, want none", told)
	}
}

// announcedInTime checks the order that a cache relies upon: once a write has
// returned, its notice comes without any further write.
func (s *suite) announcedInTime(t *testing.T, store session.Store) {
	n := newNotices()
	watch(t, store, n, n)
	rec := nothing(alice)
	for range 50 {
		s.held(t, store)
		before := n.count(n.changed)
		rec = swap(t, store, rec, record(alice, time.Now().String()))
		n.until(t, "a write", func() bool { return n.changed[alice] > before })
	}
}
