// Package bounded has a concurrent map that stays near a maximum size.
package bounded

import (
	"iter"
	"math/rand/v2"
	"sync/atomic"

	"github.com/puzpuzpuz/xsync/v4"
)

// Map is a concurrent map by user ID that stays near a maximum size by dropping
// arbitrary entries. A maximum of 0 keeps nothing.
type Map[V any] struct {
	entries *xsync.Map[string, V]
	max     int
	spare   func(V) bool // nil: none

	weigh     func(V) int64 // nil: by number alone
	maxWeight int64
	weight    atomic.Int64
}

// New returns an empty map for about so many entries.
func New[V any](most int) *Map[V] {
	return &Map[V]{entries: xsync.NewMap[string, V](), max: most}
}

// Weighing bounds the sum of what weigh says of the entries as well.
func (b *Map[V]) Weighing(weigh func(V) int64, most int64) *Map[V] {
	b.weigh, b.maxWeight = weigh, most
	return b
}

// Sparing drops what spare speaks for only when there is not enough else.
func (b *Map[V]) Sparing(spare func(V) bool) *Map[V] {
	b.spare = spare
	return b
}

// Max is the number of entries that the map was made for.
func (b *Map[V]) Max() int { return b.max }

// Len is the number of entries.
func (b *Map[V]) Len() int { return b.entries.Size() }

// Weight is what the entries weigh together.
func (b *Map[V]) Weight() int64 { return b.weight.Load() }

// Load returns the user's entry.
func (b *Map[V]) Load(userID string) (V, bool) { return b.entries.Load(userID) }

// All walks over the entries; others may change them meanwhile.
func (b *Map[V]) All() iter.Seq2[string, V] { return b.entries.AllRelaxed() }

// Remove drops the user's entry.
func (b *Map[V]) Remove(userID string) {
	if old, ok := b.entries.LoadAndDelete(userID); ok && b.weigh != nil {
		b.weight.Add(-b.weigh(old))
	}
}

// Store sets the user's entry.
func (b *Map[V]) Store(userID string, v V) {
	b.Edit(userID, func(V, bool) (V, bool) { return v, true })
}

// StoreIf stores v if ok holds while nobody else can change the entry.
func (b *Map[V]) StoreIf(userID string, v V, ok func() bool) {
	b.Edit(userID, func(V, bool) (V, bool) { return v, ok() })
}

// LoadOrMake returns the user's entry, and makes it if there is none.
func (b *Map[V]) LoadOrMake(userID string, makeOne func() V) (v V) {
	if v, ok := b.entries.Load(userID); ok {
		return v
	}
	v = makeOne()
	b.Edit(userID, func(old V, loaded bool) (V, bool) {
		if loaded {
			v = old
		}
		return v, !loaded
	})
	return v
}

// Edit stores what change makes of the present value, if it says so.
func (b *Map[V]) Edit(userID string, change func(old V, loaded bool) (V, bool)) {
	if b.max <= 0 {
		return
	}
	if b.entries.Size() >= b.max {
		b.shrink()
	}
	b.entries.Compute(userID, func(old V, loaded bool) (V, xsync.ComputeOp) {
		next, changed := change(old, loaded)
		if !changed {
			return old, xsync.CancelOp
		}
		if b.weigh != nil {
			b.weight.Add(b.weigh(next))
			if loaded {
				b.weight.Add(-b.weigh(old))
			}
		}
		return next, xsync.UpdateOp
	})
	for b.weigh != nil && b.weight.Load() > b.maxWeight && b.entries.Size() > 0 {
		b.shrink()
	}
}

// shrink drops a sixteenth of the entries, so that the cost of walking the map is
// spread over as many stores.
func (b *Map[V]) shrink() {
	size := b.entries.Size()
	drop := max(1, size/16)
	if b.spare != nil {
		drop = b.drop(drop, 0, func(v V) bool { return !b.spare(v) })
	}
	b.drop(drop, rand.IntN(max(1, size-drop)), func(V) bool { return true })
}

// drop drops some of the entries that may be dropped, past so many, and returns
// how many are still to be dropped.
func (b *Map[V]) drop(some, past int, may func(V) bool) (left int) {
	if some == 0 {
		return 0
	}
	for userID, v := range b.entries.AllRelaxed() {
		if past > 0 {
			past--
			continue
		}
		if !may(v) {
			continue
		}
		b.Remove(userID)
		if some--; some == 0 {
			break
		}
	}
	return some
}
