package session_test

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
	"github.com/mana/session/sessiontest"
)

// What Redis, the network to it and its operator can do to a bot. In each test
// nobody is logged out by the fault, who is known is served during it, and all
// is well after it without a restart of the bot. Faults that are tested
// elsewhere: writes by other software, FLUSHALL and a frozen feed in
// feed_test.go, keys of another type in typescript_test.go, clients that ignore
// contexts in stats_test.go, slots that move in regression_test.go, what the
// documented ACL permits in acl_test.go, failovers in failover_test.go.

const carol = "@carol:matrix.example"

// bot is another bot's Service, with a client and a store of its own.
func (w *world) bot(client redis.UniversalClient, opts ...session.Option) *session.Service {
	w.t.Helper()
	far := &world{t: w.t, auth: w.auth, store: newRedisStore(w.t, client), log: w.log}
	return far.service(opts...)
}

// uncached is a bot whose every call goes to the store at addr.
func (w *world) uncached(addr string) *session.Service {
	w.t.Helper()
	return w.bot(newClient(w.t, addr), session.WithNearCache(0))
}

// refusedOrDone is for a call that needs a store which is away: it may have
// found a way around it, but must not say anything else than that.
func refusedOrDone(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
	}
}

// served checks that alice has the token all along, for longer than a near cache
// is believed that hears nothing from Redis.
func (w *world) served(token string) {
	w.t.Helper()
	for began := time.Now(); time.Since(began) < 1500*time.Millisecond; {
		require.Equal(w.t, token, mustToken(w.t, w.svc, alice))
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
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	_, err := w.svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.False(t, w.svc.Health(t.Context()).Store.OK)

	server.Start()
	s := w.login(w.uncached(server.Addr))
	eventually(t, "the session of another bot is visible", func() bool {
		token, err := w.svc.Token(t.Context(), alice)
		return err == nil && token == s.Token()
	})
	w.cache()
	tracks(t, server)
	server.MustDo("DEL", "bot:session:"+alice)
	w.servedElse(s.Token())
}

func TestRedisThatIsKilledAndKeptItsData(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithPersistence())
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	known := w.login(w.svc).Token()
	require.NoError(t, w.svc.SetData(t.Context(), alice, "k", "v"))
	w.cache()
	stranger := w.uncached(server.Addr)

	server.Kill()
	w.served(known)
	_, err := stranger.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.ErrorIs(t, w.svc.SetData(t.Context(), alice, "k", "lost"), session.ErrStoreUnavailable)
	require.ErrorIs(t, w.svc.DeleteData(t.Context(), alice, "k"), session.ErrStoreUnavailable)

	server.Start()
	eventually(t, "the other bot works", func() bool {
		token, err := stranger.Token(t.Context(), alice)
		return err == nil && token == known
	})
	value, found, err := session.DataAs[string](t.Context(), stranger, alice, "k")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "v", value, "a data write that was refused is not kept either")
	_, err = stranger.Refresh(t.Context(), alice, known)
	require.NoError(t, err, "the refresh token is there")
}

// What is gone from Redis is not kept alive by the bots' memories.
func TestRedisThatIsKilledAndComesBackEmpty(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	w.login(w.svc)
	w.auth.Link(bob, "bob@example.com")
	mustToken(t, w.svc, bob)
	w.cache()

	server.Restart()
	eventually(t, "who has no link has to log in", func() bool {
		_, err := w.svc.Token(t.Context(), alice)
		refused := errors.Is(err, session.ErrNotLoggedIn)
		require.True(t, err == nil || refused || errors.Is(err, session.ErrStoreUnavailable), "%v", err)
		return refused
	})
	mustToken(t, w.svc, bob)
	require.Contains(t, server.MustDo("KEYS", "bot:session:*"), bob, "a session anew, in the store")
	again := w.login(w.svc)
	require.Equal(t, again.Token(), mustToken(t, w.uncached(server.Addr), alice))
	w.cache()
}

