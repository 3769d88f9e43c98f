package world

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mana/session"
	"github.com/mana/session/internal/race"
)

// Busyness is an HTTP transport that sees how many calls run at a time, and when
// they began.
type Busyness struct {
	base    http.RoundTripper
	Takes   atomic.Int64 // what a call takes, as a time.Duration
	running atomic.Int64

	mu      sync.Mutex
	Most    int64         // guarded by mu
	seconds map[int64]int // guarded by mu; calls by the second they began in
}

func (c *Busyness) RoundTrip(req *http.Request) (*http.Response, error) {
	now := c.running.Add(1)
	defer c.running.Add(-1)
	c.mu.Lock()
	c.Most = max(c.Most, now)
	if c.seconds == nil {
		c.seconds = make(map[int64]int)
	}
	c.seconds[time.Now().Unix()]++
	c.mu.Unlock()
	select {
	case <-time.After(time.Duration(c.Takes.Load())):
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	return c.base.RoundTrip(req)
}

// Busiest is the most calls that began in one second.
func (c *Busyness) Busiest() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := 0
	for _, n := range c.seconds {
		most = max(most, n)
	}
	return most
}

// Crowd is how many users a test has that is about many: 10,000, but 1,000 under
// the race detector and with -short. What is asserted does not depend on it.
func Crowd() int {
	if race.Enabled || testing.Short() {
		return 1_000
	}
	return 10_000
}

// Crowded is a world of [Crowd] linked users whose tokens run out in one second.
func Crowded(t *testing.T, left, takes time.Duration) (*World, *Busyness) {
	w := New(t, session.NewMemoryStore())
	c := &Busyness{base: w.Auth.Client().Transport}
	c.Takes.Store(int64(takes))
	w.Svc = w.Service(session.WithHTTPClient(&http.Client{Transport: c}))
	record := TsRecord(w.Auth.MintToken(Email, time.Now().Add(left)), Email, "{}")
	for i := range Crowd() {
		w.Put(UserID(i), record)
		w.Auth.Link(UserID(i), Email)
	}
	return w, c
}

// RoundTripper is a function as an http.RoundTripper.
type RoundTripper func(*http.Request) (*http.Response, error)

func (f RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Held is a world whose service is stuck in a refresh of alice's dead token.
func Held(t *testing.T, w *World) (result <-chan error, release func()) {
	t.Helper()
	g := NewGate(w.Auth.Client().Transport)
	svc := w.Service(session.WithHTTPClient(&http.Client{Transport: g}))
	out := make(chan error, 1)
	go func() {
		_, err := svc.Token(context.WithoutCancel(t.Context()), Alice)
		out <- err
	}()
	<-g.Arrived
	return out, func() { close(g.Open) }
}

// Gate is an HTTP transport that holds calls back until it is opened.
type Gate struct {
	Base    http.RoundTripper
	Arrived chan *http.Request
	Open    chan struct{}
}

// NewGate makes a gate in front of base.
func NewGate(base http.RoundTripper) *Gate {
	return &Gate{base, make(chan *http.Request, 1000), make(chan struct{})}
}

func (g *Gate) RoundTrip(req *http.Request) (*http.Response, error) {
	g.Arrived <- req
	select {
	case <-g.Open:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	return g.Base.RoundTrip(req)
}
