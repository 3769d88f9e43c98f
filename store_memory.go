package session

import (
	"context"
	"hash/maphash"
	"iter"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
)

// sweepEvery is how often the memory store looks for expired records.
const sweepEvery = time.Minute

// MemoryStore keeps records in this process. It is the default [Store], and it
// is shared by the Services it is given to. It implements [Locker],
// [Watcher] and [TrailLog] and is safe for concurrent use.
type MemoryStore struct {
	// A record and the lease on it are one entry, so that every operation is
	// one atomic step on the map.
	entries *xsync.Map[string, memoryEntry]
	trails  *xsync.Map[string, memoryTrail] // written inside the Compute of entries
	version atomic.Uint64
	feeds   atomic.Pointer[[]Feed]

	// ends[hash(user)] counts the absences that were ended by Delete, and so
	// tells one absence of a user from another. It changes inside the map's
	// Compute. Users who share a counter may see a conflict that is none.
	ends [1 << 13]atomic.Uint64
	seed maphash.Seed

	armed atomic.Bool // a sweep is due; spares writers the mutex

	mu     sync.Mutex
	sweep  *time.Timer // guarded by mu
	closed bool        // guarded by mu
}

type memoryEntry struct {
	value   string // empty: no record, only a lease
	version uint64
	expires int64 // Unix nanoseconds; 0: never
	lease   *memoryLease
}

type memoryTrail struct {
	text  string
	until time.Time
}

type memoryLease struct {
	owner string
	note  string // if there is one, nobody holds the lease
	until time.Time
}

var (
	_ Store    = (*MemoryStore)(nil)
	_ Locker   = (*MemoryStore)(nil)
	_ Watcher  = (*MemoryStore)(nil)
	_ TrailLog = (*MemoryStore)(nil)
)

// NewMemoryStore returns an empty store. Expired records are dropped within a
// minute or so, driven by a timer that only runs while there are records;
// Close stops it.
func NewMemoryStore() *MemoryStore {
	// Growing only: to shrink the table is to make all writers wait.
	return &MemoryStore{
		entries: xsync.NewMap[string, memoryEntry](xsync.WithGrowOnly()),
		trails:  xsync.NewMap[string, memoryTrail](xsync.WithGrowOnly()),
		seed:    maphash.MakeSeed(),
	}
}

func (m *MemoryStore) endsOf(userID string) *atomic.Uint64 {
	return &m.ends[maphash.String(m.seed, userID)%uint64(len(m.ends))]
}

// absence is the user's record when there is none.
func (m *MemoryStore) absence(userID string) Record {
	return Record{UserID: userID, Version: m.endsOf(userID).Load() + 1}
}

// Get implements [Store].
func (m *MemoryStore) Get(ctx context.Context, userID string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	e, _ := m.entries.Load(userID)
	if !e.holds(time.Now()) {
		return m.absence(userID), ErrNotFound
	}
	return e.record(userID), nil
}

// Swap implements [Store].
func (m *MemoryStore) Swap(ctx context.Context, old, next Record) (Record, error) {
	return m.swap(ctx, false, "", old, next)
}

// SwapLeased implements [Locker].
func (m *MemoryStore) SwapLeased(ctx context.Context, owner string, old, next Record) (Record, error) {
	return m.swap(ctx, true, owner, old, next)
}

// swap is SwapLeased, or Swap.
func (m *MemoryStore) swap(ctx context.Context, leased bool, owner string, old, next Record) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	event := next.Event
	next.Version, next.Event = m.version.Add(1), ""
	err := ErrConflict
	now := time.Now()
	m.entries.Compute(next.UserID, func(e memoryEntry, _ bool) (memoryEntry, xsync.ComputeOp) {
		if !m.matches(e, next.UserID, old, now) {
			return e, xsync.CancelOp
		}
		lease := e.lease
		if leased {
			if lease.heldBy(owner, now) {
				lease = nil
			} else if !old.Exists() {
				return e, xsync.CancelOp
			}
		}
		err = nil
		m.note(next.UserID, event, now, next.Expires)
		return memoryEntry{next.Value, next.Version, unixNano(next.Expires), lease}, xsync.UpdateOp
	})
	if err != nil {
		return Record{}, err
	}
	m.announce(next.UserID, Feed.Changed)
	m.scheduleSweep()
	return next, nil
}

// Delete implements [Store].
func (m *MemoryStore) Delete(ctx context.Context, old Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := ErrConflict
	now := time.Now()
	m.entries.Compute(old.UserID, func(e memoryEntry, _ bool) (memoryEntry, xsync.ComputeOp) {
		gone, whatever := old.Exists() && !e.holds(now), !old.Exists() && old.Version == 0
		if !gone && !whatever && !m.matches(e, old.UserID, old, now) {
			return e, xsync.CancelOp
		}
		err = nil
		m.note(old.UserID, old.Event, now, time.Time{}) // before the new absence can be read
		m.endsOf(old.UserID).Add(1)
		return e, xsync.DeleteOp // and the lease with it
	})
	if err == nil {
		m.announce(old.UserID, reportEnded)
		m.scheduleSweep() // for the trail
	}
	return err
}

func (m *MemoryStore) note(userID, event string, at, ends time.Time) {
	if event == "" {
		return
	}
	m.trails.Compute(userID, func(was memoryTrail, _ bool) (memoryTrail, xsync.ComputeOp) {
		if !at.Before(was.until) {
			was.text = ""
		}
		return memoryTrail{addToTrail(was.text, event, at, ends), trailUntil(at, ends)}, xsync.UpdateOp
	})
}

