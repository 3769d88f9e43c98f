package redis_test

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

// holder is a world on a store that has only its held keys tracked.
func holder(t *testing.T, server *redistest.Server) *world.World {
	t.Helper()
	return world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr), session.WithHeldKeysTracked()))
}

// put writes a record as other software does.
func put(t *testing.T, w *world.World, server *redistest.Server, id string) {
	t.Helper()
	token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour+time.Duration(len(w.Log.String()))*time.Second))
	server.MustDo("SETEX", "bot:session:"+id, "1000", world.TsRecord(token, world.Email, "{}"))
}

func TestHeldSessionsAreServedFromMemoryUntilTheyChange(t *testing.T) {
	server := redistest.Start(t)
	w := holder(t, server)
	w.Login(w.Svc)
	w.Cache()
	server.Await("CLIENT LIST", func(reply string, err error) bool {
		return err == nil && strings.Contains(reply, "redir=") && !strings.Contains(reply, "flags=tB")
	})
	for range 5 { // each time it is read again, it is held again
		before := world.MustToken(t, w.Svc, world.Alice)
		w.Cache()
		put(t, w, server, world.Alice)
		w.ServedElse(before)
		w.Cache()
	}
	server.MustDo("DEL", "bot:session:"+world.Alice)
	world.Eventually(t, "the end is seen", func() bool {
		_, err := w.Svc.Token(t.Context(), world.Alice)
		return err != nil
	})
	require.Equal(t, int64(0), w.Svc.Counters().StoreErrors)
}

func TestHolderHearsOfNothingThatItDoesNotHold(t *testing.T) {
	server := redistest.Start(t)
	w := holder(t, server)
	w.Login(w.Svc)
	w.Cache()
	items := func() string {
		for line := range strings.Lines(server.MustDo("INFO", "stats")) {
			if n, ok := strings.CutPrefix(line, "tracking_total_keys:"); ok {
				return strings.TrimSpace(n)
			}
		}
		return ""
	}
	world.Eventually(t, "alice's keys and a heartbeat are tracked", func() bool { return items() != "0" })
	before := world.MustToken(t, w.Svc, world.Alice)
	for range 100 {
		put(t, w, server, world.Bob)
	}
	require.Equal(t, before, world.MustToken(t, w.Svc, world.Alice))
	require.Contains(t, server.MustDo("INFO", "stats"), "tracking_total_prefixes:0", "nothing is broadcast")
}

func TestFlushAndLossOfTheFeedEmptyTheCacheOfAHolder(t *testing.T) {
	server := redistest.Start(t)
	w := holder(t, server)
	w.Login(w.Svc)
	w.Cache()
	server.MustDo("FLUSHALL")
	world.Eventually(t, "the flush is seen", func() bool {
		_, err := w.Svc.Token(t.Context(), world.Alice)
		return err != nil
	})
	w.Login(w.Svc)
	w.Cache()
	server.MustDo("CLIENT", "KILL", "TYPE", "normal")
	before := world.MustToken(t, w.Svc, world.Alice)
	put(t, w, server, world.Alice)
	w.ServedElse(before)
	w.Cache()
}

// Services on one store: only one feed can be told of what the store reads.
func TestServicesOnOneStoreSeeEachChange(t *testing.T) {
	server := redistest.Start(t)
	w := holder(t, server)
	w.Login(w.Svc)
	second := w.Service()
	for range 3 {
		before := world.MustToken(t, second, world.Alice)
		w.Cache()
		put(t, w, server, world.Alice)
		w.ServedElse(before)
		world.Eventually(t, "the other sees it, too", func() bool {
			token, err := second.Token(t.Context(), world.Alice)
			return err == nil && token != before
		})
	}
}

func TestHolderWithoutTrackingFallsBackToPubSub(t *testing.T) {
	server := redistest.Start(t)
	server.MustDo("ACL", "SETUSER", "bot", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret"})
	t.Cleanup(func() { _ = client.Close() })
	w := world.New(t, world.NewRedisStore(t, client, session.WithHeldKeysTracked()))
	w.Login(w.Svc)
	before := world.MustToken(t, w.Svc, world.Alice)
	put(t, w, server, world.Alice)
	w.ServedElse(before)
}
