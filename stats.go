package session

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
	"unsafe"
)

// Stats is what [Service.Stats] returns. Total and Active describe the store
// and so every process that shares it. There are no user IDs in it.
type Stats struct {
	Total          int    // sessions the store holds
	Active         int    // those among them that have not expired
	StorageMode    string // "memory", "redis", or "custom"
	SSOLinkEnabled bool

	Counters
}

// Counters are what [Service.Counters] returns: what this Service has done since
// it was made. Each but Queued only grows.
type Counters struct {
	Hits   int64 // tokens served from memory
	Misses int64 // those that took a read of the store, or a refresh
	Waits  int64 // callers who waited for a refresh that another had begun

	RefreshesByLink  int64 // tokens from the SSO-Link, new sessions included
	RefreshesByToken int64 // tokens from refresh tokens
	RefreshesAhead   int64 // those of both kinds that no caller waited for
	SessionsEnded    int64 // by the auth server's clear no

	// Refresh failures by kind.
	FailedUnavailable int64 // outages, time-outs, unusable answers
	FailedServiceKey  int64 // the service key was rejected
	FailedNotLinked   int64 // nothing to refresh with

	Logins        int64
	LoginFailures int64 // ErrRateLimited included
	Logouts       int64

	StoreErrors int64
	Unreadable  int64 // records that were no sessions

	// Logins, logouts and refreshes that the store was away for.
	Queued      int   // waiting for it now
	WrittenBack int64 // stored when it was back
	Overtaken   int64 // of no use then, because the store held something newer
	Dropped     int64 // lost, because they could not be stored: see the log

	// Ends of sessions, for WithOnSessionEnd.
	EndsTold    int64
	EndsDropped int64 // too many waited to be told, or Close had no time for them
}

// counters are the live form of Counters.
type counters struct {
	hits stripedCounter

	misses, waits                                      atomic.Int64
	byLink, byToken, ahead, ended                      atomic.Int64
	failedUnavailable, failedServiceKey, failedNotLink atomic.Int64
	logins, loginFailures, logouts                     atomic.Int64
	storeErrors, unreadable                            atomic.Int64
	writtenBack, overtaken, dropped                    atomic.Int64
	endsTold, endsDropped                              atomic.Int64
}

// stripedCounter is spread over cache lines by goroutine: hits come on every
// core, at a rate at which sharing one line would cost as much as the rest of
// the hit. (xsync.Counter, which finds the core's line through a sync.Pool,
// takes 16 ns where this takes 6.)
type stripedCounter [64]struct {
	n atomic.Int64
	_ [56]byte // to the end of the cache line
}

func (c *stripedCounter) inc() {
	var here byte // its address tells the goroutine's stack from others'
	c[uintptr(unsafe.Pointer(&here))>>11%uintptr(len(c))].n.Add(1)
}

func (c *stripedCounter) sum() int64 {
	var n int64
	for i := range c {
		n += c[i].n.Load()
	}
	return n
}

// failed counts a refresh that came to nothing by its kind.
func (c *counters) failed(err error) {
	switch {
	case errors.Is(err, ErrServiceKeyRejected):
		c.failedServiceKey.Add(1)
	case errors.Is(err, ErrNotLoggedIn):
		c.failedNotLink.Add(1)
	default:
		c.failedUnavailable.Add(1)
	}
}

// Counters returns the counters without asking the store or the auth server, in
// less than a microsecond: for metrics, which are scraped often. It goes on to work
// when the Service is closed. Safe for concurrent use.
func (s *Service) Counters() Counters {
	c := &s.count
	return Counters{
		Hits:              c.hits.sum(),
		Misses:            c.misses.Load(),
		Waits:             c.waits.Load(),
		RefreshesByLink:   c.byLink.Load(),
		RefreshesByToken:  c.byToken.Load(),
		RefreshesAhead:    c.ahead.Load(),
		SessionsEnded:     c.ended.Load(),
		FailedUnavailable: c.failedUnavailable.Load(),
		FailedServiceKey:  c.failedServiceKey.Load(),
		FailedNotLinked:   c.failedNotLink.Load(),
		Logins:            c.logins.Load(),
		LoginFailures:     c.loginFailures.Load(),
		Logouts:           c.logouts.Load(),
		StoreErrors:       c.storeErrors.Load(),
		Unreadable:        c.unreadable.Load(),
		Queued:            s.outbox.len(),
		WrittenBack:       c.writtenBack.Load(),
		Overtaken:         c.overtaken.Load(),
		Dropped:           c.dropped.Load(),
		EndsTold:          c.endsTold.Load(),
		EndsDropped:       c.endsDropped.Load(),
	}
}

// Stats counts the sessions in the store and returns them beside the counters.
// It walks over all records without blocking the store for others, so it costs
// in proportion to them: [Service.Counters] does without. It returns
// ErrStoreUnavailable when the store cannot be read (with the counters filled in
// all the same) and ErrClosed. Safe for concurrent use.
//
// Redis is asked for keys and TTLs: whatever has a TTL counts as a session that
// lasts as long. That is so of all that this package writes. A record that
// something else put there, one that is sealed with a key that this bot lacks, and
// a session whose TTL the TypeScript service extended past its end are counted, too,
// until their TTL ends or [Service.Cleanup] drops the last of these.
func (s *Service) Stats(ctx context.Context) (Stats, error) {
	stats := Stats{
		StorageMode:    s.storageMode,
		SSOLinkEnabled: s.linkEnabled,
		Counters:       s.Counters(),
	}
	for l, err := range s.records.list(ctx, false) {
		if err != nil {
			stats.Counters = s.Counters()
			return stats, err
		}
		stats.Total++
		if l.live(time.Now()) {
			stats.Active++
		}
	}
	return stats, nil
}
