package session_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// Ways in which a login once was lost, or a logout undone.

func TestCloseLetsTheAnswerToARefreshTokenArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.loginDead()
		// The server has rotated the token; its answer is a second away.
		w.auth.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			sessiontest.Delay(time.Second)(rw, r, answer)
		})
		other := w.service()
		go func() { _, _ = other.Token(context.WithoutCancel(t.Context()), alice) }()
		synctest.Wait()
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh))
		require.NoError(t, other.Close())
		mustToken(t, w.svc, alice)
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh), "the answer was kept")
	})
}

func TestFailuresOfOneProcessAreNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		misconfigured := w.service(session.WithServiceKey("wrong"))
		_, err := misconfigured.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrServiceKeyRejected)
		mustToken(t, w.svc, alice)

		w.auth.Link(bob, email)
		w.auth.Inject(sessiontest.LinkFetch, 1, w.auth.Hang())
		closing := w.service()
		go func() { _, _ = closing.Token(context.WithoutCancel(t.Context()), bob) }()
		synctest.Wait()
		require.NoError(t, closing.Close())
		mustToken(t, w.svc, bob)
	})
}

func TestFlightDoesNotReturnADeadTokenFromTheStore(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		w.auth.Link(alice, email)
		result, release := held(t, w)
		w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(20*time.Second)), email, "{}"))
		release()
		require.NoError(t, <-result, "it was replaced by what the flight brought")
		mustToken(t, w.svc, alice)
	})
}

func TestOpaqueTokenFromARefreshIsNoToken(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		w.auth.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			sessiontest.JSON(map[string]string{"accessToken": "opaque", "refreshToken": strings.Repeat("s", 64)})(rw, r, answer)
		})
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.NotContains(t, w.stored(alice), `"opaque"`)
		require.Contains(t, w.stored(alice), strings.Repeat("s", 64), "the old refresh token is spent")
	})
}

func TestLogoutEndsTheSessionWhenUnlinkingUsesUpTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.login(w.svc)
		w.auth.Inject(sessiontest.LinkRemove, -1, w.auth.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		require.Error(t, w.svc.Logout(ctx, alice, session.AndUnlink()))
		synctest.Wait()
		require.Empty(t, w.stored(alice))
	})
}

func TestLogoutThatTimedOutDoesNotEndALaterLogin(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	w.login(w.svc)
	far := &world{t: t, auth: w.auth, log: w.log, store: newRedisStore(t, newClient(t, proxy.Addr))}
	svc := far.service(session.WithNearCache(0))
	mustToken(t, svc, alice)
	proxy.BlackholeExisting() // new connections get through, as for a retry
	require.ErrorIs(t, svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
	w.login(w.svc)
	never(t, "the login is gone", func() bool {
		_, err := w.store.Get(t.Context(), alice)
		return errors.Is(err, session.ErrNotFound)
	}, 4*time.Second)
}

func TestLeaseWhoseAnswerWasLostIsGivenBack(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	w.loginDead()
	far := &world{t: t, auth: w.auth, log: w.log, store: newRedisStore(t, newClient(t, proxy.Addr))}
	svc := far.service(session.WithNearCache(0))
	_, err := svc.Email(t.Context(), alice) // a connection is there
	require.NoError(t, err)
	proxy.Blackhole()
	_, err = svc.Refresh(t.Context(), alice, "any")
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	proxy.Restore() // and the lease is taken after all
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	_, err = w.svc.Token(ctx, alice)
	require.NoError(t, err, "long before the lease runs out")
}

func TestKnownTokenIsServedWithinAShortDeadline(t *testing.T) {
	server := redistest.Start(t)
	w := cached(t, newRedisStore(t, newClient(t, server.Addr)))
	before, err := w.svc.Stats(t.Context())
	require.NoError(t, err)
	server.Pause()
	defer server.Resume()
	eventually(t, "the feed is not believed any more", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.svc.Token(ctx, alice)
		require.NoError(t, err)
		stats, _ := w.svc.Stats(ctx)
		return stats.Misses > before.Misses+1
	})
}

func TestCloseIsBoundedThoughTheStoreHangs(t *testing.T) {
	server := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, ReadTimeout: -1})
	t.Cleanup(func() { client.Close() })
	svc, err := session.New(session.WithRedis(client), session.WithNearCache(0))
	require.NoError(t, err)
	_, err = svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	server.Pause()
	defer server.Resume()
	_, err = svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	closed := make(chan error, 1)
	go func() { closed <- svc.Close() }()
	select {
	case err := <-closed:
		require.Error(t, err, "it says that a command is still running")
	case <-time.After(15 * time.Second):
		t.Fatal("Close hangs")
	}
}

// flakyWatcher vouches for itself once, breaks off, and cannot come back.
type flakyWatcher struct {
	session.Store
	broken bool
}

