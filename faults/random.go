package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// randomConfig says how long and how hard a run is.
type randomConfig struct {
	For       time.Duration
	Users     int
	Processes int
	Seed      uint64
	Callers   int           // of each process
	Pause     time.Duration // of a caller between two calls
	Deeds     int           // log-ins, log-outs and data writes at a time
}

func randomCommand(args []string) error {
	flags := flag.NewFlagSet("random", flag.ExitOnError)
	c := randomConfig{Callers: 200, Pause: 20 * time.Millisecond, Deeds: 48}
	flags.DurationVar(&c.For, "for", time.Minute, "how long faults are injected")
	flags.IntVar(&c.Users, "users", 10_000, "how many users there are")
	flags.IntVar(&c.Processes, "processes", 4, "how many bots there are")
	flags.Uint64Var(&c.Seed, "seed", uint64(time.Now().UnixNano()), "of everything that is random")
	jsonFile := flags.String("json", "", "write the report here as well")
	_ = flags.Parse(args)
	fmt.Fprintf(os.Stderr, "seed %d\n", c.Seed)
	return inWorld(func(tb testing.TB) error {
		r, err := runRandom(tb, c)
		if err != nil {
			return err
		}
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		fmt.Println(string(b))
		if *jsonFile != "" {
			if err := os.WriteFile(*jsonFile, append(b, '\n'), 0o644); err != nil {
				return err
			}
		}
		if n := r.violations(); n > 0 {
			return fmt.Errorf("%d violations; to try again: -seed %d", n, c.Seed)
		}
		return nil
	})
}

// report is what a run found.
type report struct {
	Seed      uint64
	Users     int
	Processes int
	For       string

	// What must not be. All of it has to be 0.
	WrongTokens     int // of an account that is not the user's
	ShortTokens     int // with 60 s or less to go when they were handed out
	SessionsLost    int // ErrNotLoggedIn for somebody who is logged in
	WithoutToken    int // no token at the end for somebody who is logged in, whatever the error
	Resurrected     int // tokens after a log-out
	QueuedLogouts   int // log-outs that Redis was away for, ineffective at the end
	OwnLogouts      int // log-outs that Redis was away for, ineffective in their own process
	WrongAccounts   int // at the end, of users with two accounts
	DataLost        int // acknowledged writes that are not there at the end
	GoroutinesLeft  int // processes that had more of them after Close than before New
	CloseErrors     int // processes whose Close failed at the end
	UnexpectedError int // errors that are no sentinel of the package

	// What was looked at and left out, by reason.
	Excluded map[string]int64

	// How much was looked at.
	Tokens           int64 // handed out and checked
	RefusalsChecked  int64 // of users who are logged out, in processes that reach Redis
	InAtTheEnd       int   // users who have to have a token in every process
	OutAtTheEnd      int   // users who must not have one in any
	UnknownAtTheEnd  int   // users whose last log-in or log-out ended in an error, or in a kill
	DataChecked      int
	Operations       map[string]map[string]int64 // by outcome
	Faults           map[string]int64
	AuthCalls        map[string]int64
	Findings         []string `json:",omitempty"` // the first of them, in words
	OperationsInAll  int64
	OperationsFailed int64
}

func (r *report) violations() int {
	return r.WrongTokens + r.ShortTokens + r.SessionsLost + r.WithoutToken + r.Resurrected + r.QueuedLogouts +
		r.OwnLogouts + r.WrongAccounts + r.DataLost + r.GoroutinesLeft + r.CloseErrors + r.UnexpectedError
}

const maxFindings = 50

func (r *report) found(number *int, format string, args ...any) {
	*number++
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
	}
}

// run is a run: bots, what they stand on, and what is known about it all.
type run struct {
	config randomConfig
	tb     testing.TB
	random *rand.Rand
	damage *damage
	desk   *authDesk
	server *sessiontest.AuthServer
	redis  *redistest.Server
	ledger *ledger
	users  []account
	botEnv botConfig
	bots   []*slot

	ahead []time.Duration

	mu      sync.Mutex
	figures map[string]map[string]int64 // guarded by mu
	calls   map[string]int64            // guarded by mu: of the auth server
}

