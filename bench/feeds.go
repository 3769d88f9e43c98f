package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// Scenarios about what processes are told of changes, and what that costs.

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
