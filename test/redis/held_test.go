package redis_test

import (
	"context"
	"errors"
	"regexp"
	"runtime"
	"strings"
	"sync"
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

// heldConnections are the ids of the connections whose reads are tracked for another.
func heldConnections(server *redistest.Server) (ids []string) {
	for line := range strings.Lines(server.MustDo("CLIENT", "LIST")) {
		if regexp.MustCompile(`\bredir=[0-9]`).MatchString(line) {
			ids = append(ids, regexp.MustCompile(`\bid=(\d+)`).FindStringSubmatch(line)[1])
		}
	}
	return ids
}

// Redis forgets what a connection has read when it ends, and tells nobody.
func TestConnectionThatEndsTakesWhatItHasReadWithIt(t *testing.T) {
	server := redistest.Start(t)
	w := holder(t, server)
	w.Login(w.Svc)
	w.Cache()
	before := world.MustToken(t, w.Svc, world.Alice)
	for _, id := range heldConnections(server) {
		server.MustDo("CLIENT", "KILL", "ID", id)
	}
	put(t, w, server, world.Alice)
	w.ServedElse(before)
	w.Cache()
}

func TestConnectionThatTheClientReplacesTakesWhatItHasReadWithIt(t *testing.T) {
	server := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, PoolSize: 1, ConnMaxLifetime: 500 * time.Millisecond})
	t.Cleanup(func() { client.Close() })
	w := world.New(t, world.NewRedisStore(t, client, session.WithHeldKeysTracked()))
	w.Login(w.Svc)
	w.Cache()
	before := world.MustToken(t, w.Svc, world.Alice)
	old := heldConnections(server)
	world.Eventually(t, "it is replaced", func() bool {
		now := heldConnections(server)
		return len(now) == 1 && now[0] != old[0]
	})
	put(t, w, server, world.Alice)
	w.ServedElse(before)
}

// What one caller gives up costs the others nothing.
func TestCallersWhoGiveUpLeaveTheCacheOfAHolderAlone(t *testing.T) {
	server := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, PoolSize: 1})
	t.Cleanup(func() { client.Close() })
	w := world.New(t, world.NewRedisStore(t, client, session.WithHeldKeysTracked()))
	w.Login(w.Svc)
	w.Cache()
	misses := w.Svc.Counters().Misses
	server.Pause()
	var callers sync.WaitGroup
	for range 5 {
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := w.Svc.Peek(ctx, world.Bob)
			if err != nil && !errors.Is(err, session.ErrNotLoggedIn) {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
		})
	}
	callers.Wait()
	server.Resume()
	_, err := w.Svc.Peek(t.Context(), world.Bob) // after all of theirs
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	world.MustToken(t, w.Svc, world.Alice)
	require.Equal(t, misses, w.Svc.Counters().Misses)
}

// toldEnds is a feed that keeps what it is told.
type toldEnds struct {
	mu      sync.Mutex
	trusted bool // guarded by mu
	ended   int  // guarded by mu
}

func (f *toldEnds) Changed(string) {}
func (f *toldEnds) Flush()         {}
func (f *toldEnds) Ended(string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended++
}

func (f *toldEnds) Trust(time.Time, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trusted = true
}

func (f *toldEnds) isTrusted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trusted
}

func (f *toldEnds) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// Who was logged out elsewhere is not served in an outage that comes right after.
func TestHolderTellsALogoutElsewhereFromAChange(t *testing.T) {
	server := redistest.Start(t)
	store := world.NewRedisStore(t, world.NewClient(t, server.Addr), session.WithHeldKeysTracked())
	feed := new(toldEnds)
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- store.Watch(ctx, feed) }()
	defer func() { stop(); <-watched }()
	world.Eventually(t, "the feed is trusted", feed.isTrusted)

	elsewhere := world.NewRedisStore(t, world.NewClient(t, server.Addr))
	for range 3 {
		rec := session.Record{UserID: world.Alice, Value: "v", Expires: time.Now().Add(time.Hour)}
		_, err := elsewhere.Swap(t.Context(), session.Record{UserID: world.Alice}, rec)
		require.NoError(t, err)
		_, err = store.Get(t.Context(), world.Alice)
		require.NoError(t, err)
		before := feed.count()
		require.NoError(t, elsewhere.MarkLoggedOut(t.Context(), rec, time.Now(), time.Hour))
		world.Eventually(t, "the end is told", func() bool { return feed.count() > before })
	}
}

func TestHolderNeedsNoMoreOfAnACLThanItsDocsSay(t *testing.T) {
	server := redistest.Start(t, redistest.WithACL("bot on >secret +client|id "+strings.Join(documentedACL(t), " ")))
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret"})
	t.Cleanup(func() { client.Close() })
	w := world.New(t, world.NewRedisStore(t, client, session.WithHeldKeysTracked()))
	require.NoError(t, useEverything(t.Context(), w))
	w.Login(w.Svc)
	w.Cache()
	require.NotEmpty(t, heldConnections(server))
	require.Empty(t, refusals(server.MustDo("ACL", "LOG")))
}

func TestCloseLeavesNoGoroutineOfAHolder(t *testing.T) {
	server := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	require.NoError(t, client.Ping(t.Context()).Err())
	store, err := session.NewRedisStore(client, session.WithHeldKeysTracked())
	require.NoError(t, err)
	w := world.New(t, store)
	w.Login(w.Svc)
	w.Cache()
	var callers sync.WaitGroup
	for i := range 10 {
		callers.Go(func() { _, _ = w.Svc.Peek(t.Context(), world.UserID(i)) })
	}
	callers.Wait()
	require.NoError(t, w.Svc.Close())
	require.NoError(t, store.Close())
	world.Eventually(t, "all have ended", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !strings.Contains(string(stacks), "mana/session.")
	})
	require.NoError(t, client.Close())
}