// slot is the place of a bot, whose process comes and goes.
type slot struct {
	proxy *redistest.Proxy

	mu      sync.Mutex
	process *process // guarded by mu; nil while there is none
	life    int      // guarded by mu
}

func (s *slot) get() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// Tokens live so long that they are never handed out fresh with 60 s or less to
// go, whatever answers are held up by, and die soon after.
const (
	shortestToken = 85 * time.Second
	longestToken  = 125 * time.Second
)

func runRandom(tb testing.TB, c randomConfig) (*report, error) {
	r := &run{
		config: c, tb: tb, random: rand.New(rand.NewPCG(c.Seed, 0)), damage: newDamage(),
		ahead:   []time.Duration{0, 75 * time.Second, 5 * time.Minute, 0},
		figures: make(map[string]map[string]int64), calls: make(map[string]int64),
	}
	r.redis = redistest.Start(tb, redistest.WithPersistence())
	r.server = sessiontest.New(sessiontest.WithLoginLimit(0), sessiontest.WithRefreshLimit(0), sessiontest.WithTokenTTL(shortestToken))
	if err := r.server.Start(); err != nil {
		return nil, err
	}
	tb.Cleanup(r.server.Close)
	r.makeUsers()
	r.desk = newAuthDesk(r.server, r.damage, rand.New(rand.NewPCG(c.Seed, 1)))
	r.ledger = newLedger(r.users, r.damage, r.desk.books)
	file := filepath.Join(tb.TempDir(), "users")
	if err := writeAccounts(file, r.users); err != nil {
		return nil, err
	}
	r.botEnv = botConfig{AuthURL: r.server.URL, UsersFile: file, Seed: c.Seed, Callers: c.Callers, Pause: c.Pause}
	for i := range c.Processes {
		s := &slot{proxy: redistest.NewProxy(tb, r.redis.Addr)}
		r.bots = append(r.bots, s)
		tb.Cleanup(func() {
			if p := s.get(); p != nil {
				p.signal(syscall.SIGCONT)
				p.kill()
			}
		})
		if err := r.startBot(i); err != nil {
			return nil, err
		}
	}
	if err := r.everybodyLogsIn(); err != nil {
		return nil, err
	}
	if err := r.breakEverything(); err != nil {
		return nil, err
	}
	return r.takeStock()
}

// makeUsers makes users of every kind.
func (r *run) makeUsers() {
	for i := range r.config.Users {
		a := account{ID: fmt.Sprintf("@user%d:matrix.example", i)}
		for n := range 2 {
			email := fmt.Sprintf("user%d.%d@example.com", i, n)
			a.Emails = append(a.Emails, email)
			a.Subjects = append(a.Subjects, r.server.AddUser(email, password).ID)
			if i%20 != 18 {
				break
			}
		}
		switch i % 20 {
		case 0, 1, 2, 3, 4, 5, 6: // linked, and never logs in
			a.Linked, a.Never = true, true
		case 7, 8, 9, 10: // linked, and logs in
			a.Linked = true
		case 19: // has never heard of us
			a.Never = true
		default: // has nothing but the refresh token; 18: and two accounts
		}
		if a.Linked {
			r.server.Link(a.ID, a.Emails[0])
		}
		r.users = append(r.users, a)
	}
}

func (r *run) startBot(number int) error {
	s := r.bots[number]
	s.mu.Lock()
	defer s.mu.Unlock()
	c := r.botEnv
	s.life++
	c.Number, c.Life, c.Redis, c.Ahead = number, s.life, s.proxy.Addr, r.ahead[number%len(r.ahead)]
	p, err := startProcess(c, r.hear)
	if err == nil {
		s.process = p
	}
	return err
}

