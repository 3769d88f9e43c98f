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

	"github.com/redis/go-redis/v9"
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
// documented ACL permits in acl_test.go, failovers in failover_test.go.

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

// 200 ms to every reply, on connections old and new.
func TestSlowRedisIsNotAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	known := w.Login(w.Svc).Token()
	warm := w.Bot(world.NewClient(t, proxy.Addr))
	require.Equal(t, known, world.MustToken(t, warm, world.Alice))
	proxy.Delay(100 * time.Millisecond) // there and back
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

// breaking is a store behind a proxy, on one connection.
type breaking struct {
	t      *testing.T
	proxy  *redistest.Proxy
	client *redis.Client
	store  *session.RedisStore
}

func newBreaking(t *testing.T, server *redistest.Server, retries int) *breaking {
	t.Helper()
	proxy := redistest.NewProxy(t, server.Addr)
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr, PoolSize: 1, PipelinePoolSize: -1, MaxRetries: retries, MinRetryBackoff: -1})
	t.Cleanup(func() { client.Close() })
	return &breaking{t, proxy, client, world.NewRedisStore(t, client)}
}

// cutAfter makes the connection break off after n more bytes of replies.
func (b *breaking) cutAfter(n int) {
	b.t.Helper()
	world.Eventually(b.t, "a connection", func() bool { return b.client.Ping(b.t.Context()).Err() == nil })
	b.proxy.CutAfter(n)
}

// A connection that breaks off in the middle of a reply leaves the client
// without knowing whether the command was carried out. At every byte of the
// reply, with a client that repeats commands and with one that does not: what
// is broken off is never taken for an answer, and a write that is repeated after
// it got through is no conflict.
func TestReplyThatBreaksOffAtAnyByteIsNoAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	direct := world.NewRedisStore(t, world.NewClient(t, server.Addr))
	record := func(value string) session.Record {
		return session.Record{UserID: world.Alice, Value: value, Expires: time.Now().Add(time.Hour)}
	}
	current := func() session.Record {
		rec, err := direct.Get(context.WithoutCancel(t.Context()), world.Alice)
		if errors.Is(err, session.ErrNotFound) {
			return session.Record{UserID: world.Alice}
		}
		require.NoError(t, err)
		return rec
	}
	const owner = "me"
	value := strings.Repeat("v", 100)
	reset := func(t *testing.T) session.Record {
		require.NoError(t, direct.Delete(t.Context(), session.Record{UserID: world.Alice}))
		_, err := direct.Swap(t.Context(), session.Record{UserID: world.Alice}, record(value))
		require.NoError(t, err)
		return current()
	}
	free := func(t *testing.T) { // of a lease that may be left
		lease, _, err := direct.Acquire(t.Context(), world.Alice, owner, time.Minute)
		require.NoError(t, err)
		require.True(t, lease.Held, "nobody else has it")
		require.NoError(t, direct.Release(t.Context(), world.Alice, owner, "", 0))
	}
	operations := map[string]func(t *testing.T, store *session.RedisStore, arm func()) error{
		"read": func(t *testing.T, store *session.RedisStore, arm func()) error {
			arm()
			rec, err := store.Get(t.Context(), world.Alice)
			if err == nil {
				require.Equal(t, value, rec.Value)
			}
			require.NotErrorIs(t, err, session.ErrNotFound, "half an answer is not nothing")
			return err
		},
		"swap": func(t *testing.T, store *session.RedisStore, arm func()) error {
			base, next := current(), record(value+"2")
			arm()
			_, err := store.Swap(t.Context(), base, next)
			require.NotErrorIs(t, err, session.ErrConflict)
			if now := current().Value; err == nil || now != base.Value {
				require.Equal(t, next.Value, now)
			}
			_, again := direct.Swap(t.Context(), base, next)
			require.NoError(t, again, "repeated by the caller")
			require.Equal(t, next.Value, current().Value)
			return err
		},
		"swap under a lease": func(t *testing.T, store *session.RedisStore, arm func()) error {
			base, next := current(), record(value+"2")
			_, _, err := direct.Acquire(t.Context(), world.Alice, owner, time.Minute)
			require.NoError(t, err)
			arm()
			_, err = store.SwapLeased(t.Context(), owner, base, next)
			require.NotErrorIs(t, err, session.ErrConflict)
			_, again := direct.SwapLeased(t.Context(), owner, base, next)
			require.NoError(t, again, "repeated by the caller")
			require.Equal(t, next.Value, current().Value)
			free(t)
			return err
		},
		"acquire": func(t *testing.T, store *session.RedisStore, arm func()) error {
			arm()
			lease, rec, err := store.Acquire(t.Context(), world.Alice, owner, time.Minute)
			if err == nil {
				require.True(t, lease.Held, "repeated, it is still its owner's")
				require.Equal(t, value, rec.Value)
			}
			free(t)
			return err
		},
		"release": func(t *testing.T, store *session.RedisStore, arm func()) error {
			_, _, err := direct.Acquire(t.Context(), world.Alice, owner, time.Minute)
			require.NoError(t, err)
			arm()
			err = store.Release(t.Context(), world.Alice, owner, "", 0)
			free(t)
			return err
		},
		"delete": func(t *testing.T, store *session.RedisStore, arm func()) error {
			base := current()
			arm()
			err := store.Delete(t.Context(), base)
			require.NotErrorIs(t, err, session.ErrConflict)
			require.NoError(t, direct.Delete(t.Context(), base), "repeated by the caller")
			require.False(t, current().Exists())
			return err
		},
	}
	once, repeating := newBreaking(t, server, -1), newBreaking(t, server, 3)
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			reset(t) // and the scripts are loaded
			require.NoError(t, operation(t, direct, func() {}))
			length := 0
			for ; ; length++ {
				reset(t)
				if operation(t, once.store, func() { once.cutAfter(length) }) == nil {
					break
				}
			}
			t.Logf("replies of %d bytes", length)
			require.GreaterOrEqual(t, length, len(":1\r\n"))
			for n := range length {
				reset(t)
				require.NoError(t, operation(t, repeating.store, func() { repeating.cutAfter(n) }), "after %d bytes", n)
			}
		})
	}
}

