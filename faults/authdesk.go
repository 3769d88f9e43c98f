package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/mana/session/sessiontest"
)

// authFault is what may become of a call to the auth server. loses says that a
// refresh token may be spent though its successor arrives nowhere.
type authFault struct {
	name  string
	share float64 // of the calls that it meets
	loses bool
	fault func(*sessiontest.AuthServer, *rand.Rand) sessiontest.Fault
}

func always(f sessiontest.Fault) func(*sessiontest.AuthServer, *rand.Rand) sessiontest.Fault {
	return func(*sessiontest.AuthServer, *rand.Rand) sessiontest.Fault { return f }
}

var (
	harmlessFaults = []authFault{
		{"500", 1, false, always(sessiontest.Status(500, "connect ECONNREFUSED 127.0.0.1:5432"))},
		{"503", 1, false, always(sessiontest.Status(503, "Service Unavailable"))},
		{"429", 1, false, always(sessiontest.Status(429, "ThrottlerException: Too Many Requests", "Retry-After", "1"))},
		{"hang", 0.3, false, func(s *sessiontest.AuthServer, _ *rand.Rand) sessiontest.Fault { return s.Hang() }},
		{"reset", 0.7, false, always(sessiontest.Reset())},
		{"late", 1, false, func(_ *sessiontest.AuthServer, r *rand.Rand) sessiontest.Fault {
			return sessiontest.Delay(between(r, 10*time.Millisecond, 3*time.Second))
		}},
		{"trickle", 0.5, false, func(_ *sessiontest.AuthServer, r *rand.Rand) sessiontest.Fault {
			return sessiontest.Trickle(between(r, 500*time.Microsecond, 4*time.Millisecond))
		}},
		{"HTML", 1, false, always(sessiontest.HTML())},
	}
	losingFaults = []authFault{
		{"answer lost", 0.5, true, always(sessiontest.LoseAnswer())},
		{"answer cut", 0.5, true, func(_ *sessiontest.AuthServer, r *rand.Rand) sessiontest.Fault {
			return sessiontest.CutBody(r.IntN(300))
		}},
	}
)

// authDesk stands in front of the auth server: it breaks answers, and keeps the
// books on refresh tokens.
type authDesk struct {
	server *sessiontest.AuthServer
	damage *damage
	pace   time.Duration // for how long the answer to a link fetch is under way at most
	frozen time.Duration // for how long the database freezes at most

	mu     sync.Mutex
	random *rand.Rand                    // guarded by mu
	force  map[sessiontest.Op]*authFault // guarded by mu: in force
	books  *books
}

// deskOps are the calls that a session depends on.
var deskOps = []sessiontest.Op{sessiontest.LinkFetch, sessiontest.LinkCheck, sessiontest.Refresh, sessiontest.Login}

func newAuthDesk(server *sessiontest.AuthServer, d *damage, random *rand.Rand) *authDesk {
	desk := &authDesk{server: server, damage: d, random: random, force: make(map[sessiontest.Op]*authFault), books: newBooks(d)}
	for _, op := range deskOps {
		server.Inject(op, -1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) { desk.serve(op, w, r, answer) })
	}
	return desk
}

func (d *authDesk) serve(op sessiontest.Op, w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
	d.mu.Lock()
	f := d.force[op]
	var fault sessiontest.Fault
	if f != nil && d.random.Float64() < f.share {
		fault = f.fault(d.server, d.random)
	}
	var pace time.Duration
	if op == sessiontest.LinkFetch && d.pace > 0 {
		pace = between(d.random, 0, d.pace)
	}
	d.mu.Unlock()
	kept := answer
	if op == sessiontest.Login || op == sessiontest.Refresh {
		kept = d.books.keep(op, answer, fault != nil && f.loses)
	}
	if fault == nil && pace == 0 {
		kept(w, r)
		return
	}
	if fault == nil {
		held(pace, w, r, kept)
		return
	}
	d.damage.count(fmt.Sprintf("auth server: %s: %s", op, f.name))
	fault(w, r, kept)
}

// held is an answer that is worked out at once and sent later: much can happen
// meanwhile that it does not know of.
func held(d time.Duration, w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
	recorder := httptest.NewRecorder()
	answer(recorder, r)
	if sleep(r.Context().Done(), d) {
		maps.Copy(w.Header(), recorder.Header())
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	}
}

// run breaks the auth server, one way after the other, until stop is closed.
func (d *authDesk) run(stop <-chan struct{}, random *rand.Rand) {
	for sleep(stop, between(random, 500*time.Millisecond, 3*time.Second)) {
		switch random.IntN(8) {
		case 0:
			d.freeze(stop, between(random, d.frozen/10, d.frozen))
			continue
		case 1:
			d.restart(between(random, 10*time.Millisecond, time.Second))
			continue
		}
		ops := deskOps
		if random.IntN(3) > 0 {
			ops = ops[:0:0]
			ops = append(ops, deskOps[random.IntN(len(deskOps))])
		}
		f := harmlessFaults[random.IntN(len(harmlessFaults))]
		if random.IntN(5) == 0 {
			f = losingFaults[random.IntN(len(losingFaults))]
		}
		d.put(ops, &f)
		sleep(stop, between(random, 200*time.Millisecond, 1500*time.Millisecond))
		d.put(deskOps, nil)
	}
	d.put(deskOps, nil)
}

// freeze the server's database: what is sent meanwhile is done afterwards,
// whether or not somebody still waits for the answer.
func (d *authDesk) freeze(stop <-chan struct{}, length time.Duration) {
	over := d.damage.begin(&d.damage.auth, everybody, "auth server: frozen")
	d.server.FreezeDatabase(true)
	sleep(stop, length)
	d.server.FreezeDatabase(false)
	time.Sleep(100 * time.Millisecond) // what was held is done
	over()
}

// restart the server: what it has begun is done, and the answer lost.
func (d *authDesk) restart(down time.Duration) {
	over := d.damage.begin(&d.damage.auth, everybody, "auth server: restarted")
	defer over()
	if err := d.server.Restart(down); err != nil {
		panic(err) // the port is gone, and nothing can be found out without the server
	}
}

func (d *authDesk) put(ops []sessiontest.Op, f *authFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range ops {
		d.force[op] = f
	}
}
