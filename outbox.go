package session

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// While the store is away, a login, a logout and a refresh of a user who is
// known hold in this process and are pending. When the store is back they are
// written, unless it holds something newer: merge.go says what that is.

const (
	maxPending = 100_000 // writes

	// The store is tried by this many writes at a time, until some have failed.
	flushWidth    = 16
	flushFailures = 8
)

// pending is the last thing that happened to a user's session while the store
// was away. Its fields do not change; a later event takes its place.
type pending struct {
	event  *event // its place in the user's order
	userID string
	login  *login    // the session as it is now; nil: logged out
	since  time.Time // when the session began, or the logout was
	began  bool      // by a login, as opposed to a refresh of what is stored
	clean  bool      // a login after a logout: what is stored has no data for it
	base   *login    // what a refresh replaced
	spent  bool      // a refresh used up the refresh token of base

	what TrailEvent

	// owner has the lease, or takes it: the same one each time, because the
	// answer to an attempt may be lost.
	owner string
}

func (p *pending) isLogout() bool { return p != nil && p.login == nil }

// startsClean reports whether what is stored was logged out and not removed yet.
func (p *pending) startsClean() bool { return p.isLogout() || p != nil && p.clean }

// session is what is pending, or nil after a logout and when it has expired.
func (p *pending) session(now time.Time) *login {
	if p == nil || p.login == nil || !p.login.live(now) {
		return nil
	}
	return p.login
}

// outbox holds what is to be written, at most one write per user.
type outbox struct {
	records *records
	count   *counters
	logger  *slog.Logger
	forget  func(userID string) // what else is remembered of a user
	max     int
	size    atomic.Int32 // len(writes), for when there is nothing

	mu     sync.Mutex
	writes map[string]*pending // guarded by mu
	closed bool                // guarded by mu
	idle   chan struct{}       // guarded by mu; open while somebody writes
	ctx    context.Context
	cancel context.CancelFunc
}

func newOutbox(r *records, count *counters, logger *slog.Logger) *outbox {
	o := &outbox{records: r, count: count, logger: logger, max: maxPending, writes: make(map[string]*pending)}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o
}

func (o *outbox) len() int { return int(o.size.Load()) }

// of returns what is pending for a user, or nil.
func (o *outbox) of(userID string) *pending {
	if o.size.Load() == 0 {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.writes[userID]
}

// put makes p pending; start begins to write it. A login or logout replaces what
// is pending, unless that comes later in the user's order; a refresh replaces
// only old. It returns false, and keeps nothing,
// when e is overtaken and when the outbox is full or closed.
func (o *outbox) put(e *event, p, old *pending) bool {
	p.event = e.another()
	ok, kept := false, false
	e.while(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		now := o.writes[p.userID]
		switch {
		case !e.decides && now != old:
			return
		case e.decides && now != nil && now.event.place > p.event.place:
			ok = true // p has been superseded already
			return
		case o.closed || now == nil && len(o.writes) >= o.max:
			return
		}
		if e.decides {
			p.clean = now.startsClean()
		}
		if p.owner == "" && now != nil {
			p.owner = now.owner // writing p uses and releases the lease of its predecessor
		}
		if p.owner == "" {
			p.owner = rand.Text()
		}
		o.setLocked(p.userID, p)
		ok, kept = true, true
	})
	if !kept {
		p.event.end()
		return ok
	}
	o.records.near.MarkStale(p.userID)
	return true
}

func (o *outbox) setLocked(userID string, p *pending) {
	if was := o.writes[userID]; was != nil {
		was.event.end()
	}
	if p == nil {
		delete(o.writes, userID)
	} else {
		o.writes[userID] = p
	}
	o.size.Store(int32(len(o.writes)))
}

// done forgets p, which has been written or overtaken.
func (o *outbox) done(p *pending) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writes[p.userID] == p {
		o.setLocked(p.userID, nil)
	}
}

// overtaken forgets p, because the store holds something newer.
func (o *outbox) overtaken(p *pending) {
	o.count.overtaken.Add(1)
	o.logger.Info("session: the store holds something newer than what was pending", "user", p.userID)
	o.forget(p.userID)
	o.done(p)
}

// doneBefore forgets what is pending for a user and does not come later than e,
// a login or logout that has reached the store.
func (o *outbox) doneBefore(e *event) {
	e.while(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if p := o.writes[e.userID]; p != nil && p.event.place <= e.place {
			o.setLocked(e.userID, nil)
		}
	})
}

// flush writes the user's pending write, before an operation that depends on the
// record. It returns ErrStoreUnavailable if that cannot be done now.
func (o *outbox) flush(ctx context.Context, userID string) error {
	for p := o.of(userID); p != nil; p = o.of(userID) {
		writing, done, err := p.event.write(ctx)
		if errors.Is(err, errOvertaken) { // by an event that has finished
			o.done(p)
			continue
		}
		if err == nil {
			err = o.write(writing, p)
			done()
		}
		switch {
		case err == nil, errors.Is(err, errOvertaken):
		case gaveUp(ctx):
			return ctx.Err()
		case errors.Is(err, ErrStoreUnavailable):
			return err
		default:
			return storeError("write back", err)
		}
	}
	return nil
}

