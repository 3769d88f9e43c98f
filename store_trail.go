package session

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A trail as the stores of this package keep it: at most trailLength lines, the newest
// first, each "first last count ends event", with times in milliseconds since 1970. The
// script in store_redis_scripts.go writes the same.

const (
	trailLength = 8
	maxTrail    = 4096 // bytes; what is longer is not of our making

	// trailKeep is how long a trail outlives the session: whoever comes back after it
	// has ended can still be told why.
	trailKeep = 7 * 24 * time.Hour

	// repeats marks events that take the place of an equal one, with a count, unless
	// another kind came in between.
	repeats = '~'
)

// TrailEntry is what a [TrailLog] has noted.
type TrailEntry struct {
	Event       string    // as it was in Record.Event
	First, Last time.Time // to the millisecond; they differ if Count is above 1
	Count       int
	Ends        time.Time // the Expires of the record that was written last; zero if it never ends, or was deleted
}

func (e TrailEntry) line() string {
	return fmt.Sprintf("%d %d %d %d %s", e.First.UnixMilli(), e.Last.UnixMilli(), e.Count, milliOrZero(e.Ends), e.Event)
}

// milliOrZero is a time as a trail has it.
func milliOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// readTrail takes a trail apart. Lines that are not of our making are left out.
func readTrail(trail string) []TrailEntry {
	var entries []TrailEntry
	for line := range strings.Lines(trail) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 5)
		if len(fields) != 5 {
			continue
		}
		var n [4]int64
		valid := true
		for i := range n {
			var err error
			n[i], err = strconv.ParseInt(fields[i], 10, 64)
			valid = valid && err == nil && n[i] >= 0
		}
		if !valid {
			continue
		}
		e := TrailEntry{Event: fields[4], First: time.UnixMilli(n[0]), Last: time.UnixMilli(n[1]), Count: int(n[2])}
		if n[3] > 0 {
			e.Ends = time.UnixMilli(n[3])
		}
		entries = append(entries, e)
	}
	return entries
}

// addToTrail returns the trail with one more event.
func addToTrail(trail, event string, at, ends time.Time) string {
	added := TrailEntry{Event: event, First: at, Last: at, Count: 1, Ends: ends}
	lines := []string{""}
	folding := event[0] == repeats
	for _, e := range readTrail(trail) {
		if folding && e.Event == event {
			added.First, added.Count = e.First, e.Count+1
			continue
		}
		folding = folding && e.Event[0] == repeats
		lines = append(lines, e.line())
	}
	lines[0] = added.line()
	return strings.Join(lines[:min(len(lines), trailLength)], "\n")
}

// trailUntil is how long a trail is kept after an event.
func trailUntil(at, ends time.Time) time.Time {
	if ends.Before(at) {
		ends = at
	}
	return ends.Add(trailKeep)
}
