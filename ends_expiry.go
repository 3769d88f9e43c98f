package session

import (
	"context"
	"errors"
	"maps"
	mathrand "math/rand/v2"
	"time"
)

const (
	maxDue = 100_000 // sessions that are about to end

	maxListPause = time.Hour // after a list that failed

	// A session is looked at when the store has dropped it, too; and so many times more,
	// each after twice the time, if the store has not, by its own clock, or does not answer.
	expiryGrace = time.Second
	storePause  = 5 * time.Second
	expiryLooks = 12
)

// expiries tells of sessions that were not used for their TTL. It lists them an eighth
// of the TTL apart, and looks at each that ends before it lists again when its time has
// come. One goroutine does all of it.
type expiries struct {
	*ends
	every  time.Duration
	max    int
	due    map[string]expiry
	next   time.Time // when to list again
	until  time.Time // what ends later, the next list will find
	paused time.Time // until when the store is left alone
	failed int       // lists in a row
}

type expiry struct {
	at    time.Time
	looks int // that told nothing
}

func newExpiries(e *ends) *expiries {
	every := e.ttl / 8
	return &expiries{
		ends: e, every: every, max: maxDue, due: make(map[string]expiry),
		next: time.Now().Add(mathrand.N(min(every/8, time.Minute))),
	}
}

func (x *expiries) watch() {
	for pause(x.life.ctx, time.Until(x.soonest())) {
		if !time.Now().Before(x.next) {
			x.list()
		}
		x.look()
	}
}

// soonest is when there is something to do again.
func (x *expiries) soonest() time.Time {
	at := x.next
	for _, d := range x.due {
		if d.at.Before(at) {
			at = d.at
		}
	}
	return later(at, x.paused)
}

// list finds the sessions that end before it is called again, and some that end a while
// later. If it fails, it is called again soon.
func (x *expiries) list() {
	now := time.Now()
	x.until = now.Add(x.every + x.every/4)
	dropped := x.count.endsDropped.Load()
	err := apart(func() error {
		for l, err := range x.records.list(x.life.ctx, true) {
			if err != nil {
				return err
			}
			if !l.ends.IsZero() {
				x.add(l.UserID, l.ends.Add(expiryGrace), now)
			}
		}
		return nil
	})
	if n := x.count.endsDropped.Load() - dropped; n > 0 {
		x.records.logger.Warn("session: ends will not be told, too many sessions end at once", "sessions", n)
	}
	if err != nil {
		wait := min(min(x.every/8, time.Minute)<<min(x.failed, 16), x.every/8, maxListPause)
		x.next = time.Now().Add(wait)
		x.failed++
		if x.life.ctx.Err() == nil {
			x.records.logger.Warn("session: sessions that are about to end cannot be listed, their ends may not be told", "again in", wait, "error", err)
		}
		return
	}
	x.failed = 0
	x.next = now.Add(x.until.Sub(now) * 4 / 5)
}

// add has a session looked at. Of more than can be kept at hand those that end first are
// kept, and the others listed again sooner.
func (x *expiries) add(userID string, at, now time.Time) {
	if at.After(x.until) {
		return
	}
	x.due[userID] = expiry{at: at}
	for len(x.due) > x.max {
		span := x.until.Sub(now) / 2
		if span < time.Minute {
			delete(x.due, userID)
			x.count.endsDropped.Add(1)
			return
		}
		x.until = now.Add(span)
		maps.DeleteFunc(x.due, func(_ string, d expiry) bool { return d.at.After(x.until) })
	}
}

// look looks at the sessions whose time has come.
func (x *expiries) look() {
	for userID, d := range x.due {
		if time.Now().Before(d.at) {
			continue
		}
		delete(x.due, userID)
		again, err := x.lookAt(userID)
		now, wait := time.Now(), expiryGrace
		switch {
		case err != nil:
			x.paused, again, wait = now.Add(storePause), now, storePause
		case again.IsZero():
			continue
		}
		if d.looks < expiryLooks {
			x.due[userID] = expiry{later(again, now.Add(wait<<d.looks)), d.looks + 1}
		} else if err != nil && x.life.ctx.Err() == nil {
			x.drop(SessionEnd{UserID: userID, Reason: EndExpired}, "the store does not tell whether it is one")
		}
		if err != nil {
			return
		}
	}
}

// lookAt tells that a user's session has expired, if it has, and if no other process
// is the first to end the absence that it left. It returns when to look again, if there
// is something left that is about to end.
func (e *ends) lookAt(userID string) (again time.Time, err error) {
	if e.records.pending(userID) != nil { // a login, or logout, that waits for the store
		return time.Now(), nil
	}
	ctx, cancel := context.WithTimeoutCause(e.life.ctx, storeTimeout, errTimeout)
	defer cancel()
	err = apart(func() error {
		now, err := e.records.readLogout(ctx, userID)
		switch {
		case err != nil:
			return err
		case now.login != nil:
			if at := now.login.expires; !at.IsZero() && time.Until(at) < e.ttl/4 { // or it is listed again before
				again = at.Add(expiryGrace)
			}
			return nil
		case now.stored.Exists():
			again = time.Now()
			return nil
		case now.stored.Version == 0:
			return nil
		}
		trail, err := e.records.trail(ctx, userID)
		if err != nil || !expired(trail, now.loggedOut, e.ttl) {
			return err
		}
		what := TrailEvent{Kind: TrailEnded, By: byExpiry, Reason: "not used since " + trail[0].Last.UTC().Format(time.RFC3339)}
		held, err := e.records.removeExpired(ctx, now.stored, what)
		if err != nil {
			return err
		}
		if !held { // a linked user comes back just now
			again = time.Now()
			return nil
		}
		e.records.logger.Info("session: expired", "user", userID)
		e.add(SessionEnd{UserID: userID, Reason: EndExpired, Linked: e.links && byLinkLast(trail)})
		return nil
	})
	if errors.Is(err, ErrConflict) { // another process was first, the user has logged in, or neither
		return time.Now(), nil
	}
	return again, err
}

// cleanedUp is lookAt for a session that Cleanup has dropped.
func (e *ends) cleanedUp(userID string) {
	if e.tell != nil && e.records.keepTrail {
		_, _ = e.lookAt(userID) // or another bot looks at it
	}
}

// expired reports whether a session that is gone ran out, by its trail and the user's
// last logout, which bots without trails note, too.
func expired(trail []TrailEvent, loggedOut time.Time, ttl time.Duration) bool {
	if len(trail) == 0 || trail[0].Kind == TrailEnded || trail[0].SessionEnds.IsZero() {
		return false
	}
	last := trail[0]
	// Use puts the end off by half of the TTL, the clocks of bots differ by less.
	removed := last.SessionEnds.After(time.Now().Add(ttl / 8))
	return !removed && !loggedOut.After(last.Last)
}

// byLinkLast reports whether the session's last token came by the SSO-Link.
func byLinkLast(trail []TrailEvent) bool {
	for _, e := range trail {
		switch e.Kind {
		case TrailBegan, TrailRefreshed, TrailReplaced:
			return e.By == byLink
		}
	}
	return false
}
