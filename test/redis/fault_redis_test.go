package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// What Redis, the network to it and its operator can do to a bot. In each test
// nobody is logged out by the fault, who is known is served during it, and all
// is well after it without a restart of the bot. Faults that are tested
// elsewhere: writes by other software, FLUSHALL and a frozen feed in
// feed_test.go, keys of another type in typescript_test.go, clients that ignore
// contexts in stats_test.go, slots that move in regression_test.go, what the
// documented ACL permits in acl_test.go, failovers in test/failover.

// refusedOrDone is for a call that needs a store which is away: it may have
// found a way around it, but must not say anything else than that.
func refusedOrDone(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
	}
}

// tracks waits until the feed of the bots runs by CLIENT TRACKING.
func tracks(t *testing.T, server *redistest.Server) {
	t.Helper()
	server.Await("INFO clients", func(reply string, err error) bool {
		return err == nil && strings.Contains(reply, "tracking_clients:") && !strings.Contains(reply, "tracking_clients:0")
	})
}

func TestRedisThatComesUpLateIsFound(t *testing.T) {
	t.Parallel()
	server := redistest.NewStopped(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	_, err := w.Svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.False(t, w.Svc.Health(t.Context()).Store.OK)

	server.Start()
	s := w.Login(w.Uncached(server.Addr))
	world.Eventually(t, "the session of another bot is visible", func() bool {
		token, err := w.Svc.Token(t.Context(), world.Alice)
		return err == nil && token == s.Token()
	})
	w.Cache()
	tracks(t, server)
	server.MustDo("DEL", "bot:session:"+world.Alice)
	w.ServedElse(s.Token())
}

func TestRedisThatIsKilledAndKeptItsData(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithPersistence())
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	known := w.Login(w.Svc).Token()
	require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", "v"))
	w.Cache()
	stranger := w.Uncached(server.Addr)

	server.Kill()
	w.Served(known)
	_, err := stranger.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.ErrorIs(t, w.Svc.SetData(t.Context(), world.Alice, "k", "lost"), session.ErrStoreUnavailable)
	require.ErrorIs(t, w.Svc.DeleteData(t.Context(), world.Alice, "k"), session.ErrStoreUnavailable)

	server.Start()
	world.Eventually(t, "the other bot works", func() bool {
		token, err := stranger.Token(t.Context(), world.Alice)
		return err == nil && token == known
	})
	value, found, err := session.DataAs[string](t.Context(), stranger, world.Alice, "k")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "v", value, "a data write that was refused is not kept either")
	_, err = stranger.Refresh(t.Context(), world.Alice, known)
	require.NoError(t, err, "the refresh token is there")
}

// What is gone from Redis is not kept alive by the bots' memories.
func TestRedisThatIsKilledAndComesBackEmpty(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Login(w.Svc)
	w.Auth.Link(world.Bob, "bob@example.com")
	world.MustToken(t, w.Svc, world.Bob)
	w.Cache()

	server.Restart()
	world.Eventually(t, "who has no link has to log in", func() bool {
		_, err := w.Svc.Token(t.Context(), world.Alice)
		refused := errors.Is(err, session.ErrNotLoggedIn)
		require.True(t, err == nil || refused || errors.Is(err, session.ErrStoreUnavailable), "%v", err)
		return refused
	})
	world.MustToken(t, w.Svc, world.Bob)
	require.Contains(t, server.MustDo("KEYS", "bot:session:*"), world.Bob, "a session anew, in the store")
	again := w.Login(w.Svc)
	require.Equal(t, again.Token(), world.MustToken(t, w.Uncached(server.Addr), world.Alice))
	w.Cache()
}

