package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// linearConfig says how long and how much to record.
type linearConfig struct {
	For   time.Duration
	Seed  uint64
	Dir   string // for what the checker has to show
	Lanes int    // users at a time, of each kind of Service
}

func linearCommand(args []string) error {
	flags := flag.NewFlagSet("linear", flag.ExitOnError)
	c := linearConfig{Lanes: 4}
	flags.DurationVar(&c.For, "for", time.Minute, "how long to record")
	flags.Uint64Var(&c.Seed, "seed", uint64(time.Now().UnixNano()), "of everything that is random")
	flags.StringVar(&c.Dir, "dir", os.TempDir(), "where to write the picture of a violation")
	_ = flags.Parse(args)
	fmt.Fprintf(os.Stderr, "seed %d\n", c.Seed)
	return inWorld(func(tb testing.TB) error {
		r, err := runLinear(tb, c)
		if err != nil {
			return err
		}
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		fmt.Println(string(b))
		if len(r.Violations) > 0 {
			return fmt.Errorf("%d histories cannot be explained; to try again: -seed %d", len(r.Violations), c.Seed)
		}
		return nil
	})
}

// linearReport is what came of it.
type linearReport struct {
	Seed       uint64
	For        string
	Violations []string // the picture of each
	Undecided  int      // histories that the checker gave up on
	Histories  map[string]int
	Events     map[string]int64 // in them, by kind of Service and operation
	LeftOut    map[string]int64 // results that say nothing about the order, by reason
	Faults     map[string]int64
}

// A kind of Service, of which there are several on one Redis.
type kind struct {
	name    string
	near    int           // entries of the near cache
	ahead   time.Duration // refresh ahead
	clients int           // of one user, at each Service
	// stale is how old an answer may be. Without a near cache, and with one
	// client at a Service, none may: no call joins one that began before it.
	stale time.Duration
	gap   time.Duration // between faults of the store
	pause time.Duration // of a client
}

var kinds = []kind{
	{"without near cache", 0, 0, 1, 0, 400 * time.Millisecond, 10 * time.Millisecond},
	{"near cache", 1000, 0, 1, staleness, 10 * time.Second, 40 * time.Millisecond},
	{"near cache, refresh ahead, two clients", 1000, time.Minute + 1500*time.Millisecond, 2, staleness, 10 * time.Second, 60 * time.Millisecond},
}

const (
	servicesEach = 3
	roundLength  = 3 * time.Second
	maxUnclear   = 8 // in a history, for the checker to come to an end
	checkLimit   = 10 * time.Second
)

// linear is a run.
type linear struct {
	config linearConfig
	tb     testing.TB
	server *sessiontest.AuthServer
	desk   *authDesk
	faults *damage // of the auth server

	mu     sync.Mutex
	users  int           // guarded by mu
	report *linearReport // guarded by mu
}

func runLinear(tb testing.TB, c linearConfig) (*linearReport, error) {
	redis.SetLogger(silence{})
	l := &linear{config: c, tb: tb, faults: newDamage(), report: &linearReport{
		Seed: c.Seed, For: c.For.String(), Violations: []string{},
		Histories: make(map[string]int), Events: make(map[string]int64), LeftOut: make(map[string]int64),
	}}
	l.server = sessiontest.New(sessiontest.WithLoginLimit(0), sessiontest.WithRefreshLimit(0),
		sessiontest.WithTokenTTL(time.Minute+1500*time.Millisecond))
	if err := l.server.Start(); err != nil {
		return nil, err
	}
	tb.Cleanup(l.server.Close)
	l.desk = newAuthDesk(l.server, l.faults, rand.New(rand.NewPCG(c.Seed, 1)))
	l.desk.pace = 100 * time.Millisecond

	stop, recorded := make(chan struct{}), make(chan struct{})
	var breaking, recording sync.WaitGroup
	breaking.Go(func() { l.desk.run(stop, rand.New(rand.NewPCG(c.Seed, 2))) })
	breaking.Go(func() { // some tokens die within a round, some do not
		for random := rand.New(rand.NewPCG(c.Seed, 3)); sleep(stop, 50*time.Millisecond); {
			l.server.SetTokenTTL(between(random, time.Minute+time.Second, time.Minute+6*time.Second))
		}
	})
	var fleets []*fleet
	for i, k := range kinds {
		f, err := l.newFleet(k)
		if err != nil {
			return nil, err
		}
		fleets = append(fleets, f)
		f.store.random = rand.New(rand.NewPCG(c.Seed, uint64(10+i)))
		breaking.Go(func() { f.store.run(stop) })
		for lane := range c.Lanes {
			random := rand.New(rand.NewPCG(c.Seed, uint64(1000*(i+1)+lane)))
			recording.Go(func() {
				for sleep(recorded, 0) {
					l.round(f, random)
				}
			})
		}
	}
	time.Sleep(c.For)
	close(recorded)
	recording.Wait()
	close(stop)
	breaking.Wait()
	l.report.Faults = l.faults.kinds()
	for _, f := range fleets {
		for what, n := range f.store.damage.kinds() {
			l.report.Faults[what] += n
		}
		if err := f.close(); err != nil {
			return nil, err
		}
	}
	return l.report, nil
}