func TestRedisThatStandsStillForFiveSeconds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	known := w.login(w.svc).Token()
	w.auth.Link(bob, "bob@example.com")
	w.cache()

	paused := time.Now()
	server.Pause()
	var strangers int
	for time.Since(paused) < 5*time.Second {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		token, err := w.svc.Token(ctx, alice)
		cancel()
		require.NoError(t, err)
		require.Equal(t, known, token)

		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		started := time.Now()
		_, err = w.svc.Token(ctx, bob)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(started), time.Second)
		strangers++
	}
	require.Greater(t, strangers, 3)
	_, err := w.svc.Token(t.Context(), carol)
	require.ErrorIs(t, err, session.ErrStoreUnavailable, "without a deadline of the caller's")

	server.Resume()
	eventually(t, "who was unknown is served", func() bool {
		_, err := w.svc.Token(t.Context(), bob)
		return err == nil
	})
	require.Equal(t, known, mustToken(t, w.svc, alice))
	require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
	w.cache()
	stats, err := w.svc.Stats(t.Context())
	require.NoError(t, err)
	require.Zero(t, stats.SessionsEnded)
}

// 200 ms to every reply, on connections old and new.
func TestSlowRedisIsNotAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	known := w.login(w.svc).Token()
	warm := w.bot(newClient(t, proxy.Addr))
	require.Equal(t, known, mustToken(t, warm, alice))
	proxy.Delay(100 * time.Millisecond) // there and back
	w.auth.Link(bob, "bob@example.com")

	for name, svc := range map[string]*session.Service{
		"which became slow": warm, "slow from the start": w.bot(newClient(t, proxy.Addr)),
	} {
		ctx := t.Context()
		require.Equal(t, known, mustToken(t, svc, alice), name)
		mustToken(t, svc, bob)
		require.NoError(t, svc.SetData(ctx, alice, "k", name))
		value, found, err := session.DataAs[string](ctx, svc, alice, "k")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, name, value)
		s, err := svc.Login(ctx, carol, email, password)
		require.NoError(t, err)
		_, err = svc.Refresh(ctx, carol, s.Token())
		require.NoError(t, err)
		require.NoError(t, svc.Logout(ctx, carol))
		for range 10 {
			require.Equal(t, known, mustToken(t, svc, alice))
		}
		require.True(t, svc.Health(ctx).Store.OK)
		stats, err := svc.Stats(ctx)
		require.NoError(t, err)
		require.Equal(t, 2, stats.Total)
		require.Zero(t, stats.StoreErrors, "%s: %s", name, w.log)
		require.Zero(t, stats.SessionsEnded)
	}
	require.NotContains(t, w.log.String(), "store does not answer")
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
			w := newWorld(t, newRedisStore(t, newClient(t, proxy.Addr)))
			known := w.login(w.svc).Token()
			w.auth.Link(bob, "bob@example.com")
			w.cache()

			fault(proxy)
			w.served(known)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := w.svc.Token(ctx, bob)
			if name == "all" {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				proxy.Restore()
			}
			// Without Restore: connections that are dead are not used for ever.
			eventually(t, "who is unknown is served", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := w.svc.Token(ctx, bob)
				return err == nil
			})
			eventually(t, "writes work", func() bool { return w.svc.SetData(t.Context(), alice, "k", 1) == nil })
			w.cache()
			server.MustDo("DEL", "bot:session:"+alice)
			w.servedElse(known)
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
	return &breaking{t, proxy, client, newRedisStore(t, client)}
}

