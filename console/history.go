package console

import (
	"context"
	"sync"
	"time"

	"github.com/mana/session"
)

const (
	minutes = 60 // that are remembered

	// unseenFor is how long the list of sessions is kept when nobody looks at it.
	unseenFor = 10 * time.Minute
)

// history is the Service's counters over the last hour, a sample a minute.
type history struct {
	svc *session.Service

	mu      sync.Mutex
	samples []sample // guarded by mu; the oldest first, minutes at most
}

type sample struct {
	at time.Time
	session.Counters
}

func newHistory(svc *session.Service) *history {
	return &history{svc: svc, samples: []sample{{time.Now(), svc.Counters()}}}
}

// sample takes the samples until the console is closed, and drops a list of sessions
// that nobody has looked at for a while.
func (c *Console) sample(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.history.add()
			c.list.dropUnseen(unseenFor)
		case <-ctx.Done():
			return
		}
	}
}

func (h *history) add() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) == minutes {
		h.samples = append(h.samples[:0], h.samples[1:]...)
	}
	h.samples = append(h.samples, sample{time.Now(), h.svc.Counters()})
}

// minute is what happened in one, or in the part of it that has passed.
type minute struct {
	Begin                                   time.Time
	Refreshes, Failures, StoreErrors, Ended int64
}

// lastHour returns the minutes that are remembered, the oldest first and the current
// one last.
func (h *history) lastHour() []minute {
	h.mu.Lock()
	samples := append([]sample(nil), h.samples...)
	h.mu.Unlock()
	samples = append(samples, sample{time.Now(), h.svc.Counters()})
	var past []minute
	for i, next := range samples[1:] {
		was := samples[i]
		past = append(past, minute{
			Begin:       was.at,
			Refreshes:   refreshes(next) - refreshes(was),
			Failures:    failures(next) - failures(was),
			StoreErrors: next.StoreErrors - was.StoreErrors,
			Ended:       next.SessionsEnded - was.SessionsEnded,
		})
	}
	return past
}

func refreshes(s sample) int64 { return s.RefreshesByLink + s.RefreshesByToken }

// failures leaves out users who have nothing to refresh with: that is how everybody
// who is not logged in is answered.
func failures(s sample) int64 { return s.FailedUnavailable + s.FailedServiceKey }
