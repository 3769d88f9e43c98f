package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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
	Deeds     int           // logins, logouts and data writes at a time
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
	if c.For < 2*time.Second || c.Users < 1 || c.Processes < 1 {
		return errors.New("random: there has to be a user, a bot, and two seconds for faults")
	}
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
	r.desk.frozen = min(c.For/8, 13*time.Second)
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
			if k := i % 20; k != 9 && k != 10 && k < 16 || k == 19 {
				break
			}
		}
		switch i % 20 {
		case 0, 1, 2, 3, 4, 5, 6: // linked, and never logs in
			a.Linked, a.Never = true, true
		case 7, 8, 9, 10: // linked, and logs in; 9, 10: also as another account
			a.Linked = true
		case 19: // has never heard of us
			a.Never = true
		default: // has nothing but the refresh token; 16 to 18: and two accounts
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
	if number%2 == 1 {
		c.ReadTimeout = 500 * time.Millisecond // go-redis repeats by itself what does not answer
	}
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