// hear takes what bots say without being asked.
func (r *run) hear(p *process, m message) {
	if m.Kind == sawSilence {
		r.damage.heardNothing(p.config.Number, m.Start, m.End)
		return
	}
	if m.Kind != sawFigures {
		r.ledger.hear(m, p.config.Number, p.config.Life)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for op, outcomes := range m.Figures {
		if r.figures[op] == nil {
			r.figures[op] = make(map[string]int64)
		}
		for outcome, n := range outcomes {
			r.figures[op][outcome] += n
		}
	}
}

// everybodyLogsIn who has a password to do so, while all is well, and makes the
// bots busy.
func (r *run) everybodyLogsIn() error {
	fmt.Fprintln(os.Stderr, "everybody logs in …")
	var all sync.WaitGroup
	users := make(chan int)
	for range r.config.Deeds {
		all.Go(func() {
			for user := range users {
				r.login(user, r.bots[user%len(r.bots)].get(), r.users[user].Emails[0], 0)
			}
		})
	}
	for user, a := range r.users {
		if !a.Never {
			users <- user
		}
	}
	close(users)
	all.Wait()
	for user, a := range r.users {
		if deeds := r.ledger.of(user); !a.Never && (len(deeds) != 1 || deeds[0].outcome != done) {
			return fmt.Errorf("user %d could not log in though nothing was broken: %+v", user, deeds)
		}
	}
	for _, s := range r.bots {
		if _, err := s.get().do(order{Do: doTraffic}); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) login(user int, p *process, email string, limit time.Duration) {
	d := deed{do: doLogin, bot: p.config.Number, life: p.config.Life, email: email, start: now()}
	m, err := p.do(order{Do: doLogin, User: user, Email: email, Limit: limit})
	d.settle(m, err)
	d.sid = m.SID
	r.ledger.add(user, d)
}

// settle enters how a deed ended. What fails before anything is written has
// changed nothing.
func (d *deed) settle(m message, err error) {
	d.end, d.err = now(), m.Err
	switch {
	case err != nil:
		d.outcome, d.err = unclear, err.Error()
	case m.Err == "":
		d.outcome = done
	case m.Err == "ErrAuthUnavailable", m.Err == "ErrRateLimited", m.Err == "ErrNotLoggedIn":
		d.outcome = nothing
	default:
		d.outcome = unclear
	}
}

// breakEverything for as long as the run lasts, while users do what users do.
func (r *run) breakEverything() error {
	fmt.Fprintf(os.Stderr, "%s of faults …\n", r.config.For)
	stop := make(chan struct{})
	var breaking, doing sync.WaitGroup
	store := &storeFaults{
		random: rand.New(rand.NewPCG(r.config.Seed, 2)), damage: r.damage, redis: r.redis,
		longest: 5 * time.Second, gap: 800 * time.Millisecond, kills: true,
	}
	for _, s := range r.bots {
		store.proxies = append(store.proxies, s.proxy)
	}
	breaking.Go(func() { store.run(stop) })
	breaking.Go(func() { r.desk.run(stop, rand.New(rand.NewPCG(r.config.Seed, 3))) })
	var botsErr error
	breaking.Go(func() { botsErr = r.breakBots(stop, rand.New(rand.NewPCG(r.config.Seed, 4))) })
	breaking.Go(func() { r.varyTokens(stop, rand.New(rand.NewPCG(r.config.Seed, 5))) })

	busy := newBusy(len(r.users))
	for i := range r.config.Deeds {
		random := rand.New(rand.NewPCG(r.config.Seed, uint64(100+i)))
		doing.Go(func() {
			for sleep(stop, between(random, 20*time.Millisecond, 150*time.Millisecond)) {
				r.someDeed(random, busy)
			}
		})
	}
	time.Sleep(r.config.For)
	close(stop)
	breaking.Wait()
	doing.Wait()
	return botsErr
}

// busy keeps the deeds about a user one after the other.
type busy struct {
	mu    sync.Mutex
	users []bool // guarded by mu
}

func newBusy(n int) *busy { return &busy{users: make([]bool, n)} }

func (b *busy) take(user int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.users[user]
	b.users[user] = true
	return !taken
}

func (b *busy) give(user int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users[user] = false
}

// someDeed lets a user do something.
func (r *run) someDeed(random *rand.Rand, busy *busy) {
	user, p := random.IntN(len(r.users)), r.bots[random.IntN(len(r.bots))].get()
	if p == nil || r.users[user].Never && !r.users[user].Linked || !busy.take(user) {
		return
	}
	defer busy.give(user)
	var limit time.Duration
	if random.IntN(8) == 0 {
		limit = between(random, 100*time.Millisecond, 2*time.Second)
	}
	what := random.IntN(100)
	s, _ := r.ledger.standingAt(r.ledger.of(user), now(), now())
	if s != in && !r.users[user].Linked {
		what = 0 // nobody stays logged out for long
	}
	switch emails := r.users[user].Emails; {
	case what < 20 && !r.users[user].Never:
		r.login(user, p, emails[random.IntN(len(emails))], limit)
	case what < 40:
		r.logout(user, p, limit)
	default:
		d := deed{do: doSet, bot: p.config.Number, life: p.config.Life, key: dataKeys[random.IntN(len(dataKeys))], value: 1 + random.IntN(1e9), start: now()}
		m, err := p.do(order{Do: doSet, User: user, Key: d.key, Value: d.value, Limit: limit})
		d.settle(m, err)
		r.ledger.add(user, d)
		if d.err == "ErrNotLoggedIn" && !r.users[user].Linked {
			r.ledger.hear(message{Kind: sawRefused, User: user, Start: m.Start, End: m.End, Detail: "set data"}, p.config.Number, p.config.Life)
		}
	}
}

// logout logs a user out, and has every bot look out for the log-ins that are
// over with it.
func (r *run) logout(user int, p *process, limit time.Duration) {
	sids := r.desk.books.granted(r.users[user].Emails, 0)
	d := deed{do: doLogout, bot: p.config.Number, life: p.config.Life, start: now()}
	unclearLogin := slices.ContainsFunc(r.ledger.of(user), func(e deed) bool {
		return e.do == doLogin && e.outcome == unclear && d.start-e.end < int64(straggling)
	})
	m, err := p.do(order{Do: doLogout, User: user, Limit: limit})
	d.settle(m, err)
	r.ledger.add(user, d)
	if d.outcome != done || unclearLogin || r.users[user].Linked {
		return
	}
	for _, s := range r.bots {
		if p := s.get(); p != nil {
			p.tell(order{Do: doEnded, SIDs: sids, From: d.end + int64(staleness)})
		}
	}
}

// breakBots stops and kills bots until stop is closed; then all run.
func (r *run) breakBots(stop <-chan struct{}, random *rand.Rand) error {
	for sleep(stop, between(random, time.Second, 5*time.Second)) {
		number := random.IntN(len(r.bots))
		s := r.bots[number]
		if random.IntN(3) > 0 {
			over := r.damage.begin(&r.damage.stopped, number, "bot stopped")
			s.get().signal(syscall.SIGSTOP)
			sleep(stop, between(random, 200*time.Millisecond, 2*time.Second))
			s.get().signal(syscall.SIGCONT)
			over()
			continue
		}
		r.damage.count("bot killed and restarted")
		p := s.get()
		r.ledger.killed(number, p.config.Life)
		s.mu.Lock()
		s.process = nil
		s.mu.Unlock()
		p.kill()
		sleep(stop, between(random, 0*time.Second, time.Second))
		if err := r.startBot(number); err != nil {
			return err
		}
		if _, err := s.get().do(order{Do: doTraffic}); err != nil {
			return err
		}
	}
	return nil
}

// varyTokens lets tokens live for one time and another, and forgets the calls of
// the auth server, which would fill the memory.
func (r *run) varyTokens(stop <-chan struct{}, random *rand.Rand) {
	for sleep(stop, 500*time.Millisecond) {
		r.server.SetTokenTTL(between(random, shortestToken, longestToken))
		r.countCalls()
	}
	r.countCalls()
}

func (r *run) countCalls() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range append([]sessiontest.Op{sessiontest.LinkCreate}, deskOps...) {
		r.calls[string(op)] += int64(r.server.Calls(op))
	}
	r.server.ResetCalls()
}

// takeStock looks at everybody in every process once nothing is broken any more
// and all has had its time, closes the bots, and judges what was observed.
func (r *run) takeStock() (*report, error) {
	fmt.Fprintln(os.Stderr, "all is well again; everybody's token in every process …")
	c := r.config
	rep := &report{Seed: c.Seed, Users: c.Users, Processes: c.Processes, For: c.For.String(), Excluded: make(map[string]int64)}
	if err := r.all(order{Do: doQuiet}, nil); err != nil {
		return nil, err
	}
	time.Sleep(wayBack)
	stocked := now()
	var mu sync.Mutex
	lastErrors := make(map[int]string)
	err := r.all(order{Do: doSweep}, func(p *process, m message) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range m.Sweep {
			h := heard{a, p.config.Number, p.config.Life}
			switch {
			case a.Err == "ErrNotLoggedIn":
				h.Kind = sawRefused
				r.ledger.hear(h.message, h.bot, h.life)
			case a.Err != "":
				lastErrors[a.User] = a.Detail
			default:
				r.judgeAtTheEnd(rep, h)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	err = r.all(order{Do: doData}, func(p *process, m message) {
		mu.Lock()
		defer mu.Unlock()
		r.judgeData(rep, p, m.Data)
	})
	if err != nil {
		return nil, err
	}
	err = r.all(order{Do: doClose}, func(p *process, m message) {
		mu.Lock()
		defer mu.Unlock()
		if m.Err != "" {
			rep.found(&rep.CloseErrors, "%s: Close: %s", p, m.Err)
		}
		if m.Detail != "" {
			rep.found(&rep.GoroutinesLeft, "%s: %s", p, m.Detail)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, s := range r.bots {
		<-s.get().gone
	}
	for user, a := range r.users {
		s, _ := r.ledger.standingAt(r.ledger.of(user), stocked, stocked)
		switch {
		case a.Linked, s == in:
			rep.InAtTheEnd++
			if err, ok := lastErrors[user]; ok {
				rep.found(&rep.WithoutToken, "user %d has no token at the end: %s", user, err)
			}
		case s == out:
			rep.OutAtTheEnd++
		default:
			rep.UnknownAtTheEnd++
		}
	}
	r.judge(rep)
	r.countCalls()
	rep.Operations, rep.Faults, rep.AuthCalls = r.figures, r.damage.kinds(), r.calls
	for op, outcomes := range rep.Operations {
		for outcome, n := range outcomes {
			rep.OperationsInAll += n
			switch outcome {
			case "ok":
				if op == "token" || op == "refresh" {
					rep.Tokens += n
				}
			default:
				rep.OperationsFailed += n
				if len(outcome) > 6 && outcome[:6] == "other:" {
					rep.found(&rep.UnexpectedError, "%s, %d times: %s", op, n, outcome)
				}
			}
		}
	}
	return rep, nil
}

// all gives all bots an order and takes their answers.
func (r *run) all(o order, take func(*process, message)) error {
	var all sync.WaitGroup
	errs := make([]error, len(r.bots))
	for i, s := range r.bots {
		all.Go(func() {
			p := s.get()
			m, err := p.do(o)
			if err == nil && o.Do != doClose && m.Err != "" {
				err = errors.New(m.Err)
			}
			if errs[i] = err; err == nil && take != nil {
				take(p, m)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// judge goes through what was observed.
func (r *run) judge(rep *report) {
	r.ledger.mu.Lock()
	observed := r.ledger.heard
	r.ledger.mu.Unlock()
	slices.SortStableFunc(observed, func(a, b heard) int { return cmp.Compare(a.Start, b.Start) })
	for _, h := range observed {
		switch h.Kind {
		case sawRefused:
			v := r.ledger.judgeRefusal(h)
			if v.excused != "" {
				rep.Excluded[v.excused]++
			}
			if v.violation {
				rep.found(&rep.SessionsLost, "lost: %s %s", r.tell(h), v.excused)
			} else if s, _ := r.ledger.standingAt(r.ledger.of(h.User), h.Start-int64(staleness), h.End); s == out && !r.damage.away(h.bot, h.Start, h.End, wayBack) {
				rep.RefusalsChecked++
			}
		case sawGhost:
			switch {
			case r.damage.away(h.bot, h.Start, h.End, wayBack):
				rep.Excluded["token of a log-in that is over, from a process that did not reach Redis"]++
			case r.damage.wasStopped(h.bot, h.Start-int64(staleness), h.End):
				rep.Excluded["token of a log-in that is over, from a process that stood still"]++
			case r.damage.silence(h.bot, h.Start, h.End):
				rep.Excluded[fmt.Sprintf("token of a log-in that is over, from a process that Redis did not answer in %s, though nothing was broken", canaryWait)]++
			default:
				rep.found(&rep.Resurrected, "after a log-out: %s", r.tell(h))
			}
		case sawWrong:
			rep.found(&rep.WrongTokens, "wrong token: %s", r.tell(h))
		case sawShort:
			// The bot looks at the clock after the call.
			if r.damage.wasStopped(h.bot, h.Start, h.End) {
				rep.Excluded["token with 60 s or less to go after the process stood still during the call"]++
			} else if left, _ := time.ParseDuration(h.Detail); left > time.Minute-lookSlack && left+time.Duration(h.End-h.Start) > time.Minute {
				rep.Excluded[fmt.Sprintf("token that crossed the 60 s within %s of being handed out", lookSlack)]++
			} else {
				rep.found(&rep.ShortTokens, "short token: %s", r.tell(h))
			}
		case sawOwn:
			rep.found(&rep.OwnLogouts, "token right after the log-out: %s", r.tell(h))
		}
	}
}

// lookSlack is how much later than the Service a bot may look at the clock, on
// a machine that has other things to do.
const lookSlack = 50 * time.Millisecond

// tell puts an observation, and what was done about the user, into words.
func (r *run) tell(h heard) string {
	began := h.Start
	at := func(t int64) string { return time.Duration(t - began).Round(time.Millisecond / 10).String() }
	text := fmt.Sprintf("user %d (linked: %t), bot %d.%d, took %s, away: %t, stopped: %t, %s %s; before:", h.User, r.users[h.User].Linked,
		h.bot, h.life, at(h.End), r.damage.away(h.bot, h.Start, h.End, wayBack), r.damage.wasStopped(h.bot, h.Start, h.End), h.SID, h.Detail)
	deeds := r.ledger.of(h.User)
	for _, d := range deeds[max(0, len(deeds)-8):] {
		text += fmt.Sprintf(" [%s by %d.%d from %s to %s %s %s%s]", d.do, d.bot, d.life, at(d.start), at(d.end), d.err, d.sid, d.email)
	}
	for _, d := range deeds {
		if d.sid != "" && (d.sid == h.SID || h.SID == "") {
			text += fmt.Sprintf(" %s: %s;", d.sid, r.desk.books.describe(d.sid, began))
		}
	}
	return text + " broken:" + r.damage.before(h.bot, began, 15*time.Second)
}

func (r *run) judgeAtTheEnd(rep *report, h heard) {
	if r.ledger.judgeToken(h).violation {
		rep.found(&rep.Resurrected, "at the end: %s", r.tell(h))
	}
	if !r.users[h.User].Linked && r.ledger.queuedLogout(h.User) {
		rep.found(&rep.QueuedLogouts, "at the end: %s", r.tell(h))
	}
	if r.ledger.judgeAccount(h).violation {
		rep.found(&rep.WrongAccounts, "at the end: %s", r.tell(h))
	}
}

func (r *run) judgeData(rep *report, p *process, data []map[string]int) {
	for user, got := range data {
		for _, key := range dataKeys {
			wanted, ok := r.ledger.wantedData(user, key)
			if !ok {
				continue
			}
			if r.ledger.lostExcusably(user) {
				rep.Excluded["data of a session that was lost for one of the reasons here"]++
				continue
			}
			rep.DataChecked++
			if value, found := got[key]; !found || !slices.Contains(wanted, value) {
				rep.found(&rep.DataLost, "%s: data of user %d under %s: %v, want one of %v; %s", p, user, key, maps.Clone(got), wanted,
					r.tell(heard{message{User: user, Start: now(), End: now()}, p.config.Number, p.config.Life}))
			}
		}
	}
}