// start starts the goroutine that writes pending writes until none is left,
// unless one runs.
func (o *outbox) start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.idle != nil {
		return
	}
	idle := make(chan struct{})
	o.idle = idle
	go func() {
		defer close(idle)
		o.logger.Warn("session: writes are pending until the store answers")
		began := time.Now()
		for !o.emptied() {
			o.flushSome()
			if o.len() > 0 && !pause(o.ctx, drainPause) {
				return
			}
		}
		o.logger.Info("session: no write is pending any more", "after", time.Since(began).Round(time.Millisecond))
	}()
}

// emptied reports whether nothing is pending; the writing goroutine then ends.
func (o *outbox) emptied() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.writes) == 0 {
		o.idle = nil
		return true
	}
	return false
}

// flushSome writes what is pending, in no order, until the store fails.
func (o *outbox) flushSome() {
	var failures atomic.Int32
	var workers errgroup.Group
	workers.SetLimit(flushWidth)
	for _, p := range o.all() {
		if failures.Load() >= flushFailures || o.ctx.Err() != nil {
			break
		}
		workers.Go(func() error {
			writing, done, err := p.event.tryWrite(o.ctx)
			switch {
			case errors.Is(err, errOvertaken):
				o.done(p)
				return nil
			case err != nil: // another goroutine is writing for this user
				return nil
			}
			defer done()
			if o.write(writing, p) != nil {
				failures.Add(1)
			}
			return nil
		})
	}
	_ = workers.Wait()
}

func (o *outbox) all() []*pending {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make([]*pending, 0, len(o.writes))
	for _, p := range o.writes {
		all = append(all, p)
	}
	return all
}

// errLeaseElsewhere says that another process is asking for the user.
var errLeaseElsewhere = errors.New("session: lease held by another process")

// write stores p; the caller holds the user's turn. After an error p is still
// pending.
func (o *outbox) write(ctx context.Context, p *pending) error {
	if o.of(p.userID) != p {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, writeBackTimeout, errTimeout)
	defer cancel()
	stored := false
	err := apart(func() (err error) {
		if p.login == nil {
			stored, err = o.writeLogout(ctx, p)
		} else {
			stored, err = o.writeLogin(ctx, p)
		}
		return err
	})
	switch {
	case err == nil && stored:
		o.count.writtenBack.Add(1)
	case err == nil:
		o.overtaken(p)
		return nil
	case errors.Is(err, ErrStoreUnavailable), errors.Is(err, errLeaseElsewhere), errors.Is(err, errOvertaken), ctx.Err() != nil:
		return err
	default: // permanent failure
		o.count.dropped.Add(1)
		o.logger.Error("session: login lost, it cannot be stored", "user", p.userID, "error", err)
	}
	o.forget(p.userID)
	o.done(p)
	return nil
}

// writeLogout removes the session that was logged out. It returns false if a newer
// session has replaced it.
func (o *outbox) writeLogout(ctx context.Context, p *pending) (bool, error) {
	for {
		now, err := o.records.readLogout(ctx, p.userID)
		if err != nil {
			return false, err
		}
		if !p.ends(now.login, time.Now()) {
			return false, nil
		}
		err = o.records.removeLoggedOut(ctx, now.stored, p.since)
		if !errors.Is(err, ErrConflict) {
			return err == nil, err
		}
		if !pauseForOthers(ctx) {
			return false, storeError("write back", context.Cause(ctx))
		}
	}
}

// writeLogin stores a login or a refresh. It returns false if something newer has
// overtaken it.
func (o *outbox) writeLogin(ctx context.Context, p *pending) (bool, error) {
	for {
		now, err := o.records.readLogout(ctx, p.userID)
		if err != nil {
			return false, err
		}
		next := p.over(now.login, now.loggedOut)
		if next == nil || !next.live(time.Now()) {
			_ = o.records.release(ctx, p.userID, p.owner, "", 0)
			return false, nil
		}
		if next.expires.IsZero() {
			next.expires = p.login.expires
		}
		owner := ""
		switch {
		case now.stored.Exists():
			owner = p.owner // replacing needs no lease, but releases it
		case now.stored.Version == 0:
			// The store cannot tell absences apart: the lease has to see to it
			// that no logout passes between reading and creating.
			owner = p.owner
			held, err := o.records.renew(ctx, p.userID, owner, leaseTTL)
			if err == nil && !held {
				err = errLeaseElsewhere
			}
			if err != nil {
				return false, err
			}
		}
		what := p.what
		if p.began {
			what = now.loginEvent(now.login == nil || now.login.sameAccount(next))
			what.Reason = strings.TrimPrefix(what.Reason+", stored when the store was back", ", ")
		}
		_, err = o.records.save(ctx, owner, now.stored, next, what)
		if !errors.Is(err, ErrConflict) {
			if err == nil && owner == "" {
				_ = o.records.release(ctx, p.userID, p.owner, "", 0)
			}
			return err == nil, err
		}
		if !pauseForOthers(ctx) {
			return false, storeError("write back", context.Cause(ctx))
		}
	}
}

// close waits for the pending writes, within limit, and then accepts no more. It
// returns how many are left.
func (o *outbox) close(limit time.Duration) (left int) {
	o.mu.Lock()
	idle := o.idle
	o.mu.Unlock()
	waitFor(idle, limit)
	o.mu.Lock()
	o.closed = true
	left = len(o.writes)
	o.mu.Unlock()
	o.cancel()
	waitFor(idle, closeGrace) // a write in progress ends at once, unless the store ignores its context
	return left
}

// waitFor waits for done, if there is one, within a limit.
func waitFor(done <-chan struct{}, limit time.Duration) {
	if done == nil {
		return
	}
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
	}
}
