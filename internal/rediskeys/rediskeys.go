// Package rediskeys names the keys of a session store on Redis, and knows their
// Cluster slots. It talks to no server.
package rediskeys

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// Keys names everything that a store has on Redis.
type Keys struct {
	prefix    string // of the records: see Prefix
	auxPrefix string // of everything else; never begins with prefix

	slotTags func() []uint32 // see SlotTag
}

// New returns the keys of a store whose records have the given prefix.
func New(prefix string) (Keys, error) {
	if prefix == "" {
		return Keys{}, errors.New("session: WithKeyPrefix: empty prefix")
	}
	if strings.ContainsAny(prefix, "{}") && hashTag(prefix) == "" {
		return Keys{}, fmt.Errorf("session: WithKeyPrefix: %q has braces that are no hash tag", prefix)
	}
	keys := Keys{prefix: prefix, slotTags: sync.OnceValue(newSlotTags)}
	last, mark := len(prefix)-1, "-"
	if prefix[last] == '-' {
		mark = "~"
	}
	if prefix[last] == '}' { // keep the hash tag whole
		keys.auxPrefix = "-" + prefix + ":"
	} else { // another last byte: the records' prefix covers none of it
		keys.auxPrefix = prefix[:last] + mark
	}
	return keys, nil
}

// Prefix is what the records of all users begin with, and nothing else does.
func (k Keys) Prefix() string { return k.prefix }

// Record is the key of a user's record, UserID its inverse.
func (k Keys) Record(userID string) string { return k.prefix + userID }
func (k Keys) UserID(key string) string    { return strings.TrimPrefix(key, k.prefix) }

// Channel is the Pub/Sub channel on which changes are announced.
func (k Keys) Channel() string { return k.auxPrefix + "changes" }

// Pattern is the glob that matches all records.
func (k Keys) Pattern() string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(k.prefix) + "*"
}

// The kinds of keys that go with a record.
const (
	leaseKind = "lock:"
	fenceKind = "logout:"
	trailKind = "trail:"
)

// Lease is the key of the lease on a record, Fence that of the last logout, Trail that
// of what happened to the user's session.
func (k Keys) Lease(userID string) string { return k.with(leaseKind, userID) }
func (k Keys) Fence(userID string) string { return k.with(fenceKind, userID) }
func (k Keys) Trail(userID string) string { return k.with(trailKind, userID) }

// FencePrefix is what the fences of all users begin with.
func (k Keys) FencePrefix() string { return k.auxPrefix + fenceKind }

// with is a key that goes with a record, in the record's Cluster slot.
func (k Keys) with(kind, userID string) string {
	key := k.Record(userID)
	switch tag := hashTag(key); {
	case hashTag(k.prefix) != "":
		return k.auxPrefix + kind + userID // auxPrefix carries the same tag
	case tag != "":
		return k.auxPrefix + kind + "{" + tag + "}" + userID
	case !strings.Contains(key, "}"):
		return k.auxPrefix + kind + "{" + key + "}"
	default:
		// A brace in the user ID keeps the key itself from being a tag.
		return k.auxPrefix + kind + "{" + k.SlotTag(Slot(key)) + "}" + userID
	}
}

// TrailPrefix is what the trails of all users begin with.
func (k Keys) TrailPrefix() string { return k.auxPrefix + trailKind }

// Overlaps reports whether keys of one store could be taken for keys of the other,
// because one name of theirs begins with another. Heartbeats of both may share a name:
// each process knows its own.
func (k Keys) Overlaps(other Keys) bool {
	meet := func(mine, theirs string) bool {
		return strings.HasPrefix(mine, theirs) || strings.HasPrefix(theirs, mine)
	}
	for _, mine := range k.names() {
		for _, theirs := range other.names() {
			if meet(mine, theirs) {
				return true
			}
		}
	}
	return meet(k.heartbeats(), other.prefix) || meet(k.prefix, other.heartbeats())
}

