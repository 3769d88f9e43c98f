package bounded

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMapStaysNearItsMaximum(t *testing.T) {
	m := New[int](100)
	for i := range 1000 {
		m.Store(fmt.Sprint(i), i)
		require.LessOrEqual(t, m.Len(), 100)
	}
	require.Greater(t, m.Len(), 90)
	v, ok := m.Load("999")
	require.True(t, ok, "the newest is there")
	require.Equal(t, 999, v)
}

func TestMapForNobodyKeepsNothing(t *testing.T) {
	m := New[int](0)
	m.Store("a", 1)
	require.Equal(t, 2, m.LoadOrMake("a", func() int { return 2 }))
	require.Zero(t, m.Len())
}

func TestWhatIsSparedGoesLast(t *testing.T) {
	m := New[int](160).Sparing(func(v int) bool { return v < 10 })
	for i := range 1000 {
		m.Store(fmt.Sprint(i), i)
	}
	for i := range 10 {
		_, ok := m.Load(fmt.Sprint(i))
		require.True(t, ok, i)
	}
	all := New[int](160).Sparing(func(int) bool { return true })
	for i := range 1000 {
		all.Store(fmt.Sprint(i), i)
		require.LessOrEqual(t, all.Len(), 160)
	}
}

func TestWeightIsThatOfTheEntries(t *testing.T) {
	m := New[int](1000).Weighing(func(v int) int64 { return int64(v) }, 100)
	for i := range 50 {
		m.Store(fmt.Sprint(i), 10)
		require.LessOrEqual(t, m.Weight(), int64(100))
	}
	m.Store("a", 1)
	m.Store("a", 2) // in the place of it
	for userID := range m.All() {
		m.Remove(userID)
	}
	require.Zero(t, m.Weight())
}

func TestMakingAnEntryKeepsTheFirst(t *testing.T) {
	m := New[*int](10)
	first := m.LoadOrMake("a", func() *int { return new(int) })
	require.Same(t, first, m.LoadOrMake("a", func() *int { return new(int) }))
}
