package session

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/puzpuzpuz/xsync/v4"
)

// bounded is a concurrent map by user ID that stays near a maximum size by
// dropping arbitrary entries. 0 keeps nothing.
type bounded[V any] struct {
	m   *xsync.Map[string, V]
	max int

	weigh     func(V) int64 // nil: by number alone
	maxWeight int64
	weight    atomic.Int64
}

func newBounded[V any](size int) *bounded[V] {
	return &bounded[V]{m: xsync.NewMap[string, V](), max: size}
}

// weighing bounds the sum of what weigh says of the entries as well.
func (b *bounded[V]) weighing(weigh func(V) int64, most int64) *bounded[V] {
	b.weigh, b.maxWeight = weigh, most
	return b
}

func (b *bounded[V]) load(userID string) (V, bool) { return b.m.Load(userID) }

func (b *bounded[V]) remove(userID string) {
	if old, ok := b.m.LoadAndDelete(userID); ok && b.weigh != nil {
		b.weight.Add(-b.weigh(old))
	}
}

func (b *bounded[V]) store(userID string, v V) {
	b.edit(userID, func(V, bool) (V, bool) { return v, true })
}

// storeIf stores v if ok holds while nobody else can change the entry.
func (b *bounded[V]) storeIf(userID string, v V, ok func() bool) {
	b.edit(userID, func(V, bool) (V, bool) { return v, ok() })
}

// edit stores what change makes of the present value, if it says so.
func (b *bounded[V]) edit(userID string, change func(old V, loaded bool) (V, bool)) {
	if b.max <= 0 {
		return
	}
	if b.m.Size() >= b.max {
		b.shrink()
	}
	b.m.Compute(userID, func(old V, loaded bool) (V, xsync.ComputeOp) {
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
	for b.weigh != nil && b.weight.Load() > b.maxWeight && b.m.Size() > 0 {
		b.shrink()
	}
}

// shrink drops a sixteenth of the entries from a random place on, so that the
// cost of walking the map is spread over as many stores.
func (b *bounded[V]) shrink() {
	size := b.m.Size()
	drop := max(1, size/16)
	skip := rand.IntN(max(1, size-drop))
	for userID := range b.m.AllRelaxed() {
		if skip > 0 {
			skip--
			continue
		}
		b.remove(userID)
		if drop--; drop == 0 {
			return
		}
	}
}
