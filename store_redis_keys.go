package session

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// redisKeys names everything the store has on Redis.
type redisKeys struct {
	prefix    string // of the records
	auxPrefix string // of everything else; never begins with prefix

	slotTags func() []uint32 // see slotTag
}

func newRedisKeys(prefix string) (redisKeys, error) {
	if prefix == "" {
		return redisKeys{}, errors.New("session: WithKeyPrefix: empty prefix")
	}
	if strings.ContainsAny(prefix, "{}") && hashTag(prefix) == "" {
		return redisKeys{}, fmt.Errorf("session: WithKeyPrefix: %q has braces that are no hash tag", prefix)
	}
	keys := redisKeys{prefix: prefix, slotTags: sync.OnceValue(newSlotTags)}
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

func (k redisKeys) record(userID string) string { return k.prefix + userID }
func (k redisKeys) userID(key string) string    { return strings.TrimPrefix(key, k.prefix) }
func (k redisKeys) channel() string             { return k.auxPrefix + "changes" }

// pattern is the glob that matches all records.
func (k redisKeys) pattern() string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(k.prefix) + "*"
}

// The kinds of keys that go with a record.
const (
	leaseKind = "lock:"
	fenceKind = "logout:"
)

// lease is the key of the lease on a record, fence that of the last logout.
func (k redisKeys) lease(userID string) string { return k.with(leaseKind, userID) }
func (k redisKeys) fence(userID string) string { return k.with(fenceKind, userID) }

// fencePrefix is what the fences of all users begin with.
func (k redisKeys) fencePrefix() string { return k.auxPrefix + fenceKind }

// with is a key that goes with a record, in the record's Cluster slot.
func (k redisKeys) with(kind, userID string) string {
	key := k.record(userID)
	switch tag := hashTag(key); {
	case hashTag(k.prefix) != "":
		return k.auxPrefix + kind + userID // auxPrefix carries the same tag
	case tag != "":
		return k.auxPrefix + kind + "{" + tag + "}" + userID
	case !strings.Contains(key, "}"):
		return k.auxPrefix + kind + "{" + key + "}"
	default:
		// A brace in the user ID keeps the key itself from being a tag.
		return k.auxPrefix + kind + "{" + k.slotTag(hashSlot(key)) + "}" + userID
	}
}

// fenceOwner is the inverse of fence: whose fence the key is, if it is one.
func (k redisKeys) fenceOwner(key string) (userID string, ok bool) {
	rest, ok := strings.CutPrefix(key, k.fencePrefix())
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
	return userID, k.fence(userID) == key
}

// heartbeat is a key for the feed's end-to-end heartbeat, in the given Cluster
// slot, or any if that is negative.
func (k redisKeys) heartbeat(instance string, slot int) string {
	if slot < 0 {
		return k.heartbeatPrefix(instance)
	}
	return k.heartbeatPrefix(instance) + "{" + k.slotTag(slot) + "}"
}

func (k redisKeys) heartbeatPrefix(instance string) string {
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

// hashSlot is the CRC16 (XMODEM) that the Cluster specification prescribes.
func hashSlot(key string) int {
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

// slotTag is a hash tag of a slot: the smallest number that hashes to it.
func (k redisKeys) slotTag(slot int) string {
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
		if slot := hashSlot(string(digits)); !found[slot] {
			tags[slot], found[slot] = n, true
			left--
		}
	}
	return tags
}
