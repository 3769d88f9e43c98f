package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mana/session"
)

func (s *suite) getOfNothing(t *testing.T, store session.Store) {
	wantNothing(t, store, alice)
	wantEmpty(t, "of an empty store", store)
}

func (s *suite) swapCreatesAndReplaces(t *testing.T, store session.Store) {
	created := create(t, store, alice, "1")
	if created.Value != "1" || created.UserID != alice {
		t.Fatalf("Swap returned %q of %q, want what a later Get returns: %q of %q", created.Value, created.UserID, "1", alice)
	}
	// Both what Swap returned and what Get returns can be swapped against.
	swap(t, store, created, record(alice, "2"))
	swap(t, store, wantValue(t, store, alice, "2"), record(alice, "3"))
	wantValue(t, store, alice, "3")
	wantNothing(t, store, bob)
	// next says whose record it is.
	swap(t, store, session.Record{}, record(bob, "b"))
	wantValue(t, store, bob, "b")
}

func (s *suite) swapRefusesChanged(t *testing.T, store session.Store) {
	first := create(t, store, alice, "1")
	refusesSwap(t, "of an absence, where a record is", store, nothing(alice), record(alice, "x"))
	wantValue(t, store, alice, "1")
	second := swap(t, store, first, record(alice, "2"))
	refusesSwap(t, "of a record that was replaced", store, first, record(alice, "x"))
	wantValue(t, store, alice, "2")
	remove(t, store, second)
	refusesSwap(t, "of a record that was deleted", store, second, record(alice, "x"))
	wantNothing(t, store, alice)
}

func (s *suite) oneSwapWins(t *testing.T, store session.Store) {
	base := create(t, store, alice, "base")
	var wins atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			switch _, err := store.Swap(t.Context(), base, record(alice, fmt.Sprint(i))); {
			case err == nil:
				wins.Add(1)
			case !errors.Is(err, session.ErrConflict):
				t.Errorf("Swap beside others: error %v, want none or ErrConflict", err)
			}
		})
	}
	all.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of 16 concurrent swaps of one record succeeded, want 1", wins.Load())
	}
}

func (s *suite) deleteRefusesChanged(t *testing.T, store session.Store) {
	first := create(t, store, alice, "1")
	second := swap(t, store, first, record(alice, "2"))
	wantError(t, "Delete of a record that was replaced", store.Delete(t.Context(), first), session.ErrConflict)
	remove(t, store, wantValue(t, store, alice, "2"))
	wantNothing(t, store, alice)
	third := create(t, store, alice, "3")
	wantError(t, "Delete of a record that was deleted, where another is", store.Delete(t.Context(), second), session.ErrConflict)
	wantValue(t, store, alice, "3")
	remove(t, store, third)
}

func (s *suite) deleteWhatever(t *testing.T, store session.Store) {
	create(t, store, alice, "1")
	create(t, store, bob, "b")
	remove(t, store, nothing(alice))
	wantNothing(t, store, alice)
	wantValue(t, store, bob, "b")
	create(t, store, alice, "again")
}

func (s *suite) deleteNothing(t *testing.T, store session.Store) {
	remove(t, store, nothing(alice))
	remove(t, store, record(alice, "never there"))
	rec := create(t, store, alice, "1")
	remove(t, store, rec)
	remove(t, store, rec)
	wantNothing(t, store, alice)
}

func (s *suite) recordsExpire(t *testing.T, store session.Store) {
	short := record(alice, "short")
	short.Expires = time.Now().Add(shortly)
	swap(t, store, nothing(alice), short)
	s.pass(2 * shortly)
	wantNothing(t, store, alice)
}

func (s *suite) expiryFollows(t *testing.T, store session.Store) {
	s.replaceInTime(t, store, create(t, store, alice, "long"), record(alice, "long again"))
	s.pass(2 * shortly)
	long := wantValue(t, store, alice, "long again")
	short := record(alice, "short again")
	short.Expires = time.Now().Add(shortly)
	swap(t, store, long, short)
	s.pass(2 * shortly)
	wantNothing(t, store, alice)
}

func (s *suite) zeroExpiryStays(t *testing.T, store session.Store) {
	s.replaceInTime(t, store, nothing(alice), session.Record{UserID: alice, Value: "stays"})
	swap(t, store, nothing(bob), session.Record{UserID: bob, Value: "stays"})
	s.pass(2 * shortly)
	remove(t, store, wantValue(t, store, alice, "stays"))
	swap(t, store, wantValue(t, store, bob, "stays"), record(bob, "next"))
}

