package session

import (
	"context"
	"errors"
	"maps"
	mathrand "math/rand/v2"
	"sync"
	"time"
)

const (
	// failureFor is how long a failed refresh speaks for everybody: other
	// processes take its word instead of asking the failing server in turn.
	failureFor = time.Second

	// Waiting for another process to finish a refresh: its change notice ends
	// the wait, and looking again covers for a notice that never comes.
	pollFirst = 5 * time.Millisecond
	pollLast  = 100 * time.Millisecond
)

// takeLease returns what the store holds once this flight has the lease on the
// user or no need for it, because another process left what is wanted.
func (s *Service) takeLease(ctx context.Context, userID, owner string, r replacement) (snapshot, error) {
	if s.locker == nil {
		return s.readStore(ctx, userID)
	}
	for poll := pollFirst; ; poll = min(2*poll, pollLast) {
		changed, stop := s.near.watch(userID) // before looking, so as to miss nothing
		ticket, started := s.near.ticket(userID), time.Now()
		lease, rec, err := s.locker.Acquire(ctx, userID, owner, leaseTTL)
		if err = s.storeAnswered(ctx, "lease", started, err); err != nil {
			stop()
			s.giveBackLater(userID, owner)
			return snapshot{}, err
		}
		rec.UserID = userID
		snap, err := s.decode(ctx, rec, ticket, started)
		if err != nil {
			stop()
			if lease.Held {
				s.giveBack(ctx, userID, owner, "")
			}
			return snapshot{}, err
		}
		switch done := snap.login != nil && r.wanted(snap.login); {
		case lease.Held:
			stop()
			if done {
				s.giveBack(ctx, userID, owner, "")
			}
			return snap, nil
		case done:
			stop()
			return snap, nil
		case lease.Note != "":
			stop()
			return snapshot{}, errorOf(lease.Note)
		}
		if s.near.believing(time.Now()) {
			poll = pollLast
		}
		woken := false
		wait := time.NewTimer(poll)
		select {
		case <-changed:
			woken = true
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		stop()
		if ctx.Err() != nil {
			return snapshot{}, s.tookTooLong(ctx, "lease")
		}
		if woken { // most likely by what is wanted: no lease is needed to read it
			if snap, err = s.readStore(ctx, userID); err != nil || snap.login != nil && r.wanted(snap.login) {
				return snap, err
			}
		}
	}
}

// tookTooLong says why a flight's context ended.
func (s *Service) tookTooLong(ctx context.Context, op string) error {
	if s.ctx.Err() != nil {
		return ErrClosed
	}
	return &AuthError{Op: op, Message: "another process has been asking for too long", kind: ErrAuthUnavailable, cause: context.Cause(ctx)}
}

// giveBack releases the lease, if it is still ours, with word of a failure for
// those who wait.
func (s *Service) giveBack(ctx context.Context, userID, owner, note string) {
	if s.locker == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	keep := failureFor + time.Duration(mathrand.Int64N(int64(failureFor)/2))
	started := time.Now()
	err := s.storeAnswered(ctx, "release", started, s.locker.Release(ctx, userID, owner, note, keep))
	if errors.Is(err, ErrStoreUnavailable) || ctx.Err() != nil {
		s.giveBackLater(userID, owner)
	}
}

// giveBackLater releases a lease, or one that may have been taken though the
// answer was lost, once the store answers.
func (s *Service) giveBackLater(userID, owner string) {
	if !s.lateReleases.add(owner, lateRelease{userID, time.Now().Add(leaseTTL)}) || s.life.begin() != nil {
		return
	}
	go func() {
		defer s.life.end()
		for s.lateReleases.remain() && pause(s.ctx, pollLast) {
			s.releaseLate(s.ctx)
		}
	}()
}

// releaseLate releases leases until the store fails, and forgets those that have
// run out by themselves.
func (s *Service) releaseLate(ctx context.Context) {
	defer func() { _ = recover() }() // of a panic in a caller's store: they run out
	for owner, late := range s.lateReleases.all() {
		if time.Now().Before(late.until) && s.locker.Release(ctx, late.userID, owner, "", 0) != nil {
			return
		}
		s.lateReleases.done(owner)
	}
}

type lateRelease struct {
	userID string
	until  time.Time // when the lease has run out
}

// lateReleases are leases to be released when the store answers, by owner.
type lateReleases struct {
	mu      sync.Mutex
	leases  map[string]lateRelease // guarded by mu
	running bool                   // guarded by mu
}

// add reports whether the caller has to see to the releases, because nobody
// does.
func (r *lateReleases) add(owner string, late lateRelease) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.leases) >= maxRemembered { // they run out
		return false
	}
	if r.leases == nil {
		r.leases = make(map[string]lateRelease)
	}
	r.leases[owner] = late
	first = !r.running
	r.running = true
	return first
}

// remain reports whether there are releases left; if not, who saw to them stops.
func (r *lateReleases) remain() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = len(r.leases) > 0
	return r.running
}

func (r *lateReleases) done(owner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.leases, owner)
}

func (r *lateReleases) all() map[string]lateRelease {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.leases)
}

// noteOf puts a failure of the auth server into words for other processes, or
// returns "" for one that is this process's own, such as a wrong service key.
// The words hold no secret because no error does.
func (s *Service) noteOf(err error) string {
	if !isAuthError(err) || !errors.Is(err, ErrAuthUnavailable) || wasNotAsked(err) || isRefused(err) || isTokenCheck(err) || s.ctx.Err() != nil {
		return ""
	}
	return printable(err.Error())
}

func errorOf(note string) error {
	return &AuthError{Op: "refresh", Message: printable("tried a moment ago: " + note), kind: ErrAuthUnavailable}
}
