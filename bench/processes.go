package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

const bots = 20

// finding is one figure of a scenario.
type finding struct {
	Scenario, What, Value string
}

type scenario struct {
	name string
	run  func(*bench) error
}

var scenarios = []scenario{
	{"stampede", stampede},
	{"holder killed", holderKilled},
	{"auth failing", authFailing},
	{"invalidation", invalidation},
	{"staleness", staleness},
	{"cost", cost},
	{"steady traffic", steady},
}

func processes(args []string) error {
	flags := flag.NewFlagSet("processes", flag.ExitOnError)
	only := flags.String("only", "", "one scenario")
	jsonFile := flags.String("json", "", "write the figures here as well")
	_ = flags.Parse(args)
	var findings []finding
	fmt.Println("| scenario | figure | value |\n|---|---|---|")
	for _, s := range scenarios {
		if *only != "" && *only != s.name {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", s.name)
		err := withBench(s.name, func(b *bench) error {
			err := s.run(b)
			findings = append(findings, b.findings...)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return writeJSON(*jsonFile, findings)
}

// bench is the world of a scenario: a redis-server and an auth server.
type bench struct {
	testing.TB // for redistest, which is made for tests
	cleanups   []func()

	name     string
	findings []finding
	redis    *redistest.Server
	client   *redis.Client
	auth     *sessiontest.AuthServer
}

func (b *bench) Helper()                   {}
func (b *bench) Name() string              { return b.name }
func (b *bench) Cleanup(f func())          { b.cleanups = append(b.cleanups, f) }
func (b *bench) Log(args ...any)           { fmt.Fprintln(os.Stderr, args...) }
func (b *bench) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (b *bench) Failed() bool              { return false }
func (b *bench) Fatal(args ...any)         { panic(failure(fmt.Sprintln(args...))) }
func (b *bench) Fatalf(f string, a ...any) { panic(failure(fmt.Sprintf(f, a...))) }
func (b *bench) Skip(args ...any)          { b.Fatal(args...) }
func (b *bench) Skipf(f string, a ...any)  { b.Fatalf(f, a...) }
func (b *bench) Error(args ...any)         { b.Fatal(args...) }
func (b *bench) Errorf(f string, a ...any) { b.Fatalf(f, a...) }
func (b *bench) Context() context.Context  { return context.Background() }
func (b *bench) TempDir() string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

type failure string

func withBench(name string, run func(*bench) error) (err error) {
	if err := flag.CommandLine.Parse(nil); err != nil {
		return err
	}
	b := &bench{name: name}
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(failure)
			if !ok {
				panic(p)
			}
			err = errors.New(string(f))
		}
	}()
	defer func() {
		for _, cleanup := range slices.Backward(b.cleanups) {
			cleanup()
		}
	}()
	b.redis = redistest.Start(b)
	b.client = redis.NewClient(&redis.Options{Addr: b.redis.Addr, ContextTimeoutEnabled: true})
	b.Cleanup(func() { b.client.Close() })
	b.auth = sessiontest.New(sessiontest.WithLoginLimit(0))
	if err := b.auth.Start(); err != nil {
		return err
	}
	b.Cleanup(b.auth.Close)
	b.auth.AddUser(user0Email, "secret")
	return run(b)
}

const (
	user       = "@alice:matrix.example"
	user0Email = "alice@example.com"
	key        = "bot:session:" + user
)

func (b *bench) found(what, format string, args ...any) {
	f := finding{b.name, what, fmt.Sprintf(format, args...)}
	b.findings = append(b.findings, f)
	fmt.Printf("| %s | %s | %s |\n", f.Scenario, f.What, f.Value)
}

func (b *bench) workers(n int, ahead time.Duration) (workers, error) {
	ws, err := startWorkers(n, workerConfig{AuthURL: b.auth.URL, Redis: b.redis.Addr, Ahead: ahead})
	if err != nil {
		return nil, err
	}
	b.Cleanup(ws.kill)
	// One call each, so that connections and feeds are up.
	_, err = ws.do(order{User: "@nobody:matrix.example", Callers: 1, At: time.Now().Add(500 * time.Millisecond)})
	return ws, err
}

// put stores a session whose token has left to live.
func (b *bench) put(left time.Duration) error {
	value := fmt.Sprintf(`{"token":%q,"email":%q,"expiresAt":%q,"data":{}}`, b.auth.MintToken(user0Email, time.Now().Add(left)),
		user0Email, time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"))
	return b.client.Set(context.Background(), key, value, time.Hour).Err()
}

// stampede: all bots find one dead token at the same moment.
func stampede(b *bench) error {
	const rounds, callers = 40, 8
	b.auth.Link(user, user0Email)
	ws, err := b.workers(bots, 0)
	if err != nil {
		return err
	}
	var fetched atomic.Int64
	b.auth.Inject(sessiontest.LinkFetch, -1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		time.Sleep(20 * time.Millisecond) // long enough for everybody to come and wait
		answer(w, r)
		fetched.Store(time.Now().UnixNano())
	})
	var calls []int
	var delays []time.Duration
	for range rounds {
		if err := b.put(time.Second); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond) // for the write to be known everywhere
		b.auth.ResetCalls()
		r, err := ws.do(order{User: user, Callers: callers, At: time.Now().Add(100 * time.Millisecond)})
		if err != nil {
			return err
		}
		if len(r.Errors) > 0 {
			return fmt.Errorf("errors: %v", r.Errors)
		}
		calls = append(calls, b.auth.Calls(sessiontest.Any))
		for _, served := range r.Served {
			delays = append(delays, served.Sub(time.Unix(0, fetched.Load())))
		}
	}
	b.found(fmt.Sprintf("auth calls a round, %d processes × %d callers, %d rounds", bots, callers, rounds),
		"%d at least, %d at most", quantile(calls, 0), quantile(calls, 1))
	b.found("served after the fetch ended", "p50 %s, p99 %s", quantile(delays, 0.5), quantile(delays, 0.99))
	return nil
}

// holderKilled: the process that holds the lease dies while it asks.
func holderKilled(b *bench) error {
	b.auth.Link(user, user0Email)
	ws, err := b.workers(5, 0)
	if err != nil {
		return err
	}
	if err := b.put(time.Second); err != nil {
		return err
	}
	b.auth.ResetCalls()
	b.auth.Inject(sessiontest.LinkFetch, 1, b.auth.Hang())
	if err := ws[:1].send(order{User: user, Callers: 1}); err != nil {
		return err
	}
	for b.auth.Calls(sessiontest.LinkFetch) == 0 {
		time.Sleep(time.Millisecond)
	}
	leased := time.Now()
	ws[0].kill()
	lease, err := b.client.PTTL(context.Background(), "bot:session-lock:{"+key+"}").Result()
	if err != nil {
		return err
	}
	r, err := ws[1:].do(order{User: user, Callers: 8})
	if err != nil {
		return err
	}
	if len(r.Errors) > 0 {
		return fmt.Errorf("errors: %v", r.Errors)
	}
	last := leased
	for _, served := range r.Served {
		if served.After(last) {
			last = served
		}
	}
	b.found("lease that was left", "%s", lease)
	b.found("last caller served after the lease ran out", "%s", last.Sub(leased.Add(lease)).Round(time.Millisecond))
	b.found("auth calls beside the one of the dead holder", "%d", b.auth.Calls(sessiontest.Any)-1)
	return nil
}

// authFailing: the auth server answers 500, and nobody has a live token.
func authFailing(b *bench) error {
	b.auth.Link(user, user0Email)
	ws, err := b.workers(bots, 0)
	if err != nil {
		return err
	}
	if err := b.put(time.Second); err != nil {
		return err
	}
	b.auth.Inject(sessiontest.Any, -1, sessiontest.Status(500, "down"))
	time.Sleep(50 * time.Millisecond)
	const seconds = 10
	b.auth.ResetCalls()
	var slowest time.Duration
	end := time.Now().Add(seconds * time.Second)
	for time.Now().Before(end) {
		started := time.Now().Add(20 * time.Millisecond)
		if _, err := ws.do(order{User: user, Callers: 8, At: started}); err != nil {
			return err
		}
		slowest = max(slowest, time.Since(started))
	}
	b.found(fmt.Sprintf("auth calls per second (the back-off is 1 to 1.5 s), %d processes × 8 callers asking all the time", bots),
		"%.1f", float64(b.auth.Calls(sessiontest.Any))/seconds)
	b.found("longest until all 160 callers had their error", "%s", slowest.Round(time.Millisecond))
	return nil
}
