package redis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
)

func TestWritesOfOtherSoftwareAreSeen(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.Cached(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	const key = "bot:session:" + world.Alice
	for name, change := range map[string]func(record string){
		"SETEX":  func(record string) { server.MustDo("SETEX", key, "604800", record) },
		"DEL":    func(string) { server.MustDo("DEL", key) },
		"UNLINK": func(string) { server.MustDo("UNLINK", key) },
		"script": func(record string) {
			server.MustDo("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", key, record)
		},
		"MULTI": func(record string) {
			client := world.NewClient(t, server.Addr)
			_, err := client.TxPipelined(t.Context(), func(p redis.Pipeliner) error { return p.Set(t.Context(), key, record, 0).Err() })
			require.NoError(t, err)
		},
		"FLUSHALL": func(string) { server.MustDo("FLUSHALL") },
		"RENAME":   func(string) { server.MustDo("RENAME", key, "elsewhere") },
		"expiry":   func(string) { server.MustDo("PEXPIRE", key, "1"); server.MustDo("GET", key) },
	} {
		t.Run(name, func(t *testing.T) {
			w.Login(w.Svc)
			w.Cache()
			before := world.MustToken(t, w.Svc, world.Alice)
			change(world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
			w.ServedElse(before)
		})
	}
}

func TestFeedThatIsCutComesBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.Cached(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	for range 3 {
		before := world.MustToken(t, w.Svc, world.Alice)
		server.MustDo("CLIENT", "KILL", "TYPE", "normal")
		server.MustDo("SETEX", "bot:session:"+world.Alice, "1000", world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
		w.ServedElse(before)
		w.Login(w.Svc)
		w.Cache()
	}
}

func TestFeedSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithPersistence())
	w := world.Cached(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	before := world.MustToken(t, w.Svc, world.Alice)
	server.Kill()
	for range 20 {
		require.Equal(t, before, world.MustToken(t, w.Svc, world.Alice), "what is known is served")
	}
	server.Start()
	world.Eventually(t, "the store is back", func() bool { return w.Svc.Health(t.Context()).Store.OK })
	w.Cache()
	server.MustDo("DEL", "bot:session:"+world.Alice)
	w.ServedElse(before)
}

func TestWhereTrackingIsRefusedAnAgeCapBoundsStaleness(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]string{
		"Pub/Sub instead": "-client|tracking", "neither": "-client|tracking -subscribe resetchannels", "no RESP3": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opts []redistest.Option
			if name == "no RESP3" { // HELLO cannot be forbidden by ACL
				opts = append(opts, redistest.WithConfig("rename-command", "HELLO", ""))
			}
			server := redistest.Start(t, opts...)
			server.MustDo(append([]string{"ACL", "SETUSER", "default"}, strings.Fields(rule)...)...)
			w := world.Cached(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
			before := world.MustToken(t, w.Svc, world.Alice)
			server.MustDo("SETEX", "bot:session:"+world.Alice, "1000", world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
			w.ServedElse(before)
			require.Contains(t, server.MustDo("INFO", "clients"), "tracking_clients:0\r")
		})
	}
}

func TestFrozenFeedIsNotBelieved(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var f redistest.Freezer
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Dialer: f.Dial})
	t.Cleanup(func() { client.Close() })
	w := world.Cached(t, world.NewRedisStore(t, client))
	for range 2 {
		before := world.MustToken(t, w.Svc, world.Alice)
		f.Freeze()
		server.MustDo("SETEX", "bot:session:"+world.Alice, "1000", world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
		w.ServedElse(before)
		w.Login(w.Svc)
		w.Cache() // over a new connection
	}
}
