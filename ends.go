package session

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"time"
)

// EndReason says why a session ended.
type EndReason string

// The reasons for which a session ends without its user having wanted it.
const (
	// EndRefused: the auth server said its clear no.
	EndRefused EndReason = "refused"
	// EndExpired: the session was not used for the session TTL.
	EndExpired EndReason = "expired"
	// EndReplaced: the link or the refresh token led to another account, whose session
	// took the place of this one.
	EndReplaced EndReason = "replaced"
)

// SessionEnd is what [WithOnSessionEnd] tells.
type SessionEnd struct { //nolint:revive // what ended is more than an end
	UserID string
	Reason EndReason
	At     time.Time
	Err    error // for EndRefused: what the auth server said, an [AuthError] among it
}

// WithOnSessionEnd has tell called when a user's session has ended although they did
// not log out, so that the bot can ask them to log in again. Of the bots that share a
// store only one is told of each end, so set it in each of them, or in one that always
// runs. A logout and a login as another account are the user's own doing and not told.
//
// The calls are made one after the other, in a goroutine of the Service's, and hold up
// no caller. ctx ends after 30 s, and when the Service is closed. What ends while 1024
// ends wait to be told is dropped, logged and counted ([Counters.EndsDropped]). An end
// is told once, at the most: it is lost when the process dies.
//
// EndExpired is told for sessions that have a trail (see [WithTrail]), within a second
// or two if some bot that has tell set has been running for an eighth of the session
// TTL. To know which sessions are about to end, each such bot lists them as often,
// every 21 hours by default.
func WithOnSessionEnd(tell func(ctx context.Context, end SessionEnd)) Option {
	return func(c *config) error {
		if tell == nil {
			return errors.New("session: WithOnSessionEnd: no function")
		}
		c.onEnd = tell
		return nil
	}
}

const (
	maxUntold = 1024
	maxDue    = 100_000 // sessions that are about to end

	tellTimeout = 30 * time.Second

	// A session is looked at when the store has dropped it, too.
	expiryGrace = time.Second
)

// ends tells the bot of sessions that ended. Without a callback it does nothing.
type ends struct {
	tell    func(context.Context, SessionEnd)
	records *records
	ttl     time.Duration // of sessions
	life    *lifetime
	count   *counters
	queue   chan SessionEnd
}

func newEnds(c config, r *records, count *counters, life *lifetime) *ends {
	return &ends{
		tell: c.onEnd, records: r, ttl: c.sessionTTL, life: life, count: count,
		queue: make(chan SessionEnd, maxUntold),
	}
}

// start starts the goroutines, if there is somebody to be told.
func (e *ends) start() {
	if e.tell == nil {
		return
	}
	e.life.running.Go(e.tellAll)
	if _, keepsTrails := e.records.store.(TrailLog); keepsTrails && e.records.keepTrail {
		e.life.running.Go(e.watchExpiries)
	}
}

// add has the end of a session told, soon. It never waits.
func (e *ends) add(end SessionEnd) {
	if e.tell == nil {
		return
	}
	end.At = time.Now()
	select {
	case e.queue <- end:
	default:
		e.count.endsDropped.Add(1)
		e.records.logger.Warn("session: an end is not told, too many wait", "user", end.UserID, "reason", end.Reason)
	}
}

// tellAll tells what is in the queue until the Service is closed and it is empty.
func (e *ends) tellAll() {
	for {
		select {
		case end := <-e.queue:
			e.tellOne(end)
			continue
		case <-e.life.ctx.Done():
		}
		select {
		case end := <-e.queue:
			e.tellOne(end)
		default:
			return
		}
	}
}

func (e *ends) tellOne(end SessionEnd) {
	ctx, cancel := context.WithTimeout(e.life.late, tellTimeout)
	defer cancel()
	if err := apart(func() error { e.tell(ctx, end); return nil }); err != nil {
		e.records.logger.Error("session: WithOnSessionEnd's function failed", "user", end.UserID, "error", err)
	}
	e.count.endsTold.Add(1)
}

// watchExpiries looks, an eighth of the session TTL apart, for sessions that end before
// it looks again, and at each of them when its time has come.
func (e *ends) watchExpiries() {
	every := e.ttl / 8
	next := time.Now().Add(mathrand.N(min(every/8, time.Minute)))
	due := make(map[string]time.Time)
	for {
		soonest := next
		for _, at := range due {
			if at.Before(soonest) {
				soonest = at
			}
		}
		if !pause(e.life.ctx, time.Until(soonest)) {
			return
		}
		if now := time.Now(); !now.Before(next) {
			next = now.Add(every)
			e.find(due, next.Add(every/4))
		}
		for userID, at := range due {
			if !time.Now().Before(at) {
				delete(due, userID)
				e.lookAt(userID)
			}
		}
	}
}

// find puts the sessions into due that end until then. An error is logged by records.
func (e *ends) find(due map[string]time.Time, until time.Time) {
	for l, err := range e.records.list(e.life.ctx, true) {
		if err != nil {
			return
		}
		if !l.ends.IsZero() && l.ends.Before(until) && len(due) < maxDue {
			due[l.UserID] = l.ends.Add(expiryGrace)
		}
	}
}

// lookAt tells that a user's session has expired, if it has, and if no other process
// is the first to end the absence that it left.
func (e *ends) lookAt(userID string) {
	ctx, cancel := context.WithTimeoutCause(e.life.ctx, storeTimeout, errTimeout)
	defer cancel()
	_ = apart(func() error {
		now, err := e.records.readLogout(ctx, userID)
		if err != nil || now.login != nil || now.stored.Exists() || now.stored.Version == 0 {
			return err
		}
		trail, err := e.records.trail(ctx, userID)
		if err != nil || len(trail) == 0 || trail[0].Kind == TrailEnded || trail[0].SessionEnds.IsZero() || trail[0].SessionEnds.After(time.Now()) {
			return err
		}
		what := TrailEvent{Kind: TrailEnded, By: byExpiry, Reason: "not used since " + trail[0].Last.UTC().Format(time.RFC3339)}
		if err := e.records.remove(ctx, now.stored, what); err != nil {
			return err
		}
		e.records.logger.Info("session: expired", "user", userID)
		e.add(SessionEnd{UserID: userID, Reason: EndExpired})
		return nil
	})
}
