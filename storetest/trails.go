package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mana/session"
)

func trailLog(t *testing.T, store session.Store) session.TrailLog {
	t.Helper()
	log, ok := store.(session.TrailLog)
	if !ok {
		t.Skip("not a session.TrailLog")
	}
	return log
}

// wantTrail checks the events of a user's trail, the newest first, and returns it.
func wantTrail(t *testing.T, log session.TrailLog, userID string, want ...string) []session.TrailEntry {
	t.Helper()
	entries, err := log.Trail(t.Context(), userID)
	noError(t, "Trail", err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Event)
		if e.First.After(e.Last) || e.Count < 1 || time.Since(e.Last).Abs() > time.Hour {
			t.Fatalf("the entry of %q has happened %d times, from %v to %v", e.Event, e.Count, e.First, e.Last)
		}
	}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Fatalf("the trail of %s is %q, want %q", userID, got, want)
	}
	return entries
}

func read(t *testing.T, store session.Store) session.Record {
	t.Helper()
	rec, err := store.Get(t.Context(), alice)
	noError(t, "Get", err)
	return rec
}

// swapWith writes a record with an event.
func swapWith(t *testing.T, store session.Store, old session.Record, value, event string) session.Record {
	t.Helper()
	next := record(alice, value)
	next.Event = event
	stored, err := store.Swap(t.Context(), old, next)
	noError(t, "Swap", err)
	if stored.Event != "" {
		t.Fatalf("Swap returned the event %q, want none", stored.Event)
	}
	return stored
}

func (s *suite) eventsNoted(t *testing.T, store session.Store) {
	log := trailLog(t, store)
	wantTrail(t, log, alice)
	rec := swapWith(t, store, nothing(alice), "1", `{"k":"began é"}`)
	rec = swapWith(t, store, rec, "2", "")
	entries := wantTrail(t, log, alice, `{"k":"began é"}`)
	if ends := entries[0].Ends; time.Until(ends.Add(-time.Hour)).Abs() > time.Minute {
		t.Fatalf("the record ends at %v according to the trail, want in an hour", ends)
	}
	if got := read(t, store); got.Event != "" || got.Value != "2" {
		t.Fatalf("Get returned %q with the event %q, want %q without", got.Value, got.Event, "2")
	}
	rec.Event = "ended"
	noError(t, "Delete", store.Delete(t.Context(), rec))
	entries = wantTrail(t, log, alice, "ended", `{"k":"began é"}`)
	if !entries[0].Ends.IsZero() {
		t.Fatalf("what was deleted ends at %v according to the trail, want no time", entries[0].Ends)
	}
	wantTrail(t, log, bob)
	wantNothing(t, store, alice)
	if locker, ok := store.(session.Locker); ok {
		_, _, err := locker.Acquire(t.Context(), alice, "a", time.Minute)
		noError(t, "Acquire", err)
		leased := record(alice, "3")
		leased.Event = "began again"
		_, err = locker.SwapLeased(t.Context(), "a", nothing(alice), leased)
		noError(t, "SwapLeased", err)
		wantTrail(t, log, alice, "began again", "ended", `{"k":"began é"}`)
	}
	if logouts, ok := store.(session.LogoutLog); ok {
		old := read(t, store)
		old.Event = "logged out"
		mark(t, logouts, old, now())
		if got := wantTrail(t, log, alice, "logged out", "began again", "ended", `{"k":"began é"}`); got[0].Count != 1 {
			t.Fatalf("the logout is noted %d times", got[0].Count)
		}
	}
}

func (s *suite) refusedNotesNothing(t *testing.T, store session.Store) {
	log := trailLog(t, store)
	rec := swapWith(t, store, nothing(alice), "1", "began")
	other := record(alice, "other")
	other.Version, other.Event = rec.Version+1, "ended"
	wantError(t, "Delete", store.Delete(t.Context(), other), session.ErrConflict)
	next := record(alice, "2")
	next.Event = "refreshed"
	_, err := store.Swap(t.Context(), other, next)
	wantError(t, "Swap", err, session.ErrConflict)
	wantTrail(t, log, alice, "began")
}

func (s *suite) repeatsCounted(t *testing.T, store session.Store) {
	log := trailLog(t, store)
	rec := swapWith(t, store, nothing(alice), "1", "began")
	for i, event := range []string{"~by link", "~by link", "~by token", "~by link", "stop", "~by link", "began"} {
		rec = swapWith(t, store, rec, fmt.Sprint("v", i), event)
		s.pass(2 * time.Millisecond)
		if s.advance != nil { // events may be dated by this process's clock all the same
			time.Sleep(2 * time.Millisecond)
		}
	}
	entries := wantTrail(t, log, alice, "began", "~by link", "stop", "~by link", "~by token", "began")
	if e := entries[3]; e.Count != 3 || !e.First.Before(e.Last) {
		t.Fatalf("3 equal events count as %d, from %v to %v", e.Count, e.First, e.Last)
	}
	if e := entries[0]; e.Count != 1 {
		t.Fatalf("an event without the mark counts as %d", e.Count)
	}
}

func (s *suite) newestEvents(t *testing.T, store session.Store) {
	log := trailLog(t, store)
	rec := nothing(alice)
	var want []string
	for i := range 12 {
		event := fmt.Sprint("event ", i)
		rec = swapWith(t, store, rec, fmt.Sprint("v", i), event)
		want = append([]string{event}, want...)
	}
	wantTrail(t, log, alice, want[:8]...)
}

func (s *suite) trailOutlives(t *testing.T, store session.Store) {
	log := trailLog(t, store)
	rec := swapWith(t, store, nothing(alice), "1", "began")
	brief := record(alice, "2")
	brief.Expires, brief.Event = time.Now().Add(shortly), "shortened"
	swap(t, store, rec, brief)
	s.pass(2 * shortly)
	wantNothing(t, store, alice)
	wantTrail(t, log, alice, "shortened", "began")
}
