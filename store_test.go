package session_test

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/storetest"
)

func newRedisStore(t *testing.T, client redis.UniversalClient, opts ...session.RedisOption) *session.RedisStore {
	t.Helper()
	store, err := session.NewRedisStore(client, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// newClient is a client as bots make them: without ContextTimeoutEnabled.
func newClient(t *testing.T, addr string) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { client.Close() })
	return client
}

func TestMemoryStoreConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) session.Store {
		store := session.NewMemoryStore()
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		return store
	})
}

func TestRedisStoreConformsOnMiniredis(t *testing.T) {
	server := miniredis.RunT(t)
	storetest.Run(t, func(t *testing.T) session.Store {
		server.FlushAll()
		return newRedisStore(t, newClient(t, server.Addr()))
	}, storetest.WithAdvance(func(d time.Duration) {
		server.FastForward(d)
	}))
}

func TestRedisStoreConforms(t *testing.T) {
	server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "noeviction"))
	for _, prefix := range []string{"bot:session:", "sess", "with-", "{bots}:session:", "{bots}", "odd*[?]\\:"} {
		t.Run(prefix, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) session.Store {
				server.MustDo("FLUSHALL")
				return newRedisStore(t, newClient(t, server.Addr), session.WithKeyPrefix(prefix))
			}, storetest.WithFull(func(full bool) {
				server.MustDo("CONFIG", "SET", "maxmemory", map[bool]string{true: "1", false: "0"}[full])
			}))
		})
	}
}

func TestRedisStoreConformsOnCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	for _, prefix := range []string{"bot:session:", "{bots}:session:"} {
		t.Run(prefix, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) session.Store {
				for _, node := range cluster.Nodes {
					node.MustDo("FLUSHALL")
				}
				client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
				t.Cleanup(func() { client.Close() })
				return newRedisStore(t, client, session.WithKeyPrefix(prefix))
			})
		})
	}
}

func TestRedisStoreConformsOnSentinel(t *testing.T) {
	deployment := redistest.StartSentinel(t)
	storetest.Run(t, func(t *testing.T) session.Store {
		deployment.Master.MustDo("FLUSHALL")
		client := redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: deployment.MasterName, SentinelAddrs: deployment.Addrs(),
		})
		t.Cleanup(func() { client.Close() })
		return newRedisStore(t, client)
	})
}

func TestKeyPrefixesThatCannotWorkAreRefused(t *testing.T) {
	client := newClient(t, "127.0.0.1:1")
	for _, prefix := range []string{"", "{open:", "close}:", "{}:"} {
		_, err := session.NewRedisStore(client, session.WithKeyPrefix(prefix))
		require.Error(t, err, prefix)
	}
	_, err := session.NewRedisStore(nil)
	require.Error(t, err)
}
