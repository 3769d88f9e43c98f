package console

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mana/session"
)

const (
	listEvery   = 30 * time.Second       // at most
	listTimeout = 2 * time.Minute        // for one walk
	listWait    = 500 * time.Millisecond // for the first one, by a viewer
	maxListed   = 1_000_000
)

// list knows the users with a session, and when each ends. It is read in the
// background, at most every listEvery, when somebody looks.
type list struct {
	svc    *session.Service
	behind *background
	read   atomic.Int64 // by the walk that runs

	mu      sync.Mutex
	last    *listing      // guarded by mu; nil before the first walk
	failure error         // guarded by mu; of the last walk
	ended   time.Time     // guarded by mu; when the last walk ended
	seen    time.Time     // guarded by mu; when somebody looked
	walking chan struct{} // guarded by mu; nil, or closed when the walk ends
}

// listing is the result of a walk. It does not change.
type listing struct {
	sessions []listed // by user ID
	byEnd    []int32  // indexes of sessions, by end
	at       time.Time
	longest  time.Duration // that a session lives on from then
	cut      bool          // there are more than maxListed
}

type listed struct {
	userID string
	ends   int64 // Unix seconds; 0: never by itself
}

// looked is what somebody sees who looks at the list.
type looked struct {
	*listing       // nil if there is none yet
	failure  error // why there is none, or no newer one
	walking  bool  // a walk runs
	read     int64 // sessions that it has come by
}

// look returns the list as it was read last, and has it read again if that is long ago.
// If it was never read it waits for that for a moment.
func (l *list) look(ctx context.Context) looked {
	l.mu.Lock()
	l.seen = time.Now()
	if l.walking == nil && (l.ended.IsZero() || time.Since(l.ended) >= listEvery) {
		l.start()
	}
	walking, have := l.walking, l.last != nil
	l.mu.Unlock()
	if walking != nil && !have {
		wait := time.NewTimer(listWait)
		defer wait.Stop()
		select {
		case <-walking:
		case <-wait.C:
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return looked{l.last, l.failure, l.walking != nil, l.read.Load()}
}

// start begins a walk. It is called with l.mu held.
func (l *list) start() {
	done := make(chan struct{})
	if !l.behind.run(func(ctx context.Context) {
		var next *listing
		err := guard(func() (err error) { next, err = l.walk(ctx); return err })
		l.mu.Lock()
		defer l.mu.Unlock()
		if err == nil {
			l.last = next
		}
		l.failure, l.ended, l.walking = err, time.Now(), nil
		close(done)
	}) {
		return
	}
	l.walking = done
}

func (l *list) walk(ctx context.Context) (*listing, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	l.read.Store(0)
	next := new(listing)
	for s, err := range l.svc.Sessions(ctx) {
		if err != nil {
			return nil, err
		}
		if len(next.sessions) == maxListed {
			next.cut = true
			break
		}
		entry := listed{userID: s.UserID}
		if !s.ExpiresAt.IsZero() {
			entry.ends = s.ExpiresAt.Unix()
		}
		next.sessions = append(next.sessions, entry)
		l.read.Add(1)
	}
	next.at = time.Now()
	next.sort()
	return next, nil
}

func (l *listing) sort() {
	slices.SortFunc(l.sessions, func(a, b listed) int { return strings.Compare(a.userID, b.userID) })
	l.byEnd = make([]int32, len(l.sessions))
	for i := range l.byEnd {
		l.byEnd[i] = int32(i)
		if ends := l.sessions[i].ends; ends != 0 {
			l.longest = max(l.longest, time.Unix(ends, 0).Sub(l.at))
		}
	}
	never := func(ends int64) int64 { // last of all
		if ends == 0 {
			return 1<<63 - 1
		}
		return ends
	}
	slices.SortStableFunc(l.byEnd, func(a, b int32) int {
		return cmp.Compare(never(l.sessions[a].ends), never(l.sessions[b].ends))
	})
}

// dropUnseen gives up the list when nobody has looked at it for a while.
func (l *list) dropUnseen(after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil && time.Since(l.seen) >= after {
		l.last, l.ended = nil, time.Time{}
	}
}

// page returns one page of the sessions whose user ID contains query, whatever the
// case, and how many there are in all. A page past the last one is the last one.
func (l *listing) page(query string, byEnd bool, number, size int) (found []listed, total, page, pages int) {
	at := func(i int) listed {
		if byEnd {
			i = int(l.byEnd[i])
		}
		return l.sessions[i]
	}
	query = strings.ToLower(query)
	matches := func(s listed) bool { return strings.Contains(strings.ToLower(s.userID), query) }
	if total = len(l.sessions); query != "" {
		total = 0
		for _, s := range l.sessions {
			if matches(s) {
				total++
			}
		}
	}
	pages = max(1, (total+size-1)/size)
	page = min(max(number, 1), pages)
	skip := (page - 1) * size
	if query == "" {
		for i := skip; i < min(skip+size, total); i++ {
			found = append(found, at(i))
		}
		return found, total, page, pages
	}
	for i := 0; i < len(l.sessions) && len(found) < size; i++ {
		if s := at(i); matches(s) {
			if skip--; skip < 0 {
				found = append(found, s)
			}
		}
	}
	return found, total, page, pages
}