// fleet is a few Services of a kind, each with its own way to their Redis.
type fleet struct {
	kind     kind
	store    *storeFaults
	services []*station
}

// station is a Service, and what is seen of its writes.
type station struct {
	svc    *session.Service
	client *redis.Client
	http   *http.Transport
	store  *watchedStore
}

func (l *linear) newFleet(k kind) (*fleet, error) {
	f := &fleet{kind: k, store: &storeFaults{
		damage: newDamage(), redis: redistest.Start(l.tb, redistest.WithPersistence()),
		longest: 2 * time.Second, kills: true, gap: k.gap,
	}}
	for i := range servicesEach {
		proxy := redistest.NewProxy(l.tb, f.store.redis.Addr)
		f.store.proxies = append(f.store.proxies, proxy)
		s := &station{
			client: redis.NewClient(&redis.Options{Addr: proxy.Addr, ContextTimeoutEnabled: true}),
			http:   &http.Transport{IdleConnTimeout: 4 * time.Second, MaxIdleConnsPerHost: 32},
		}
		redisStore, err := session.NewRedisStore(s.client)
		if err != nil {
			return nil, err
		}
		s.store = &watchedStore{RedisStore: redisStore, stored: make(map[string]int64), failed: make(map[string]int64)}
		s.svc, err = session.New(session.WithAuthURL(l.server.URL), session.WithServiceKey(sessiontest.DefaultServiceKey),
			session.WithHTTPClient(&http.Client{Transport: sidTaker{signed{s.http, botConfig{Number: i}}}}),
			session.WithStore(s.store), session.WithNearCache(k.near), session.WithRefreshAhead(k.ahead), session.WithLoginLimit(0, 0))
		if err != nil {
			return nil, err
		}
		f.services = append(f.services, s)
	}
	return f, nil
}

func (f *fleet) close() error {
	var errs []error
	for _, s := range f.services {
		errs = append(errs, s.svc.Close(), s.store.Close(), s.client.Close())
		s.http.CloseIdleConnections()
	}
	return errors.Join(errs...)
}

// watchedStore notes which log-ins have been stored, and which users' writes
// have failed: what a Service could not store it holds to for itself for a
// while, which is not for others to see.
type watchedStore struct {
	*session.RedisStore

	mu     sync.Mutex
	stored map[string]int64 // guarded by mu: when, by SID
	failed map[string]int64 // guarded by mu: when last, by user
}

func (s *watchedStore) note(userID string, value string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil && value != "":
		var record struct{ Token string }
		_ = json.Unmarshal([]byte(value), &record)
		if c, err := readClaims(record.Token); err == nil && s.stored[c.SID] == 0 {
			s.stored[c.SID] = now()
		}
	case err != nil && !errors.Is(err, session.ErrConflict):
		s.failed[userID] = now()
	}
}

func (s *watchedStore) Swap(ctx context.Context, old, next session.Record) (session.Record, error) {
	rec, err := s.RedisStore.Swap(ctx, old, next)
	s.note(next.UserID, next.Value, err)
	return rec, err
}

func (s *watchedStore) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	rec, err := s.RedisStore.SwapLeased(ctx, owner, old, next)
	s.note(next.UserID, next.Value, err)
	return rec, err
}

func (s *watchedStore) Delete(ctx context.Context, old session.Record) error {
	err := s.RedisStore.Delete(ctx, old)
	s.note(old.UserID, "", err)
	return err
}

