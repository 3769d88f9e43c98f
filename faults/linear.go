package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

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

	stations int // so far

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
	l.desk.pace, l.desk.frozen = 100*time.Millisecond, 3*time.Second

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
		breaking.Go(func() { f.restart(stop, rand.New(rand.NewPCG(c.Seed, uint64(20+i)))) })
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
