package session

import (
	"context"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

// queuedWrite is the last thing that happened to a user's session while the
// store was away. Its fields do not change; a later event takes its place.
type queuedWrite struct {
	userID string
	login  *login    // the session as it is now; nil: logged out
	since  time.Time // when the session began, or the log-out was
	began  bool      // by a login, as opposed to a refresh of what is stored
	clean  bool      // a login after a log-out: what is stored has no data for it
	base   *login    // what a refresh replaced
	spent  bool      // a refresh used up the refresh token of base

	// owner takes the lease to store it: the same one each time, because the
	// answer to an attempt may be lost, and that of a refresh which has it.
	owner string
	turn  chan struct{} // held by who is storing it
}

func newQueuedWrite(userID string, l *login, since time.Time) *queuedWrite {
	return &queuedWrite{userID: userID, login: l, since: since, owner: rand.Text(), turn: make(chan struct{}, 1)}
}

func (p *queuedWrite) isLogout() bool { return p != nil && p.login == nil }

// startsClean reports whether what is stored was logged out and not removed yet.
func (p *queuedWrite) startsClean() bool { return p.isLogout() || p != nil && p.clean }

// session is what waits, or nil after a log-out and when it has expired.
func (p *queuedWrite) session(now time.Time) *login {
	if p.login == nil || !p.login.live(now) {
		return nil
	}
	return p.login
}

// writeQueue holds at most one write per user.
type writeQueue struct {
	max  int
	size atomic.Int32 // len(waiting), for when there is nothing

	mu      sync.Mutex
	waiting map[string]*queuedWrite // guarded by mu
	closed  bool                    // guarded by mu
	idle    chan struct{}           // guarded by mu; open while somebody drains the queue
	ctx     context.Context
	cancel  context.CancelFunc
}

func newWriteQueue(size int) *writeQueue {
	q := &writeQueue{max: size, waiting: make(map[string]*queuedWrite)}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

func (q *writeQueue) len() int { return int(q.size.Load()) }

// of returns what waits about a user, or nil.
func (q *writeQueue) of(userID string) *queuedWrite {
	if q.size.Load() == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting[userID]
}

func (q *writeQueue) all() []*queuedWrite {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]*queuedWrite, 0, len(q.waiting))
	for _, p := range q.waiting {
		all = append(all, p)
	}
	return all
}

// put makes a login or log-out the last thing that happened, unless it is older
// than what is there. It returns false when the queue is full or closed.
func (q *writeQueue) put(p *queuedWrite) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	old := q.waiting[p.userID]
	if old != nil && old.since.After(p.since) {
		return true
	}
	p.clean = old.startsClean()
	if old != nil {
		p.owner = old.owner // who stores p can use the lease, and gives it back
		p.turn = old.turn   // and waits for who is storing old
	}
	return q.set(old, p)
}

// putOver puts p in the place of old, and returns false if old is not there any
// more, or the queue is full or closed.
func (q *writeQueue) putOver(old, p *queuedWrite) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if old != nil {
		p.turn = old.turn
	}
	return q.waiting[p.userID] == old && q.set(old, p)
}

func (q *writeQueue) set(old, p *queuedWrite) bool { // with mu held
	if q.closed || old == nil && len(q.waiting) >= q.max {
		return false
	}
	q.waiting[p.userID] = p
	q.size.Store(int32(len(q.waiting)))
	return true
}

// done removes what has been stored.
func (q *writeQueue) done(p *queuedWrite) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[p.userID] == p {
		delete(q.waiting, p.userID)
		q.size.Store(int32(len(q.waiting)))
	}
}

// overtake removes what is not newer than a login that has been stored.
func (q *writeQueue) overtake(userID string, since time.Time) {
	if p := q.of(userID); p != nil && !p.since.After(since) {
		q.done(p)
	}
}

// start runs drain, unless it runs, until it finds the queue drained.
func (q *writeQueue) start(drain func(context.Context)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.idle != nil {
		return
	}
	idle := make(chan struct{})
	q.idle = idle
	go func() {
		defer close(idle)
		drain(q.ctx)
	}()
}

// drained reports whether nothing waits; if so, who drains the queue must end.
func (q *writeQueue) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.idle = nil
		return true
	}
	return false
}

// close waits for the queue to be drained, then takes nothing any more. It
// returns how many writes are left.
func (q *writeQueue) close(limit time.Duration) (left int) {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	if idle != nil {
		timeout := time.NewTimer(limit)
		defer timeout.Stop()
		select {
		case <-idle:
		case <-timeout.C:
		}
	}
	q.mu.Lock()
	q.closed = true
	left = len(q.waiting)
	q.mu.Unlock()
	q.cancel()
	if idle != nil { // what is under way is over at once, unless a store ignores its context
		timeout := time.NewTimer(closeGrace)
		defer timeout.Stop()
		select {
		case <-idle:
		case <-timeout.C:
		}
	}
	return left
}
