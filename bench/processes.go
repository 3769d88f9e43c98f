package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
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
		for i := len(b.cleanups) - 1; i >= 0; i-- {
			b.cleanups[i]()
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

// told is a session.Feed that says when it was told of the user.
type told struct {
	mu      sync.Mutex
	trusted bool
	at      chan time.Time
}

func (f *told) Changed(id string) {
	if id == user {
		f.at <- time.Now()
	}
}
func (f *told) Flush() {}
func (f *told) Trust(time.Time, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trusted = true
}

// invalidation: from the answer to a write until a watcher has been told.
func invalidation(b *bench) error {
	for _, readers := range []int{0, 8} {
		delays, err := b.tellings(readers)
		if err != nil {
			return err
		}
		b.found(fmt.Sprintf("write sent → watcher told, %d busy readers", readers),
			"p50 %s, p99 %s", quantile(delays, 0.5).Round(time.Microsecond), quantile(delays, 0.99).Round(time.Microsecond))
	}
	return nil
}

// tellings writes again and again and returns how long the notices took.
func (b *bench) tellings(readers int) ([]time.Duration, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var busy sync.WaitGroup
	defer busy.Wait()
	defer cancel()
	for range readers {
		busy.Go(func() {
			for ctx.Err() == nil {
				_ = b.client.Get(ctx, key).Err()
			}
		})
	}
	store, err := session.NewRedisStore(b.client)
	if err != nil {
		return nil, err
	}
	feed := &told{at: make(chan time.Time, 10)}
	busy.Go(func() { _ = store.Watch(ctx, feed) })
	for trusted := false; !trusted; time.Sleep(time.Millisecond) {
		feed.mu.Lock()
		trusted = feed.trusted
		feed.mu.Unlock()
	}
	var delays []time.Duration
	for range 2000 {
		started := time.Now()
		if err := b.put(time.Hour); err != nil {
			return nil, err
		}
		delays = append(delays, (<-feed.at).Sub(started))
		time.Sleep(time.Millisecond)
	}
	return delays, nil
}

// staleness: how long a changed session is served as it was, when the feed's
// connection freezes, and when its server is no longer the master.
func staleness(b *bench) error {
	longest := func(svc *session.Service, change func() error) (time.Duration, error) {
		ctx := context.Background()
		for hits, stop := int64(-1), time.Now().Add(20*time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, err := svc.Token(ctx, user); err != nil && time.Now().After(stop) {
				return 0, err
			}
			stats, _ := svc.Stats(ctx)
			if hits >= 0 && stats.Hits > hits {
				break
			}
			hits = stats.Hits
		}
		before, err := svc.Token(ctx, user)
		if err != nil {
			return 0, err
		}
		if err := change(); err != nil {
			return 0, err
		}
		changed := time.Now()
		for {
			if now, err := svc.Token(ctx, user); err == nil && now != before {
				return time.Since(changed), nil
			}
			if time.Since(changed) > 30*time.Second {
				return 0, errors.New("stale for 30 s")
			}
			time.Sleep(time.Millisecond)
		}
	}

	if err := b.put(time.Hour); err != nil {
		return err
	}
	var f redistest.Freezer
	client := redis.NewClient(&redis.Options{Addr: b.redis.Addr, ContextTimeoutEnabled: true, Dialer: f.Dial})
	defer client.Close()
	svc, err := session.New(session.WithRedis(client))
	if err != nil {
		return err
	}
	defer svc.Close()
	var frozen []time.Duration
	for range 10 {
		d, err := longest(svc, func() error {
			f.Freeze()
			b.auth.RotateSigningKey() // for another token
			return b.put(time.Hour)
		})
		if err != nil {
			return err
		}
		frozen = append(frozen, d)
	}
	b.found("served stale, feed's connection frozen half-open", "p50 %s, longest of 10: %s",
		quantile(frozen, 0.5).Round(time.Millisecond), quantile(frozen, 1).Round(time.Millisecond))

	d := redistest.StartSentinel(b)
	failover := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: d.MasterName, SentinelAddrs: d.Addrs(), ContextTimeoutEnabled: true})
	defer failover.Close()
	b.client = failover
	if err := b.put(time.Hour); err != nil {
		return err
	}
	demoted, err := session.New(session.WithRedis(failover))
	if err != nil {
		return err
	}
	defer demoted.Close()
	stale, err := longest(demoted, func() error {
		if _, err := d.Sentinels[0].Do("SENTINEL", "FAILOVER", d.MasterName); err != nil {
			return err
		}
		b.auth.RotateSigningKey()
		for { // until the new master takes the write
			role, _ := d.Replica.Do("ROLE")
			if strings.HasPrefix(role, "master") {
				break
			}
			time.Sleep(time.Millisecond)
		}
		direct := redis.NewClient(&redis.Options{Addr: d.Replica.Addr})
		defer direct.Close()
		b.client = direct
		return b.put(time.Hour)
	})
	if err != nil {
		return err
	}
	b.found("served stale, feed's server demoted by Sentinel", "%s", stale.Round(time.Millisecond))
	return nil
}

