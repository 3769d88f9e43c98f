// Package storetest checks implementations of session.Store: a store is
// finished when Run passes on it.
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) session.Store {
//			return mystore.New(…) // empty
//		})
//	}
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mana/session"
)

// Option configures Run.
type Option func(*suite)

// WithAdvance tells how to let time pass for the store, for one whose clock
// does not run by itself. Without it the suite waits.
func WithAdvance(advance func(time.Duration)) Option {
	return func(s *suite) { s.advance = advance }
}

type suite struct {
	newStore func(*testing.T) session.Store
	advance  func(time.Duration)
}

// Run runs the conformance suite, including the parts for session.Locker,
// session.Watcher and session.Tombstoner if the store implements them. newStore
// returns an empty store, which it also cleans up.
func Run(t *testing.T, newStore func(*testing.T) session.Store, opts ...Option) {
	s := &suite{newStore: newStore}
	for _, opt := range opts {
		opt(s)
	}
	for name, test := range map[string]func(*testing.T, session.Store){
		"GetOfNothingIsNotFound":          s.getOfNothing,
		"SwapCreatesAndReplaces":          s.swapCreatesAndReplaces,
		"SwapRefusesAChangedRecord":       s.swapRefusesChanged,
		"OneOfManySwapsWins":              s.oneSwapWins,
		"DeleteRefusesAChangedRecord":     s.deleteRefusesChanged,
		"DeleteRemovesWhateverThereIs":    s.deleteWhatever,
		"RecordsExpire":                   s.recordsExpire,
		"ExpiryFollowsTheLastSwap":        s.expiryFollows,
		"AllYieldsEveryRecordOnce":        s.allYieldsOnce,
		"AllEndsWhenTheCallerHasEnough":   s.allEndsEarly,
		"ValuesAreOpaque":                 s.valuesAreOpaque,
		"UserIDsAreOpaque":                s.userIDsAreOpaque,
		"ContextsEndCalls":                s.contextsEndCalls,
		"LeaseHasOneHolder":               s.leaseHasOneHolder,
		"LeaseRunsOut":                    s.leaseRunsOut,
		"LeaseComesWithTheRecord":         s.leaseComesWithRecord,
		"NoteSpeaksForAWhile":             s.noteSpeaks,
		"SwapLeasedReleases":              s.swapLeasedReleases,
		"OvertakenHolderCanReplace":       s.overtakenCanReplace,
		"OvertakenHolderCannotCreate":     s.overtakenCannotCreate,
		"OvertakenHolderCannotRelease":    s.overtakenCannotRelease,
		"DeletingBreaksTheLease":          s.deletingBreaksLease,
		"ConditionalDeleteKeepsTheLease":  s.conditionalDeleteKeepsLease,
		"LeaseIsNoRecord":                 s.leaseIsNoRecord,
		"WatcherAnnouncesEveryChange":     s.watcherAnnounces,
		"WatcherEndsWithItsContext":       s.watcherEnds,
		"AnnouncedBeforeANewReadIsBelief": s.announcedInTime,
	} {
		t.Run(name, func(t *testing.T) { test(t, newStore(t)) })
	}
}

const alice, bob = "@alice:matrix.example", "@bob:matrix.example"

func record(userID, value string) session.Record {
	return session.Record{UserID: userID, Value: value, Expires: time.Now().Add(time.Hour)}
}

func nothing(userID string) session.Record { return session.Record{UserID: userID} }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error is %v, want %v", got, want)
	}
}

func wantValue(t *testing.T, store session.Store, userID, want string) session.Record {
	t.Helper()
	got := must[session.Record](t)(store.Get(t.Context(), userID))
	if got.Value != want || got.UserID != userID {
		t.Fatalf("record of %s is %q of %s, want %q", userID, got.Value, got.UserID, want)
	}
	return got
}

func wantNothing(t *testing.T, store session.Store, userID string) {
	t.Helper()
	_, err := store.Get(t.Context(), userID)
	wantError(t, err, session.ErrNotFound)
}

// pass lets d go by for the store.
func (s *suite) pass(d time.Duration) {
	if s.advance != nil {
		s.advance(d)
		return
	}
	<-time.After(d)
}