// Trail implements [TrailLog].
func (m *MemoryStore) Trail(ctx context.Context, userID string) ([]TrailEntry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	trail, ok := m.trails.Load(userID)
	if !ok || !time.Now().Before(trail.until) {
		return nil, nil
	}
	return readTrail(trail.text), nil
}

// All implements [Store]. Expired records that have not been dropped yet are
// among those it yields.
func (m *MemoryStore) All(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for userID, e := range m.entries.All() {
			if err := ctx.Err(); err != nil {
				yield(Record{}, err)
				return
			}
			if e.value != "" && !yield(e.record(userID), nil) {
				return
			}
		}
	}
}

// Acquire implements [Locker].
func (m *MemoryStore) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (Lease, Record, error) {
	if err := ctx.Err(); err != nil {
		return Lease{}, Record{}, err
	}
	var lease Lease
	now := time.Now()
	e, _ := m.entries.Compute(userID, func(e memoryEntry, _ bool) (memoryEntry, xsync.ComputeOp) {
		if e.lease.live(now) && !e.lease.heldBy(owner, now) {
			lease = Lease{Note: e.lease.note}
			return e, xsync.CancelOp
		}
		lease = Lease{Held: true}
		e.lease = &memoryLease{owner: owner, until: now.Add(ttl)}
		return e, xsync.UpdateOp
	})
	m.scheduleSweep() // for a lease that nobody releases
	if !e.holds(now) {
		return lease, m.absence(userID), nil
	}
	return lease, e.record(userID), nil
}

// Release implements [Locker].
func (m *MemoryStore) Release(ctx context.Context, userID, owner, note string, keep time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := time.Now()
	m.entries.Compute(userID, func(e memoryEntry, _ bool) (memoryEntry, xsync.ComputeOp) {
		if !e.lease.heldBy(owner, now) {
			return e, xsync.CancelOp
		}
		e.lease = nil
		if note != "" {
			e.lease = &memoryLease{note: note, until: now.Add(keep)}
		} else if e.value == "" {
			return e, xsync.DeleteOp
		}
		return e, xsync.UpdateOp
	})
	m.scheduleSweep()
	return nil
}

// Watch implements [Watcher]: a change is announced before the call that made
// it returns.
func (m *MemoryStore) Watch(ctx context.Context, feed Feed) error {
	m.setFeeds(func(feeds []Feed) []Feed { return append(feeds, feed) })
	defer m.setFeeds(func(feeds []Feed) []Feed {
		return slices.DeleteFunc(feeds, func(f Feed) bool { return f == feed })
	})
	feed.Flush()
	feed.Trust(time.Time{}, 0)
	<-ctx.Done()
	return ctx.Err()
}

func (m *MemoryStore) setFeeds(edit func([]Feed) []Feed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var feeds []Feed
	if old := m.feeds.Load(); old != nil {
		feeds = slices.Clone(*old)
	}
	feeds = edit(feeds)
	m.feeds.Store(&feeds)
}

func (m *MemoryStore) announce(userID string, report func(Feed, string)) {
	if feeds := m.feeds.Load(); feeds != nil {
		for _, feed := range *feeds {
			report(feed, userID)
		}
	}
}

// Close stops the timer that drops expired records. The records stay.
func (m *MemoryStore) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if m.sweep != nil {
		m.sweep.Stop()
	}
	return nil
}

func (m *MemoryStore) scheduleSweep() {
	if m.armed.Load() || m.armed.Swap(true) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.sweep = time.AfterFunc(sweepEvery, m.dropExpired)
	}
}

// dropExpired locks one bucket of the map at a time, and only to remove.
func (m *MemoryStore) dropExpired() {
	for userID, e := range m.entries.AllRelaxed() {
		now := time.Now()
		if e.spent(now) {
			m.entries.Compute(userID, func(e memoryEntry, loaded bool) (memoryEntry, xsync.ComputeOp) {
				if loaded && e.spent(now) {
					return e, xsync.DeleteOp
				}
				return e, xsync.CancelOp
			})
		}
	}
	for userID, trail := range m.trails.AllRelaxed() {
		if now := time.Now(); !now.Before(trail.until) {
			m.trails.Compute(userID, func(trail memoryTrail, _ bool) (memoryTrail, xsync.ComputeOp) {
				if !now.Before(trail.until) {
					return trail, xsync.DeleteOp
				}
				return trail, xsync.CancelOp
			})
		}
	}
	m.armed.Store(false)
	if m.entries.Size() > 0 || m.trails.Size() > 0 {
		m.scheduleSweep()
	}
}

func (e memoryEntry) record(userID string) Record {
	r := Record{UserID: userID, Value: e.value, Version: e.version}
	if e.expires != 0 {
		r.Expires = time.Unix(0, e.expires)
	}
	return r
}

func (e memoryEntry) holds(now time.Time) bool {
	return e.value != "" && (e.expires == 0 || now.UnixNano() < e.expires)
}

func (e memoryEntry) spent(now time.Time) bool {
	return !e.holds(now) && !e.lease.live(now)
}

// matches reports whether old is what is stored of the user now, in e.
func (m *MemoryStore) matches(e memoryEntry, userID string, old Record, now time.Time) bool {
	switch {
	case e.holds(now):
		return old.Exists() && old.Version == e.version
	case old.Exists():
		return false
	}
	return old.Version == 0 || old.Version == m.absence(userID).Version
}

func (l *memoryLease) live(now time.Time) bool {
	return l != nil && now.Before(l.until)
}

func (l *memoryLease) heldBy(owner string, now time.Time) bool {
	return l.live(now) && l.note == "" && l.owner == owner
}

func unixNano(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() > 2261: // beyond what nanoseconds can count
		return math.MaxInt64
	}
	return t.UnixNano()
}