// cost: what a write costs Redis when 20 processes watch.
func cost(b *bench) error {
	measure := func(writes int) (time.Duration, error) {
		const d = 10 * time.Second
		before := b.redisCPU()
		tick := time.NewTicker(d / time.Duration(max(1, writes)))
		defer tick.Stop()
		for range writes {
			<-tick.C
			if err := b.put(time.Hour); err != nil {
				return 0, err
			}
		}
		if writes == 0 {
			time.Sleep(d)
		}
		return b.redisCPU() - before, nil
	}
	const writes = 2000
	alone, err := measure(writes)
	if err != nil {
		return err
	}
	if _, err := b.workers(bots, 0); err != nil {
		return err
	}
	idle, err := measure(0)
	if err != nil {
		return err
	}
	watched, err := measure(writes)
	if err != nil {
		return err
	}
	b.found("Redis CPU at 200 writes/s, nobody watching", "%.2f %% of a core", alone.Seconds()*10)
	b.found(fmt.Sprintf("Redis CPU of the heartbeats of %d processes", bots), "%.2f %% of a core", idle.Seconds()*10)
	b.found(fmt.Sprintf("Redis CPU at 200 writes/s, %d processes watching", bots), "%.2f %% of a core", watched.Seconds()*10)
	b.found("of which for telling them", "%.1f µs a write, %.2f %% of a core",
		float64((watched-idle-alone).Microseconds())/writes, (watched-idle-alone).Seconds()*10)
	return nil
}

// redisCPU is what the server has used so far.
func (b *bench) redisCPU() time.Duration {
	var total time.Duration
	for line := range strings.Lines(b.redis.MustDo("INFO", "cpu")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			used, _ := time.ParseDuration(value + "s")
			total += used
		}
	}
	return total
}

// steady: a minute of traffic with tokens of 75 s that are refreshed as soon as
// 72 s are left, so that each is replaced again and again.
func steady(b *bench) error {
	const users, auth = 200, 100 * time.Millisecond
	b.auth.SetTokenTTL(75 * time.Second)
	for i := range users {
		b.auth.Link(fmt.Sprintf("@user%d:matrix.example", i), user0Email)
	}
	ws, err := b.workers(4, 72*time.Second)
	if err != nil {
		return err
	}
	traffic := order{User: "@user%d:matrix.example", Callers: 8, Users: users, For: 2 * time.Second}
	if _, err := ws.do(traffic); err != nil { // the first login of everybody
		return err
	}
	b.auth.Inject(sessiontest.LinkFetch, -1, sessiontest.Delay(auth))
	b.auth.ResetCalls()
	traffic.For = time.Minute
	r, err := ws.do(traffic)
	if err != nil {
		return err
	}
	if len(r.Errors) > 0 {
		return fmt.Errorf("errors: %v", r.Errors)
	}
	b.found(fmt.Sprintf("caller's wait over 60 s, %d users, %d refreshes ahead of %s each", users, r.Refresh, auth),
		"p99.9 %s, longest %s", quantile(r.Waits, 0.999).Round(time.Microsecond), quantile(r.Waits, 1).Round(time.Microsecond))
	b.found("auth calls", "%d", b.auth.Calls(sessiontest.Any))
	return nil
}