// cutAfter makes the connection break off after n more bytes of replies.
func (b *breaking) cutAfter(n int) {
	b.t.Helper()
	eventually(b.t, "a connection", func() bool { return b.client.Ping(b.t.Context()).Err() == nil })
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
	direct := newRedisStore(t, newClient(t, server.Addr))
	record := func(value string) session.Record {
		return session.Record{UserID: alice, Value: value, Expires: time.Now().Add(time.Hour)}
	}
	current := func() session.Record {
		rec, err := direct.Get(context.WithoutCancel(t.Context()), alice)
		if errors.Is(err, session.ErrNotFound) {
			return session.Record{UserID: alice}
		}
		require.NoError(t, err)
		return rec
	}
	const owner = "me"
	value := strings.Repeat("v", 100)
	reset := func(t *testing.T) session.Record {
		require.NoError(t, direct.Delete(t.Context(), session.Record{UserID: alice}))
		_, err := direct.Swap(t.Context(), session.Record{UserID: alice}, record(value))
		require.NoError(t, err)
		return current()
	}
	free := func(t *testing.T) { // of a lease that may be left
		lease, _, err := direct.Acquire(t.Context(), alice, owner, time.Minute)
		require.NoError(t, err)
		require.True(t, lease.Held, "nobody else has it")
		require.NoError(t, direct.Release(t.Context(), alice, owner, "", 0))
	}
	operations := map[string]func(t *testing.T, store *session.RedisStore, arm func()) error{
		"read": func(t *testing.T, store *session.RedisStore, arm func()) error {
			arm()
			rec, err := store.Get(t.Context(), alice)
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
			_, _, err := direct.Acquire(t.Context(), alice, owner, time.Minute)
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
			lease, rec, err := store.Acquire(t.Context(), alice, owner, time.Minute)
			if err == nil {
				require.True(t, lease.Held, "repeated, it is still its owner's")
				require.Equal(t, value, rec.Value)
			}
			free(t)
			return err
		},
		"release": func(t *testing.T, store *session.RedisStore, arm func()) error {
			_, _, err := direct.Acquire(t.Context(), alice, owner, time.Minute)
			require.NoError(t, err)
			arm()
			err = store.Release(t.Context(), alice, owner, "", 0)
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
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	w.loginDead()
	b := newBreaking(t, server, -1)
	far := w.bot(b.client, session.WithNearCache(0))
	// Two replies with the record, beside which there is the lease's owner, and the
	// short ones of the swap and of what follows it.
	short := 2*len(w.stored(alice)) + 60
	broken := 0
	for n := 0; n < short+9; n += map[bool]int{true: 97, false: 1}[n+97 < short] {
		w.loginDead()
		b.cutAfter(n)
		_, err := far.Token(t.Context(), alice)
		refusedOrDone(t, err)
		if err != nil {
			broken++
		}
		require.LessOrEqual(t, w.auth.Calls(sessiontest.Refresh), 1)
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		_, err = w.svc.Token(ctx, alice)
		cancel()
		require.NoError(t, err, "long before a lease that was left runs out")
		require.LessOrEqual(t, w.auth.Calls(sessiontest.Refresh), 1, "not spent again, and not lost")
		require.Contains(t, w.stored(alice), `"refreshToken"`)
	}
	require.NotZero(t, broken)
	require.NotContains(t, w.log.String(), "ended by the auth server")
}

// Others do not wait for a lease to run out because its holder lost Redis.
func TestLeaseThatCouldNotBeGivenBackIsGivenBackLater(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithPersistence())
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	w.auth.Link(bob, "bob@example.com")
	g := newGate(w.auth.Client().Transport)
	holder := w.bot(newClient(t, server.Addr), session.WithHTTPClient(&http.Client{Transport: g}))
	result := make(chan error, 1)
	go func() {
		_, err := holder.Token(context.WithoutCancel(t.Context()), bob)
		result <- err
	}()
	<-g.arrived // with the lease
	server.Kill()
	close(g.open)
	refusedOrDone(t, <-result)
	server.Start()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	eventually(t, "long before the lease runs out", func() bool {
		_, err := w.svc.Token(ctx, bob)
		return err == nil
	})
}

func TestRedisThatIsAReadOnlyReplica(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := redistest.Start(t, redistest.WithConfig("replicaof", host, port))
	w := newWorld(t, newRedisStore(t, newClient(t, master.Addr)))
	w.auth.Link(bob, "bob@example.com")
	known := w.login(w.svc).Token()
	w.auth.SetTokenTTL(30 * time.Second)
	dead := mustToken(t, w.svc, bob)
	w.auth.SetTokenTTL(15 * time.Minute)
	replica.Await("EXISTS bot:session:"+alice+" bot:session:"+bob, func(n string, _ error) bool { return n == "2" })

	demoted := w.bot(newClient(t, replica.Addr))
	for range 20 {
		require.Equal(t, known, mustToken(t, demoted, alice), "reads go on")
	}
	got, err := demoted.Email(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, email, got)
	for _, err := range demoted.Users(t.Context()) {
		require.NoError(t, err)
	}
	err = demoted.SetData(t.Context(), alice, "k", 1)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.ErrorContains(t, err, "READONLY")
	require.ErrorIs(t, demoted.Logout(t.Context(), carol), session.ErrStoreUnavailable, "no false success")
	_, err = demoted.Token(t.Context(), bob)
	refusedOrDone(t, err) // there is nowhere to take a lease or to put a new token
	_, err = demoted.Login(t.Context(), "@dave:matrix.example", email, password)
	refusedOrDone(t, err)

	replica.MustDo("REPLICAOF", "NO", "ONE")
	eventually(t, "writes work", func() bool { return demoted.SetData(t.Context(), alice, "k", 2) == nil })
	require.Equal(t, known, mustToken(t, demoted, alice))
	require.NotEqual(t, dead, mustToken(t, demoted, bob))
	tracks(t, replica)
}

func TestRedisOutOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "noeviction"))
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	full := func(full bool) {
		server.MustDo("CONFIG", "SET", "maxmemory", map[bool]string{true: "1", false: "0"}[full])
	}
	known := w.login(w.svc).Token()
	w.auth.SetTokenTTL(30 * time.Second)
	_, err := w.svc.Login(t.Context(), bob, "bob@example.com", password)
	require.NoError(t, err)
	w.auth.SetTokenTTL(15 * time.Minute)
	_, err = w.svc.Login(t.Context(), carol, email, password)
	require.NoError(t, err)
	stranger := w.uncached(server.Addr)
	w.auth.ResetCalls()

	full(true)
	for range 20 {
		require.Equal(t, known, mustToken(t, w.svc, alice))
		require.Equal(t, known, mustToken(t, stranger, alice), "reads go on")
	}
	err = w.svc.SetData(t.Context(), alice, "k", 1)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.ErrorContains(t, err, "OOM")
	_, err = stranger.Login(t.Context(), "@dave:matrix.example", email, password)
	refusedOrDone(t, err)
	_, err = stranger.Token(t.Context(), bob)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.Zero(t, w.auth.Calls(sessiontest.Refresh), "a refresh token is not spent without room for its successor")
	require.NoError(t, w.svc.Logout(t.Context(), carol), "a logout takes no room")
	require.Equal(t, "0", server.MustDo("EXISTS", "bot:session:"+carol))

	full(false)
	eventually(t, "writes work", func() bool { return w.svc.SetData(t.Context(), alice, "k", 2) == nil })
	mustToken(t, stranger, bob)
	require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh))
	w.cache()
}

