package world

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
)

func NewRedisStore(t *testing.T, client redis.UniversalClient, opts ...session.RedisOption) *session.RedisStore {
	t.Helper()
	store, err := session.NewRedisStore(client, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// NewClient is a client as bots make them: without ContextTimeoutEnabled.
func NewClient(t *testing.T, addr string) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { client.Close() })
	return client
}

// OnEveryStore runs a flow in memory, on miniredis and on a real redis-server.
func OnEveryStore(t *testing.T, flow func(t *testing.T, w *World)) {
	t.Run("memory", func(t *testing.T) {
		store := session.NewMemoryStore()
		t.Cleanup(func() { store.Close() })
		flow(t, New(t, store))
	})
	t.Run("miniredis", func(t *testing.T) {
		flow(t, New(t, NewRedisStore(t, NewClient(t, miniredis.RunT(t).Addr()))))
	})
	t.Run("redis", func(t *testing.T) {
		flow(t, New(t, NewRedisStore(t, NewClient(t, redistest.Start(t).Addr))))
	})
}
