package session_test

import (
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

const benchUsers = 10_000

// benchRecord is a record of the size that real ones have.
func benchRecord(auth *sessiontest.AuthServer) string {
	return world.TsRecord(auth.MintToken(world.Email, time.Now().Add(24*time.Hour)), world.Email, `{"list":"shopping"}`)
}

// benchService has sessions for benchUsers users in its store.
func benchService(b *testing.B, store session.Store, opts ...session.Option) (*session.Service, []string) {
	b.Helper()
	auth := sessiontest.New()
	auth.AddUser(world.Email, world.Password)
	record := benchRecord(auth)
	ids := make([]string, benchUsers)
	for i := range ids {
		ids[i] = world.UserID(i)
		_, err := store.Swap(b.Context(), session.Record{UserID: ids[i]},
			session.Record{UserID: ids[i], Value: record, Expires: time.Now().Add(24 * time.Hour)})
		require.NoError(b, err)
	}
	svc, err := session.New(append([]session.Option{session.WithStore(store)}, opts...)...)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, svc.Close()) })
	return svc, ids
}

// BenchmarkToken measures hits: in memory and from the near cache over Redis,
// and on Redis without a near cache beside a plain GET of the same records.
func BenchmarkToken(b *testing.B) {
	b.Run("memory", func(b *testing.B) {
		store := session.NewMemoryStore()
		defer store.Close()
		svc, ids := benchService(b, store)
		benchHits(b, svc, ids)
	})
	if testing.Short() {
		return
	}
	server := redistest.Start(b)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
	defer client.Close()
	store, err := session.NewRedisStore(client)
	require.NoError(b, err)
	defer store.Close()
	near, ids := benchService(b, store)
	plain, err := session.New(session.WithStore(store), session.WithNearCache(0))
	require.NoError(b, err)
	defer plain.Close()

	b.Run("redis near cache", func(b *testing.B) { benchHits(b, near, ids) })
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = "bot:session:" + id
	}
	b.Run("redis", func(b *testing.B) {
		benchCalls(b, ids, func(id string) error {
			_, err := plain.Token(context.Background(), id)
			return err
		})
	})
	b.Run("redis plain GET", func(b *testing.B) {
		benchCalls(b, keys, func(key string) error { return client.Get(context.Background(), key).Err() })
	})
}

func benchHits(b *testing.B, svc *session.Service, ids []string) {
	for _, id := range ids {
		require.Eventually(b, func() bool {
			_, err := svc.Token(context.Background(), id)
			return err == nil
		}, time.Second, time.Millisecond)
	}
	benchCalls(b, ids, func(id string) error {
		_, err := svc.Token(context.Background(), id)
		return err
	})
}

func benchCalls(b *testing.B, keys []string, call func(string) error) {
	b.Run("sequential", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := call(keys[i%len(keys)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if err := call(keys[i%len(keys)]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkMemoryStore measures a million sessions: what one takes beyond its
// record, and the longest that another caller waits while all are cleaned up.
func BenchmarkMemoryStore(b *testing.B) {
	sessions := 1_000_000
	if testing.Short() {
		sessions = 10_000
	}
	auth := sessiontest.New()
	auth.AddUser(world.Email, world.Password)
	record := benchRecord(auth)
	for b.Loop() {
		before := heap()
		store := session.NewMemoryStore()
		expires := time.Now().Add(time.Hour)
		for i := range sessions {
			id := world.UserID(i)
			_, err := store.Swap(b.Context(), session.Record{UserID: id},
				session.Record{UserID: id, Value: strings.Clone(record), Expires: expires})
			require.NoError(b, err)
		}
		each := float64(heap()-before) / float64(sessions)
		b.ReportMetric(each, "B/session")
		b.ReportMetric(each-float64(len(record)), "B/session-beyond-record")

		waits := waitsDuringCleanup(b, store, sessions)
		b.ReportMetric(float64(waits[len(waits)-1].Microseconds()), "µs-longest-wait")
		b.ReportMetric(float64(waits[len(waits)*9999/10000].Nanoseconds())/1000, "µs-p99.99-wait")
		require.NoError(b, store.Close())
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// waitsDuringCleanup reads and writes sessions while Cleanup walks over all of
// them, half of which have expired, and returns how long it took each time, in
// order. The garbage collector rests meanwhile: its pauses are not Cleanup's.
func waitsDuringCleanup(b *testing.B, store *session.MemoryStore, sessions int) []time.Duration {
	svc, err := session.New(session.WithStore(store))
	require.NoError(b, err)
	defer svc.Close()
	ctx := context.Background()
	for i := range sessions / 2 {
		rec, err := store.Get(ctx, world.UserID(2*i))
		require.NoError(b, err)
		next := rec
		next.Expires = time.Now()
		_, err = store.Swap(ctx, rec, next)
		require.NoError(b, err)
	}
	waits := make([]time.Duration, 0, 20_000_000)
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	done := make(chan int, 1)
	go func() {
		dropped, err := svc.Cleanup(ctx)
		if err != nil {
			b.Error(err)
		}
		done <- dropped
	}()
	id := world.UserID(1)
	for {
		select {
		case dropped := <-done:
			require.Equal(b, sessions/2, dropped)
			slices.Sort(waits)
			return waits
		default:
		}
		started := time.Now()
		rec, err := store.Get(ctx, id)
		if err == nil {
			_, err = store.Swap(ctx, rec, rec)
		}
		waits = append(waits, time.Since(started))
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFill measures what Token costs when the near cache has to be filled,
// less the store's round trip: reading a record from memory, opening it if it
// is sealed, and decoding it.
func BenchmarkFill(b *testing.B) {
	key, other := sealKey(1), sealKey(2)
	auth := sessiontest.New()
	auth.AddUser(world.Email, world.Password)
	plain := benchRecord(auth)
	for _, bench := range []struct {
		name  string
		value string
		opts  []session.Option
	}{
		{"plain text", plain, nil},
		{"sealed", session.Seal(key, world.Alice, plain), []session.Option{session.WithEncryption(key)}},
		{"sealed with the second key", session.Seal(key, world.Alice, plain), []session.Option{session.WithEncryption(other, key)}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			store := session.NewMemoryStore()
			defer store.Close()
			_, err := store.Swap(b.Context(), session.Record{UserID: world.Alice},
				session.Record{UserID: world.Alice, Value: bench.value, Expires: time.Now().Add(24 * time.Hour)})
			require.NoError(b, err)
			svc, err := session.New(append(bench.opts, session.WithStore(store), session.WithNearCache(0))...)
			require.NoError(b, err)
			defer svc.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := svc.Token(context.Background(), world.Alice); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// countingObserver does as little as an observer can.
type countingObserver struct{ n atomic.Int64 }

func (o *countingObserver) Begin(ctx context.Context, _ session.Operation) (context.Context, func(error)) {
	o.n.Add(1)
	return ctx, func(error) {}
}

// BenchmarkTokenObserved is a hit with and without an observer: a hit is no operation.
func BenchmarkTokenObserved(b *testing.B) {
	for _, run := range []struct {
		name string
		opts []session.Option
	}{{"without", nil}, {"with", []session.Option{session.WithObserver(new(countingObserver))}}} {
		b.Run(run.name, func(b *testing.B) {
			store := session.NewMemoryStore()
			defer store.Close()
			svc, ids := benchService(b, store, run.opts...)
			benchHits(b, svc, ids)
		})
	}
}
