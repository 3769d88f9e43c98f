package rediskeys

import "testing"

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