// replaceInTime puts a record that expires shortly in the place of old, and next
// in its place before it does. On a machine under load that may take more than
// one attempt.
func (s *suite) replaceInTime(t *testing.T, store session.Store, old, next session.Record) {
	t.Helper()
	for life := shortly; ; life *= 2 {
		short := record(alice, "short")
		short.Expires = time.Now().Add(life)
		short = swap(t, store, old, short)
		_, err := store.Swap(t.Context(), short, next)
		if errors.Is(err, session.ErrConflict) && time.Now().After(short.Expires) && life < time.Second {
			remove(t, store, nothing(alice))
			old = nothing(alice)
			continue
		}
		noError(t, "Swap", err)
		return
	}
}

func (s *suite) expiredIsNoRecord(t *testing.T, store session.Store) {
	expired := func() session.Record {
		short := record(alice, "short")
		short.Expires = time.Now().Add(shortly)
		stored := swap(t, store, nothing(alice), short)
		s.pass(2 * shortly)
		return stored
	}
	old := expired()
	refusesSwap(t, "of a record that has expired", store, old, record(alice, "x"))
	wantNothing(t, store, alice)
	created := create(t, store, alice, "in its place")
	remove(t, store, created)
	remove(t, store, expired())
	if l, ok := store.(session.Locker); ok {
		expired()
		lease, rec, err := l.Acquire(t.Context(), alice, "me", time.Minute)
		noError(t, "Acquire", err)
		if !lease.Held || rec.Exists() {
			t.Fatalf("Acquire beside an expired record: held %v, record exists %v, want the lease and no record", lease.Held, rec.Exists())
		}
		_, err = l.SwapLeased(t.Context(), "me", rec, record(alice, "new"))
		noError(t, "SwapLeased in the place of an expired record", err)
		wantValue(t, store, alice, "new")
	}
}

func (s *suite) allYieldsOnce(t *testing.T, store session.Store) {
	const users = 2500 // more than one page of most engines
	want := make(map[string]string, users)
	var workers sync.WaitGroup
	next := make(chan int)
	for range 32 {
		workers.Go(func() {
			for i := range next {
				userID := fmt.Sprintf("@user%d:matrix.example", i)
				if _, err := store.Swap(t.Context(), nothing(userID), record(userID, fmt.Sprint(i))); err != nil {
					t.Errorf("Swap: error %v, want none", err)
				}
			}
		})
	}
	for i := range users {
		want[fmt.Sprintf("@user%d:matrix.example", i)] = fmt.Sprint(i)
		next <- i
	}
	close(next)
	workers.Wait()
	listed(t, store, maps.Clone(want))
	for rec, err := range store.All(t.Context()) {
		noError(t, "All", err)
		if value, ok := want[rec.UserID]; !ok || value != rec.Value {
			t.Fatalf("All yields %q for %s, want %q, once", rec.Value, rec.UserID, value)
		}
		delete(want, rec.UserID)
		if rec.UserID == "@user7:matrix.example" {
			remove(t, store, rec) // what is yielded can be deleted
		}
	}
	if len(want) != 0 {
		t.Fatalf("All yields all but %d of %d records, want all", len(want), users)
	}
	wantNothing(t, store, "@user7:matrix.example")
}

// listed checks the List of a store that has one against what is stored.
func listed(t *testing.T, store session.Store, want map[string]string) {
	t.Helper()
	lister, ok := store.(session.Lister)
	if !ok {
		return
	}
	for rec, err := range lister.List(t.Context(), true) {
		noError(t, "List", err)
		if value, ok := want[rec.UserID]; !ok || rec.Value != "" && rec.Value != value {
			t.Fatalf("List yields %q for %s, want %q or no value, once", rec.Value, rec.UserID, value)
		}
		delete(want, rec.UserID)
	}
	if len(want) != 0 {
		t.Fatalf("List misses %d records", len(want))
	}
}

func (s *suite) allEndsEarly(t *testing.T, store session.Store) {
	for i := range 20 {
		create(t, store, fmt.Sprintf("@user%d:matrix.example", i), "v")
	}
	yielded := 0
	for _, err := range store.All(t.Context()) {
		noError(t, "All", err)
		if yielded++; yielded == 3 {
			break
		}
	}
	if yielded != 3 {
		t.Fatalf("All yielded %d records to a caller who had enough after 3", yielded)
	}
}

func (s *suite) largeRecordsListed(t *testing.T, store session.Store) {
	want := make(map[string]string)
	for i, size := range []int{1, 4095, 4096, 4097, 65536, 1 << 20} {
		userID := fmt.Sprintf("@user%d:matrix.example", i)
		want[userID] = strings.Repeat(string(rune('a'+i)), size)
		create(t, store, userID, want[userID])
	}
	for rec, err := range store.All(t.Context()) {
		noError(t, "All", err)
		if rec.Value != want[rec.UserID] {
			t.Fatalf("All yields %d bytes for %s, want the %d that are stored, once", len(rec.Value), rec.UserID, len(want[rec.UserID]))
		}
		delete(want, rec.UserID)
		swap(t, store, rec, record(rec.UserID, "next"))
	}
	if len(want) != 0 {
		t.Fatalf("All leaves out %d large records, want all", len(want))
	}
}