// The same over a whole refresh, with a refresh token that can be spent once:
// whichever of its replies breaks off, the token's successor is kept.
func TestRefreshWhoseConnectionBreaksOffLosesNoLogin(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.LoginDead()
	b := newBreaking(t, server, -1)
	far := w.Bot(b.client, session.WithNearCache(0))
	// Two replies with the record, beside which there is the lease's owner, and the
	// short ones of the swap and of what follows it.
	short := 2*len(w.Stored(world.Alice)) + 60
	broken := 0
	for n := 0; n < short+9; n += map[bool]int{true: 97, false: 1}[n+97 < short] {
		w.LoginDead()
		b.cutAfter(n)
		_, err := far.Token(t.Context(), world.Alice)
		refusedOrDone(t, err)
		if err != nil {
			broken++
		}
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Refresh), 1)
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		_, err = w.Svc.Token(ctx, world.Alice)
		cancel()
		require.NoError(t, err, "long before a lease that was left runs out")
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Refresh), 1, "not spent again, and not lost")
		require.Contains(t, w.Stored(world.Alice), `"refreshToken"`)
	}
	require.NotZero(t, broken)
	require.NotContains(t, w.Log.String(), "ended by the auth server")
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

func TestRedisThatIsAReadOnlyReplica(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := redistest.Start(t, redistest.WithConfig("replicaof", host, port))
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, master.Addr)))
	w.Auth.Link(world.Bob, "bob@example.com")
	known := w.Login(w.Svc).Token()
	w.Auth.SetTokenTTL(30 * time.Second)
	dead := world.MustToken(t, w.Svc, world.Bob)
	w.Auth.SetTokenTTL(15 * time.Minute)
	replica.Await("EXISTS bot:session:"+world.Alice+" bot:session:"+world.Bob, func(n string, _ error) bool { return n == "2" })

	demoted := w.Bot(world.NewClient(t, replica.Addr))
	for range 20 {
		require.Equal(t, known, world.MustToken(t, demoted, world.Alice), "reads go on")
	}
	got, err := demoted.Email(t.Context(), world.Alice)
	require.NoError(t, err)
	require.Equal(t, world.Email, got)
	for _, err := range demoted.Users(t.Context()) {
		require.NoError(t, err)
	}
	err = demoted.SetData(t.Context(), world.Alice, "k", 1)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.ErrorContains(t, err, "READONLY")
	require.ErrorIs(t, demoted.Logout(t.Context(), world.Carol), session.ErrStoreUnavailable, "no false success")
	_, err = demoted.Token(t.Context(), world.Bob)
	refusedOrDone(t, err) // there is nowhere to take a lease or to put a new token
	_, err = demoted.Login(t.Context(), "@dave:matrix.example", world.Email, world.Password)
	refusedOrDone(t, err)

	replica.MustDo("REPLICAOF", "NO", "ONE")
	world.Eventually(t, "writes work", func() bool { return demoted.SetData(t.Context(), world.Alice, "k", 2) == nil })
	require.Equal(t, known, world.MustToken(t, demoted, world.Alice))
	require.NotEqual(t, dead, world.MustToken(t, demoted, world.Bob))
	tracks(t, replica)
}

func TestRedisOutOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "noeviction"))
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	full := func(full bool) {
		server.MustDo("CONFIG", "SET", "maxmemory", map[bool]string{true: "1", false: "0"}[full])
	}
	known := w.Login(w.Svc).Token()
	w.Auth.SetTokenTTL(30 * time.Second)
	_, err := w.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
	require.NoError(t, err)
	w.Auth.SetTokenTTL(15 * time.Minute)
	_, err = w.Svc.Login(t.Context(), world.Carol, world.Email, world.Password)
	require.NoError(t, err)
	stranger := w.Uncached(server.Addr)
	w.Auth.ResetCalls()

	full(true)
	for range 20 {
		require.Equal(t, known, world.MustToken(t, w.Svc, world.Alice))
		require.Equal(t, known, world.MustToken(t, stranger, world.Alice), "reads go on")
	}
	err = w.Svc.SetData(t.Context(), world.Alice, "k", 1)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.ErrorContains(t, err, "OOM")
	_, err = stranger.Login(t.Context(), "@dave:matrix.example", world.Email, world.Password)
	refusedOrDone(t, err)
	_, err = stranger.Token(t.Context(), world.Bob)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.Zero(t, w.Auth.Calls(sessiontest.Refresh), "a refresh token is not spent without room for its successor")
	require.NoError(t, w.Svc.Logout(t.Context(), world.Carol), "a logout takes no room")
	require.Equal(t, "0", server.MustDo("EXISTS", "bot:session:"+world.Carol))

	full(false)
	world.Eventually(t, "writes work", func() bool { return w.Svc.SetData(t.Context(), world.Alice, "k", 2) == nil })
	world.MustToken(t, stranger, world.Bob)
	require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
	w.Cache()
}

func TestRefreshThatFindsRedisOutOfMemoryIsStoredOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "noeviction"))
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.LoginDead()
	result, release := world.Held(t, w) // with the lease, about to ask
	server.MustDo("CONFIG", "SET", "maxmemory", "1")
	release()
	world.Eventually(t, "the successor was refused", func() bool {
		return strings.Contains(w.Log.String(), "OOM") && w.Auth.Calls(sessiontest.Refresh) == 1
	})
	server.MustDo("CONFIG", "SET", "maxmemory", "0")
	require.NoError(t, <-result)
	current := world.MustToken(t, w.Svc, world.Alice)
	_, err := w.Svc.Refresh(t.Context(), world.Alice, current)
	require.NoError(t, err, "by the successor")
}

