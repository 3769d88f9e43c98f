package storetest

import (
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
	noError(t, "Acquire", err)
	return lease, rec
}

// wantHeld has an owner ask for the lease, and checks whether they get it.
func wantHeld(t *testing.T, l session.Locker, owner string, want bool) session.Record {
	t.Helper()
	lease, rec := take(t, l, owner, time.Minute)
	if lease.Held != want {
		t.Fatalf("Acquire says that %q holds the lease: %v, want %v", owner, lease.Held, want)
	}
	return rec
}

func swapLeased(t *testing.T, l session.Locker, owner string, old, next session.Record) session.Record {
	t.Helper()
	rec, err := l.SwapLeased(t.Context(), owner, old, next)
	noError(t, "SwapLeased", err)
	return rec
}

func refusesSwapLeased(t *testing.T, why string, l session.Locker, owner string, old, next session.Record) {
	t.Helper()
	_, err := l.SwapLeased(t.Context(), owner, old, next)
	wantError(t, "SwapLeased "+why, err, session.ErrConflict)
}

func (s *suite) leaseHasOneHolder(t *testing.T, store session.Store) {
	l := locker(t, store)
	var held atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			lease, _, err := l.Acquire(t.Context(), alice, string(rune('a'+i)), time.Minute)
			if err != nil {
				t.Errorf("Acquire beside others: error %v, want none", err)
			}
			if lease.Held {
				held.Add(1)
			}
		})
	}
	all.Wait()
	if held.Load() != 1 {
		t.Fatalf("%d of 16 hold the lease, want 1", held.Load())
	}
	lease, _, err := l.Acquire(t.Context(), bob, "other", time.Minute)
	noError(t, "Acquire", err)
	if !lease.Held {
		t.Fatal("the lease on one user keeps another from theirs, want a lease per user")
	}
}

func (s *suite) leaseRunsOut(t *testing.T, store session.Store) {
	l := locker(t, store)
	take(t, l, "first", time.Minute)
	noError(t, "Release", l.Release(t.Context(), alice, "first", "", 0))
	take(t, l, "first", 3*shortly)
	wantHeld(t, l, "second", false)
	s.pass(4 * shortly)
	wantHeld(t, l, "second", true)
}

func (s *suite) ownerRenews(t *testing.T, store session.Store) {
	l := locker(t, store)
	take(t, l, "first", 3*shortly)
	wantHeld(t, l, "first", true) // for a minute from now on
	s.pass(4 * shortly)
	wantHeld(t, l, "second", false)
	if lease, _ := take(t, l, "first", 3*shortly); !lease.Held { // and no longer than asked for
		t.Fatal("the owner of a lease is refused it, want it renewed")
	}
	s.pass(4 * shortly)
	wantHeld(t, l, "second", true)
	wantHeld(t, l, "first", false)
}

func (s *suite) leaseComesWithRecord(t *testing.T, store session.Store) {
	l := locker(t, store)
	if rec := wantHeld(t, l, "first", true); rec.Exists() || rec.UserID != alice {
		t.Fatalf("the record beside the lease exists: %v, and is of %q, want none, of %s", rec.Exists(), rec.UserID, alice)
	}
	create(t, store, alice, "1")
	rec := wantHeld(t, l, "second", false)
	if rec.Value != "1" {
		t.Fatalf("the record beside a lease that is refused is %q, want %q", rec.Value, "1")
	}
	swap(t, store, rec, record(alice, "2")) // it is as Get would return it
}

func (s *suite) noteSpeaks(t *testing.T, store session.Store) {
	l := locker(t, store)
	wantHeld(t, l, "first", true)
	noError(t, "Release", l.Release(t.Context(), alice, "first", "out of order", 3*shortly))
	lease, _ := take(t, l, "second", time.Minute)
	if lease.Held || lease.Note != "out of order" {
		t.Fatalf("Acquire returned %+v, want the note %q and no lease", lease, "out of order")
	}
	s.pass(4 * shortly)
	wantHeld(t, l, "second", true)
	noError(t, "Release", l.Release(t.Context(), alice, "second", "", 0))
	wantHeld(t, l, "third", true)
}

func (s *suite) noteIsNobodys(t *testing.T, store session.Store) {
	l := locker(t, store)
	wantHeld(t, l, "first", true)
	noError(t, "Release", l.Release(t.Context(), alice, "first", "note", time.Minute))
	for _, owner := range []string{"", "note", "first"} {
		lease, rec := take(t, l, owner, time.Minute)
		if lease.Held {
			t.Fatalf("%q holds the lease in the place of which there is a note, want nobody to", owner)
		}
		refusesSwapLeased(t, "creating a record without the lease", l, owner, rec, record(alice, "x"))
		noError(t, "Release", l.Release(t.Context(), alice, owner, "", 0))
	}
}

