package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// A store that does not answer: how it is noticed, who still waits for it, and
// how its return is noticed.

// observe records the result of a store call in health and counters, and wraps a
// failure. ErrConflict is no failure, and neither is a caller's cancellation. A
// caller's deadline that passes counts as no answer. What an ACL may forbid alone is
// aside: whether the store is away is then for a probe to find out.
func (r *records) observe(ctx context.Context, op Operation, aside bool, started time.Time, err error) error {
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
	if aside {
		r.findOut()
		if gaveUp(ctx) {
			return ctx.Err()
		}
		return storeError(op.verb(), err)
	}
	if writes(op) {
		r.writing.failed(err, took)
	}
	if r.health.failed(err, took) {
		r.logger.Error("session: store does not answer", "op", op.verb(), "error", err)
	}
	if gaveUp(ctx) {
		return ctx.Err()
	}
	if !writes(op) {
		r.silent.Store(true)
	}
	r.findOut() // a store that refuses writes may still answer reads
	return storeError(op.verb(), err)
}

// verb is what an operation does to the store.
func (op Operation) verb() string { return strings.TrimPrefix(string(op), "store.") }

// writes reports whether an operation changes the store.
func writes(op Operation) bool {
	return op == OpStoreWrite || op == OpStoreDelete || op == OpStoreLease
}

// findOut starts the goroutine that probes the store until it answers, unless one
// runs.
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
	answers uint64       // of the store until then
	reading *atomic.Bool // a caller is trying again
}

// away reports whether to serve the user from memory without asking the store:
// its last read failed, and either the store has answered nobody since or that
// was less than knownAgain ago. The record is then read behind the caller, one
// read at a time, because a part of a Cluster may be away.
func (r *records) away(ctx context.Context, userID string) bool {
	silent := r.silent.Load()
	if silent {
		r.findOut() // unless a goroutine is probing already
	}
	mark, marked := r.unread.Load(userID)
	recent := time.Since(mark.failed) < knownAgain
	since := silent && r.answers.Load() == mark.answers // or it is silent anew
	if !marked || !since && !recent {
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
			r.unread.Store(userID, unread{time.Now(), r.answers.Load(), mark.reading})
		}
	}()
	return true
}

// unreadable marks a user whose record could not be read.
func (r *records) unreadable(userID string) {
	r.unread.Store(userID, unread{time.Now(), r.answers.Load(), new(atomic.Bool)})
}

// patient bounds a read that has a known session to fall back on. If the store
// answers other calls meanwhile it is under load rather than away, and the read
// gets longer: the known session may have ended in a gap of the feed.
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

// brief is ctx, with a shorter limit while the store is known not to answer.
func (r *records) brief(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.silent.Load() {
		return context.WithTimeoutCause(ctx, storeBrief, errTimeout)
	}
	return ctx, func() {}
}

// apart runs do in a goroutine of its own and waits for it. do calls code of the
// embedder's (a store, transport or verifier): if that panics or calls
// runtime.Goexit, as a failing test does, apart returns an error.
func apart(do func() error) error {
	err := apartFrom("the store or the HTTP transport", do)
	if broken := (*brokenOffError)(nil); errors.As(err, &broken) {
		err = fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
	}
	return err
}

// apartFrom is apart for other code of the embedder's.
func apartFrom(whose string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		err := error(&brokenOffError{whose + " ended its goroutine"})
		defer func() {
			if p := recover(); p != nil {
				err = &brokenOffError{fmt.Sprintf("panic in %s: %T", whose, p)}
			}
			done <- err
		}()
		err = do()
	}()
	return <-done
}

// brokenOffError says that code of the embedder's did not return.
type brokenOffError struct{ how string }

func (e *brokenOffError) Error() string { return e.how }
