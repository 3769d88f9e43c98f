package session

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// nearCache is the in-process copy of what the store said about each user, and
// how long it may be believed. It is the Feed of the store's Watcher.
//
// An entry is believed while the trust it was read under still holds: the same
// epoch (a flush starts a new one) and a span of time that the watcher renews.
// What is not believed stays, because it is all there is to serve from when the
// store is away.
type nearCache struct {
	entries *bounded[*nearEntry]
	ahead   time.Duration // the refresh-ahead window
	ttl     time.Duration // of a session
	trust   atomic.Pointer[trust]
	lapse   *time.Timer

	// tickets[hash(user)] counts notices, so that a fill which was overtaken
	// by a change notice between reading and storing is noticed.
	seed    maphash.Seed
	tickets [4096]notices

	mu      sync.Mutex
	waiters map[string]chan struct{} // guarded by mu; closed on the user's next notice
	waiting atomic.Int32             // len(waiters), for notices nobody waits for
}

// nearEntry carries what the hot path compares, and the rest. It is immutable.
type nearEntry struct {
	raw        string // the token
	freshUntil int64  // Unix seconds: neither the token nor the session needs a second look
	epoch      uint64 // stale: not believed
	login      *login
	readAt     time.Time
}

// stale is the epoch of an entry that stands in for a store that is away.
const stale = 0

// trust is what the watcher last vouched for. It lapses by the wall clock, which
// goes on while the machine or the process is stopped, and by a timer, which a
// clock that is set back does not mislead.
type trust struct {
	epoch  uint64
	given  int64  // Unix nanoseconds
	span   uint64 // nanoseconds
	maxAge time.Duration
	open   bool // no limit
	closed bool // for good
}

// clockSlack is how far behind the moment trust was given a caller's look at
// the clock may be.
const clockSlack = 50 * time.Millisecond

func (t *trust) holds(now time.Time) bool {
	return t.open || uint64(now.UnixNano()-t.given) < t.span
}

func newNearCache(size int, ahead, ttl time.Duration) *nearCache {
	n := &nearCache{
		entries: newBounded[*nearEntry](size).weighing((*nearEntry).size, max(int64(size)*nearEntrySize, maxRecord)),
		ahead:   ahead,
		ttl:     ttl,
		seed:    maphash.MakeSeed(),
		waiters: make(map[string]chan struct{}),
	}
	n.trust.Store(&trust{epoch: 1})
	n.lapse = time.AfterFunc(time.Hour, func() { n.renew(func(t *trust) { t.span = 0 }) })
	n.lapse.Stop()
	return n
}

// fresh is the hot path: the token if the entry is believed and the token needs
// nothing done about it.
func (n *nearCache) fresh(userID string, now time.Time) (string, bool) {
	e, ok := n.entries.m.Load(userID)
	if !ok || now.Unix() >= e.freshUntil {
		return "", false
	}
	t := n.trust.Load()
	return e.raw, e.epoch == t.epoch && t.holds(now) && (t.maxAge == 0 || e.young(now, t.maxAge))
}

// get returns the entry, and whether it is believed.
func (n *nearCache) get(userID string, now time.Time) (e *nearEntry, believed, ok bool) {
	e, ok = n.entries.load(userID)
	if !ok || !e.login.live(now) {
		return nil, false, false
	}
	t := n.trust.Load()
	believed = e.epoch == t.epoch && t.holds(now) && (t.maxAge == 0 || e.young(now, t.maxAge))
	return e, believed, true
}

// nearEntrySize is what an entry may take on average, in bytes: the cache is
// bounded by their sum as well as by their number.
const nearEntrySize = 2 << 10

// size is about what an entry takes, in bytes.
func (e *nearEntry) size() int64 {
	const fixed = 512 // the structs, and the map's own
	return fixed + int64(len(e.login.stored.Value)+len(e.raw)+len(e.login.userID))
}

func (e *nearEntry) young(now time.Time, maxAge time.Duration) bool {
	return within(now.Sub(e.readAt), time.Duration(now.UnixNano()-e.readAt.UnixNano()), maxAge)
}

// within reports whether what took so long by the monotonic and by the wall clock
// is less than limit. The one stands still while the machine sleeps, the other
// can be set back.
func within(monotonic, wall, limit time.Duration) bool {
	return monotonic < limit && wall >= 0 && wall < limit
}

// holds reports whether the user's entry has this token, and the record was not
// written since: then it was found good when the entry was filled.
func (n *nearCache) holds(userID string, token secret) bool {
	e, ok := n.entries.load(userID)
	return ok && e.epoch != stale && e.login.token.raw.equal(token)
}

// ticket is drawn before a call of the store and handed in with its result.
type ticket struct {
	epoch, notices, ends uint64
}

// notices counts what was told of a stripe of the users.
type notices struct{ notices, ends atomic.Uint64 }

func (n *nearCache) ticket(userID string) ticket {
	stripe := n.stripe(userID)
	return ticket{n.trust.Load().epoch, stripe.notices.Load(), stripe.ends.Load()}
}

func (n *nearCache) stripe(userID string) *notices {
	return &n.tickets[maphash.String(n.seed, userID)%uint64(len(n.tickets))]
}

// fill keeps what a read returned, unless the user's record changed since the
// ticket was drawn.
func (n *nearCache) fill(t ticket, l *login, readAt time.Time) {
	if n.entries.max == 0 {
		return
	}
	stripe := n.stripe(l.userID)
	n.entries.storeIf(l.userID, n.entry(t.epoch, l, readAt), func() bool { return stripe.notices.Load() == t.notices })
}