func (f *flakyWatcher) Watch(ctx context.Context, feed session.Feed) error {
	if f.broken {
		<-ctx.Done()
		return ctx.Err()
	}
	f.broken = true
	feed.Trust(time.Time{}, 0)
	return errors.New("broken off")
}

func TestWatcherThatBrokeOffIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := session.NewMemoryStore()
		w := newWorld(t, &flakyWatcher{Store: memory})
		synctest.Wait()
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		require.NoError(t, memory.Delete(t.Context(), session.Record{UserID: alice}))
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestClientsThatReadFromReplicasAreRefused(t *testing.T) {
	for name, o := range map[string]*redis.ClusterOptions{
		"ReadOnly": {ReadOnly: true}, "RouteByLatency": {RouteByLatency: true}, "RouteRandomly": {RouteRandomly: true},
	} {
		t.Run(name, func(t *testing.T) {
			o.Addrs = []string{"127.0.0.1:1"}
			client := redis.NewClusterClient(o)
			defer client.Close()
			_, err := session.NewRedisStore(client)
			require.ErrorContains(t, err, "replicas")
		})
	}
}

func TestStoreThatIsClosedSaysSo(t *testing.T) {
	server := redistest.Start(t)
	store, err := session.NewRedisStore(newClient(t, server.Addr))
	require.NoError(t, err)
	require.NoError(t, store.Close())
	_, err = store.Get(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrClosed)
}

func TestNothingIsLostWhileAClusterSlotMoves(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := newWorld(t, newRedisStore(t, client))
	w.loginDead()
	const key = "bot:session:" + alice
	from, to := cluster.Owner(key), cluster.Nodes[0]
	if from == to {
		to = cluster.Nodes[1]
	}
	slot := from.MustDo("CLUSTER", "KEYSLOT", key)
	to.MustDo("CLUSTER", "SETSLOT", slot, "IMPORTING", from.MustDo("CLUSTER", "MYID"))
	from.MustDo("CLUSTER", "SETSLOT", slot, "MIGRATING", to.MustDo("CLUSTER", "MYID"))
	mustToken(t, w.svc, alice)
	require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
	w.login(w.svc)
	require.NoError(t, w.svc.Logout(t.Context(), alice))
	require.Empty(t, w.stored(alice))
	w.login(w.svc)

	// The key moves, and the node it moved to is changed by other software.
	before := mustToken(t, w.svc, alice)
	_, port, _ := strings.Cut(to.Addr, ":")
	from.MustDo("MIGRATE", "127.0.0.1", port, key, "0", "5000")
	eventually(t, "it is read there", func() bool {
		token, err := w.svc.Token(t.Context(), alice)
		return err == nil && token == before
	})
	require.NoError(t, client.Del(t.Context(), key).Err())
	w.servedElse(before)
}

func TestSlowLinkCallLeavesTimeForTheRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.loginDead()
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(2900*time.Millisecond))
		w.auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(9*time.Second))
		other := w.service()
		result := make(chan error, 1)
		go func() {
			_, err := other.Token(context.WithoutCancel(t.Context()), alice)
			result <- err
		}()
		mustToken(t, w.svc, alice)
		require.NoError(t, <-result)
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh))
	})
}

func TestPasswordsThatAreWordsOfTheServer(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	for _, typed := range []string{"password", "Invalid", "a", "email or"} {
		_, err := w.svc.Login(t.Context(), alice, email, typed)
		require.ErrorIs(t, err, session.ErrInvalidCredentials, typed)
	}
	w.auth.ResetCalls()
	for range 6 {
		_, err := w.svc.Login(t.Context(), alice, email, strings.Repeat("<", 60_000))
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
	}
	require.Zero(t, w.auth.Calls(sessiontest.Any))
	w.login(w.svc)
}

func TestHealthIsNotGoodWhenTheServerRefuses(t *testing.T) {
	for name, fault := range map[string]sessiontest.Fault{
		"service key": sessiontest.Status(401, "Valid service key required"),
		"route":       sessiontest.Status(404, "Cannot GET /x"),
		"HTML":        sessiontest.HTML(),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, session.NewMemoryStore())
			w.auth.Inject(sessiontest.LinkCheck, 1, fault)
			h := w.svc.Health(t.Context())
			require.False(t, h.Auth.OK)
			require.True(t, h.Degraded)
		})
	}
}

func TestKeysOfDataAreUTF8(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.login(w.svc)
	require.Error(t, w.svc.SetData(t.Context(), alice, "\xff", 1))
}

func TestSessionsMayOutliveTheCentury(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore(), session.WithSessionTTL(290*365*24*time.Hour))
	w.login(w.svc)
	mustToken(t, w.svc, alice)
}