func (s *watchedStore) Entomb(ctx context.Context, userID string, at time.Time) error {
	err := s.RedisStore.Entomb(ctx, userID, at)
	s.note(userID, "", err)
	return err
}

// Get and Acquire count too: a Service that cannot read goes on by what it knows.
func (s *watchedStore) Get(ctx context.Context, userID string) (session.Record, error) {
	rec, err := s.RedisStore.Get(ctx, userID)
	if !errors.Is(err, session.ErrNotFound) {
		s.note(userID, "", err)
	}
	return rec, err
}

func (s *watchedStore) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (session.Lease, session.Record, error) {
	lease, rec, err := s.RedisStore.Acquire(ctx, userID, owner, ttl)
	s.note(userID, "", err)
	return lease, rec, err
}

// storedAt is when a log-in was first stored by this Service; 0: never.
func (s *watchedStore) storedAt(sid string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored[sid]
}

func (s *watchedStore) failedAt(userID string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[userID]
}

// sidTaker tells who logs in which log-in they were granted, also when they do
// not hear of it.
type sidTaker struct{ http.RoundTripper }

type sidKey struct{}

func (t sidTaker) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	sid, ok := req.Context().Value(sidKey{}).(*takenSID)
	if !ok || err != nil || !strings.HasSuffix(req.URL.Path, "/login") {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	var answer struct{ AccessToken string }
	_ = json.Unmarshal(body, &answer)
	if c, err := readClaims(answer.AccessToken); err == nil {
		sid.set(c.SID)
	}
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp, nil
}

type takenSID struct {
	mu  sync.Mutex
	sid string // guarded by mu
}

func (s *takenSID) set(sid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sid = sid
}

func (s *takenSID) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sid
}

// round records and checks what happens to one user in a few seconds.
type round struct {
	l     *linear
	fleet *fleet
	user  account
	link  string // SID; empty: not linked
	began int64

	mu      sync.Mutex
	history []porcupine.Operation // guarded by mu
	unclear int                   // guarded by mu
	values  int                   // guarded by mu
	logins  []login               // guarded by mu
	leftOut map[string]int64      // guarded by mu
}

// login is where in the history a log-in is, and who made it.
type login struct {
	at      int
	station *station
}

func (l *linear) round(f *fleet, random *rand.Rand) {
	r := &round{l: l, fleet: f, began: now(), leftOut: make(map[string]int64)}
	l.mu.Lock()
	l.users++
	r.user.ID = fmt.Sprintf("@user%d:matrix.example", l.users)
	for n := range 2 {
		r.user.Emails = append(r.user.Emails, fmt.Sprintf("user%d.%d@example.com", l.users, n))
	}
	l.mu.Unlock()
	for _, email := range r.user.Emails {
		r.user.Subjects = append(r.user.Subjects, l.server.AddUser(email, password).ID)
	}
	// With a link, calls that are told nothing make sessions: a refresh ahead that
	// comes after a log-out. And old tokens of the link look like new ones.
	if f.kind.near == 0 && random.IntN(2) == 0 {
		l.server.Link(r.user.ID, r.user.Emails[0])
		c, err := readClaims(l.server.MintToken(r.user.Emails[0], time.Now().Add(time.Hour)))
		if err != nil {
			panic(err)
		}
		r.link = c.SID
		r.history = append(r.history, porcupine.Operation{Input: event{Do: doLink}, Call: r.began, Return: r.began})
	}

	over := make(chan struct{})
	var clients sync.WaitGroup
	for i, s := range f.services {
		for n := range f.kind.clients {
			c := &client{round: r, station: s, number: i*f.kind.clients + n, bot: i, random: rand.New(rand.NewPCG(random.Uint64(), 0))}
			clients.Go(func() {
				for sleep(over, between(c.random, f.kind.pause/2, 2*f.kind.pause)) && r.goesOn() {
					c.act()
				}
			})
		}
	}
	time.Sleep(roundLength)
	close(over)
	clients.Wait()
	r.check()
}

// goesOn reports whether the checker can take more.
func (r *round) goesOn() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unclear < maxUnclear
}

// client is somebody who uses a Service for the user, one call at a time.
type client struct {
	round   *round
	station *station
	number  int
	bot     int // of the station, for what is broken
	random  *rand.Rand
	token   string // the last one

	settled int64 // when the Service last had nothing to store for the user
}

