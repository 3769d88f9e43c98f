package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
)

// hookOf is a go-redis hook around every command and pipeline.
type hookOf struct{ do func(next func() error) error }

func (h hookOf) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h hookOf) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return h.do(func() error { return next(ctx, cmd) }) }
}
func (h hookOf) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return h.do(func() error { return next(ctx, cmds) })
	}
}

func TestWhatGoesWrongInACallersRedisClientIsAnError(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	panics := func() error { panic("a bug of the caller's") }
	ends := func() error { runtime.Goexit(); return nil }
	for name, client := range map[string]*redis.Client{
		"a hook that panics": func() *redis.Client {
			c := redis.NewClient(&redis.Options{Addr: server.Addr})
			c.AddHook(hookOf{func(func() error) error { return panics() }})
			return c
		}(),
		"a hook that ends its goroutine": func() *redis.Client {
			c := redis.NewClient(&redis.Options{Addr: server.Addr})
			c.AddHook(hookOf{func(func() error) error { return ends() }})
			return c
		}(),
		"a dialer that panics": redis.NewClient(&redis.Options{Addr: server.Addr, Dialer: func(context.Context, string, string) (net.Conn, error) {
			return nil, panics()
		}}),
		"credentials that panic": redis.NewClient(&redis.Options{Addr: server.Addr, CredentialsProvider: func() (string, string) {
			_ = panics()
			return "", ""
		}}),
	} {
		t.Run(name, func(t *testing.T) {
			defer client.Close()
			w := world.New(t, world.NewRedisStore(t, client))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := w.Svc.Token(ctx, world.Alice)
			require.ErrorIs(t, err, session.ErrStoreUnavailable)
			require.ErrorIs(t, w.Svc.SetData(ctx, world.Alice, "k", 1), session.ErrStoreUnavailable)
			require.False(t, w.Svc.Health(ctx).Store.OK)
		})
	}
}

// Tracing and the like wrap errors; what Redis answered is still told.
func TestAnswersOfRedisAreToldThroughAHookThatWrapsErrors(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := world.NewClient(t, server.Addr)
	client.AddHook(hookOf{func(next func() error) error {
		if err := next(); err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("traced: %w", err)
		}
		return nil
	}})
	w := world.New(t, world.NewRedisStore(t, client))
	server.MustDo("LPUSH", "bot:session:"+world.Alice, "poison")
	_, err := w.Svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	w.Login(w.Svc)
	world.MustToken(t, w.Svc, world.Alice)
}

func TestClientsThatCannotServeAreRefused(t *testing.T) {
	var none *redis.Client
	var noCluster *redis.ClusterClient
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	failover := func(o redis.FailoverOptions) redis.UniversalClient {
		o.MasterName, o.SentinelAddrs = "m", []string{"127.0.0.1:1"}
		client := redis.NewFailoverClusterClient(&o)
		t.Cleanup(func() { client.Close() })
		return client
	}
	for name, client := range map[string]redis.UniversalClient{
		"nothing": nil, "a typed nil": none, "a Cluster client that is nil": noCluster, "Ring": ring,
		"replicas":         failover(redis.FailoverOptions{ReplicaOnly: true}),
		"the nearest":      failover(redis.FailoverOptions{RouteByLatency: true}),
		"any":              failover(redis.FailoverOptions{RouteRandomly: true}),
		"a wrapped client": struct{ redis.UniversalClient }{redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := session.NewRedisStore(client)
			require.Error(t, err)
			_, err = session.New(session.WithRedis(client))
			require.Error(t, err)
		})
	}
}

func TestWhatElseLiesUnderALeaseOrLogoutKeyIsReplaced(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	for name, poison := range map[string]func(key string){
		"another type":  func(key string) { server.MustDo("LPUSH", key, "x") },
		"without a TTL": func(key string) { server.MustDo("SET", key, "owner:somebody") },
		"no owner":      func(key string) { server.MustDo("SET", key, "owner:", "EX", "100000") },
		"empty":         func(key string) { server.MustDo("SET", key, "") },
		"garbage":       func(key string) { server.MustDo("SET", key, strings.Repeat("9", 40)) },
		"far ahead":     func(key string) { server.MustDo("SET", key, "9999999999999999 ffffffffffffffff") },
		"huge":          func(key string) { server.MustDo("SETRANGE", key, "100000000", "x") },
	} {
		t.Run(name, func(t *testing.T) {
			w.Auth.SetTokenTTL(30 * time.Second)
			w.Login(w.Svc)
			w.Auth.SetTokenTTL(15 * time.Minute)
			for _, key := range []string{"bot:session-lock:{bot:session:" + world.Alice + "}", "bot:session-logout:{bot:session:" + world.Alice + "}"} {
				server.MustDo("DEL", key)
				poison(key)
			}
			began := time.Now()
			world.MustToken(t, w.Svc, world.Alice)
			require.Less(t, time.Since(began), 5*time.Second)
			require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
			_, err := w.Svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
			w.Login(w.Svc)
			world.MustToken(t, w.Svc, world.Alice)
		})
	}
}

func TestCountingLargeRecordsTakesLittleMemory(t *testing.T) {
	server := redistest.Start(t)
	store := world.NewRedisStore(t, world.NewClient(t, server.Addr))
	w := world.New(t, store)
	record := world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), world.Email, `{"k":"`+strings.Repeat("x", 1<<20-1024)+`"}`)
	for i := range 400 {
		w.Put(fmt.Sprintf("@user%d:h", i), record)
	}
	server.MustDo("CONFIG", "SET", "slowlog-log-slower-than", "20000")
	server.MustDo("SLOWLOG", "RESET")
	runtime.GC()
	var before, most runtime.MemStats
	runtime.ReadMemStats(&before)
	n := 0
	for _, err := range store.All(t.Context()) {
		require.NoError(t, err)
		if n++; n%20 == 0 {
			runtime.GC()
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			most.HeapAlloc = max(most.HeapAlloc, now.HeapAlloc)
		}
	}
	require.Equal(t, 400, n)
	grown := int64(most.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("heap: %.0f MiB more at most; slow log: %s", float64(grown)/(1<<20), server.MustDo("SLOWLOG", "LEN"))
	require.Less(t, grown, int64(64<<20))
}