func (s *suite) valuesAreOpaque(t *testing.T, store session.Store) {
	for i, value := range []string{"\x00\xff\r\n", "{}", string(make([]byte, 64<<10))} {
		userID := fmt.Sprintf("@user%d:matrix.example", i)
		create(t, store, userID, value)
		swap(t, store, wantValue(t, store, userID, value), record(userID, "next"))
	}
}

func (s *suite) userIDsAreOpaque(t *testing.T, store session.Store) {
	ids := []string{
		"@a:h", "@A:h", "@a:H", "@a/b:h", "@a%2Fb:h", "@a*:h", "@a?:h", "@[a]:h", "@a{b}c:h", "@a}b:h", "@a{}b:h",
		"@ü:h", `@a\b:h`, "@a:[::1]:8448",
	}
	for i, userID := range ids {
		create(t, store, userID, fmt.Sprint(i))
	}
	for i, userID := range ids {
		wantValue(t, store, userID, fmt.Sprint(i))
	}
	yielded := 0
	for _, err := range store.All(t.Context()) {
		noError(t, "All", err)
		yielded++
	}
	if yielded != len(ids) {
		t.Fatalf("All yields %d records, want %d", yielded, len(ids))
	}
	if locker, ok := store.(session.Locker); ok {
		for i, userID := range ids {
			lease, rec, err := locker.Acquire(t.Context(), userID, "me", time.Minute)
			noError(t, "Acquire", err)
			if !lease.Held || rec.Value != fmt.Sprint(i) {
				t.Fatalf("Acquire of %s: held %v, record %q, want the lease and %d", userID, lease.Held, rec.Value, i)
			}
			_, err = locker.SwapLeased(t.Context(), "me", rec, record(userID, "next"))
			noError(t, "SwapLeased", err)
		}
	}
	if log, ok := store.(session.TrailLog); ok {
		for i, userID := range ids {
			next := record(userID, "noted")
			next.Event = fmt.Sprint("event ", i)
			swap(t, store, wantOne(t, store, userID), next)
		}
		for i, userID := range ids {
			wantTrail(t, log, userID, fmt.Sprint("event ", i))
		}
	}
	for _, userID := range ids {
		remove(t, store, wantOne(t, store, userID))
		wantNothing(t, store, userID)
	}
	wantEmpty(t, "after all were deleted", store)
}

func wantOne(t *testing.T, store session.Store, userID string) session.Record {
	t.Helper()
	rec, err := store.Get(t.Context(), userID)
	noError(t, "Get of "+userID, err)
	return rec
}

func (s *suite) contextsEndCalls(t *testing.T, store session.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ends := func(what string, err error) {
		t.Helper()
		wantError(t, what+" with a context that has ended", err, context.Canceled)
	}
	_, err := store.Get(ctx, alice)
	ends("Get", err)
	_, err = store.Swap(ctx, nothing(alice), record(alice, "1"))
	ends("Swap", err)
	ends("Delete", store.Delete(ctx, nothing(alice)))
	wantNothing(t, store, alice)
	create(t, store, alice, "1")
	var last error
	for _, err := range store.All(ctx) {
		last = err
	}
	ends("All", last)
	if locker, ok := store.(session.Locker); ok {
		_, _, err = locker.Acquire(ctx, alice, "me", time.Minute)
		ends("Acquire", err)
		ends("Release", locker.Release(ctx, alice, "me", "", 0))
		_, err = locker.SwapLeased(ctx, "me", nothing(alice), record(alice, "x"))
		ends("SwapLeased", err)
	}
	if log, ok := store.(session.LogoutLog); ok {
		ends("MarkLoggedOut", log.MarkLoggedOut(ctx, nothing(alice), time.Now(), time.Hour))
		_, _, err := log.LoggedOutAt(ctx, alice)
		ends("LoggedOutAt", err)
	}
	if log, ok := store.(session.TrailLog); ok {
		_, err := log.Trail(ctx, alice)
		ends("Trail", err)
	}
	if lister, ok := store.(session.Lister); ok {
		for _, withEnds := range []bool{true, false} {
			last = nil
			for _, err := range lister.List(ctx, withEnds) {
				last = err
			}
			ends("List", last)
		}
	}
	wantValue(t, store, alice, "1")
}