func (c *client) act() {
	r, svc, user := c.round, c.station.svc, c.round.user
	sid := &takenSID{}
	ctx, cancel := context.WithValue(context.Background(), sidKey{}, sid), func() {}
	if c.random.IntN(10) == 0 {
		ctx, cancel = context.WithTimeout(ctx, between(c.random, time.Millisecond, 2*time.Second))
	}
	defer cancel()
	call := now()
	what := c.random.IntN(100)
	if r.fleet.kind.near > 0 && c.bot == 0 {
		// What changes is for this Service to be told, not to find out.
		if what = max(what, 30); what >= 45 {
			what = 99
		}
	}
	if c.station.store.failedAt(user.ID) > c.settled {
		what = 20 // find out whether all is stored
	}
	switch {
	case what < 10:
		as := c.random.IntN(2)
		if r.link != "" {
			as = 0
		}
		_, err := svc.Login(ctx, user.ID, user.Emails[as], password)
		if sid.get() == "" { // the auth server gave nothing
			return
		}
		c.record(event{Do: doLogin, Account: as, SID: sid.get(), Unclear: err != nil}, call)
	case what == 10 && r.link != "": // the user signs in to Matrix
		r.l.server.Link(user.ID, user.Emails[0])
		c.record(event{Do: doLink}, call)
	case what >= 14 && what < 18 && r.link != "":
		err := svc.Logout(ctx, user.ID, session.AndUnlink())
		c.record(event{Do: doUnlink, Unclear: err != nil}, call)
		c.record(event{Do: doLogout, Unclear: err != nil}, call)
	case what < 18:
		err := svc.Logout(ctx, user.ID)
		c.record(event{Do: doLogout, Unclear: err != nil}, call)
	case what < 30:
		key, value := c.random.IntN(keys), r.nextValue()
		err := svc.SetData(ctx, user.ID, dataKeys[key], value)
		e := event{Do: doSet, Key: key, Value: value, Refused: errors.Is(err, session.ErrNotLoggedIn)}
		e.Unclear = err != nil && !e.Refused
		c.record(e, call)
		if !e.Unclear {
			c.settled = call
		}
	case what < 45:
		var value int
		key := c.random.IntN(keys)
		_, err := svc.Data(ctx, user.ID, dataKeys[key], &value)
		e := event{Do: doGet, Key: key, Value: value, Refused: errors.Is(err, session.ErrNotLoggedIn)}
		if err == nil || e.Refused {
			c.read(e, call)
		}
	default:
		var token string
		var err error
		if what < 55 && c.token != "" {
			token, err = svc.Refresh(ctx, user.ID, c.token)
		} else {
			token, err = svc.Token(ctx, user.ID)
		}
		e := event{Do: doToken, Refused: errors.Is(err, session.ErrNotLoggedIn)}
		switch {
		case err == nil:
			c.token = token
			claims, err := readClaims(token)
			if err != nil {
				panic(err)
			}
			e.SID, e.Account = claims.SID, slices.Index(user.Subjects, claims.Subject)
			c.read(e, call)
		case e.Refused:
			c.read(e, call)
		case r.link != "": // may make a session yet
			e.Unclear = true
			c.record(e, call)
		}
	}
}

func (r *round) nextValue() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values++
	return r.values
}

// read records what the user was told, if it is about what all processes share.
func (c *client) read(e event, call int64) {
	r := c.round
	why := ""
	switch {
	case c.station.store.failedAt(r.user.ID) > c.settled:
		// The Service may go by what waits in it for the store.
		why = "told by a Service that could not read or write the user's record, and may hold to its own"
	case r.fleet.kind.near > 0 && r.fleet.store.damage.away(c.bot, call, now(), wayBack):
		why = "told by a Service with a near cache that did not reach Redis"
	}
	if why != "" {
		r.mu.Lock()
		r.leftOut[why]++
		r.mu.Unlock()
		if e.Do == doToken && r.link != "" && e.SID == r.link {
			c.record(e, r.began) // whenever it was, it may have made a session
		}
		return
	}
	c.record(e, call-int64(r.fleet.kind.stale))
}