func TestRefreshThatFindsRedisOutOfMemoryIsStoredOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "noeviction"))
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	w.loginDead()
	result, release := held(t, w) // with the lease, about to ask
	server.MustDo("CONFIG", "SET", "maxmemory", "1")
	release()
	eventually(t, "the successor was refused", func() bool {
		return strings.Contains(w.log.String(), "OOM") && w.auth.Calls(sessiontest.Refresh) == 1
	})
	server.MustDo("CONFIG", "SET", "maxmemory", "0")
	require.NoError(t, <-result)
	current := mustToken(t, w.svc, alice)
	_, err := w.svc.Refresh(t.Context(), alice, current)
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
			w := newWorld(t, newRedisStore(t, client))
			for what, err := range map[string]error{
				"token":   func() error { _, err := w.svc.Token(t.Context(), alice); return err }(),
				"data":    w.svc.SetData(t.Context(), alice, "k", 1),
				"logout":  w.svc.Logout(t.Context(), alice),
				"listing": func() error { _, err := w.svc.Stats(t.Context()); return err }(),
			} {
				require.ErrorIs(t, err, session.ErrStoreUnavailable, what)
				require.ErrorContains(t, err, c.cause, what)
				require.NotContains(t, err.Error(), wrong)
			}
			h := w.svc.Health(t.Context())
			require.False(t, h.Store.OK)
			require.Contains(t, h.Store.LastError, c.cause)
			require.NotContains(t, h.Store.LastError, wrong)

			// The operator sets it right, on the server.
			reset := []string{"ACL", "SETUSER", "default", "resetpass", ">" + wrong}
			if c.given == "" {
				reset = []string{"ACL", "SETUSER", "default", "nopass"}
			}
			server.MustDo(reset...)
			eventually(t, "a login", func() bool {
				_, err := w.svc.Login(t.Context(), alice, email, password)
				return err == nil
			})
			w.cache()
			tracks(t, server) // not for ever without, for having been refused at first
			require.NotContains(t, w.log.String(), wrong)
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
			w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
			other := w.bot(newClient(t, server.Addr))
			s := w.login(w.svc)
			require.Equal(t, s.Token(), mustToken(t, other, alice))
			eventually(t, "a hit", func() bool {
				before, _ := other.Stats(ctx)
				mustToken(t, other, alice)
				after, _ := other.Stats(ctx)
				return after.Hits > before.Hits
			})
			require.NoError(t, other.SetData(ctx, alice, "k", 1))
			renewed, err := other.Refresh(ctx, alice, s.Token())
			require.NoError(t, err)
			eventually(t, "the refresh is seen", func() bool { return mustToken(t, w.svc, alice) == renewed })

			stats, err := w.svc.Stats(ctx)
			if name == "SCAN" {
				require.ErrorIs(t, err, session.ErrStoreUnavailable)
				require.ErrorContains(t, err, "NOPERM")
				require.EqualValues(t, 1, stats.Logins, "the counters are there")
				for _, err := range w.svc.Users(ctx) {
					require.ErrorIs(t, err, session.ErrStoreUnavailable)
				}
				_, err = w.svc.Cleanup(ctx)
				require.ErrorIs(t, err, session.ErrStoreUnavailable)
			} else {
				require.NoError(t, err)
				require.Equal(t, 1, stats.Total)
			}
			require.NoError(t, other.Logout(ctx, alice))
			eventually(t, "the logout is seen", func() bool {
				_, err := w.svc.Token(ctx, alice)
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
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	w.auth.Link(bob, "bob@example.com")
	known := w.login(w.svc).Token()
	stranger := w.uncached(server.Addr)
	w.cache()
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
	require.Equal(t, known, mustToken(t, w.svc, alice))
	_, err := stranger.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable, "not: no such user")
	require.ErrorIs(t, w.svc.SetData(t.Context(), alice, "k", 1), session.ErrStoreUnavailable)
	_, err = stranger.Token(t.Context(), bob)
	require.ErrorIs(t, err, session.ErrStoreUnavailable, "no session from the link either")
	require.Zero(t, w.auth.Calls(sessiontest.LinkFetch))

	<-loaded
	eventually(t, "it has loaded", func() bool {
		token, err := stranger.Token(t.Context(), alice)
		return err == nil && token == known
	})
	mustToken(t, stranger, bob)
	tracks(t, server)
	w.cache()
}

