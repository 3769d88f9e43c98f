package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mana/session"
)

// absence returns the user's record, of whom nothing is stored, with the
// Version of this absence; or skips the test if the store tells none.
func absence(t *testing.T, store session.Store, userID string) session.Record {
	t.Helper()
	rec, err := store.Get(t.Context(), userID)
	wantError(t, "Get of nothing", err, session.ErrNotFound)
	if log, ok := store.(session.LogoutLog); ok && rec.Version == 0 {
		rec, _, err = log.LoggedOutAt(t.Context(), userID)
		noError(t, "LoggedOutAt", err)
	}
	if l, ok := store.(session.Locker); ok && rec.Version == 0 {
		const owner = "who looks for the absence"
		_, rec, err = l.Acquire(t.Context(), userID, owner, time.Minute)
		noError(t, "Acquire", err)
		noError(t, "Release", l.Release(t.Context(), userID, owner, "", 0))
	}
	if rec.Version == 0 {
		t.Skip("tells no versions of absences")
	}
	if rec.Exists() || rec.UserID != userID {
		t.Fatalf("the absence of %s is a record of %q (exists: %v), want one of %s that does not exist", userID, rec.UserID, rec.Exists(), userID)
	}
	return rec
}

func (s *suite) absenceCanBeNamed(t *testing.T, store session.Store) {
	was := absence(t, store, alice)
	if again := absence(t, store, alice); again.Version != was.Version {
		t.Fatalf("the version of an absence is %d and then %d, want the same: nothing was deleted", was.Version, again.Version)
	}
	created := swap(t, store, was, record(alice, "1"))
	refusesSwap(t, "of an absence that has ended", store, was, record(alice, "x"))
	swap(t, store, created, record(alice, "2"))
	wantValue(t, store, alice, "2")
}

func (s *suite) lateCreationRefused(t *testing.T, store session.Store) {
	was := absence(t, store, alice)
	remove(t, store, swap(t, store, was, record(alice, "1")))
	refusesSwap(t, "of an absence before a record that was deleted", store, was, record(alice, "late"))
	wantNothing(t, store, alice)
	now := absence(t, store, alice)
	if now.Version == was.Version {
		t.Fatalf("the version of the absence is %d before a record and after it was deleted, want another one", now.Version)
	}
	swap(t, store, now, record(alice, "2"))
	remove(t, store, nothing(alice)) // whatever there is
	for _, old := range []session.Record{was, now} {
		refusesSwap(t, "of an absence long ended", store, old, record(alice, "late"))
	}
	create(t, store, alice, "in the place of any absence")
}

// endedAbsence is a logout of a user of whom nothing is stored: what was about
// to be created must not be.
func (s *suite) endedAbsence(t *testing.T, store session.Store) {
	for what, old := range map[string]func() session.Record{
		"by its version":    func() session.Record { return absence(t, store, alice) },
		"whatever it is":    func() session.Record { return nothing(alice) },
		"by an old record":  func() session.Record { return record(alice, "never there") },
		"by a dead session": func() session.Record { rec := create(t, store, alice, "1"); remove(t, store, rec); return rec },
	} {
		end := old()
		was := absence(t, store, alice)
		remove(t, store, end)
		refusesSwap(t, "of an absence that was ended "+what, store, was, record(alice, "late"))
		wantNothing(t, store, alice)
	}
}

func (s *suite) deleteRefusesAnotherAbsence(t *testing.T, store session.Store) {
	was := absence(t, store, alice)
	rec := swap(t, store, was, record(alice, "1"))
	wantError(t, "Delete of an absence, where a record is", store.Delete(t.Context(), was), session.ErrConflict)
	wantValue(t, store, alice, "1")
	remove(t, store, rec)
	now := absence(t, store, alice)
	wantError(t, "Delete of an absence that has ended", store.Delete(t.Context(), was), session.ErrConflict)
	swap(t, store, now, record(alice, "the refused Delete changed nothing"))
}

// creatingAndDeletingRace: whoever was told that a Delete has succeeded finds
// nothing later that names an absence from before.
func (s *suite) creatingAndDeletingRace(t *testing.T, store session.Store) {
	absence(t, store, alice) // or skip
	for i := range 20 {
		userID := fmt.Sprintf("@racer%d:matrix.example", i)
		was := absence(t, store, userID)
		var both sync.WaitGroup
		both.Go(func() {
			if err := store.Delete(t.Context(), nothing(userID)); err != nil {
				t.Errorf("Delete beside a Swap: error %v, want none", err)
			}
		})
		both.Go(func() {
			if _, err := store.Swap(t.Context(), was, record(userID, "1")); err != nil && !errors.Is(err, session.ErrConflict) {
				t.Errorf("Swap beside a Delete: error %v, want none or ErrConflict", err)
			}
		})
		both.Wait()
		wantNothing(t, store, userID) // deleted, or never created
	}
}
