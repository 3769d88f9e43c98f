package session_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
)

// cached is a world on Redis whose service has alice's session in its near
// cache and serves it from there.
func cached(t *testing.T, store session.Store) *world {
	t.Helper()
	w := newWorld(t, store)
	w.login(w.svc)
	w.cache()
	return w
}

// cache waits until a hit does without the store.
func (w *world) cache() {
	w.t.Helper()
	eventually(w.t, "a hit from the near cache", func() bool {
		before, err := w.svc.Stats(w.t.Context())
		require.NoError(w.t, err)
		_, err = w.svc.Token(w.t.Context(), alice)
		require.NoError(w.t, err)
		after, err := w.svc.Stats(w.t.Context())
		require.NoError(w.t, err)
		return after.Hits > before.Hits
	})
}

// servedElse waits until the service serves something else than before.
func (w *world) servedElse(before string) {
	w.t.Helper()
	eventually(w.t, "the change is seen", func() bool {
		token, err := w.svc.Token(w.t.Context(), alice)
		return err != nil || token != before
	})
}

func TestWritesOfOtherSoftwareAreSeen(t *testing.T) {
	server := redistest.Start(t)
	w := cached(t, newRedisStore(t, newClient(t, server.Addr)))
	const key = "bot:session:" + alice
	for name, change := range map[string]func(record string){
		"SETEX":  func(record string) { server.MustDo("SETEX", key, "604800", record) },
		"DEL":    func(string) { server.MustDo("DEL", key) },
		"UNLINK": func(string) { server.MustDo("UNLINK", key) },
		"script": func(record string) {
			server.MustDo("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", key, record)
		},
		"MULTI": func(record string) {
			client := newClient(t, server.Addr)
			_, err := client.TxPipelined(t.Context(), func(p redis.Pipeliner) error { return p.Set(t.Context(), key, record, 0).Err() })
			require.NoError(t, err)
		},
		"FLUSHALL": func(string) { server.MustDo("FLUSHALL") },
		"RENAME":   func(string) { server.MustDo("RENAME", key, "elsewhere") },
		"expiry":   func(string) { server.MustDo("PEXPIRE", key, "1"); server.MustDo("GET", key) },
	} {
		t.Run(name, func(t *testing.T) {
			w.login(w.svc)
			w.cache()
			before := mustToken(t, w.svc, alice)
			change(tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}"))
			w.servedElse(before)
		})
	}
}

func TestFeedThatIsCutComesBack(t *testing.T) {
	server := redistest.Start(t)
	w := cached(t, newRedisStore(t, newClient(t, server.Addr)))
	for range 3 {
		before := mustToken(t, w.svc, alice)
		server.MustDo("CLIENT", "KILL", "TYPE", "normal")
		server.MustDo("SETEX", "bot:session:"+alice, "1000", tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}"))
		w.servedElse(before)
		w.login(w.svc)
		w.cache()
	}
}

func TestFeedSurvivesARestartOfTheServer(t *testing.T) {
	server := redistest.Start(t, redistest.WithPersistence())
	w := cached(t, newRedisStore(t, newClient(t, server.Addr)))
	before := mustToken(t, w.svc, alice)
	server.Kill()
	for range 20 {
		require.Equal(t, before, mustToken(t, w.svc, alice), "what is known is served")
	}
	server.Start()
	eventually(t, "the store is back", func() bool { return w.svc.Health(t.Context()).Store.OK })
	w.cache()
	server.MustDo("DEL", "bot:session:"+alice)
	w.servedElse(before)
}