func TestRedisThatRefusesThePassword(t *testing.T) {
	t.Parallel()
	const wrong, right = "an old password", "the new password"
	for name, c := range map[string]struct {
		given, cause string
	}{
		"wrong": {wrong, "WRONGPASS"}, "none": {"", "NOAUTH"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.WithPassword(right))
			client := redis.NewClient(&redis.Options{Addr: server.Addr, Password: c.given})
			t.Cleanup(func() { client.Close() })
			w := world.New(t, world.NewRedisStore(t, client))
			for what, err := range map[string]error{
				"token":   func() error { _, err := w.Svc.Token(t.Context(), world.Alice); return err }(),
				"data":    w.Svc.SetData(t.Context(), world.Alice, "k", 1),
				"logout":  w.Svc.Logout(t.Context(), world.Alice),
				"listing": func() error { _, err := w.Svc.Stats(t.Context()); return err }(),
			} {
				require.ErrorIs(t, err, session.ErrStoreUnavailable, what)
				require.ErrorContains(t, err, c.cause, what)
				require.NotContains(t, err.Error(), wrong)
			}
			h := w.Svc.Health(t.Context())
			require.False(t, h.Store.OK)
			require.Contains(t, h.Store.LastError, c.cause)
			require.NotContains(t, h.Store.LastError, wrong)

			// The operator sets it right, on the server.
			reset := []string{"ACL", "SETUSER", "default", "resetpass", ">" + wrong}
			if c.given == "" {
				reset = []string{"ACL", "SETUSER", "default", "nopass"}
			}
			server.MustDo(reset...)
			world.Eventually(t, "a login", func() bool {
				_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
				return err == nil
			})
			w.Cache()
			tracks(t, server) // not for ever without, for having been refused at first
			require.NotContains(t, w.Log.String(), wrong)
		})
	}
}

func TestRedisThatForbidsCommands(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]string{
		"SCAN":                           "-scan",
		"PUBLISH":                        "-publish",
		"all of Pub/Sub":                 "-@pubsub resetchannels",
		"CLIENT TRACKING and PUBLISH":    "-client|tracking -publish",
		"CLIENT TRACKING and all of the": "-client|tracking -@pubsub resetchannels",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			server.MustDo(append([]string{"ACL", "SETUSER", "default"}, strings.Fields(rules)...)...)
			ctx := t.Context()
			w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
			other := w.Bot(world.NewClient(t, server.Addr))
			s := w.Login(w.Svc)
			require.Equal(t, s.Token(), world.MustToken(t, other, world.Alice))
			world.Eventually(t, "a hit", func() bool {
				before, _ := other.Stats(ctx)
				world.MustToken(t, other, world.Alice)
				after, _ := other.Stats(ctx)
				return after.Hits > before.Hits
			})
			require.NoError(t, other.SetData(ctx, world.Alice, "k", 1))
			renewed, err := other.Refresh(ctx, world.Alice, s.Token())
			require.NoError(t, err)
			world.Eventually(t, "the refresh is seen", func() bool { return world.MustToken(t, w.Svc, world.Alice) == renewed })

			stats, err := w.Svc.Stats(ctx)
			if name == "SCAN" {
				require.ErrorIs(t, err, session.ErrStoreUnavailable)
				require.ErrorContains(t, err, "NOPERM")
				require.EqualValues(t, 1, stats.Logins, "the counters are there")
				for _, err := range w.Svc.Users(ctx) {
					require.ErrorIs(t, err, session.ErrStoreUnavailable)
				}
				_, err = w.Svc.Cleanup(ctx)
				require.ErrorIs(t, err, session.ErrStoreUnavailable)
			} else {
				require.NoError(t, err)
				require.Equal(t, 1, stats.Total)
			}
			require.NoError(t, other.Logout(ctx, world.Alice))
			world.Eventually(t, "the logout is seen", func() bool {
				_, err := w.Svc.Token(ctx, world.Alice)
				return errors.Is(err, session.ErrNotLoggedIn)
			})
		})
	}
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
	for _, line := range strings.Fields(server.MustDo("INFO", "memory")) {
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
