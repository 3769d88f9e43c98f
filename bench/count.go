package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
)

// count measures what it costs to count and to list the sessions of a full Redis,
// and what others notice of it.
func count(args []string) error {
	flags := flag.NewFlagSet("count", flag.ExitOnError)
	sessions := flags.Int("sessions", 1_000_000, "sessions on Redis")
	runs := flags.Int("runs", 5, "of each")
	jsonFile := flags.String("json", "", "write the figures here as well")
	_ = flags.Parse(args)
	var findings []finding
	err := withBench("count", func(b *bench) error {
		if err := b.counting(*sessions, *runs); err != nil {
			return err
		}
		findings = b.findings
		return nil
	})
	if err != nil {
		return err
	}
	return writeJSON(*jsonFile, findings)
}

func (b *bench) counting(sessions, runs int) error {
	ctx := context.Background()
	began := time.Now()
	if err := b.load(ctx, sessions); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d sessions loaded in %s\n", sessions, time.Since(began).Round(time.Millisecond))
	fmt.Println("| scenario | figure | value |\n|---|---|---|")
	svc, err := session.New(session.WithAuthURL(b.auth.URL), session.WithRedis(b.client))
	if err != nil {
		return err
	}
	b.Cleanup(func() { _ = svc.Close() })
	for _, walk := range []struct {
		name string
		run  func() (int, error)
	}{
		{"Stats", func() (int, error) {
			stats, err := svc.Stats(ctx)
			return stats.Active, err
		}},
		{"Users", func() (n int, err error) {
			for _, err := range svc.Users(ctx) {
				if err != nil {
					return n, err
				}
				n++
			}
			return n, nil
		}},
		{"Cleanup, which reads the values", func() (int, error) {
			dropped, err := svc.Cleanup(ctx)
			return sessions - dropped, err
		}},
	} {
		if err := b.walked(ctx, walk.name, sessions, runs, walk.run); err != nil {
			return err
		}
	}
	const scrapes = 10_000
	began = time.Now()
	for range scrapes {
		_ = svc.Counters()
	}
	b.found(fmt.Sprintf("Counters beside %d sessions, %d times", sessions, scrapes), "%s each", time.Since(began)/scrapes)
	return nil
}

// walked runs a walk over all sessions, beside a client that reads one key over
// and over.
func (b *bench) walked(ctx context.Context, name string, sessions, runs int, run func() (int, error)) error {
	var took, idle, beside []time.Duration
	var heap []uint64
	stop := b.waits(ctx)
	time.Sleep(time.Second)
	idle = stop()
	if err := b.client.ConfigSet(ctx, "slowlog-log-slower-than", "200").Err(); err != nil { // microseconds
		return err
	}
	b.redis.MustDo("SLOWLOG", "RESET")
	for range runs {
		stop, peak := b.waits(ctx), heapPeak()
		began := time.Now()
		n, err := run()
		took = append(took, time.Since(began))
		heap = append(heap, peak())
		beside = append(beside, stop()...)
		if err != nil {
			return err
		}
		if n != sessions {
			return fmt.Errorf("%s found %d of %d sessions", name, n, sessions)
		}
	}
	slow, err := b.client.SlowLogGet(ctx, -1).Result()
	if err != nil {
		return err
	}
	var held time.Duration
	for _, entry := range slow {
		if strings.EqualFold(entry.Args[0], "scan") || strings.EqualFold(entry.Args[0], "pttl") || strings.EqualFold(entry.Args[0], "getrange") {
			held = max(held, entry.Duration)
		}
	}
	b.found(fmt.Sprintf("%s of %d sessions", name, sessions), "%s at least, median %s, %s at most", quantile(took, 0).Round(time.Millisecond),
		quantile(took, 0.5).Round(time.Millisecond), quantile(took, 1).Round(time.Millisecond))
	b.found("heap that it adds at its peak, garbage included", "%.1f MB", float64(quantile(heap, 1))/1e6)
	b.found("longest command on the server, 200 µs or more", "%s", held)
	b.found("a GET of another connection beside it", "p50 %s, p99 %s, p99.9 %s, longest %s (idle: p99 %s, longest %s)", quantile(beside, 0.5).Round(time.Microsecond),
		quantile(beside, 0.99).Round(time.Microsecond), quantile(beside, 0.999).Round(time.Microsecond), quantile(beside, 1).Round(time.Microsecond),
		quantile(idle, 0.99).Round(time.Microsecond), quantile(idle, 1).Round(time.Microsecond))
	return nil
}

// load gives each of many users a session of common size.
func (b *bench) load(ctx context.Context, sessions int) error {
	const batch = 2000
	value := fmt.Sprintf(`{"token":%q,"email":%q,"expiresAt":%q,"data":{"list":"shopping"},"refreshToken":%q}`,
		b.auth.MintToken(user0Email, time.Now().Add(15*time.Minute)), user0Email,
		time.Now().Add(24*time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"), strings.Repeat("r", 64))
	client := redis.NewClient(&redis.Options{Addr: b.redis.Addr, WriteBufferSize: 1 << 20})
	defer client.Close()
	for first := 0; first < sessions; first += batch {
		pipe := client.Pipeline()
		for i := first; i < min(sessions, first+batch); i++ {
			pipe.Set(ctx, fmt.Sprintf("bot:session:@user%d:matrix.example", i), value, 24*time.Hour)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// waits reads a key over and over, and returns how long each read took when it is
// stopped.
func (b *bench) waits(ctx context.Context) (stop func() []time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	client := redis.NewClient(&redis.Options{Addr: b.redis.Addr, ContextTimeoutEnabled: true})
	result := make(chan []time.Duration)
	go func() {
		defer client.Close()
		var waits []time.Duration
		for ctx.Err() == nil {
			began := time.Now()
			if err := client.Get(ctx, "some key").Err(); err == nil || errors.Is(err, redis.Nil) {
				waits = append(waits, time.Since(began))
			}
			time.Sleep(time.Millisecond)
		}
		result <- waits[min(len(waits), 10):] // without those that make the connection
	}()
	return func() []time.Duration {
		cancel()
		return <-result
	}
}

// heapPeak looks at the heap until it is called, and returns by how much it grew.
func heapPeak() func() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	now := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	runtime.GC()
	debug.FreeOSMemory()
	before, most := now(), uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				most = max(most, now())
			}
		}
	}()
	return func() uint64 {
		close(stop)
		<-stopped
		return max(most, before) - before
	}
}
