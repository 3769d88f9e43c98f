package session

import (
	"context"
	"errors"
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

	// Linked, for EndExpired: the last token came by the SSO-Link, which this Service uses.
	// The user's next command begins a new session without a login, and without the data of
	// the one that ended.
	Linked bool
}

// WithOnSessionEnd has tell called when a user's session has ended although they did
// not log out, so that the bot can ask them to log in again. Of the bots that share a
// store only one is told of each end, so set it in each of them, or in one that always
// runs. A logout and a login as another account are the user's own doing and not told.
//
// The calls are made one after the other, in a goroutine of the Service's, and hold up
// no caller. ctx ends after 30 s, and when [Service.Close] has waited long enough. Close
// has tell called for what waits, and waits for it: so tell must not call Close. What
// ends while 1024 ends wait to be told is dropped, logged and counted
// ([Counters.EndsDropped]), and so is what Close had no time for. An end is told once, at
// the most: it is lost when the process dies, or the store's answer does.
//
// EndExpired is told for sessions that have a trail (see [WithTrail]), on stores that
// tell one absence from another, within a second or two if some bot that has tell set
// has been running for an eighth of the session TTL, and later if the store was away. To
// know which sessions are about to end, each such bot lists them as often, every 21
// hours by default. What other software, the TypeScript service included, removes in its
// last hours cannot be told from what expired. Whom the SSO-Link logs in again need not be
// asked to: see SessionEnd.Linked.
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
	maxUntold   = 1024
	tellTimeout = 30 * time.Second
)

// ends tells the bot of sessions that ended. Without a callback it does nothing.
type ends struct {
	tell    func(context.Context, SessionEnd)
	records *records
	ttl     time.Duration // of sessions
	links   bool          // the SSO-Link begins sessions
	life    *lifetime
	count   *counters
	queue   chan SessionEnd
	closing chan struct{} // closed when all that may end sessions has ended
	told    chan struct{} // closed when nobody is told any more
}

func newEnds(c config, r *records, count *counters, life *lifetime) *ends {
	e := &ends{
		tell: c.onEnd, records: r, ttl: c.sessionTTL, links: c.linkEnabled, life: life, count: count,
		closing: make(chan struct{}), told: make(chan struct{}),
	}
	if e.tell != nil {
		e.queue = make(chan SessionEnd, maxUntold)
	}
	return e
}

// start starts the goroutines, if there is somebody to be told.
func (e *ends) start() {
	if e.tell == nil {
		return
	}
	go e.tellAll()
	if _, keepsTrails := e.records.store.(TrailLog); keepsTrails && e.records.keepTrail {
		e.life.running.Go(newExpiries(e).watch)
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
		e.drop(end, "too many wait")
		return
	}
	select {
	case <-e.told: // Close did not wait for what ended this
		e.dropQueue()
	default:
	}
}

func (e *ends) drop(end SessionEnd, why string) {
	e.count.endsDropped.Add(1)
	e.records.logger.Warn("session: an end is not told, "+why, "user", end.UserID, "reason", end.Reason)
}

// dropQueue drops what nobody will tell.
func (e *ends) dropQueue() {
	for {
		select {
		case end := <-e.queue:
			e.drop(end, "the Service is closed")
		default:
			return
		}
	}
}

// tellAll tells what is in the queue, until closing and until it is empty.
func (e *ends) tellAll() {
	defer e.dropQueue() // what came in between
	defer close(e.told)
	for {
		select {
		case end := <-e.queue:
			e.tellOne(end)
			continue
		case <-e.closing:
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
	if e.life.late.Err() != nil {
		e.drop(end, "the Service is closed")
		return
	}
	ctx, cancel := context.WithTimeout(e.life.late, tellTimeout)
	defer cancel()
	if err := apartFrom("WithOnSessionEnd's function", func() error { e.tell(ctx, end); return nil }); err != nil {
		e.records.logger.Error("session: WithOnSessionEnd's function failed", "user", end.UserID, "error", err)
	}
	e.count.endsTold.Add(1)
}

// finish tells what waits, and reports whether that was done within the limit.
func (e *ends) finish(limit time.Duration) bool {
	if e.tell == nil {
		return true
	}
	close(e.closing)
	waitFor(e.told, limit)
	select {
	case <-e.told:
		return true
	default:
		return false
	}
}
