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
	"errors"
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

// WithFull tells how to make the stores full, so that they refuse whatever takes
// room, and how to give them room again. Without it the suite does not check
// what a full store has to do.
func WithFull(setFull func(full bool)) Option {
	return func(s *suite) { s.setFull = setFull }
}

// WithNoticesOfReads tells that Watch announces changes only of what has been read
// since it last changed. The suite then reads before each change.
func WithNoticesOfReads() Option {
	return func(s *suite) { s.noticesOfReads = true }
}

type suite struct {
	newStore func(*testing.T) session.Store
	advance  func(time.Duration)
	setFull  func(bool)

	noticesOfReads bool
}

// Run runs the conformance suite, including the parts for session.Locker,
// session.Watcher, session.LogoutLog, session.TrailLog and session.Lister if the store
// implements them, and for
// versions of absences if it tells them. newStore returns an empty store, which
// it also cleans up.
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
		"DeletingNothingIsNoError":        s.deleteNothing,
		"RecordsExpire":                   s.recordsExpire,
		"ExpiryFollowsTheLastSwap":        s.expiryFollows,
		"WithoutExpiryRecordsStay":        s.zeroExpiryStays,
		"ExpiredRecordIsNoRecord":         s.expiredIsNoRecord,
		"AllYieldsEveryRecordOnce":        s.allYieldsOnce,
		"AllEndsWhenTheCallerHasEnough":   s.allEndsEarly,
		"LargeRecordsAreListedWhole":      s.largeRecordsListed,
		"ValuesAreOpaque":                 s.valuesAreOpaque,
		"UserIDsAreOpaque":                s.userIDsAreOpaque,
		"ContextsEndCalls":                s.contextsEndCalls,
		"AbsenceCanBeNamed":               s.absenceCanBeNamed,
		"LateCreationIsRefused":           s.lateCreationRefused,
		"EndedAbsenceIsAnotherOne":        s.endedAbsence,
		"DeleteRefusesAnotherAbsence":     s.deleteRefusesAnotherAbsence,
		"CreatingAndDeletingRace":         s.creatingAndDeletingRace,
		"LeaseHasOneHolder":               s.leaseHasOneHolder,
		"LeaseRunsOut":                    s.leaseRunsOut,
		"OwnerRenewsTheLease":             s.ownerRenews,
		"LeaseComesWithTheRecord":         s.leaseComesWithRecord,
		"NoteSpeaksForAWhile":             s.noteSpeaks,
		"NoteIsNobodysLease":              s.noteIsNobodys,
		"SwapLeasedReleases":              s.swapLeasedReleases,
		"OvertakenHolderCanReplace":       s.overtakenCanReplace,
		"OvertakenHolderCannotCreate":     s.overtakenCannotCreate,
		"OvertakenHolderCannotRelease":    s.overtakenCannotRelease,
		"DeletingBreaksTheLease":          s.deletingBreaksLease,
		"RefusedDeleteKeepsTheLease":      s.refusedDeleteKeepsLease,
		"LeaseIsNoRecord":                 s.leaseIsNoRecord,
		"LateCreationUnderALeaseRefused":  s.lateLeasedCreationRefused,
		"LogoutIsNotedWithTheDelete":      s.logoutNoted,
		"LatestLogoutIsTold":              s.latestLogoutTold,
		"RefusedLogoutIsNotNoted":         s.refusedLogoutNotNoted,
		"DeleteKeepsTheNote":              s.deleteKeepsNote,
		"NoteOfALogoutLasts":              s.noteOfLogoutLasts,
		"NoteOfALogoutIsNoRecord":         s.logoutIsNoRecord,
		"LogoutTakesNoRoom":               s.logoutTakesNoRoom,
		"EventsAreNotedWithTheWrite":      s.eventsNoted,
		"RefusedWriteNotesNothing":        s.refusedNotesNothing,
		"RepeatedEventsAreCounted":        s.repeatsCounted,
		"TrailHasTheNewestEvents":         s.newestEvents,
		"TrailOutlivesTheRecord":          s.trailOutlives,
		"WatcherAnnouncesEveryChange":     s.watcherAnnounces,
		"WatcherTellsTheEndOfASession":    s.watcherTellsEnds,
		"WatcherFlushesBeforeItTrusts":    s.watcherFlushes,
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

// nothing stands for any absence of a record.
func nothing(userID string) session.Record { return session.Record{UserID: userID} }

// shortly is how long things last that are to run out. pass(2*shortly) is enough
// for that, also with a store that counts in whole milliseconds.
const shortly = 40 * time.Millisecond

// pass lets d go by for the store.
func (s *suite) pass(d time.Duration) {
	if s.advance != nil {
		s.advance(d)
		return
	}
	<-time.After(d)
}

func noError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: error %v, want none", what, err)
	}
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: error %v, want %v", what, got, want)
	}
}

// swap is a Swap that has to succeed.
func swap(t *testing.T, store session.Store, old, next session.Record) session.Record {
	t.Helper()
	rec, err := store.Swap(t.Context(), old, next)
	noError(t, "Swap", err)
	return rec
}

// create makes a record in the place of any absence.
func create(t *testing.T, store session.Store, userID, value string) session.Record {
	t.Helper()
	return swap(t, store, nothing(userID), record(userID, value))
}

func refusesSwap(t *testing.T, why string, store session.Store, old, next session.Record) {
	t.Helper()
	_, err := store.Swap(t.Context(), old, next)
	wantError(t, "Swap "+why, err, session.ErrConflict)
}

func remove(t *testing.T, store session.Store, old session.Record) {
	t.Helper()
	noError(t, "Delete", store.Delete(t.Context(), old))
}

func wantValue(t *testing.T, store session.Store, userID, want string) session.Record {
	t.Helper()
	got, err := store.Get(t.Context(), userID)
	noError(t, "Get of "+userID, err)
	if got.Value != want || got.UserID != userID {
		t.Fatalf("Get of %s returned %q of %q, want %q", userID, clip(got.Value), got.UserID, clip(want))
	}
	return got
}

func wantNothing(t *testing.T, store session.Store, userID string) {
	t.Helper()
	rec, err := store.Get(t.Context(), userID)
	wantError(t, "Get of "+userID+", of whom nothing should be stored", err, session.ErrNotFound)
	if rec.Exists() {
		t.Fatalf("Get of %s returned a record beside ErrNotFound, want none", userID)
	}
}

// wantEmpty checks that All finds no record.
func wantEmpty(t *testing.T, why string, store session.Store) {
	t.Helper()
	for rec, err := range store.All(t.Context()) {
		noError(t, "All", err)
		t.Fatalf("All yields %q of %s %s, want nothing", clip(rec.Value), rec.UserID, why)
	}
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
