package storetest

import (
	"testing"
	"time"

	"github.com/mana/session"
)

func logoutLog(t *testing.T, store session.Store) session.LogoutLog {
	t.Helper()
	log, ok := store.(session.LogoutLog)
	if !ok {
		t.Skip("not a session.LogoutLog")
	}
	return log
}

func mark(t *testing.T, log session.LogoutLog, old session.Record, at time.Time) {
	t.Helper()
	noError(t, "MarkLoggedOut", log.MarkLoggedOut(t.Context(), old, at, time.Hour))
}

// wantLogout checks what LoggedOutAt tells of a user, and returns the record.
func wantLogout(t *testing.T, log session.LogoutLog, userID string, want time.Time) session.Record {
	t.Helper()
	rec, at, err := log.LoggedOutAt(t.Context(), userID)
	noError(t, "LoggedOutAt", err)
	if !at.Equal(want) {
		t.Fatalf("%s was logged out at %v according to LoggedOutAt, want %v", userID, at, want)
	}
	if rec.UserID != userID {
		t.Fatalf("LoggedOutAt of %s returned a record of %q, want its own user", userID, rec.UserID)
	}
	return rec
}

func now() time.Time { return time.Now().Truncate(time.Microsecond) }

func (s *suite) logoutNoted(t *testing.T, store session.Store) {
	log, at := logoutLog(t, store), now()
	wantLogout(t, log, alice, time.Time{})
	rec := create(t, store, alice, "1")
	if got := wantLogout(t, log, alice, time.Time{}); got.Value != "1" {
		t.Fatalf("LoggedOutAt returned the record %q, want %q", got.Value, "1")
	}
	mark(t, log, rec, at)
	wantNothing(t, store, alice)
	wantLogout(t, log, alice, at)
	wantLogout(t, log, bob, time.Time{})

	create(t, store, alice, "2")
	if got := wantLogout(t, log, alice, at); got.Value != "2" { // a login does not undo the note
		t.Fatalf("LoggedOutAt returned the record %q, want %q", got.Value, "2")
	}
	mark(t, log, nothing(alice), at.Add(time.Second)) // whatever there is
	wantNothing(t, store, alice)
	now := wantLogout(t, log, alice, at.Add(time.Second))
	mark(t, log, now, at.Add(2*time.Second)) // nothing, by its version
	wantLogout(t, log, alice, at.Add(2*time.Second))
	if now.Version != 0 {
		refusesSwap(t, "of an absence that a logout ended", store, now, record(alice, "late"))
	}
	mark(t, log, rec, at.Add(3*time.Second)) // a record that is not there any more
	wantLogout(t, log, alice, at.Add(3*time.Second))
}

func (s *suite) latestLogoutTold(t *testing.T, store session.Store) {
	log, at := logoutLog(t, store), now()
	for _, step := range []struct{ noted, want time.Duration }{
		{0, 0}, {-time.Hour, 0}, {time.Minute, time.Minute}, {time.Second, time.Minute}, {-time.Minute, time.Minute},
	} {
		mark(t, log, nothing(alice), at.Add(step.noted))
		wantLogout(t, log, alice, at.Add(step.want))
	}
}

func (s *suite) refusedLogoutNotNoted(t *testing.T, store session.Store) {
	log := logoutLog(t, store)
	first := create(t, store, alice, "1")
	swap(t, store, first, record(alice, "2"))
	err := log.MarkLoggedOut(t.Context(), first, now(), time.Hour)
	wantError(t, "MarkLoggedOut of a record that was replaced", err, session.ErrConflict)
	wantValue(t, store, alice, "2")
	wantLogout(t, log, alice, time.Time{})
}

func (s *suite) deleteKeepsNote(t *testing.T, store session.Store) {
	log, at := logoutLog(t, store), now()
	mark(t, log, nothing(alice), at)
	remove(t, store, create(t, store, alice, "1"))
	wantLogout(t, log, alice, at)
	remove(t, store, nothing(bob))
	wantLogout(t, log, bob, time.Time{}) // nobody logged out
}

func (s *suite) noteOfLogoutLasts(t *testing.T, store session.Store) {
	if s.advance == nil {
		t.Skip("time does not pass quickly here: see WithAdvance")
	}
	log, at := logoutLog(t, store), now()
	const keep = 30 * 24 * time.Hour
	noError(t, "MarkLoggedOut", log.MarkLoggedOut(t.Context(), nothing(alice), at, keep))
	s.pass(keep / 2)
	remove(t, store, nothing(alice)) // shortens it no more than
	mark(t, log, nothing(alice), at) // a shorter keep does
	s.pass(keep/2 - time.Hour)
	wantLogout(t, log, alice, at)
}

func (s *suite) logoutIsNoRecord(t *testing.T, store session.Store) {
	log := logoutLog(t, store)
	mark(t, log, nothing(alice), time.Now())
	wantNothing(t, store, alice)
	wantEmpty(t, "for the note of a logout", store)
	create(t, store, alice, "1")
	wantValue(t, store, alice, "1")
}

func (s *suite) logoutTakesNoRoom(t *testing.T, store session.Store) {
	log, at := logoutLog(t, store), now()
	if s.setFull == nil {
		t.Skip("it is not said how the store is filled: see WithFull")
	}
	rec := create(t, store, alice, "1")
	other := create(t, store, bob, "b")
	s.setFull(true)
	defer s.setFull(false)
	if _, err := store.Swap(t.Context(), other, record(bob, "bb")); err == nil {
		t.Fatal("Swap in a full store succeeds, want an error: is it full?")
	}
	mark(t, log, rec, at)
	wantNothing(t, store, alice)
	wantLogout(t, log, alice, at)
	mark(t, log, nothing(alice), at.Add(time.Second)) // of whom nothing is stored
	wantLogout(t, log, alice, at.Add(time.Second))
	mark(t, log, nothing("@new:matrix.example"), at) // of whom nothing was ever noted
	wantLogout(t, log, "@new:matrix.example", at)
	remove(t, store, other)
	wantNothing(t, store, bob)
}