func (s *suite) getOfNothing(t *testing.T, store session.Store) {
	wantNothing(t, store, alice)
	noError(t, store.Delete(t.Context(), nothing(alice)))
	noError(t, store.Delete(t.Context(), record(alice, "long gone")))
}

func (s *suite) swapCreatesAndReplaces(t *testing.T, store session.Store) {
	created := must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "1")))
	if created.Value != "1" || created.UserID != alice {
		t.Fatalf("Swap returned %+v", created)
	}
	// Both what Swap returned and what Get returns can be swapped against.
	must[session.Record](t)(store.Swap(t.Context(), created, record(alice, "2")))
	read := wantValue(t, store, alice, "2")
	must[session.Record](t)(store.Swap(t.Context(), read, record(alice, "3")))
	wantValue(t, store, alice, "3")
	wantNothing(t, store, bob)
}

func (s *suite) swapRefusesChanged(t *testing.T, store session.Store) {
	first := must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "1")))
	_, err := store.Swap(t.Context(), nothing(alice), record(alice, "x"))
	wantError(t, err, session.ErrConflict)
	must[session.Record](t)(store.Swap(t.Context(), first, record(alice, "2")))
	_, err = store.Swap(t.Context(), first, record(alice, "x"))
	wantError(t, err, session.ErrConflict)
	second := wantValue(t, store, alice, "2")
	noError(t, store.Delete(t.Context(), second))
	_, err = store.Swap(t.Context(), second, record(alice, "x"))
	wantError(t, err, session.ErrConflict)
	wantNothing(t, store, alice)
}

func (s *suite) oneSwapWins(t *testing.T, store session.Store) {
	base := must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "base")))
	var wins atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			switch _, err := store.Swap(t.Context(), base, record(alice, fmt.Sprint(i))); {
			case err == nil:
				wins.Add(1)
			case !errors.Is(err, session.ErrConflict):
				t.Errorf("error is %v, want ErrConflict", err)
			}
		})
	}
	all.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of 16 swaps won", wins.Load())
	}
}

func (s *suite) deleteRefusesChanged(t *testing.T, store session.Store) {
	first := must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "1")))
	second := must[session.Record](t)(store.Swap(t.Context(), first, record(alice, "2")))
	wantError(t, store.Delete(t.Context(), first), session.ErrConflict)
	wantValue(t, store, alice, "2")
	noError(t, store.Delete(t.Context(), second))
	wantNothing(t, store, alice)
}

func (s *suite) deleteWhatever(t *testing.T, store session.Store) {
	must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "1")))
	must[session.Record](t)(store.Swap(t.Context(), nothing(bob), record(bob, "b")))
	noError(t, store.Delete(t.Context(), nothing(alice)))
	wantNothing(t, store, alice)
	wantValue(t, store, bob, "b")
	must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "again")))
}

func (s *suite) recordsExpire(t *testing.T, store session.Store) {
	short := record(alice, "short")
	short.Expires = time.Now().Add(30 * time.Millisecond)
	stored := must[session.Record](t)(store.Swap(t.Context(), nothing(alice), short))
	s.pass(60 * time.Millisecond)
	wantNothing(t, store, alice)
	_, err := store.Swap(t.Context(), stored, record(alice, "x"))
	wantError(t, err, session.ErrConflict)
	must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "new")))
	wantValue(t, store, alice, "new")
}

func (s *suite) expiryFollows(t *testing.T, store session.Store) {
	long := must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "long")))
	short := record(alice, "short")
	short.Expires = time.Now().Add(30 * time.Millisecond)
	must[session.Record](t)(store.Swap(t.Context(), long, short))
	s.pass(60 * time.Millisecond)
	wantNothing(t, store, alice)
}

