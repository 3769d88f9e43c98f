package session

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"
)

// Health is what [Service.Health] returns.
type Health struct {
	Store ComponentHealth
	Auth  ComponentHealth
	// Queued is how many logins, logouts and refreshes wait for the store.
	Queued int
	// Degraded says that the Service serves what it knows because the store
	// or the auth server does not answer.
	Degraded bool
}

// ComponentHealth describes the store or the auth server as this Service sees
// it.
type ComponentHealth struct {
	OK        bool
	Latency   time.Duration // of the last call
	Since     time.Time     // when OK last changed, or the Service was made
	LastError string        // the last failure, also after recovery; "" for none
}

// Health asks the store and the auth server for a sign of life, both at once,
// and reports how each is and since when. It takes no longer than ctx allows and
// returns no error: what is wrong is in the result, and a component that has not
// answered when ctx ends has failed. Concurrent callers share one probe, and one
// of the auth server lasts for a second. The store is asked to read and, if it
// has leases, to write. The auth server is asked for a link check, which tries
// URL, path and service key at once, or without an SSO-Link for its public keys.
// Safe for concurrent use; a closed Service reports what it last knew.
func (s *Service) Health(ctx context.Context) Health {
	if s.life.begin() == nil {
		defer s.life.end()
		store := s.probes.store.start(s.life, 0, s.records.health, s.records.checkHealth)
		auth := s.probes.auth.start(s.life, probeFor, s.auth.health, func(ctx context.Context) { s.auth.probe(ctx, s.linkEnabled) })
		started := time.Now()
		if !endedIn(ctx, store) {
			s.records.health.failed(errNoSignOfLife, time.Since(started))
		}
		if !endedIn(ctx, auth) && s.auth.hasTurns() { // else the calls in progress tell more
			s.auth.health.failed(errNoSignOfLife, time.Since(started))
		}
	}
	h := Health{Store: s.records.health.report().and(s.records.writing.report()), Auth: s.auth.health.report()}
	h.Queued = s.outbox.len()
	h.Degraded = !h.Store.OK || !h.Auth.OK || h.Queued > 0
	return h
}

var errNoSignOfLife = errors.New("no answer within the deadline of the probe")

// endedIn waits for a probe as long as ctx allows, and reports whether it ended.
func endedIn(ctx context.Context, probe <-chan struct{}) bool {
	select {
	case <-probe:
		return true
	default:
	}
	select {
	case <-probe:
		return true
	case <-ctx.Done():
		return false
	}
}

// probeFor is how long the result of a probe of the auth server is shared.
const probeFor = time.Second

// probes are what Health runs, each at most once at a time and a second.
type probes struct{ store, auth sharedProbe }

type sharedProbe struct {
	mu    sync.Mutex
	began time.Time     // guarded by mu
	done  chan struct{} // guarded by mu; closed when the last one has ended
}

// start runs do, unless it runs or has run within probeFor, and returns a channel
// that is closed when it has ended. A panic counts as bad health.
func (p *sharedProbe) start(life *lifetime, shared time.Duration, health *component, do func(context.Context)) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil && time.Since(p.began) < shared {
		return p.done
	}
	if p.done != nil {
		select {
		case <-p.done:
		default:
			return p.done // still running
		}
	}
	done := make(chan struct{})
	p.began, p.done = time.Now(), done
	if life.begin() != nil {
		close(done)
		return done
	}
	go func() {
		defer life.end()
		defer close(done)
		ctx, cancel := context.WithTimeoutCause(life.ctx, authTimeout, errTimeout)
		defer cancel()
		if err := apart(func() error { do(ctx); return nil }); err != nil {
			health.failed(err, 0)
		}
	}()
	return done
}

// checkHealth reads a record that never exists, and takes a lease on it.
func (r *records) checkHealth(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, storeTimeout, errTimeout)
	defer cancel()
	if r.probe(ctx) != nil || !r.canSpend {
		return
	}
	owner := rand.Text()
	if held, err := r.renew(ctx, probeUser, owner, leaseTTL); err == nil && held {
		_ = r.release(ctx, probeUser, owner, "", 0)
	}
}

// probeUser is the user of the probes, who has no record.
const probeUser = "@health.probe:invalid"

// component remembers how calls to the store or the auth server went.
type component struct {
	mu       sync.Mutex
	last     ComponentHealth // guarded by mu
	reported bool            // guarded by mu; OK as it was last said
	saidAt   time.Time       // guarded by mu
}

// saidApart keeps a store that can be read but not written from filling the log.
const saidApart = 5 * time.Second

func newComponent() *component {
	return &component{last: ComponentHealth{OK: true, Since: time.Now()}, reported: true}
}

// worked and failed record how a call went and report whether it is time to say
// that calls go otherwise than before.
func (c *component) worked(latency time.Duration) (changed bool) {
	return c.record(nil, latency)
}

func (c *component) failed(err error, latency time.Duration) (changed bool) {
	return c.record(err, latency)
}

func (c *component) record(err error, latency time.Duration) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ok := err == nil; ok != c.last.OK {
		c.last.OK, c.last.Since = ok, time.Now()
	}
	if c.last.OK != c.reported && time.Since(c.saidAt) >= saidApart {
		c.reported, c.saidAt = c.last.OK, time.Now()
		changed = true
	}
	c.last.Latency = latency
	if err != nil {
		c.last.LastError = printable(err.Error())
	}
	return changed
}

// and is c unless other is worse.
func (c ComponentHealth) and(other ComponentHealth) ComponentHealth {
	if c.OK && !other.OK {
		return other
	}
	if c.LastError == "" {
		c.LastError = other.LastError
	}
	return c
}

func (c *component) report() ComponentHealth {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}
