package sessions_test

import (
	"context"
	"fmt"
	"slices"
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

func TestStatsDescribeTheStoreAndThisProcess(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		ctx := t.Context()
		other := w.Service()
		w.Login(w.Svc)
		w.Auth.Link(world.Bob, "bob@example.com")
		world.MustToken(t, other, world.Bob)
		world.MustToken(t, w.Svc, world.Alice)
		_, err := w.Svc.Token(ctx, "@carol:matrix.example")
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		_, err = w.Svc.Login(ctx, world.Alice, world.Email, "wrong")
		require.Error(t, err)
		require.NoError(t, w.Svc.Logout(ctx, "@carol:matrix.example"))

		stats, err := w.Svc.Stats(ctx)
		require.NoError(t, err)
		theirs, err := other.Stats(ctx)
		require.NoError(t, err)
		for _, s := range []session.Stats{stats, theirs} {
			require.Equal(t, 2, s.Total)
			require.Equal(t, 2, s.Active)
			require.True(t, s.SSOLinkEnabled)
		}
		require.EqualValues(t, 1, stats.Logins)
		require.EqualValues(t, 1, stats.LoginFailures)
		require.EqualValues(t, 1, stats.Logouts)
		require.EqualValues(t, 1, stats.FailedNotLinked)
		require.EqualValues(t, 0, stats.RefreshesByLink)
		require.EqualValues(t, 1, theirs.RefreshesByLink)
		require.EqualValues(t, 0, theirs.Logins)
	})
}

func TestUsersYieldsThoseWithALiveSession(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
		var want []string
		for i := range 30 {
			id := fmt.Sprintf("@user%02d:matrix.example", i)
			want = append(want, id)
			w.Put(id, world.TsRecord(token, "", "{}"))
		}
		var got []string
		for id, err := range w.Svc.Users(t.Context()) {
			require.NoError(t, err)
			got = append(got, id)
		}
		slices.Sort(got)
		require.Equal(t, want, got)
		for range w.Svc.Users(t.Context()) {
			break
		}
	})
}

func TestCleanupDropsExpiredSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		w := world.New(t, store, session.WithSessionTTL(time.Minute))
		w.Login(w.Svc)
		require.NoError(t, store.Close()) // nobody sweeps
		time.Sleep(61 * time.Second)
		_, err := w.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
		require.NoError(t, err)
		stats, err := w.Svc.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, stats.Total)
		require.Equal(t, 1, stats.Active)
		for id, err := range w.Svc.Users(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, world.Bob, id)
		}
		dropped, err := w.Svc.Cleanup(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, dropped)
		dropped, err = w.Svc.Cleanup(t.Context())
		require.NoError(t, err)
		require.Zero(t, dropped)
	})
}

func TestMemoryStoreDropsExpiredSessionsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		w := world.New(t, store, session.WithSessionTTL(10*time.Minute))
		w.Login(w.Svc)
		time.Sleep(12 * time.Minute)
		for rec := range store.All(t.Context()) {
			t.Fatalf("still holds %s", rec.UserID)
		}
	})
}

func TestHealthTellsWhatIsWrongAndSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		began := time.Now()
		h := w.Svc.Health(t.Context())
		require.True(t, h.Store.OK)
		require.True(t, h.Auth.OK)
		require.False(t, h.Degraded)
		require.Empty(t, h.Auth.LastError)

		time.Sleep(time.Hour)
		w.Auth.BreakDatabase(true)
		h = w.Svc.Health(t.Context())
		require.False(t, h.Auth.OK)
		require.True(t, h.Degraded)
		require.Contains(t, h.Auth.LastError, "ECONNREFUSED")
		require.WithinDuration(t, began.Add(time.Hour), h.Auth.Since, time.Minute)

		time.Sleep(time.Hour)
		w.Auth.BreakDatabase(false)
		w.Auth.Inject(sessiontest.LinkCheck, 1, sessiontest.Delay(20*time.Millisecond))
		h = w.Svc.Health(t.Context())
		require.True(t, h.Auth.OK)
		require.Equal(t, 20*time.Millisecond, h.Auth.Latency)
		require.NotEmpty(t, h.Auth.LastError, "what it last was")
		require.WithinDuration(t, began.Add(2*time.Hour), h.Auth.Since, time.Minute)

		keyless := w.Service(session.WithServiceKey(""))
		w.Auth.BreakDatabase(true)
		require.False(t, keyless.Health(t.Context()).Auth.OK, "an empty key set is no sign of life")
	})
}

func TestHealthOfAStoreThatIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	require.True(t, w.Svc.Health(t.Context()).Store.OK)
	server.Kill()
	h := w.Svc.Health(t.Context())
	require.False(t, h.Store.OK)
	require.NotEmpty(t, h.Store.LastError)
	require.Contains(t, w.Log.String(), "store does not answer")
	stats, err := w.Svc.Stats(t.Context())
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.NotZero(t, stats.StoreErrors)
	_, err = w.Svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable, "minting now could undo a logout")
	require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
	require.ErrorIs(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1), session.ErrStoreUnavailable)
	server.Start()
	world.Eventually(t, "recovery", func() bool { return w.Svc.Health(t.Context()).Store.OK })
}

func TestCountingDoesNotUseKeys(t *testing.T) {
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	server.MustDo("ACL", "SETUSER", "default", "-keys")
	w.Login(w.Svc)
	stats, err := w.Svc.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, stats.Total)
	require.NotContains(t, server.MustDo("INFO", "commandstats"), "cmdstat_keys")
}

// A client as bots make them does not look at contexts by itself.
func TestCallersDeadlineHoldsOnAStoreThatHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, client := range map[string]*redis.Client{
		"plain client":          redis.NewClient(&redis.Options{Addr: server.Addr}),
		"ContextTimeoutEnabled": redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { client.Close() })
			w := world.New(t, world.NewRedisStore(t, client))
			w.Login(w.Svc)
			server.Pause()
			defer server.Resume()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			started := time.Now()
			require.ErrorIs(t, w.Svc.SetData(ctx, world.Alice, "k", 1), context.DeadlineExceeded)
			require.ErrorIs(t, w.Svc.Logout(ctx, world.Bob), context.DeadlineExceeded)
			_, err := w.Svc.Login(ctx, world.Bob, "bob@example.com", world.Password)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, time.Since(started), 500*time.Millisecond)
			started = time.Now()
			_, err = w.Svc.Token(t.Context(), world.Bob)
			require.ErrorIs(t, err, session.ErrStoreUnavailable)
			require.Less(t, time.Since(started), 4*time.Second, "bounded without a deadline, too")
		})
	}
}

func TestLogsNameUsersButNoSecrets(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.LoginDead()
	w.Auth.Inject(sessiontest.Any, -1, sessiontest.Status(500, "down"))
	_, err := w.Svc.Token(t.Context(), world.Alice)
	require.Error(t, err)
	require.True(t, strings.Contains(w.Log.String(), world.Alice))
}
