package session

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Of more sessions than are kept at hand none is lost: those that end later are listed
// again, sooner.
func TestExpiriesKeepThoseThatEndFirst(t *testing.T) {
	count := new(counters)
	x := newExpiries(&ends{ttl: defaultSessionTTL, count: count})
	x.max = 10
	now := time.Now()
	x.until = now.Add(24 * time.Hour)
	for i := range 1000 {
		minute := time.Duration(i * 7 % 1000) // in no order
		x.add(strconv.Itoa(int(minute)), now.Add(minute*time.Minute), now)
	}
	require.LessOrEqual(t, len(x.due), 10)
	require.NotEmpty(t, x.due)
	for minute := range 1000 {
		_, kept := x.due[strconv.Itoa(minute)]
		require.Equal(t, !now.Add(time.Duration(minute)*time.Minute).After(x.until), kept, minute)
	}
	require.Zero(t, count.endsDropped.Load())

	clear(x.due)
	for i := range 25 { // all at once
		x.add("@"+strconv.Itoa(i), now, now)
	}
	require.Len(t, x.due, 10)
	require.EqualValues(t, 15, count.endsDropped.Load())
}