func TestRedisThatStandsStillForFiveSeconds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	known := w.Login(w.Svc).Token()
	w.Auth.Link(world.Bob, "bob@example.com")
	w.Cache()

	paused := time.Now()
	server.Pause()
	var strangers int
	for time.Since(paused) < 5*time.Second {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		token, err := w.Svc.Token(ctx, world.Alice)
		cancel()
		require.NoError(t, err)
		require.Equal(t, known, token)

		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		started := time.Now()
		_, err = w.Svc.Token(ctx, world.Bob)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(started), time.Second)
		strangers++
	}
	require.Greater(t, strangers, 3)
	_, err := w.Svc.Token(t.Context(), world.Carol)
	require.ErrorIs(t, err, session.ErrStoreUnavailable, "without a deadline of the caller's")

	server.Resume()
	world.Eventually(t, "who was unknown is served", func() bool {
		_, err := w.Svc.Token(t.Context(), world.Bob)
		return err == nil
	})
	require.Equal(t, known, world.MustToken(t, w.Svc, world.Alice))
	require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
	w.Cache()
	stats, err := w.Svc.Stats(t.Context())
	require.NoError(t, err)
	require.Zero(t, stats.SessionsEnded)
}

// 120 ms to every reply, on connections old and new. A new connection takes three
// replies, and the read of a known user has 500 ms: with much more it depends on
// the pool whether Redis is slow or silent.
func TestSlowRedisIsNotAnOutage(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	known := w.Login(w.Svc).Token()
	warm := w.Bot(world.NewClient(t, proxy.Addr))
	require.Equal(t, known, world.MustToken(t, warm, world.Alice))
	proxy.Delay(60 * time.Millisecond) // there and back
	w.Auth.Link(world.Bob, "bob@example.com")

	for name, svc := range map[string]*session.Service{
		"which became slow": warm, "slow from the start": w.Bot(world.NewClient(t, proxy.Addr)),
	} {
		ctx := t.Context()
		require.Equal(t, known, world.MustToken(t, svc, world.Alice), name)
		world.MustToken(t, svc, world.Bob)
		require.NoError(t, svc.SetData(ctx, world.Alice, "k", name))
		value, found, err := session.DataAs[string](ctx, svc, world.Alice, "k")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, name, value)
		s, err := svc.Login(ctx, world.Carol, world.Email, world.Password)
		require.NoError(t, err)
		_, err = svc.Refresh(ctx, world.Carol, s.Token())
		require.NoError(t, err)
		require.NoError(t, svc.Logout(ctx, world.Carol))
		for range 10 {
			require.Equal(t, known, world.MustToken(t, svc, world.Alice))
		}
		require.True(t, svc.Health(ctx).Store.OK)
		stats, err := svc.Stats(ctx)
		require.NoError(t, err)
		require.Equal(t, 2, stats.Total)
		require.Zero(t, stats.StoreErrors, "%s: %s", name, w.Log)
		require.Zero(t, stats.SessionsEnded)
	}
	require.NotContains(t, w.Log.String(), "store does not answer")
}

func TestBlackholedConnectionsToRedis(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*redistest.Proxy){
		"all":                      (*redistest.Proxy).Blackhole,
		"all but those still made": (*redistest.Proxy).BlackholeExisting,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := redistest.NewProxy(t, server.Addr)
			w := world.New(t, world.NewRedisStore(t, world.NewClient(t, proxy.Addr)))
			known := w.Login(w.Svc).Token()
			w.Auth.Link(world.Bob, "bob@example.com")
			w.Cache()

			fault(proxy)
			w.Served(known)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := w.Svc.Token(ctx, world.Bob)
			if name == "all" {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				proxy.Restore()
			}
			// Without Restore: connections that are dead are not used for ever.
			world.Eventually(t, "who is unknown is served", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := w.Svc.Token(ctx, world.Bob)
				return err == nil
			})
			world.Eventually(t, "writes work", func() bool { return w.Svc.SetData(t.Context(), world.Alice, "k", 1) == nil })
			w.Cache()
			server.MustDo("DEL", "bot:session:"+world.Alice)
			w.ServedElse(known)
		})
	}
}

// Others do not wait for a lease to run out because its holder lost Redis.
func TestLeaseThatCouldNotBeGivenBackIsGivenBackLater(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithPersistence())
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Auth.Link(world.Bob, "bob@example.com")
	g := world.NewGate(w.Auth.Client().Transport)
	holder := w.Bot(world.NewClient(t, server.Addr), session.WithHTTPClient(&http.Client{Transport: g}))
	result := make(chan error, 1)
	go func() {
		_, err := holder.Token(context.WithoutCancel(t.Context()), world.Bob)
		result <- err
	}()
	<-g.Arrived // with the lease
	server.Kill()
	close(g.Open)
	refusedOrDone(t, <-result)
	server.Start()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	world.Eventually(t, "long before the lease runs out", func() bool {
		_, err := w.Svc.Token(ctx, world.Bob)
		return err == nil
	})
}

