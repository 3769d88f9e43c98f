package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// When the store does not answer: who notices, who waits for it, and who finds
// out that it is back.

// observe keeps the books on a store call and wraps its failure. ErrConflict is
// part of the contract and the caller's own giving up is no failure of the
// store's; a deadline of the caller's that passes is no answer either, though.
func (r *records) observe(ctx context.Context, op string, started time.Time, err error) error {
	took := time.Since(started)
	switch {
	case err == nil, errors.Is(err, ErrConflict):
		r.silent.Store(false)
		r.answers.Add(1)
		if writes(op) {
			r.writing.worked(took)
		}
		if r.health.worked(took) {
			r.logger.Info("session: store answers again")
		}
		return err
	case errors.Is(context.Cause(ctx), errOvertaken):
		return errOvertaken
	case gaveUp(ctx) && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ctx.Err()
	}
	r.count.storeErrors.Add(1)
	if writes(op) {
		r.writing.failed(err, took)
	}
	if r.health.failed(err, took) {
		r.logger.Error("session: store does not answer", "op", op, "error", err)
	}
	if gaveUp(ctx) {
		return ctx.Err()
	}
	if !writes(op) {
		r.silent.Store(true)
	}
	r.findOut() // what is refused to be written may be read
	return storeError(op, err)
}

// writes reports whether an operation changes the store.
func writes(op string) bool { return op == "write" || op == "delete" || op == "lease" }

// findOut has one goroutine probe the store, until it answers.
func (r *records) findOut() {
	if r.probing.Load() || r.probing.Swap(true) {
		return
	}
	if r.life.begin() != nil {
		return
	}
	go func() {
		defer r.life.end()
		defer r.probing.Store(false)
		for wait := time.Duration(0); wait == 0 || r.silent.Load(); wait = min(2*wait+probeFirst, probeLast) {
			if wait > 0 && !pause(r.life.ctx, wait) {
				return
			}
			ctx, cancel := context.WithTimeoutCause(r.life.ctx, knownWait, errTimeout)
			_ = apart(func() error { return r.probe(ctx) })
			cancel()
		}
	}()
}

// unread marks a user whose record could not be read.
type unread struct {
	failed  time.Time    // when that was last found
	reading *atomic.Bool // somebody is trying again
}

// away reports whether the user's record could not be read a moment ago, and the
// store does not answer at all since or it was only a moment. Then it is read
// behind the caller, one call at a time: a Cluster may be away in part.
func (r *records) away(ctx context.Context, userID string) bool {
	silent := r.silent.Load()
	if silent {
		r.findOut() // should nobody be at it
	}
	mark, marked := r.unread.Load(userID)
	recent := time.Since(mark.failed) < knownAgain
	if !marked || !silent && !recent {
		return false
	}
	if silent && recent || mark.reading.Swap(true) || r.life.begin() != nil {
		return true
	}
	go func() {
		defer r.life.end()
		defer mark.reading.Store(false)
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), storeTimeout, errTimeout)
		defer cancel()
		defer context.AfterFunc(r.life.ctx, cancel)()
		if apart(func() error { _, err := r.read(ctx, userID); return err }) == nil {
			r.unread.Remove(userID)
		} else {
			r.unread.Store(userID, unread{time.Now(), mark.reading})
		}
	}()
	return true
}

// unreadable marks a user whose record could not be read.
func (r *records) unreadable(userID string) {
	r.unread.Store(userID, unread{time.Now(), new(atomic.Bool)})
}

// patient bounds a read that has a known session to fall back on. A store that
// goes on to answer others is under load rather than away, and what is known may
// have ended in a gap of the feed: then it is waited for a little longer.
func (r *records) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.silent.Load() {
		return context.WithTimeoutCause(ctx, knownWaitSilent, errTimeout)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	answers := r.answers.Load()
	last := time.AfterFunc(knownWaitLoaded, func() { cancel(errTimeout) })
	first := time.AfterFunc(knownWait, func() {
		if r.answers.Load() == answers {
			cancel(errTimeout)
		}
	})
	return ctx, func() {
		first.Stop()
		last.Stop()
		cancel(nil)
	}
}

// brief is ctx, less long if the store is known not to answer.
func (r *records) brief(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.silent.Load() {
		return context.WithTimeoutCause(ctx, storeBrief, errTimeout)
	}
	return ctx, func() {}
}

// apart runs do beside its caller. do calls a caller's store, transport or
// verifier: if it panics, or ends its goroutine as a failing test does, that is
// an error, where it would end the bot or leave its caller waiting.
func apart(do func() error) error {
	done := make(chan error, 1)
	go func() {
		err := fmt.Errorf("%w: the store or the HTTP transport ended its goroutine", ErrStoreUnavailable)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: panic in the store or the HTTP transport: %T", ErrStoreUnavailable, p)
			}
			done <- err
		}()
		err = do()
	}()
	return <-done
}
