package console

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/mana/session"
)

const (
	// healthTimeout is what a probe may take: Kubernetes waits for a second.
	healthTimeout = 800 * time.Millisecond

	// healthFor is how long the result of one is shared.
	healthFor = time.Second
)

// sharedHealth asks for the Service's health at most once a second, on nobody's
// request in particular: one that is given up must not make the store look bad.
type sharedHealth struct {
	svc    *session.Service
	behind *background

	mu   sync.Mutex
	last *healthProbe // guarded by mu
}

type healthProbe struct {
	done   chan struct{} // closed when the rest is set
	health session.Health
	ended  time.Time
}

// now returns the health as of a second ago at most, or false when ctx ends first or
// the console is closed.
func (s *sharedHealth) now(ctx context.Context) (h session.Health, checked time.Time, ok bool) {
	probe := s.probe()
	if probe == nil {
		return session.Health{}, time.Time{}, false
	}
	select {
	case <-probe.done:
		return probe.health, probe.ended, true
	case <-ctx.Done():
		return session.Health{}, time.Time{}, false
	}
}

// probe returns the probe that runs, or ran just now, or a new one, or nil when the
// console is closed.
func (s *sharedHealth) probe() *healthProbe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil {
		select {
		case <-s.last.done:
			if time.Since(s.last.ended) < healthFor {
				return s.last
			}
		default:
			return s.last
		}
	}
	probe := &healthProbe{done: make(chan struct{})}
	if !s.behind.run(func(ctx context.Context) {
		defer close(probe.done)
		ctx, cancel := context.WithTimeout(ctx, healthTimeout)
		defer cancel()
		probe.health = s.svc.Health(ctx)
		probe.ended = time.Now()
	}) {
		return nil
	}
	s.last = probe
	return probe
}

// liveness is the answer of healthz.
type liveness struct {
	Status string `json:"status"` // "ok" or "closed"
}

// readiness is the answer of readyz. Everybody may read it, so there are no errors in
// it, which name hosts.
type readiness struct {
	Ready    bool      `json:"ready"`
	Degraded bool      `json:"degraded"`
	Closed   bool      `json:"closed"`
	Store    component `json:"store"`
	Auth     component `json:"auth"`
	Feed     bool      `json:"feedTrusted"`
	Breaker  bool      `json:"breakerOpen"`
	Queued   int       `json:"queued"`
	Checked  time.Time `json:"checkedAt,omitzero"`
}

type component struct {
	OK        bool      `json:"ok"`
	LatencyMS float64   `json:"latencyMs"`
	Since     time.Time `json:"since,omitzero"`
}

func newComponent(h session.ComponentHealth) component {
	return component{OK: h.OK, LatencyMS: float64(h.Latency.Microseconds()) / 1000, Since: h.Since.UTC()}
}

func (c *Console) serveHealthz(w http.ResponseWriter, r *http.Request) {
	if c.svc.State().Closed || c.behind.isClosed() {
		serveJSON(w, r, http.StatusServiceUnavailable, liveness{"closed"})
		return
	}
	serveJSON(w, r, http.StatusOK, liveness{"ok"})
}

func (c *Console) serveReadyz(w http.ResponseWriter, r *http.Request) {
	state := c.svc.State()
	h, checked, ok := session.Health{}, time.Time{}, false
	if !state.Closed {
		h, checked, ok = c.health.now(r.Context())
	}
	answer := readiness{
		Ready: ok && c.ready(h), Degraded: !ok || h.Degraded, Closed: state.Closed || c.behind.isClosed(),
		Store: newComponent(h.Store), Auth: newComponent(h.Auth),
		Feed: state.FeedTrusted, Breaker: state.BreakerOpen, Queued: h.Queued,
		Checked: checked.UTC().Truncate(time.Millisecond),
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	serveJSON(w, r, status, answer)
}

func serveJSON(w http.ResponseWriter, r *http.Request, status int, answer any) {
	if !allow(w, r, http.MethodGet, http.MethodHead) {
		status, answer = http.StatusMethodNotAllowed, liveness{"method not allowed"}
	}
	body, err := json.Marshal(answer)
	if err != nil { // there is nothing in it that has no JSON form
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