func TestRedisThatIsLoading(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithPersistence(),
		redistest.WithConfig("enable-debug-command", "yes"),
		redistest.WithConfig("loading-process-events-interval-bytes", "1024"),
		redistest.WithConfig("key-load-delay", "100")) // µs
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Auth.Link(world.Bob, "bob@example.com")
	known := w.Login(w.Svc).Token()
	stranger := w.Uncached(server.Addr)
	w.Cache()
	// 2 s and more of loading.
	server.MustDo("EVAL", "for i = 1, 20000 do redis.call('SET', 'ballast:' .. i, string.rep('x', 100)) end", "0")

	server.Kill()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		server.Start()
	}()
	server.Await("GET ballast:1", func(_ string, err error) bool {
		return err != nil && strings.Contains(err.Error(), "LOADING")
	})
	require.Equal(t, known, world.MustToken(t, w.Svc, world.Alice))
	_, err := stranger.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable, "not: no such user")
	require.ErrorIs(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1), session.ErrStoreUnavailable)
	_, err = stranger.Token(t.Context(), world.Bob)
	require.ErrorIs(t, err, session.ErrStoreUnavailable, "no session from the link either")
	require.Zero(t, w.Auth.Calls(sessiontest.LinkFetch))

	<-loaded
	world.Eventually(t, "it has loaded", func() bool {
		token, err := stranger.Token(t.Context(), world.Alice)
		return err == nil && token == known
	})
	world.MustToken(t, stranger, world.Bob)
	tracks(t, server)
	w.Cache()
}

// Which sessions go when memory is short is for Redis to choose. Theirs end;
// the bots notice and hand out nothing that is not stored.
func TestSessionsThatAreEvictedAreNotServedAnyMore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "allkeys-random"))
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	const users = 40
	token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
	ballast := fmt.Sprintf(`{"ballast":%q}`, strings.Repeat("x", 50<<10))
	for i := range users {
		w.Put(world.UserID(i), world.TsRecord(token, world.Email, ballast))
		if i%2 == 0 {
			w.Auth.Link(world.UserID(i), world.Email)
		}
	}
	w.Login(w.Svc)
	w.Cache()
	for range 2 {
		for i := range users {
			require.Equal(t, token, world.MustToken(t, w.Svc, world.UserID(i)))
		}
	}
	breaks := strings.Count(w.Log.String(), "broke off")

	var used int
	for line := range strings.FieldsSeq(server.MustDo("INFO", "memory")) {
		_, _ = fmt.Sscanf(line, "used_memory:%d", &used)
	}
	server.MustDo("CONFIG", "SET", "maxmemory", fmt.Sprint(used-users/2*50<<10))
	server.Await("INFO stats", func(reply string, _ error) bool {
		return reply != "" && !strings.Contains(reply, "evicted_keys:0")
	})
	server.MustDo("CONFIG", "SET", "maxmemory", "0")
	var gone []string
	for i := range users {
		if server.MustDo("EXISTS", "bot:session:"+world.UserID(i)) == "0" {
			gone = append(gone, world.UserID(i))
		}
	}
	require.NotEmpty(t, gone)
	require.Less(t, len(gone), users)
	for i := range users {
		id, evicted := world.UserID(i), slices.Contains(gone, world.UserID(i))
		switch {
		case !evicted:
			require.Equal(t, token, world.MustToken(t, w.Svc, id))
		case i%2 == 0:
			world.Eventually(t, "a new session from the link", func() bool {
				got := world.MustToken(t, w.Svc, id)
				return got != token && server.MustDo("EXISTS", "bot:session:"+id) == "1"
			})
		default:
			world.Eventually(t, "no session", func() bool {
				_, err := w.Svc.Token(t.Context(), id)
				return errors.Is(err, session.ErrNotLoggedIn)
			})
			_, err := w.Svc.Login(t.Context(), id, world.Email, world.Password)
			require.NoError(t, err)
		}
	}
	require.Equal(t, breaks, strings.Count(w.Log.String(), "broke off"), "told by tracking")
}
