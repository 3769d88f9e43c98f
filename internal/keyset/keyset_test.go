package keyset_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/keyset"
)

func TestAddReturnsEachKeyOnce(t *testing.T) {
	s := keyset.New()
	require.Equal(t, []string{"a", "b"}, s.Add([]string{"a", "b", "a"}))
	require.Equal(t, []string{"", "c"}, s.Add([]string{"b", "", "c", ""}))
	require.Empty(t, s.Add([]string{"a", "b", "c", ""}))
	require.Empty(t, s.Add(nil))
}

func TestManyKeysAreToldApartInLittleRoom(t *testing.T) {
	const n = 300_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := keyset.New()
	page := make([]string, 0, 1000)
	for round := range 2 {
		fresh := 0
		for i := range n {
			if page = append(page, fmt.Sprintf("bot:session:@user%d:matrix.example", i)); len(page) == cap(page) {
				fresh += len(s.Add(page))
				page = page[:0]
			}
		}
		require.Equal(t, n*(1-round), fresh)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(14*n), "bytes")
	runtime.KeepAlive(s)
}
