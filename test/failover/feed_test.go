package failover_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
)

func TestFeedFollowsASentinelFailover(t *testing.T) {
	d := redistest.StartSentinel(t)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: d.MasterName, SentinelAddrs: d.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := world.Cached(t, world.NewRedisStore(t, client))
	before := world.MustToken(t, w.Svc, world.Alice)
	d.Master.Pause() // it still holds its connections
	d.Replica.Await("ROLE", func(answer string, err error) bool { return strings.HasPrefix(answer, "master") })
	world.Eventually(t, "writes reach the new master", func() bool {
		return w.Svc.SetData(t.Context(), world.Alice, "k", 1) == nil
	})
	w.Cache()
	d.Replica.MustDo("SETEX", "bot:session:"+world.Alice, "1000", world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
	w.ServedElse(before)
	d.Master.Resume()
}

func TestFeedCoversEveryMasterOfACluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 1)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := world.New(t, world.NewRedisStore(t, client))
	// Some user on every master.
	owners := make(map[*redistest.Server]string)
	for i := 0; len(owners) < 3; i++ {
		owners[cluster.Owner("bot:session:"+world.UserID(i))] = world.UserID(i)
	}
	record := func() string {
		return world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}")
	}
	served := func(id string) string {
		token, err := w.Svc.Token(t.Context(), id)
		if err != nil {
			return err.Error()
		}
		return token
	}
	for server, id := range owners {
		require.NoError(t, client.Set(t.Context(), "bot:session:"+id, record(), time.Hour).Err())
		before := served(id)
		w.Auth.RotateSigningKey()
		require.NoError(t, client.Set(t.Context(), "bot:session:"+id, record(), time.Hour).Err())
		world.Eventually(t, "a change on "+server.Addr, func() bool { return served(id) != before })
	}

	victim := cluster.Nodes[0]
	id := owners[victim]
	victim.Kill()
	world.Eventually(t, "writes reach the replica that took over", func() bool {
		return client.Set(t.Context(), "bot:session:"+id, record(), time.Hour).Err() == nil
	})
	world.Eventually(t, "the new master is read", func() bool { return strings.Count(served(id), ".") == 2 })
	before := served(id)
	w.Auth.RotateSigningKey()
	require.NoError(t, client.Set(t.Context(), "bot:session:"+id, record(), time.Hour).Err())
	world.Eventually(t, "a change on the new master", func() bool { return served(id) != before })
}

func TestFeedNoticesSlotsThatMove(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := world.Cached(t, world.NewRedisStore(t, client))
	const key = "bot:session:" + world.Alice
	before := world.MustToken(t, w.Svc, world.Alice)
	from := cluster.Owner(key)
	to := cluster.Nodes[0]
	if from == to {
		to = cluster.Nodes[1]
	}
	slot := from.MustDo("CLUSTER", "KEYSLOT", key)
	fromID, toID := from.MustDo("CLUSTER", "MYID"), to.MustDo("CLUSTER", "MYID")
	to.MustDo("CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	from.MustDo("CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	_, port, _ := strings.Cut(to.Addr, ":")
	for k := range strings.FieldsSeq(from.MustDo("CLUSTER", "GETKEYSINSLOT", slot, "100")) {
		from.MustDo("MIGRATE", "127.0.0.1", port, k, "0", "5000")
	}
	for _, node := range []*redistest.Server{to, from} {
		node.MustDo("CLUSTER", "SETSLOT", slot, "NODE", toID)
	}
	w.Cache()
	to.MustDo("SETEX", key, "1000", world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
	w.ServedElse(before)
}

// The connections on which a held session was read stay with the old master, too.
func TestHeldSessionsFollowASentinelFailover(t *testing.T) {
	d := redistest.StartSentinel(t)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: d.MasterName, SentinelAddrs: d.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := world.Cached(t, world.NewRedisStore(t, client, session.WithHeldKeysTracked()))
	before := world.MustToken(t, w.Svc, world.Alice)
	d.Master.Pause()
	d.Replica.Await("ROLE", func(answer string, err error) bool { return strings.HasPrefix(answer, "master") })
	world.Eventually(t, "writes reach the new master", func() bool {
		return w.Svc.SetData(t.Context(), world.Alice, "k", 1) == nil
	})
	w.Cache()
	d.Replica.MustDo("SETEX", "bot:session:"+world.Alice, "1000", world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
	w.ServedElse(before)
	d.Master.Resume()
}