func (s *suite) swapLeasedReleases(t *testing.T, store session.Store) {
	l := locker(t, store)
	swapLeased(t, l, "first", wantHeld(t, l, "first", true), record(alice, "1"))
	wantValue(t, store, alice, "1")
	base := wantHeld(t, l, "second", true)
	refusesSwapLeased(t, "of an absence, where a record is", l, "second", nothing(alice), record(alice, "x"))
	wantHeld(t, l, "third", false) // after an error the lease is as it was
	swapLeased(t, l, "second", base, record(alice, "2"))
	wantHeld(t, l, "third", true)
}

func (s *suite) overtakenCanReplace(t *testing.T, store session.Store) {
	l := locker(t, store)
	base := create(t, store, alice, "base")
	take(t, l, "slow", shortly)
	s.pass(2 * shortly)
	wantHeld(t, l, "quick", true)
	swapLeased(t, l, "slow", base, record(alice, "of slow"))
	wantHeld(t, l, "third", false) // the lease of quick is untouched
	refusesSwapLeased(t, "of a record that was replaced", l, "quick", base, record(alice, "of quick"))
	wantValue(t, store, alice, "of slow")
}

func (s *suite) overtakenCannotCreate(t *testing.T, store session.Store) {
	l := locker(t, store)
	take(t, l, "slow", shortly)
	s.pass(2 * shortly)
	refusesSwapLeased(t, "creating a record when the lease has run out", l, "slow", nothing(alice), record(alice, "late"))
	wantHeld(t, l, "quick", true)
	refusesSwapLeased(t, "creating a record when another holds the lease", l, "slow", nothing(alice), record(alice, "late"))
	wantNothing(t, store, alice)
}

func (s *suite) overtakenCannotRelease(t *testing.T, store session.Store) {
	l := locker(t, store)
	take(t, l, "slow", shortly)
	s.pass(2 * shortly)
	wantHeld(t, l, "quick", true)
	noError(t, "Release", l.Release(t.Context(), alice, "slow", "late", time.Minute))
	wantHeld(t, l, "third", false)
	wantHeld(t, l, "quick", true)
}

func (s *suite) deletingBreaksLease(t *testing.T, store session.Store) {
	l := locker(t, store)
	for what, old := range map[string]func() session.Record{
		"whatever there is":          func() session.Record { return nothing(alice) },
		"a record":                   func() session.Record { return create(t, store, alice, "1") },
		"a record that is not there": func() session.Record { return record(alice, "never there") },
		"an absence":                 func() session.Record { _, rec := take(t, l, "first", time.Minute); return rec },
	} {
		end := old()
		base := wantHeld(t, l, "first", true)
		remove(t, store, end)
		for _, from := range []session.Record{base, nothing(alice)} {
			refusesSwapLeased(t, "under a lease that was broken by deleting "+what, l, "first", from, record(alice, "late"))
		}
		wantNothing(t, store, alice)
		wantHeld(t, l, "second", true)
		noError(t, "Release", l.Release(t.Context(), alice, "second", "", 0))
	}
}

func (s *suite) refusedDeleteKeepsLease(t *testing.T, store session.Store) {
	l := locker(t, store)
	first := create(t, store, alice, "1")
	swap(t, store, first, record(alice, "2"))
	base := wantHeld(t, l, "first", true)
	wantError(t, "Delete of a record that was replaced", store.Delete(t.Context(), first), session.ErrConflict)
	wantHeld(t, l, "second", false)
	swapLeased(t, l, "first", base, record(alice, "3"))
}

func (s *suite) leaseIsNoRecord(t *testing.T, store session.Store) {
	l := locker(t, store)
	wantHeld(t, l, "first", true)
	wantNothing(t, store, alice)
	wantEmpty(t, "for a lease", store)
	noError(t, "Release", l.Release(t.Context(), alice, "first", "note", time.Minute))
	wantNothing(t, store, alice)
	wantEmpty(t, "for a note", store)
}

func (s *suite) lateLeasedCreationRefused(t *testing.T, store session.Store) {
	l := locker(t, store)
	absence(t, store, alice) // or skip
	was := wantHeld(t, l, "first", true)
	if was.Version == 0 {
		t.Skip("Acquire tells no versions of absences")
	}
	remove(t, store, nothing(alice))
	now := wantHeld(t, l, "first", true) // taken anew, by the same owner
	refusesSwapLeased(t, "of an absence that has ended, under a lease taken since", l, "first", was, record(alice, "late"))
	wantNothing(t, store, alice)
	wantHeld(t, l, "second", false) // after an error the lease is as it was
	swapLeased(t, l, "first", now, record(alice, "1"))
	wantValue(t, store, alice, "1")
}
