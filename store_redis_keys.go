package session

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// redisKeys names everything the store has on Redis.
type redisKeys struct {
	prefix string // of the records
	beside string // of everything else; never begins with prefix
}

func newRedisKeys(prefix string) (redisKeys, error) {
	if prefix == "" {
		return redisKeys{}, errors.New("session: WithKeyPrefix: empty prefix")
	}
	if strings.ContainsAny(prefix, "{}") && hashTag(prefix) == "" {
		return redisKeys{}, fmt.Errorf("session: WithKeyPrefix: %q has braces that are no hash tag", prefix)
	}
	// Changing the last byte is what keeps other keys out of the prefix.
	last, mark := len(prefix)-1, "-"
	if prefix[last] == '-' {
		mark = "~"
	}
	if prefix[last] == '}' { // keep the hash tag whole
		return redisKeys{prefix: prefix, beside: "-" + prefix + ":"}, nil
	}
	return redisKeys{prefix: prefix, beside: prefix[:last] + mark}, nil
}

func (k redisKeys) record(userID string) string { return k.prefix + userID }
func (k redisKeys) userID(key string) string    { return strings.TrimPrefix(key, k.prefix) }
func (k redisKeys) channel() string             { return k.beside + "changes" }

// pattern is the glob that matches all records.
func (k redisKeys) pattern() string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(k.prefix) + "*"
}

// lease is the key of the lease on a record, tombstone that of the log-out.
func (k redisKeys) lease(userID string) string     { return k.with("lock:", userID) }
func (k redisKeys) tombstone(userID string) string { return k.with("logout:", userID) }

// with is a key that goes with a record, in the record's Cluster slot.
func (k redisKeys) with(kind, userID string) string {
	key := k.record(userID)
	switch tag := hashTag(key); {
	case hashTag(k.prefix) != "":
		return k.beside + kind + userID // beside carries the same tag
	case tag != "":
		return k.beside + kind + "{" + tag + "}" + userID
	case !strings.Contains(key, "}"):
		return k.beside + kind + "{" + key + "}"
	default:
		// A brace in the user ID keeps the key itself from being a tag.
		return k.beside + kind + "{" + slotTag(hashSlot(key)) + "}" + userID
	}
}

// heartbeat is a key in a given slot, for the feed's end-to-end heartbeat.
func (k redisKeys) heartbeat(instance string, slot int) string {
	return k.heartbeatPrefix(instance) + "{" + slotTag(slot) + "}"
}

func (k redisKeys) heartbeatPrefix(instance string) string {
	return strings.NewReplacer("{", "", "}", "").Replace(k.beside) + "heartbeat:" + instance + ":"
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

// slotTag finds a hash tag of a slot by trying; it takes some 16,000 tries.
func slotTag(slot int) string {
	for i := 0; ; i++ {
		if tag := strconv.Itoa(i); hashSlot(tag) == slot {
			return tag
		}
	}
}
