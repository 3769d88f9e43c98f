// Package keyset remembers which keys of a large store were seen.
package keyset

import "hash/maphash"

// Set remembers keys by 61 bits of a hash, in 6 bytes each and what append keeps in
// reserve. That two of a million keys have the same hash happens once in 4 million
// sets. It is not safe for concurrent use.
type Set struct {
	seed    maphash.Seed
	buckets [1 << bucketBits]bucket
}

// bucket holds the bits of hashes that do not choose the bucket. At a million keys it
// has 122 of them, which are quicker to look through than to keep in order.
type bucket struct {
	high []uint32
	low  []uint16
}

const bucketBits = 13

// New returns an empty set.
func New() *Set { return &Set{seed: maphash.MakeSeed()} }

// Add adds keys and returns those that were not in the set, in the same array.
func (s *Set) Add(keys []string) []string {
	fresh := keys[:0]
	for _, key := range keys {
		if s.add(maphash.String(s.seed, key)) {
			fresh = append(fresh, key)
		}
	}
	return fresh
}

func (s *Set) add(hash uint64) (isNew bool) {
	b := &s.buckets[hash>>(64-bucketBits)]
	rest := hash << bucketBits
	high, low := uint32(rest>>32), uint16(rest>>16)
	for i, known := range b.high {
		if known == high && b.low[i] == low {
			return false
		}
	}
	b.high, b.low = append(b.high, high), append(b.low, low)
	return true
}
