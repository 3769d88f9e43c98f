// Package nearcache has the in-process copy of what a store said about each user,
// and knows for how long it may be believed.
package nearcache

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mana/session/internal/bounded"
)

// Item is a value, and what the cache has to know of it.
type Item[V any] struct {
	Value      V
	FreshUntil int64     // Unix seconds: until then a hit needs no second look at the value
	LiveUntil  time.Time // the value's end; zero: none
	ReadAt     time.Time // when the store was asked
	Size       int64     // bytes
}

func (i *Item[V]) live(now time.Time) bool { return i.LiveUntil.IsZero() || i.LiveUntil.After(now) }

// Cache is a bounded near cache. It is the feed of a store's watcher.
//
// An entry is believed while the trust it was read under still holds: the same
// epoch (a flush starts a new one) and a span of time that the watcher renews.
// What is not believed stays, because it is all there is to serve from when the
// store is away. All methods are safe for concurrent use.
type Cache[V any] struct {
	entries *bounded.Map[*entry[V]]
	trust   atomic.Pointer[trust]
	lapse   *time.Timer

	// tickets[hash(user)] counts notices, so that a fill which was overtaken by
	// a change notice between reading and storing is noticed.
	seed    maphash.Seed
	tickets [4096]notices

	mu      sync.Mutex
	waiters map[string]chan struct{} // guarded by mu; closed on the user's next notice
	waiting atomic.Int32             // len(waiters), for notices nobody waits for
}

// entry is immutable.
type entry[V any] struct {
	Item[V]
	epoch uint64 // stale: not believed
}

// stale is the epoch of an entry that stands in for a store that is away.
const stale = 0

// notices counts what was told of a stripe of the users.
type notices struct{ notices, ends atomic.Uint64 }

// Ticket is drawn before a call of the store and handed in with its result.
type Ticket struct {
	epoch, notices, ends uint64
}

// New returns a cache for about so many users, and so many bytes.
func New[V any](size int, bytes int64) *Cache[V] {
	c := &Cache[V]{
		entries: bounded.New[*entry[V]](size).Weighing(func(e *entry[V]) int64 { return e.Size }, bytes),
		seed:    maphash.MakeSeed(),
		waiters: make(map[string]chan struct{}),
	}
	c.trust.Store(&trust{epoch: 1})
	c.lapse = time.AfterFunc(time.Hour, func() { c.renew(func(t *trust) { t.span = 0 }) })
	c.lapse.Stop()
	return c
}

// Fresh is the hot path: the value, if it is believed and needs no second look.
func (c *Cache[V]) Fresh(userID string, now time.Time) (value V, ok bool) {
	e, ok := c.entries.Load(userID)
	if !ok || now.Unix() >= e.FreshUntil {
		return value, false
	}
	return e.Value, c.believes(e, now)
}

// Get returns the user's item if it has not ended, and whether it is believed.
func (c *Cache[V]) Get(userID string, now time.Time) (item Item[V], believed, ok bool) {
	e, ok := c.entries.Load(userID)
	if !ok || !e.live(now) {
		return item, false, false
	}
	return e.Item, c.believes(e, now), true
}

func (c *Cache[V]) believes(e *entry[V], now time.Time) bool {
	t := c.trust.Load()
	return e.epoch == t.epoch && t.holds(now) && (t.maxAge == 0 || young(e.ReadAt, now, t.maxAge))
}

// Unwritten returns the user's value unless the record was written since it was
// read.
func (c *Cache[V]) Unwritten(userID string) (value V, ok bool) {
	e, ok := c.entries.Load(userID)
	if !ok || e.epoch == stale {
		return value, false
	}
	return e.Value, true
}

// Ticket draws a ticket for a call that is about to be made.
func (c *Cache[V]) Ticket(userID string) Ticket {
	stripe := c.stripe(userID)
	return Ticket{c.trust.Load().epoch, stripe.notices.Load(), stripe.ends.Load()}
}

func (c *Cache[V]) stripe(userID string) *notices {
	return &c.tickets[maphash.String(c.seed, userID)%uint64(len(c.tickets))]
}

// Fill keeps what a read returned, unless the user's record changed since the
// ticket was drawn.
func (c *Cache[V]) Fill(userID string, t Ticket, item Item[V]) {
	if c.entries.Max() == 0 {
		return
	}
	stripe := c.stripe(userID)
	c.entries.StoreIf(userID, &entry[V]{item, t.epoch}, func() bool { return stripe.notices.Load() == t.notices })
}

// Drop removes the entry of a user of whom a read found nothing.
func (c *Cache[V]) Drop(userID string, t Ticket) {
	if c.stripe(userID).notices.Load() == t.notices {
		c.entries.Remove(userID)
	}
}

// Wrote keeps what a write stored for while the store is away, unless the user's
// record was removed since the ticket was drawn. It is read before it is
// believed, because somebody else may have written since.
func (c *Cache[V]) Wrote(userID string, t Ticket, item Item[V]) {
	c.MarkStale(userID)
	stripe := c.stripe(userID)
	c.entries.StoreIf(userID, &entry[V]{item, stale}, func() bool { return stripe.ends.Load() == t.ends })
}

// MarkStale keeps the user's entry only for while the store is away, and wakes
// those who wait for a change.
func (c *Cache[V]) MarkStale(userID string) {
	c.stripe(userID).notices.Add(1) // before the change: see Fill
	if e, ok := c.entries.Load(userID); ok && e.epoch != stale {
		c.entries.Edit(userID, func(e *entry[V], loaded bool) (*entry[V], bool) {
			if !loaded || e.epoch == stale {
				return e, false
			}
			return &entry[V]{e.Item, stale}, true
		})
	}
	c.wake(userID)
}

// Remove drops the user's entry, because the record was removed, and wakes those
// who wait for a change.
func (c *Cache[V]) Remove(userID string) {
	stripe := c.stripe(userID)
	stripe.ends.Add(1) // before the removal: see Fill
	stripe.notices.Add(1)
	c.entries.Remove(userID)
	c.wake(userID)
}

// Watch returns a channel that is closed on the user's next change notice, and
// a function to call when nobody waits for it any more. One caller per user waits
// at a time.
func (c *Cache[V]) Watch(userID string) (changed <-chan struct{}, stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan struct{})
	c.waiters[userID] = ch
	c.waiting.Store(int32(len(c.waiters)))
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.waiters[userID] == ch {
			delete(c.waiters, userID)
			c.waiting.Store(int32(len(c.waiters)))
		}
	}
}

func (c *Cache[V]) wake(userID string) {
	if c.waiting.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.waiters[userID]; ok {
		close(ch)
		delete(c.waiters, userID)
		c.waiting.Store(int32(len(c.waiters)))
	}
}

// Len is the number of entries, Weight what they take in bytes, Waiting the
// number of those who wait for a notice.
func (c *Cache[V]) Len() int      { return c.entries.Len() }
func (c *Cache[V]) Weight() int64 { return c.entries.Weight() }
func (c *Cache[V]) Waiting() int  { return int(c.waiting.Load()) }
