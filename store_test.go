package session_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/storetest"
)

func TestMemoryStoreConforms(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) session.Store {
		store := session.NewMemoryStore()
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		return store
	})
}

func TestRedisStoreConformsOnMiniredis(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	storetest.Run(t, func(t *testing.T) session.Store {
		server.FlushAll()
		return world.NewRedisStore(t, world.NewClient(t, server.Addr()))
	}, storetest.WithAdvance(func(d time.Duration) {
		server.FastForward(d)
	}))
}

func TestRedisStoreConforms(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"bot:session:", "sess", "with-", "{bots}:session:", "{bots}", "odd*[?]\\:"} {
		t.Run(prefix, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "noeviction"))
			storetest.Run(t, func(t *testing.T) session.Store {
				server.MustDo("FLUSHALL")
				return world.NewRedisStore(t, world.NewClient(t, server.Addr), session.WithKeyPrefix(prefix))
			}, storetest.WithFull(func(full bool) {
				server.MustDo("CONFIG", "SET", "maxmemory", map[bool]string{true: "1", false: "0"}[full])
			}))
		})
	}
}

// With and without a feed that runs already: then the suite's own is a second one, and
// all reads are of the first's connections.
func TestRedisStoreConformsThatTracksHeldKeys(t *testing.T) {
	t.Parallel()
	for name, watched := range map[string]bool{"watched": true, "not watched": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "noeviction"))
			opts := []storetest.Option{storetest.WithFull(func(full bool) {
				server.MustDo("CONFIG", "SET", "maxmemory", map[bool]string{true: "1", false: "0"}[full])
			})}
			if !watched {
				opts = append(opts, storetest.WithNoticesOfReads())
			}
			storetest.Run(t, func(t *testing.T) session.Store {
				server.MustDo("FLUSHALL")
				store := world.NewRedisStore(t, world.NewClient(t, server.Addr), session.WithHeldKeysTracked())
				if watched {
					feed, ended := make(trustedFeed, 1), make(chan error, 1)
					ctx, stop := context.WithCancel(context.Background())
					go func() { ended <- store.Watch(ctx, feed) }()
					t.Cleanup(func() { stop(); <-ended })
					<-feed
				}
				return store
			}, opts...)
		})
	}
}

// trustedFeed tells that the feed is trusted.
type trustedFeed chan struct{}

func (trustedFeed) Changed(string) {}
func (trustedFeed) Flush()         {}
func (f trustedFeed) Trust(time.Time, time.Duration) {
	select {
	case f <- struct{}{}:
	default:
	}
}

func TestRedisStoreConformsOnCluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	for _, prefix := range []string{"bot:session:", "{bots}:session:"} {
		t.Run(prefix, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) session.Store {
				for _, node := range cluster.Nodes {
					node.MustDo("FLUSHALL")
				}
				client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
				t.Cleanup(func() { client.Close() })
				return world.NewRedisStore(t, client, session.WithKeyPrefix(prefix))
			})
		})
	}
}

func TestRedisStoreConformsOnSentinel(t *testing.T) {
	t.Parallel()
	deployment := redistest.StartSentinel(t)
	storetest.Run(t, func(t *testing.T) session.Store {
		deployment.Master.MustDo("FLUSHALL")
		client := redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: deployment.MasterName, SentinelAddrs: deployment.Addrs(),
		})
		t.Cleanup(func() { client.Close() })
		return world.NewRedisStore(t, client)
	})
}

func TestKeyPrefixesThatCannotWorkAreRefused(t *testing.T) {
	client := world.NewClient(t, "127.0.0.1:1")
	for _, prefix := range []string{"", "{open:", "close}:", "{}:"} {
		_, err := session.NewRedisStore(client, session.WithKeyPrefix(prefix))
		require.Error(t, err, prefix)
	}
	_, err := session.NewRedisStore(nil)
	require.Error(t, err)
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near := world.NewLink(t)
		w := world.New(t, near)
		other := (&world.World{T: t, Auth: w.Auth, Store: near.Another(), Log: w.Log}).Service()
		session.SetMaxQueued(w.Svc, 1)
		near.Lose()
		_, err := w.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
		require.NoError(t, err)
		_, err = w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Carol), session.ErrStoreUnavailable)
		require.Equal(t, 1, w.Svc.Health(t.Context()).Queued)
		world.MustToken(t, w.Svc, world.Bob)
		near.Restore()
		time.Sleep(5 * time.Second)
		world.MustToken(t, other, world.Bob)
	})
}
