package session

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	mathrand "math/rand/v2"
	"time"

	"github.com/mana/session/internal/bounded"
)

// attempts remembers refreshes that failed, by user: a server that goes on
// refusing one user is not asked at every command.
type attempts struct{ users *bounded.Map[attempt] }

// attempt is the result of the last refresh of a user.
type attempt struct {
	notAhead    time.Time // no refresh ahead before
	notAtAll    time.Time // no refresh before
	notExtended time.Time // the session's life
	failed      int       // in a row, for the same cause
	cause       string
	err         error
	token       secret // that was to be replaced
}

func newAttempts(users int) *attempts { return &attempts{bounded.New[attempt](users)} }

func (a *attempts) forget(userID string) { a.users.Remove(userID) }

// worked forgets failures.
func (a *attempts) worked(userID string) {
	if last, ok := a.users.Load(userID); ok && last.failed > 0 {
		a.users.Remove(userID)
	}
}

// failed remembers why the token of a session was not replaced. The first
// failure holds only refreshes ahead back; or all of them, if the server asked
// for that.
func (a *attempts) failed(base snapshot, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed) || errors.Is(err, ErrStoreUnavailable) || isTokenCheck(err) || wasNotAsked(err) {
		return // no answer about this user
	}
	next := attempt{failed: 1, cause: causeOf(err), err: err, token: tokenOf(base)}
	userID := base.stored.UserID
	if last, ok := a.users.Load(userID); ok && last.cause == next.cause && last.token.equal(next.token) {
		next.failed = last.failed + 1
	}
	now := time.Now()
	next.notAhead = now.Add(backoff(next.failed))
	if next.failed > 1 {
		next.notAtAll = now.Add(backoff(next.failed - 1))
	}
	if e, ok := errors.AsType[*AuthError](err); ok && e.RetryAfter > 0 {
		asked := now.Add(e.RetryAfter)
		next.notAtAll = asked
		next.notAhead = later(next.notAhead, asked)
	}
	a.users.Store(userID, next)
}

// heldBack returns the last failure if it is too early to ask again for the
// session that is stored.
func (a *attempts) heldBack(base snapshot) error {
	last, ok := a.users.Load(base.stored.UserID)
	left := time.Until(last.notAtAll)
	if !ok || left <= 0 || !last.token.equal(tokenOf(base)) {
		return nil
	}
	e, ok := errors.AsType[*AuthError](last.err)
	if !ok {
		return fmt.Errorf("tried a moment ago: %w", last.err)
	}
	again := *e
	again.RetryAfter = wholeSeconds(left)
	return &again
}

// mayStartAhead reports whether startAhead would.
func (a *attempts) mayStartAhead(userID string) bool {
	last, _ := a.users.Load(userID)
	now := time.Now()
	return !now.Before(last.notAhead) && !now.Before(last.notAtAll)
}

// startAhead reports whether a refresh ahead may be made now, and holds others
// off for as long as it may take: one runs, however many callers come.
func (a *attempts) startAhead(userID string) bool {
	return a.claim(userID, func(last *attempt, now time.Time) bool {
		free := !now.Before(last.notAhead) && !now.Before(last.notAtAll)
		if free {
			last.notAhead = now.Add(flightTimeout)
		}
		return free
	})
}

// startExtending reports whether the session may be extended now; not again
// before backoffLast.
func (a *attempts) startExtending(userID string) bool {
	return a.claim(userID, func(last *attempt, now time.Time) bool {
		free := !now.Before(last.notExtended)
		if free {
			last.notExtended = now.Add(backoffLast)
		}
		return free
	})
}

// claim edits what is remembered, as one of many callers.
func (a *attempts) claim(userID string, edit func(*attempt, time.Time) bool) (claimed bool) {
	last, _ := a.users.Load(userID)
	if probe := last; !edit(&probe, time.Now()) {
		return false
	}
	a.users.Edit(userID, func(last attempt, _ bool) (attempt, bool) {
		claimed = edit(&last, time.Now())
		return last, claimed
	})
	return claimed
}

// endAhead records the result of a refresh ahead; next is nil if it failed.
func (a *attempts) endAhead(userID string, next *login) {
	last, _ := a.users.Load(userID)
	now := time.Now()
	switch {
	case next != nil:
		// Tokens that live shorter than the window are never fresh: then this is
		// not the reason for another call at once.
		left := time.Until(next.token.expires) - minLife
		last = attempt{notAhead: now.Add(min(left/2, backoffLast))}
	case last.failed == 0: // declined, which is no failure
		last.failed, last.cause = 1, "declined"
		last.notAhead = now.Add(backoff(1))
	case last.cause == "declined":
		last.failed++
		last.notAhead = now.Add(backoff(last.failed))
	default:
		last.notAhead = later(now.Add(backoff(last.failed)), last.notAtAll)
	}
	a.users.Store(userID, last)
}

// backoff is how long to wait after so many failures in a row.
func backoff(failed int) time.Duration {
	wait := min(backoffFirst<<min(failed-1, bits.Len(uint(backoffLast/backoffFirst))), backoffLast)
	return wait + time.Duration(mathrand.Int64N(int64(wait)/2)) - wait/4
}

// causeOf tells failures apart that are not to be counted together.
func causeOf(err error) string {
	if e, ok := errors.AsType[*AuthError](err); ok {
		return fmt.Sprint(e.Op, e.StatusCode)
	}
	return "other"
}

func tokenOf(base snapshot) secret {
	if base.login == nil {
		return secret{}
	}
	return base.login.token.raw
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