func TestWhereTrackingIsRefusedAnAgeCapBoundsStaleness(t *testing.T) {
	for name, rule := range map[string]string{
		"Pub/Sub instead": "-client|tracking", "neither": "-client|tracking -subscribe resetchannels", "no RESP3": "",
	} {
		t.Run(name, func(t *testing.T) {
			var opts []redistest.Option
			if name == "no RESP3" { // HELLO cannot be forbidden by ACL
				opts = append(opts, redistest.WithConfig("rename-command", "HELLO", ""))
			}
			server := redistest.Start(t, opts...)
			server.MustDo(append([]string{"ACL", "SETUSER", "default"}, strings.Fields(rule)...)...)
			w := cached(t, newRedisStore(t, newClient(t, server.Addr)))
			before := mustToken(t, w.svc, alice)
			server.MustDo("SETEX", "bot:session:"+alice, "1000", tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}"))
			w.servedElse(before)
			require.Contains(t, server.MustDo("INFO", "clients"), "tracking_clients:0\r")
		})
	}
}

func TestFrozenFeedIsNotBelieved(t *testing.T) {
	server := redistest.Start(t)
	var f redistest.Freezer
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Dialer: f.Dial})
	t.Cleanup(func() { client.Close() })
	w := cached(t, newRedisStore(t, client))
	for range 2 {
		before := mustToken(t, w.svc, alice)
		f.Freeze()
		server.MustDo("SETEX", "bot:session:"+alice, "1000", tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}"))
		w.servedElse(before)
		w.login(w.svc)
		w.cache() // over a new connection
	}
}

func TestFeedFollowsASentinelFailover(t *testing.T) {
	d := redistest.StartSentinel(t)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: d.MasterName, SentinelAddrs: d.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := cached(t, newRedisStore(t, client))
	before := mustToken(t, w.svc, alice)
	d.Master.Pause() // it still holds its connections
	d.Replica.Await("ROLE", func(answer string, err error) bool { return strings.HasPrefix(answer, "master") })
	eventually(t, "writes reach the new master", func() bool {
		return w.svc.SetData(t.Context(), alice, "k", 1) == nil
	})
	w.cache()
	d.Replica.MustDo("SETEX", "bot:session:"+alice, "1000", tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}"))
	w.servedElse(before)
	d.Master.Resume()
}

func TestFeedCoversEveryMasterOfACluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 1)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := newWorld(t, newRedisStore(t, client))
	// Some user on every master.
	owners := make(map[*redistest.Server]string)
	for i := 0; len(owners) < 3; i++ {
		owners[cluster.Owner("bot:session:"+userID(i))] = userID(i)
	}
	record := func() string { return tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}") }
	served := func(id string) string {
		token, err := w.svc.Token(t.Context(), id)
		if err != nil {
			return err.Error()
		}
		return token
	}
	for server, id := range owners {
		require.NoError(t, client.Set(t.Context(), "bot:session:"+id, record(), time.Hour).Err())
		before := served(id)
		w.auth.RotateSigningKey()
		require.NoError(t, client.Set(t.Context(), "bot:session:"+id, record(), time.Hour).Err())
		eventually(t, "a change on "+server.Addr, func() bool { return served(id) != before })
	}

	victim := cluster.Nodes[0]
	id := owners[victim]
	victim.Kill()
	eventually(t, "writes reach the replica that took over", func() bool {
		return client.Set(t.Context(), "bot:session:"+id, record(), time.Hour).Err() == nil
	})
	eventually(t, "the new master is read", func() bool { return strings.Count(served(id), ".") == 2 })
	before := served(id)
	w.auth.RotateSigningKey()
	require.NoError(t, client.Set(t.Context(), "bot:session:"+id, record(), time.Hour).Err())
	eventually(t, "a change on the new master", func() bool { return served(id) != before })
}

func TestFeedNoticesSlotsThatMove(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := cached(t, newRedisStore(t, client))
	const key = "bot:session:" + alice
	before := mustToken(t, w.svc, alice)
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
	for _, k := range strings.Fields(from.MustDo("CLUSTER", "GETKEYSINSLOT", slot, "100")) {
		from.MustDo("MIGRATE", "127.0.0.1", port, k, "0", "5000")
	}
	for _, node := range []*redistest.Server{to, from} {
		node.MustDo("CLUSTER", "SETSLOT", slot, "NODE", toID)
	}
	w.cache()
	to.MustDo("SETEX", key, "1000", tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}"))
	w.servedElse(before)
}