// names are what the keys of a store begin with, but for its heartbeats.
func (k Keys) names() []string {
	return []string{k.prefix, k.auxPrefix + leaseKind, k.FencePrefix(), k.TrailPrefix(), k.Channel()}
}

// heartbeats is what the heartbeats of all processes begin with.
func (k Keys) heartbeats() string { return strings.TrimSuffix(k.HeartbeatPrefix(""), ":") }

// Patterns are globs for all keys of the store and for its channel, as an ACL has them.
func (k Keys) Patterns() []string {
	shared := 0
	for shared < min(len(k.prefix), len(k.auxPrefix)) && k.prefix[shared] == k.auxPrefix[shared] {
		shared++
	}
	patterns := []string{k.prefix[:shared] + "*"}
	if shared == 0 {
		patterns = []string{k.prefix + "*", k.auxPrefix + "*"}
	}
	if !strings.HasPrefix(k.heartbeats(), k.prefix[:shared]) || shared == 0 {
		patterns = append(patterns, k.heartbeats()+"*") // has none of the prefix's braces
	}
	return patterns
}

// FenceOwner is the inverse of Fence, and TrailOwner that of Trail: whose the key is, if
// it is one.
func (k Keys) FenceOwner(key string) (userID string, ok bool) { return k.owner(fenceKind, key) }
func (k Keys) TrailOwner(key string) (userID string, ok bool) { return k.owner(trailKind, key) }

// owner is the inverse of with.
func (k Keys) owner(kind, key string) (userID string, ok bool) {
	rest, ok := strings.CutPrefix(key, k.auxPrefix+kind)
	if !ok {
		return "", false
	}
	userID = rest
	if hashTag(k.prefix) == "" {
		tag, after, _ := strings.Cut(strings.TrimPrefix(rest, "{"), "}")
		if userID = after; after == "" { // the tag is the record's whole key
			userID, _ = strings.CutPrefix(tag, k.prefix)
		}
	}
	return userID, k.with(kind, userID) == key
}

// Heartbeat is a key for the feed's end-to-end heartbeat, in the given Cluster
// slot, or any if that is negative.
func (k Keys) Heartbeat(instance string, slot int) string {
	if slot < 0 {
		return k.HeartbeatPrefix(instance)
	}
	return k.HeartbeatPrefix(instance) + "{" + k.SlotTag(slot) + "}"
}

// HeartbeatPrefix is what the heartbeats of one process begin with.
func (k Keys) HeartbeatPrefix(instance string) string {
	return strings.NewReplacer("{", "", "}", "").Replace(k.auxPrefix) + "heartbeat:" + instance + ":"
}

// hashTag returns what Redis Cluster hashes instead of the whole key, or "".
// https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
func hashTag(key string) string {
	_, rest, found := strings.Cut(key, "{")
	tag, _, closed := strings.Cut(rest, "}")
	if !found || !closed {
		return ""
	}
	return tag
}

const clusterSlots = 16384

// Slot is the Cluster slot of a key: the CRC16 (XMODEM) that the Cluster specification prescribes.
func Slot(key string) int {
	if tag := hashTag(key); tag != "" {
		key = tag
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc) % clusterSlots
}

// SlotTag is a hash tag of a slot: the smallest number that hashes to it.
func (k Keys) SlotTag(slot int) string {
	return strconv.FormatUint(uint64(k.slotTags()[slot]), 10)
}

// newSlotTags finds a hash tag for every slot, by trying. That takes some
// 10 ms, so a store does it once, when it first needs one.
func newSlotTags() []uint32 {
	tags := make([]uint32, clusterSlots)
	found := make([]bool, clusterSlots)
	digits := make([]byte, 0, 10)
	for n, left := uint32(0), clusterSlots; left > 0; n++ {
		digits = strconv.AppendUint(digits[:0], uint64(n), 10)
		if slot := Slot(string(digits)); !found[slot] {
			tags[slot], found[slot] = n, true
			left--
		}
	}
	return tags
}