func (n *nearCache) entry(epoch uint64, l *login, at time.Time) *nearEntry {
	return &nearEntry{
		raw:        l.token.raw.reveal(),
		epoch:      epoch,
		freshUntil: l.freshUntil(n.jittered(), n.ttl),
		login:      l,
		readAt:     at,
	}
}

// drop removes the entry of a user whom a read found without a session.
func (n *nearCache) drop(userID string, t ticket) {
	if n.stripe(userID).notices.Load() == t.notices {
		n.entries.remove(userID)
	}
}

// jittered shortens the refresh-ahead window by up to a fifth, per process and
// token, so that bots which share a session do not refresh together.
func (n *nearCache) jittered() time.Duration {
	if n.ahead <= minLife {
		return n.ahead
	}
	return n.ahead - time.Duration(rand.Int64N(int64(n.ahead-minLife)/5+1))
}

// freshUntil is the first second, by the wall clock, at which the token must
// not be handed out without a second look.
func (l *login) freshUntil(ahead, ttl time.Duration) int64 {
	const never = 1 << 62
	until := int64(never)
	switch {
	case !l.token.readable:
		return 0
	case !l.token.endless:
		until = l.token.expires.Add(-max(ahead, minLife)).Unix()
	}
	if !l.expires.IsZero() {
		until = min(until, l.halfSpent(ttl).Unix())
	}
	return until
}

// wrote keeps what a write stored for while the store is away, unless the session
// has ended since the ticket was drawn. It is read before it is believed, because
// somebody else may have written since.
func (n *nearCache) wrote(t ticket, l *login, at time.Time) {
	n.markStale(l.userID)
	stripe := n.stripe(l.userID)
	n.entries.storeIf(l.userID, n.entry(stale, l, at), func() bool { return stripe.ends.Load() == t.ends })
}

// markStale keeps the user's entry only for while the store is away, and wakes
// those who wait for a change.
func (n *nearCache) markStale(userID string) {
	n.stripe(userID).notices.Add(1) // before the change: see fill
	if e, ok := n.entries.load(userID); ok && e.epoch != stale {
		n.entries.edit(userID, func(e *nearEntry, loaded bool) (*nearEntry, bool) {
			if !loaded || e.epoch == stale {
				return e, false
			}
			marked := *e
			marked.epoch = stale
			return &marked, true
		})
	}
	if n.waiting.Load() > 0 {
		n.wake(userID)
	}
}

// remove drops the user's entry, because the session has ended, and wakes those
// who wait for a change.
func (n *nearCache) remove(userID string) {
	stripe := n.stripe(userID)
	stripe.ends.Add(1) // before the removal: see fill
	stripe.notices.Add(1)
	n.entries.remove(userID)
	if n.waiting.Load() > 0 {
		n.wake(userID)
	}
}

// Changed implements [Feed]. What is known stands in for the store if it goes
// away before it is read again.
func (n *nearCache) Changed(userID string) { n.markStale(userID) }

// Ended implements [EndFeed].
func (n *nearCache) Ended(userID string) { n.remove(userID) }

// Flush implements [Feed]. Entries stay for an outage, but are not believed.
func (n *nearCache) Flush() {
	n.renew(func(t *trust) { t.epoch++ })
}

// doubt ends all trust, until the next watcher gives new.
func (n *nearCache) doubt() {
	n.lapse.Stop()
	n.renew(func(t *trust) { *t = trust{epoch: t.epoch + 1} })
}

// Trust implements [Feed].
func (n *nearCache) Trust(until time.Time, maxAge time.Duration) {
	now := time.Now()
	// By both clocks: the monotonic one stands still while the machine sleeps.
	span := min(until.Sub(now), until.Round(0).Sub(now.Round(0)))
	if until.IsZero() {
		n.lapse.Stop()
	} else {
		n.lapse.Reset(span)
	}
	n.renew(func(t *trust) {
		t.open, t.maxAge = until.IsZero(), maxAge
		// A caller may have looked at the clock a moment before.
		t.given, t.span = now.Add(-clockSlack).UnixNano(), uint64(max(0, span+clockSlack))
	})
}

func (n *nearCache) renew(edit func(*trust)) {
	for {
		old := n.trust.Load()
		if old.closed {
			return
		}
		next := *old
		edit(&next)
		if n.trust.CompareAndSwap(old, &next) {
			return
		}
	}
}

// close stops every hit: what comes now takes the long way and is refused there.
func (n *nearCache) close() {
	n.lapse.Stop()
	n.renew(func(t *trust) { *t = trust{epoch: t.epoch + 1, closed: true} })
}

// watch returns a channel that is closed on the user's next change notice, and
// a function to call when nobody waits for it any more. One flight per user
// waits at a time.
func (n *nearCache) watch(userID string) (changed <-chan struct{}, stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ch := make(chan struct{})
	n.waiters[userID] = ch
	n.waiting.Store(int32(len(n.waiters)))
	return ch, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.waiters[userID] == ch {
			delete(n.waiters, userID)
			n.waiting.Store(int32(len(n.waiters)))
		}
	}
}

func (n *nearCache) wake(userID string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ch, ok := n.waiters[userID]; ok {
		close(ch)
		delete(n.waiters, userID)
		n.waiting.Store(int32(len(n.waiters)))
	}
}

// believing reports whether a watcher vouches for entries just now.
func (n *nearCache) believing(now time.Time) bool {
	return n.trust.Load().holds(now)
}
