package session

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// What happens to one user in this process has one order. Every event (a login,
// a logout, a refresh) draws its place in it when it begins, and shows it
// whenever it is about to write, queue, link or serve something. A refresh that
// a login or logout has overtaken does nothing any more. Nor does a login or
// logout that another has overtaken, if its caller has stopped waiting; one whose
// caller still waits takes a new place, after the other.

// errOvertaken says that a later login or logout makes an event void.
var errOvertaken = errors.New("session: overtaken by a later login or logout")

// order gives out the places, and holds the order of each user for whom something
// is going on.
type order struct {
	last   atomic.Uint64 // the place drawn last
	seed   maphash.Seed
	shards [64]orderShard
}

type orderShard struct {
	mu    sync.Mutex
	users map[string]*userOrder // guarded by mu
}

// userOrder is the order of one user's events.
type userOrder struct {
	events int // that have not ended; guarded by the shard's mu

	// turn is held by the event that writes to the store, linking by the one
	// that changes the user's link at the auth server.
	turn, linking chan struct{}

	mu      sync.Mutex
	claimed uint64 // the place of the newest login or logout that counts; guarded by mu
	writer  *event // that has the turn; guarded by mu
}

// event is something that happens to a user.
type event struct {
	userID  string
	order   *order
	shard   *orderShard
	user    *userOrder
	decides bool // a login or logout, which overtakes; as opposed to a refresh

	// Guarded by user.mu.
	place    uint64
	answered bool                    // nobody waits for it any more
	cancel   context.CancelCauseFunc // of the write under way
}

func newOrder() *order {
	o := &order{seed: maphash.MakeSeed()}
	for i := range o.shards {
		o.shards[i].users = make(map[string]*userOrder)
	}
	return o
}

// begin draws the next place for an event, which calls end when it is over.
func (o *order) begin(userID string, decides bool) *event {
	shard := &o.shards[maphash.String(o.seed, userID)%uint64(len(o.shards))]
	shard.mu.Lock()
	user := shard.users[userID]
	if user == nil {
		user = &userOrder{turn: make(chan struct{}, 1), linking: make(chan struct{}, 1)}
		shard.users[userID] = user
	}
	user.events++
	shard.mu.Unlock()

	return &event{userID: userID, order: o, shard: shard, user: user, decides: decides, place: o.now()}
}

// now draws the next place: what begins later has a higher one.
func (o *order) now() uint64 { return o.last.Add(1) }

// another returns an event that takes the place of e. It ends by itself.
func (e *event) another() *event {
	e.shard.mu.Lock()
	e.user.events++
	e.shard.mu.Unlock()
	e.user.mu.Lock()
	defer e.user.mu.Unlock()
	return &event{userID: e.userID, order: e.order, shard: e.shard, user: e.user, decides: e.decides, place: e.place, answered: true}
}

// end lets go of the user's order, which is forgotten with its last event.
func (e *event) end() {
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	if e.user.events--; e.user.events == 0 {
		delete(e.shard.users, e.userID)
	}
}

// answer says that e's caller has stopped waiting: whatever is done from now on
// counts more than e.
func (e *event) answer() {
	e.user.mu.Lock()
	defer e.user.mu.Unlock()
	e.answered = true
	if e.user.claimed > e.place && e.cancel != nil {
		e.cancel(errOvertaken)
	}
}

// isAnswered reports whether e's caller has stopped waiting. Then what another
// process has done since e began counts more than e, too.
func (e *event) isAnswered() bool {
	e.user.mu.Lock()
	defer e.user.mu.Unlock()
	return e.answered
}

// claim makes a login or logout count from now on: what began before it is
// overtaken, and what it is writing is given up. It returns false if e is
// overtaken itself.
func (e *event) claim() bool {
	e.user.mu.Lock()
	defer e.user.mu.Unlock()
	return e.claimLocked()
}

func (e *event) claimLocked() bool {
	if e.overtakenLocked() {
		return false
	}
	e.place = e.order.now()
	e.user.claimed = e.place
	if w := e.user.writer; w != nil && w != e && (!w.decides || w.answered) {
		w.cancel(errOvertaken)
	}
	return true
}

// overtaken reports whether e is void.
func (e *event) overtaken() bool {
	e.user.mu.Lock()
	defer e.user.mu.Unlock()
	return e.overtakenLocked()
}

func (e *event) overtakenLocked() bool {
	return e.user.claimed > e.place && (!e.decides || e.answered)
}

// while runs do unless e is overtaken, and while no claim can be made.
func (e *event) while(do func()) {
	e.user.mu.Lock()
	defer e.user.mu.Unlock()
	if !e.overtakenLocked() {
		do()
	}
}

// write waits for e's turn to write to the store. Writes of one user go one
// after the other, in the order of their events. The context that it returns
// ends when e is overtaken; done gives the turn back. A login or logout makes
// its claim with it. The error is errOvertaken, or why ctx ended.
func (e *event) write(ctx context.Context) (writing context.Context, done func(), err error) {
	select {
	case e.user.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	return e.writeNow(ctx)
}

// tryWrite is write that returns errNotNow instead of waiting.
func (e *event) tryWrite(ctx context.Context) (writing context.Context, done func(), err error) {
	select {
	case e.user.turn <- struct{}{}:
		return e.writeNow(ctx)
	default:
		return nil, nil, errNotNow
	}
}

var errNotNow = errors.New("session: another write of the user is in progress")

// writeNow is write for a caller that holds the turn already.
func (e *event) writeNow(ctx context.Context) (writing context.Context, done func(), err error) {
	e.user.mu.Lock()
	defer e.user.mu.Unlock()
	counts := !e.overtakenLocked()
	if counts && e.decides && e.place != e.user.claimed {
		counts = e.claimLocked()
	}
	if !counts {
		<-e.user.turn
		return nil, nil, errOvertaken
	}
	writing, cancel := context.WithCancelCause(ctx)
	e.cancel, e.user.writer = cancel, e
	return writing, func() {
		e.user.mu.Lock()
		e.cancel, e.user.writer = nil, nil
		e.user.mu.Unlock()
		cancel(nil)
		<-e.user.turn
	}, nil
}

// link waits for e's turn to change the user's link, which a login that another
// event has overtaken does not do, even if its caller still waits.
func (e *event) link(ctx context.Context) (done func(), err error) {
	select {
	case e.user.linking <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if e.superseded() {
		<-e.user.linking
		return nil, errOvertaken
	}
	return func() { <-e.user.linking }, nil
}

// superseded reports whether another login or logout counts more than e does,
// though it may be e's turn again.
func (e *event) superseded() bool {
	e.user.mu.Lock()
	defer e.user.mu.Unlock()
	return e.user.claimed > e.place
}

// clock gives the times at which sessions begin and users are logged out: by
// the wall clock, in microseconds, which is as fine as processes keep them. It
// does not go back when the wall clock does.
type clock struct{ last atomic.Int64 }

func (c *clock) now() time.Time {
	for {
		last := c.last.Load()
		now := max(time.Now().UnixMicro(), last+1)
		if c.last.CompareAndSwap(last, now) {
			return time.UnixMicro(now)
		}
	}
}

// after is now, but later than what has been seen of the user, which another
// process may have dated by a clock that is ahead of ours.
func (c *clock) after(seen ...time.Time) time.Time {
	now := c.now()
	for _, at := range seen {
		if !at.Before(now) && at.Before(now.Add(maxClockAhead)) {
			now = at.Add(time.Microsecond)
		}
	}
	return now
}
