package rediskeys

import (
	"slices"
	"strings"
	"testing"
)

func TestHashSlotIsTheOneOfTheSpecification(t *testing.T) {
	for key, slot := range map[string]int{"123456789": 12739, "foo{bar}baz": Slot("bar"), "foo{}{bar}": 8363, "{user1000}.following": Slot("user1000")} {
		if got := Slot(key); got != slot {
			t.Errorf("slot of %q is %d, want %d", key, got, slot)
		}
	}
	keys, err := New("a:")
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range []int{0, 1, 8191, 16383} {
		if got := Slot(keys.SlotTag(slot)); got != slot {
			t.Errorf("tag for slot %d hashes to %d", slot, got)
		}
	}
}

func TestWhatGoesWithARecordIsInItsSlotAndNoRecord(t *testing.T) {
	for _, prefix := range []string{"bot:session:", "sess", "with-", "{bots}:session:", "{bots}", "odd*[?]\\:"} {
		keys, err := New(prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, userID := range []string{"@a:h", "@a{b}c:h", "@a}b:h", "@a{}b:h", "@}{:h", "@ü:h", "@a/b:h"} {
			record := keys.Record(userID)
			if got := keys.UserID(record); got != userID {
				t.Errorf("%s comes back from its key as %s", userID, got)
			}
			for _, key := range []string{keys.Lease(userID), keys.Fence(userID), keys.Trail(userID)} {
				if Slot(key) != Slot(record) {
					t.Errorf("%s is in slot %d, its record %s in %d", key, Slot(key), record, Slot(record))
				}
				if len(key) >= len(prefix) && key[:len(prefix)] == prefix {
					t.Errorf("%s begins like a record", key)
				}
			}
			if owner, ok := keys.FenceOwner(keys.Fence(userID)); !ok || owner != userID {
				t.Errorf("the fence %s is %q's, want %s", keys.Fence(userID), owner, userID)
			}
			if owner, ok := keys.TrailOwner(keys.Trail(userID)); !ok || owner != userID {
				t.Errorf("the trail %s is %q's, want %s", keys.Trail(userID), owner, userID)
			}
			if owner, ok := keys.TrailOwner(keys.Fence(userID)); ok {
				t.Errorf("the fence %s is taken for the trail of %q", keys.Fence(userID), owner)
			}
		}
	}
}

func TestStoresOverlapWhenOneNameBeginsWithAnother(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"bot:session:", "bot:session:", true},
		{"bot:session:", "bot:session:v2:", true},
		{"bot:session:", "bot:session-", true},       // the other's records are all that lies beside ours
		{"bot:session:", "bot:session-trail:", true}, // likewise
		{"bot:session:", "bot:session-heart", true},
		{"{x}", "-{x}:lock:", true},
		{"bot:session:", "bot:session-v2:", false},
		{"bot:session:", "mana:session:", false},
		{"bot:session:", "x:bot:session:", false},
		{"bots:", "{bots}:", false}, // heartbeats of both have one name, which is of no harm
		{"a-", "a:", true},
		{"a-", "a_", true},
	} {
		a, err := New(c.a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := New(c.b)
		if err != nil {
			t.Fatal(err)
		}
		if a.Overlaps(b) != c.want || b.Overlaps(a) != c.want {
			t.Errorf("%s and %s overlap: %t, want %t", c.a, c.b, !c.want, c.want)
		}
	}
}

func TestPatternsMatchEveryKey(t *testing.T) {
	for _, prefix := range []string{"bot:session:", "sess", "with-", "{bots}:session:", "{bots}", "x"} {
		keys, err := New(prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{
			keys.Record("@a:h"), keys.Lease("@a:h"), keys.Fence("@a}b:h"), keys.Trail("@a:h"), keys.Channel(), keys.Heartbeat("i", -1), keys.Heartbeat("i", 7),
		} {
			if !slices.ContainsFunc(keys.Patterns(), func(pattern string) bool { return strings.HasPrefix(key, strings.TrimSuffix(pattern, "*")) }) {
				t.Errorf("%s is matched by none of %v", key, keys.Patterns())
			}
		}
	}
}