// record adds to the history. What failed may take effect at any later time.
func (c *client) record(e event, call int64) {
	r := c.round
	r.mu.Lock()
	defer r.mu.Unlock()
	op := porcupine.Operation{ClientId: c.number, Input: e, Call: call, Return: now()}
	if e.Unclear {
		op.Return = math.MaxInt64
		r.unclear++
	}
	if e.Do == doLogin {
		r.logins = append(r.logins, login{len(r.history), c.station})
	}
	r.history = append(r.history, op)
}

// complete adds what only shows afterwards.
func (r *round) complete() {
	for _, login := range r.logins {
		op := &r.history[login.at]
		if e := op.Input.(event); !e.Unclear {
			// Others see it when it is stored.
			stored := login.station.store.storedAt(e.SID)
			if stored == 0 {
				stored = math.MaxInt64
			}
			op.Return = max(op.Return, stored)
		}
	}
	for i := range r.history {
		op := &r.history[i]
		e := op.Input.(event)
		e.LinkSID = r.link
		if e.Refused {
			for _, sid := range r.l.desk.books.granted(r.user.Emails, 0) {
				if r.l.desk.books.broken(sid, op.Return, func(string) int64 { return 0 }) != "" {
					e.Ended = append(e.Ended, sid)
				}
			}
		}
		op.Input = e
	}
}

func (r *round) check() {
	r.complete()
	result, info := r.explain()
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Histories[r.fleet.kind.name]++
	for _, op := range r.history {
		l.report.Events[r.fleet.kind.name+": "+op.Input.(event).Do]++
	}
	for why, n := range r.leftOut {
		l.report.LeftOut[why] += n
	}
	switch result {
	case porcupine.Unknown:
		l.report.Undecided++
		l.tb.Logf("checker gave up: %s, %d events, %d unclear, linked %t", r.fleet.kind.name, len(r.history), r.unclear, r.link != "")
	case porcupine.Illegal:
		l.report.Violations = append(l.report.Violations, r.show(info))
	}
}

// explain looks for an order. Answers that may be old need not agree about how
// old they are: each is looked at by itself, beside all that changed something.
func (r *round) explain() (porcupine.CheckResult, porcupine.LinearizationInfo) {
	if r.fleet.kind.stale == 0 {
		return porcupine.CheckOperationsVerbose(sessions, r.history, checkLimit)
	}
	var changes, answers []porcupine.Operation
	for _, op := range r.history {
		if e := op.Input.(event); e.Do == doToken || e.Do == doGet {
			answers = append(answers, op)
		} else {
			changes = append(changes, op)
		}
	}
	result, info := porcupine.CheckOperationsVerbose(sessions, changes, checkLimit)
	for _, answer := range answers {
		if result != porcupine.Ok {
			break
		}
		with := append(slices.Clone(changes), answer)
		if result = porcupine.CheckOperationsTimeout(sessions, with, checkLimit); result != porcupine.Ok {
			_, info = porcupine.CheckOperationsVerbose(sessions, with, checkLimit)
		}
	}
	return result, info
}

// show draws a history and writes it down beside the picture.
func (r *round) show(info porcupine.LinearizationInfo) string {
	name := filepath.Join(r.l.config.Dir, fmt.Sprintf("violation-%d-%s", r.l.config.Seed, strings.Trim(strings.SplitN(r.user.ID, ":", 2)[0], "@")))
	if err := porcupine.VisualizePath(sessions, info, name+".html"); err != nil {
		r.l.tb.Log(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %s, link %q\n", r.fleet.kind.name, r.user.ID, r.link)
	history := slices.Clone(r.history)
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, op := range history {
		from := time.Duration(op.Call - history[0].Call).Round(10 * time.Microsecond)
		to := "…"
		if op.Return != math.MaxInt64 {
			to = time.Duration(op.Return - history[0].Call).Round(10 * time.Microsecond).String()
		}
		fmt.Fprintf(&text, "client %d  %12s %12s  %s %s\n", op.ClientId, from, to, op.Input.(event), op.Input.(event).Ended)
	}
	for _, w := range r.fleet.store.damage.windows() {
		fmt.Fprintf(&text, "bot %d  %s  %s  %s\n", w.Bot, time.Duration(w.From-history[0].Call), time.Duration(w.To-history[0].Call), w.What)
	}
	if err := os.WriteFile(name+".txt", []byte(text.String()), 0o644); err != nil {
		r.l.tb.Log(err)
	}
	r.l.tb.Logf("history that cannot be explained: %s.html", name)
	return name + ".html"
}
