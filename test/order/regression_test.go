package order_test

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
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// Ways in which a login once was lost, or a logout undone.

func TestCloseLetsTheAnswerToARefreshTokenArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.LoginDead()
		// The server has rotated the token; its answer is a second away.
		w.Auth.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			sessiontest.Delay(time.Second)(rw, r, answer)
		})
		other := w.Service()
		go func() { _, _ = other.Token(context.WithoutCancel(t.Context()), world.Alice) }()
		synctest.Wait()
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
		require.NoError(t, other.Close())
		world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh), "the answer was kept")
	})
}

func TestFailuresOfOneProcessAreNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		misconfigured := w.Service(session.WithServiceKey("wrong"))
		_, err := misconfigured.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrServiceKeyRejected)
		world.MustToken(t, w.Svc, world.Alice)

		w.Auth.Link(world.Bob, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 1, w.Auth.Hang())
		closing := w.Service()
		go func() { _, _ = closing.Token(context.WithoutCancel(t.Context()), world.Bob) }()
		synctest.Wait()
		require.NoError(t, closing.Close())
		world.MustToken(t, w.Svc, world.Bob)
	})
}

func TestFlightDoesNotReturnADeadTokenFromTheStore(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		w.Auth.Link(world.Alice, world.Email)
		result, release := world.Held(t, w)
		w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(20*time.Second)), world.Email, "{}"))
		release()
		require.NoError(t, <-result, "it was replaced by what the flight brought")
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestOpaqueTokenFromARefreshIsNoToken(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		w.Auth.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			sessiontest.JSON(map[string]string{"accessToken": "opaque", "refreshToken": strings.Repeat("s", 64)})(rw, r, answer)
		})
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.NotContains(t, w.Stored(world.Alice), `"opaque"`)
		require.Contains(t, w.Stored(world.Alice), strings.Repeat("s", 64), "the old refresh token is spent")
	})
}

func TestLogoutEndsTheSessionWhenUnlinkingUsesUpTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Login(w.Svc)
		w.Auth.Inject(sessiontest.LinkRemove, -1, w.Auth.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		require.Error(t, w.Svc.Logout(ctx, world.Alice, session.AndUnlink()))
		synctest.Wait()
		require.Empty(t, w.Stored(world.Alice))
	})
}

func TestLogoutThatTimedOutDoesNotEndALaterLogin(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Login(w.Svc)
	far := &world.World{T: t, Auth: w.Auth, Log: w.Log, Store: world.NewRedisStore(t, world.NewClient(t, proxy.Addr))}
	svc := far.Service(session.WithNearCache(0))
	world.MustToken(t, svc, world.Alice)
	proxy.BlackholeExisting() // new connections get through, as for a retry
	require.ErrorIs(t, svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
	w.Login(w.Svc)
	world.Never(t, "the login is gone", func() bool {
		_, err := w.Store.Get(t.Context(), world.Alice)
		return errors.Is(err, session.ErrNotFound)
	}, 4*time.Second)
}

func TestLeaseWhoseAnswerWasLostIsGivenBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.LoginDead()
	far := &world.World{T: t, Auth: w.Auth, Log: w.Log, Store: world.NewRedisStore(t, world.NewClient(t, proxy.Addr))}
	svc := far.Service(session.WithNearCache(0))
	_, err := svc.Email(t.Context(), world.Alice) // a connection is there
	require.NoError(t, err)
	proxy.Blackhole()
	_, err = svc.Refresh(t.Context(), world.Alice, "any")
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	proxy.Restore() // and the lease is taken after all
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	_, err = w.Svc.Token(ctx, world.Alice)
	require.NoError(t, err, "long before the lease runs out")
}

func TestKnownTokenIsServedWithinAShortDeadline(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.Cached(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	before, err := w.Svc.Stats(t.Context())
	require.NoError(t, err)
	server.Pause()
	defer server.Resume()
	world.Eventually(t, "the feed is not believed any more", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.Svc.Token(ctx, world.Alice)
		require.NoError(t, err)
		stats, _ := w.Svc.Stats(ctx)
		return stats.Misses > before.Misses+1
	})
}

func TestCloseIsBoundedThoughTheStoreHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, ReadTimeout: -1})
	t.Cleanup(func() { client.Close() })
	svc, err := session.New(session.WithRedis(client), session.WithNearCache(0))
	require.NoError(t, err)
	_, err = svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	server.Pause()
	defer server.Resume()
	_, err = svc.Token(t.Context(), world.Alice)
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
		w := world.New(t, &flakyWatcher{Store: memory})
		synctest.Wait()
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		require.NoError(t, memory.Delete(t.Context(), session.Record{UserID: world.Alice}))
		_, err := w.Svc.Token(t.Context(), world.Alice)
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
	store, err := session.NewRedisStore(world.NewClient(t, server.Addr))
	require.NoError(t, err)
	require.NoError(t, store.Close())
	_, err = store.Get(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrClosed)
}

func TestNothingIsLostWhileAClusterSlotMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 2, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { client.Close() })
	w := world.New(t, world.NewRedisStore(t, client))
	w.LoginDead()
	const key = "bot:session:" + world.Alice
	from, to := cluster.Owner(key), cluster.Nodes[0]
	if from == to {
		to = cluster.Nodes[1]
	}
	slot := from.MustDo("CLUSTER", "KEYSLOT", key)
	to.MustDo("CLUSTER", "SETSLOT", slot, "IMPORTING", from.MustDo("CLUSTER", "MYID"))
	from.MustDo("CLUSTER", "SETSLOT", slot, "MIGRATING", to.MustDo("CLUSTER", "MYID"))
	world.MustToken(t, w.Svc, world.Alice)
	require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
	w.Login(w.Svc)
	require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
	require.Empty(t, w.Stored(world.Alice))
	w.Login(w.Svc)

	// The key moves, and the node it moved to is changed by other software.
	before := world.MustToken(t, w.Svc, world.Alice)
	_, port, _ := strings.Cut(to.Addr, ":")
	from.MustDo("MIGRATE", "127.0.0.1", port, key, "0", "5000")
	world.Eventually(t, "it is read there", func() bool {
		token, err := w.Svc.Token(t.Context(), world.Alice)
		return err == nil && token == before
	})
	require.NoError(t, client.Del(t.Context(), key).Err())
	w.ServedElse(before)
}

func TestSlowLinkCallLeavesTimeForTheRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.LoginDead()
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(2900*time.Millisecond))
		w.Auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(9*time.Second))
		other := w.Service()
		result := make(chan error, 1)
		go func() {
			_, err := other.Token(context.WithoutCancel(t.Context()), world.Alice)
			result <- err
		}()
		world.MustToken(t, w.Svc, world.Alice)
		require.NoError(t, <-result)
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
	})
}

func TestPasswordsThatAreWordsOfTheServer(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	for _, typed := range []string{"password", "Invalid", "a", "email or"} {
		_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, typed)
		require.ErrorIs(t, err, session.ErrInvalidCredentials, typed)
	}
	w.Auth.ResetCalls()
	for range 6 {
		_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, strings.Repeat("<", 60_000))
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
	}
	require.Zero(t, w.Auth.Calls(sessiontest.Any))
	w.Login(w.Svc)
}

func TestHealthIsNotGoodWhenTheServerRefuses(t *testing.T) {
	for name, fault := range map[string]sessiontest.Fault{
		"service key": sessiontest.Status(401, "Valid service key required"),
		"route":       sessiontest.Status(404, "Cannot GET /x"),
		"HTML":        sessiontest.HTML(),
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.Auth.Inject(sessiontest.LinkCheck, 1, fault)
			h := w.Svc.Health(t.Context())
			require.False(t, h.Auth.OK)
			require.True(t, h.Degraded)
		})
	}
}

func TestKeysOfDataAreUTF8(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	require.Error(t, w.Svc.SetData(t.Context(), world.Alice, "\xff", 1))
}

func TestSessionsMayOutliveTheCentury(t *testing.T) {
	w := world.New(t, session.NewMemoryStore(), session.WithSessionTTL(290*365*24*time.Hour))
	w.Login(w.Svc)
	world.MustToken(t, w.Svc, world.Alice)
}