func (s *suite) allYieldsOnce(t *testing.T, store session.Store) {
	const users = 2500 // more than one page of most engines
	want := make(map[string]string, users)
	for i := range users {
		userID, value := fmt.Sprintf("@user%d:matrix.example", i), fmt.Sprint(i)
		want[userID] = value
		must[session.Record](t)(store.Swap(t.Context(), nothing(userID), record(userID, value)))
	}
	for rec, err := range store.All(t.Context()) {
		noError(t, err)
		if want[rec.UserID] != rec.Value {
			t.Fatalf("yielded %q for %s, want %q (or yielded it twice)", rec.Value, rec.UserID, want[rec.UserID])
		}
		delete(want, rec.UserID)
		if rec.UserID == "@user7:matrix.example" {
			noError(t, store.Delete(t.Context(), rec)) // what is yielded can be deleted
		}
	}
	if len(want) != 0 {
		t.Fatalf("%d records were not yielded", len(want))
	}
	wantNothing(t, store, "@user7:matrix.example")
}

func (s *suite) allEndsEarly(t *testing.T, store session.Store) {
	for i := range 20 {
		userID := fmt.Sprintf("@user%d:matrix.example", i)
		must[session.Record](t)(store.Swap(t.Context(), nothing(userID), record(userID, "v")))
	}
	yielded := 0
	for _, err := range store.All(t.Context()) {
		noError(t, err)
		if yielded++; yielded == 3 {
			break
		}
	}
	if yielded != 3 {
		t.Fatalf("yielded %d after a break at 3", yielded)
	}
}

func (s *suite) valuesAreOpaque(t *testing.T, store session.Store) {
	for i, value := range []string{"\x00\xff\r\n", "{}", string(make([]byte, 64<<10))} {
		userID := fmt.Sprintf("@user%d:matrix.example", i)
		must[session.Record](t)(store.Swap(t.Context(), nothing(userID), record(userID, value)))
		read := wantValue(t, store, userID, value)
		must[session.Record](t)(store.Swap(t.Context(), read, record(userID, "next")))
	}
}

func (s *suite) userIDsAreOpaque(t *testing.T, store session.Store) {
	ids := []string{
		"@a:h", "@A:h", "@a:H", "@a/b:h", "@a%2Fb:h", "@a*:h", "@a?:h", "@[a]:h", "@a{b}c:h", "@a}b:h", "@a{}b:h",
		"@ü:h", `@a\b:h`, "@a:[::1]:8448",
	}
	for i, userID := range ids {
		must[session.Record](t)(store.Swap(t.Context(), nothing(userID), record(userID, fmt.Sprint(i))))
	}
	for i, userID := range ids {
		wantValue(t, store, userID, fmt.Sprint(i))
	}
	yielded := 0
	for _, err := range store.All(t.Context()) {
		noError(t, err)
		yielded++
	}
	if yielded != len(ids) {
		t.Fatalf("All yielded %d records, want %d", yielded, len(ids))
	}
	locker, ok := store.(session.Locker)
	if !ok {
		return
	}
	for i, userID := range ids {
		lease, rec, err := locker.Acquire(t.Context(), userID, "me", time.Minute)
		noError(t, err)
		if !lease.Held || rec.Value != fmt.Sprint(i) {
			t.Fatalf("lease on %s: held %v, with record %q, want %d", userID, lease.Held, rec.Value, i)
		}
		must[session.Record](t)(locker.SwapLeased(t.Context(), "me", rec, record(userID, "next")))
	}
}

func (s *suite) contextsEndCalls(t *testing.T, store session.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := store.Get(ctx, alice)
	wantError(t, err, context.Canceled)
	_, err = store.Swap(ctx, nothing(alice), record(alice, "1"))
	wantError(t, err, context.Canceled)
	wantError(t, store.Delete(ctx, nothing(alice)), context.Canceled)
	wantNothing(t, store, alice)
	must[session.Record](t)(store.Swap(t.Context(), nothing(alice), record(alice, "1")))
	var last error
	for _, err := range store.All(ctx) {
		last = err
	}
	wantError(t, last, context.Canceled)
	if locker, ok := store.(session.Locker); ok {
		_, _, err = locker.Acquire(ctx, alice, "me", time.Minute)
		wantError(t, err, context.Canceled)
		wantError(t, locker.Release(ctx, alice, "me", "", 0), context.Canceled)
	}
}