// Which sessions go when memory is short is for Redis to choose. Theirs end;
// the bots notice and hand out nothing that is not stored.
func TestSessionsThatAreEvictedAreNotServedAnyMore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "allkeys-random"))
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	const users = 40
	token := w.auth.MintToken(email, time.Now().Add(time.Hour))
	ballast := fmt.Sprintf(`{"ballast":%q}`, strings.Repeat("x", 50<<10))
	for i := range users {
		w.put(userID(i), tsRecord(token, email, ballast))
		if i%2 == 0 {
			w.auth.Link(userID(i), email)
		}
	}
	w.login(w.svc)
	w.cache()
	for range 2 {
		for i := range users {
			require.Equal(t, token, mustToken(t, w.svc, userID(i)))
		}
	}
	breaks := strings.Count(w.log.String(), "broke off")

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
		if server.MustDo("EXISTS", "bot:session:"+userID(i)) == "0" {
			gone = append(gone, userID(i))
		}
	}
	require.NotEmpty(t, gone)
	require.Less(t, len(gone), users)
	for i := range users {
		id, evicted := userID(i), slices.Contains(gone, userID(i))
		switch {
		case !evicted:
			require.Equal(t, token, mustToken(t, w.svc, id))
		case i%2 == 0:
			eventually(t, "a new session from the link", func() bool {
				got := mustToken(t, w.svc, id)
				return got != token && server.MustDo("EXISTS", "bot:session:"+id) == "1"
			})
		default:
			eventually(t, "no session", func() bool {
				_, err := w.svc.Token(t.Context(), id)
				return errors.Is(err, session.ErrNotLoggedIn)
			})
			_, err := w.svc.Login(t.Context(), id, email, password)
			require.NoError(t, err)
		}
	}
	require.Equal(t, breaks, strings.Count(w.log.String(), "broke off"), "told by tracking")
}
