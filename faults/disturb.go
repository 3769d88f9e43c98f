package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// everybody is the number of no bot in particular.
const everybody = -1

// window is a time during which something was broken for a bot.
type window struct {
	Bot      int
	What     string
	From, To int64 // To 0: still
}

// record of what was broken, and when.
type damage struct {
	mu      sync.Mutex
	store   []window         // guarded by mu: Redis out of a bot's reach
	stopped []window         // guarded by mu: the bot stood still
	silent  []window         // guarded by mu: Redis did not answer a bot
	counts  map[string]int64 // guarded by mu: by kind
}

func newDamage() *damage { return &damage{counts: make(map[string]int64)} }

func (d *damage) count(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[what]++
}

// begin notes that Redis, or the bot itself, is about to fail; the function that
// it returns notes that this is over.
func (d *damage) begin(windows *[]window, bot int, what string) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[what]++
	*windows = append(*windows, window{Bot: bot, What: what, From: now()})
	at := len(*windows) - 1
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		(*windows)[at].To = now()
	}
}

// away reports whether Redis was out of the bot's reach at some time in
// [from, to], or so shortly before that the bot may still have been finding its
// way back.
func (d *damage) away(bot int, from, to int64, wayBack time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return overlap(d.store, bot, from-int64(wayBack), to)
}

// backBy is when a bot whose Redis was away in [from, to] had it back for good;
// false if it was not away.
func (d *damage) backBy(bot int, from, to int64, wayBack time.Duration) (int64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := false
	for _, w := range d.store { // in the order of their beginnings
		if (w.Bot == bot || w.Bot == everybody) && w.From <= to && (w.To == 0 || w.To+int64(wayBack) >= from) {
			found = true
			if w.To == 0 {
				return now(), true
			}
			to = max(to, w.To+int64(wayBack))
		}
	}
	return to, found
}

func (d *damage) wasStopped(bot int, from, to int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return overlap(d.stopped, bot, from, to)
}

// heardNothing notes that Redis did not answer a bot, for whatever reason.
func (d *damage) heardNothing(bot int, from, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent = append(d.silent, window{Bot: bot, What: "Redis silent", From: from, To: to})
}

// silence reports whether Redis did not answer the bot at some time in
// [from, to], or so shortly before that the bot may still go by it.
func (d *damage) silence(bot int, from, to int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return overlap(d.silent, bot, from-int64(wayBack), to)
}

func (d *damage) windows() []window {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.store)
}

// before lists what was broken for a bot in the time before.
func (d *damage) before(bot int, at int64, length time.Duration) (text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range slices.Concat(d.store, d.stopped, d.silent) {
		if overlap([]window{w}, bot, at-int64(length), at) {
			text += fmt.Sprintf(" (%s %s to %s)", w.What, time.Duration(w.From-at).Round(time.Millisecond), time.Duration(w.To-at).Round(time.Millisecond))
		}
	}
	return text
}

func overlap(windows []window, bot int, from, to int64) bool {
	for _, w := range windows {
		if (w.Bot == bot || w.Bot == everybody) && w.From <= to && (w.To == 0 || w.To >= from) {
			return true
		}
	}
	return false
}

func (d *damage) kinds() map[string]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts)
}

// storeFaults breaks Redis and the ways to it, one thing after the other, until
// stop is closed; then everything is whole again.
type storeFaults struct {
	random  *rand.Rand
	damage  *damage
	redis   *redistest.Server
	proxies []*redistest.Proxy // one a bot
	longest time.Duration      // of one fault
	gap     time.Duration      // between two, 1.5 times that at most
	kills   bool               // Redis persists: it may be killed
}

func (f *storeFaults) run(stop <-chan struct{}) {
	for sleep(stop, between(f.random, f.gap/2, f.gap*3/2)) {
		bot := f.random.IntN(len(f.proxies))
		proxy := f.proxies[bot]
		length := between(f.random, 200*time.Millisecond, f.longest)
		d := f.damage
		switch f.random.IntN(12) {
		case 0, 1:
			over := d.begin(&d.store, everybody, "redis paused")
			f.redis.Pause()
			sleep(stop, length)
			f.redis.Resume()
			over()
		case 2:
			if !f.kills {
				continue
			}
			over := d.begin(&d.store, everybody, "redis killed and restarted")
			f.redis.Kill()
			sleep(stop, length)
			f.redis.Start()
			over()
		case 3, 4:
			over := d.begin(&d.store, bot, "connections blackholed")
			proxy.Blackhole()
			sleep(stop, length)
			proxy.Restore()
			over()
		case 5:
			over := d.begin(&d.store, bot, "open connections blackholed")
			proxy.BlackholeExisting()
			sleep(stop, length)
			proxy.Restore()
			over()
		case 6:
			over := d.begin(&d.store, bot, "connections refused")
			proxy.Refuse(true)
			proxy.Cut()
			sleep(stop, length)
			proxy.Restore()
			over()
		case 7:
			over := d.begin(&d.store, bot, "connections slow")
			proxy.Delay(between(f.random, 5*time.Millisecond, 200*time.Millisecond))
			sleep(stop, length)
			proxy.Restore()
			over()
		case 8, 9:
			d.begin(&d.store, bot, "connections cut")()
			proxy.Cut()
		case 10:
			over := d.begin(&d.store, everybody, "all connections cut")
			for _, p := range f.proxies {
				p.Cut()
			}
			over()
		case 11:
			over := d.begin(&d.store, bot, "cut in a reply")
			proxy.CutAfter(f.random.IntN(200))
			sleep(stop, length/4)
			proxy.Restore()
			over()
		}
	}
}

// between is a random time.
func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// sleep waits, or returns false because stop was closed.
func sleep(stop <-chan struct{}, d time.Duration) bool {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-stop:
		return false
	case <-wait.C:
		return true
	}
}

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

	mu     sync.Mutex
	random *rand.Rand                    // guarded by mu
	force  map[sessiontest.Op]*authFault // guarded by mu: in force
	books  *books
}

// deskOps are the calls that a session depends on.
var deskOps = []sessiontest.Op{sessiontest.LinkFetch, sessiontest.LinkCheck, sessiontest.Refresh, sessiontest.Login}

func newAuthDesk(server *sessiontest.AuthServer, d *damage, random *rand.Rand) *authDesk {
	desk := &authDesk{server: server, damage: d, random: random, force: make(map[sessiontest.Op]*authFault), books: newBooks()}
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

func (d *authDesk) put(ops []sessiontest.Op, f *authFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range ops {
		d.force[op] = f
	}
}
