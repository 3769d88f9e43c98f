package session

import (
	"context"
	mathrand "math/rand/v2"
	"sync"
	"time"
)

// lease takes the lease on the flight's user and reads the record under it into
// f.base. If another process has stored a session that satisfies the flight, or
// does so while it holds the lease, that session is returned instead.
func (r *refresher) lease(ctx context.Context, f *flight) (landing, error) {
	userID := f.event.userID
	brief, cancel := r.records.brief(ctx)
	err := r.outbox.flush(brief, userID)
	cancel()
	if err != nil {
		return landing{}, err
	}
	for poll := pollFirst; ; poll = min(2*poll, pollLast) {
		changed, stop := r.records.near.Watch(userID) // before looking, so as to miss nothing
		landed, note, err := r.tryLease(ctx, f)
		switch {
		case err != nil, landed.login != nil, f.leased:
			stop()
			return landed, err
		case note != "":
			stop()
			return landing{}, errorOf(note)
		}
		if r.records.near.Believing(time.Now()) {
			poll = pollLast
		}
		woken := false
		timer := time.NewTimer(poll)
		select {
		case <-changed:
			woken = true
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		stop()
		if ctx.Err() != nil {
			return landing{}, r.tookTooLong(ctx, opLease)
		}
		if woken { // probably by a session that satisfies the flight: read it without the lease
			asOf := r.order.now()
			snap, err := r.records.read(ctx, userID)
			if err != nil || snap.login != nil && f.satisfied(snap.login) {
				return landing{snap.login, asOf}, err
			}
		}
	}
}

// tryLease tries to take the lease once. note is the last owner's note, if any.
func (r *refresher) tryLease(ctx context.Context, f *flight) (landed landing, note string, err error) {
	brief, cancel := r.records.brief(ctx)
	defer cancel()
	asOf := r.order.now()
	lease, snap, err := r.records.acquire(brief, f.event.userID, f.owner, leaseTTL)
	if err != nil {
		if lease.Held {
			r.release(ctx, f, "")
		} else { // it may have been taken, though the answer was lost
			r.releaseLater(f, leaseTTL)
		}
		return landing{}, "", err
	}
	if snap.login != nil && f.satisfied(snap.login) {
		if lease.Held {
			r.releaseSoon(ctx, f)
		}
		return landing{snap.login, asOf}, "", nil
	}
	if snap.refused != nil { // its refresh token may still bring a good token
		snap.login = snap.refused
	}
	f.base, f.leased = snap, lease.Held
	return landing{}, lease.Note, nil
}

// keepLease renews the flight's lease until f.stopRenewing is called.
func (r *refresher) keepLease(ctx context.Context, f *flight) {
	ctx, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	f.stopRenewing = func() {
		cancel()
		renewing.Wait()
	}
	if !r.records.canSpend { // there are no leases
		return
	}
	renewing.Go(func() {
		for pause(ctx, leaseRenewal) {
			_ = apart(func() error {
				_, err := r.records.renew(ctx, f.event.userID, f.owner, leaseTTL)
				return err
			})
		}
	})
}

// tookTooLong says why a flight's context ended.
func (r *refresher) tookTooLong(ctx context.Context, op string) error {
	if r.life.ctx.Err() != nil {
		return ErrClosed
	}
	return &AuthError{Op: op, Message: "another process has been asking for too long", kind: ErrAuthUnavailable, cause: context.Cause(ctx)}
}

// release gives up the flight's lease, and leaves a note of a failure for the
// waiters.
func (r *refresher) release(ctx context.Context, f *flight, note string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	brief, cancelBrief := r.records.brief(ctx)
	defer cancelBrief()
	keep := failureFor + time.Duration(mathrand.Int64N(int64(failureFor)/2))
	if r.records.release(brief, f.event.userID, f.owner, note, keep) != nil {
		r.releaseLater(f, spendingTTL)
	}
}

// lateRelease is a lease whose release failed, or which may have been taken
// although the answer was lost.
type lateRelease struct {
	userID, owner string
	until         time.Time // when it has run out by itself
}

// releaseLater releases a lease once the store answers, so that other processes
// need not wait for its end. One goroutine does it for all leases.
func (r *refresher) releaseLater(f *flight, ttl time.Duration) {
	select {
	case r.late <- lateRelease{f.event.userID, f.owner, time.Now().Add(ttl)}:
	default: // there are enough
		return
	}
	if r.releasing.Swap(true) || r.life.begin() != nil {
		return
	}
	go func() {
		defer r.life.end()
		for r.life.ctx.Err() == nil {
			select {
			case l := <-r.late:
				r.releaseLate(l)
				continue
			default:
			}
			r.releasing.Store(false)
			if len(r.late) == 0 || r.releasing.Swap(true) {
				return
			}
		}
	}()
}

func (r *refresher) releaseLate(l lateRelease) {
	ctx, cancel := context.WithDeadlineCause(r.life.ctx, l.until, errTimeout)
	defer cancel()
	for ctx.Err() == nil {
		if r.records.silent.Load() {
			r.records.findOut() // unless a goroutine is probing already
		} else if apart(func() error { return r.records.release(ctx, l.userID, l.owner, "", 0) }) == nil {
			return
		}
		pause(ctx, pollLast)
	}
}

// releaseSoon is release in the background: the flight's callers do not wait.
func (r *refresher) releaseSoon(ctx context.Context, f *flight) {
	if r.life.begin() != nil {
		r.release(ctx, f, "")
		return
	}
	go func() {
		defer r.life.end()
		_ = apart(func() error { r.release(ctx, f, ""); return nil })
	}()
}
