package nearcache

import "time"

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

// clockSlack is how far behind the moment trust was given a caller's look at the
// clock may be.
const clockSlack = 50 * time.Millisecond

func (t *trust) holds(now time.Time) bool {
	return t.open || uint64(now.UnixNano()-t.given) < t.span
}

// young reports whether less than limit has passed since a read.
func young(readAt, now time.Time, limit time.Duration) bool {
	return within(now.Sub(readAt), time.Duration(now.UnixNano()-readAt.UnixNano()), limit)
}

// within reports whether what took so long by the monotonic and by the wall clock
// is less than limit. The one stands still while the machine sleeps, the other
// can be set back.
func within(monotonic, wall, limit time.Duration) bool {
	return monotonic < limit && wall >= 0 && wall < limit
}

// Changed is the feed's word that a record was written. What is known stands in
// for the store if it goes away before it is read again.
func (c *Cache[V]) Changed(userID string) { c.MarkStale(userID) }

// Ended is the feed's word that a record was removed.
func (c *Cache[V]) Ended(userID string) { c.Remove(userID) }

// Flush is the feed's word that any record may have changed. Entries stay for an
// outage, but are not believed.
func (c *Cache[V]) Flush() {
	c.renew(func(t *trust) { t.epoch++ })
}

// Trust is the feed's word that it has told all changes, and will until then.
func (c *Cache[V]) Trust(until time.Time, maxAge time.Duration) {
	now := time.Now()
	// By both clocks: the monotonic one stands still while the machine sleeps.
	span := min(until.Sub(now), until.Round(0).Sub(now.Round(0)))
	if until.IsZero() {
		c.lapse.Stop()
	} else {
		c.lapse.Reset(span)
	}
	c.renew(func(t *trust) {
		t.open, t.maxAge = until.IsZero(), maxAge
		// A caller may have looked at the clock a moment before.
		t.given, t.span = now.Add(-clockSlack).UnixNano(), uint64(max(0, span+clockSlack))
	})
}

// Doubt ends all trust, until the next watcher gives new.
func (c *Cache[V]) Doubt() {
	c.lapse.Stop()
	c.renew(func(t *trust) { *t = trust{epoch: t.epoch + 1} })
}

// Believing reports whether a watcher vouches for entries just now.
func (c *Cache[V]) Believing(now time.Time) bool { return c.trust.Load().holds(now) }

// Close stops every hit for good.
func (c *Cache[V]) Close() {
	c.lapse.Stop()
	c.renew(func(t *trust) { *t = trust{epoch: t.epoch + 1, closed: true} })
}

func (c *Cache[V]) renew(edit func(*trust)) {
	for {
		old := c.trust.Load()
		if old.closed {
			return
		}
		next := *old
		edit(&next)
		if c.trust.CompareAndSwap(old, &next) {
			return
		}
	}
}

// StepClock makes the cache see what it would see after the wall clock was
// stepped by d; move does it for a value. It is for tests, which cannot step the
// machine's clock.
func (c *Cache[V]) StepClock(d time.Duration, move func(V) V) {
	c.renew(func(t *trust) { t.given -= d.Nanoseconds() })
	for userID, e := range c.entries.All() {
		moved := *e
		moved.Value, moved.FreshUntil = move(e.Value), e.FreshUntil-int64(d/time.Second)
		if !moved.LiveUntil.IsZero() {
			moved.LiveUntil = moved.LiveUntil.Add(-d)
		}
		c.entries.Store(userID, &moved)
	}
}
