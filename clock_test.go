package session_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// stepRecord is session.StepClock for what is in the store.
func stepRecord(t *testing.T, store session.Store, userID string, d time.Duration, token string) {
	t.Helper()
	rec, err := store.Get(t.Context(), userID)
	require.NoError(t, err)
	var w map[string]any
	require.NoError(t, json.Unmarshal([]byte(rec.Value), &w))
	ends, err := time.Parse(time.RFC3339Nano, w["expiresAt"].(string))
	require.NoError(t, err)
	w["token"], w["expiresAt"] = token, ends.Add(-d).Format(time.RFC3339Nano)
	value, err := json.Marshal(w)
	require.NoError(t, err)
	_, err = store.Swap(t.Context(), rec, session.Record{UserID: userID, Value: string(value), Expires: ends.Add(-d)})
	require.NoError(t, err)
}

func TestClockThatIsStepped(t *testing.T) {
	const alice, email, password = "@alice:matrix.example", "alice@example.com", "correct horse"
	for name, c := range map[string]struct {
		step  time.Duration
		calls int // of the auth server, in 100 calls of Token
	}{
		// The server's tokens are dead when they come: they are handed out as
		// they are, and none is kept.
		"ahead": {time.Hour, 100},
		"back":  {-time.Hour, 1},
	} {
		t.Run(name, func(t *testing.T) {
			step := c.step
			server := redistest.Start(t)
			client := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer client.Close()
			store, err := session.NewRedisStore(client)
			require.NoError(t, err)
			defer store.Close()
			auth := sessiontest.New()
			defer auth.Close()
			auth.AddUser(email, password)
			auth.Link(alice, email)
			svc, err := session.New(session.WithStore(store), session.WithAuthURL(auth.URL), session.WithHTTPClient(auth.Client()), session.WithServiceKey(sessiontest.DefaultServiceKey))
			require.NoError(t, err)
			defer func() { require.NoError(t, svc.Close()) }()
			hit := func() bool {
				before := session.Hits(svc)
				_, err := svc.Token(t.Context(), alice)
				require.NoError(t, err)
				return session.Hits(svc) > before
			}
			require.Eventually(t, hit, 10*time.Second, time.Millisecond)

			// The trust was given an hour before or after now: it ends at once,
			// for the process may have slept and missed what changed.
			require.True(t, session.Believed(svc, alice))
			session.StepClock(svc, step)
			require.False(t, session.Believed(svc, alice), "nothing is believed over a step")

			// The token is an hour older or younger than it was, and so is the
			// server's clock from here.
			auth.SetClockSkew(-step)
			stepRecord(t, store, alice, step, auth.MintToken(email, time.Now().Add(15*time.Minute-step)))
			auth.ResetCalls()
			for range 100 {
				_, err := svc.Token(t.Context(), alice)
				require.NoError(t, err)
			}
			require.LessOrEqual(t, auth.Calls(sessiontest.Any), c.calls, "no storm of refreshes")
			h := svc.Health(t.Context())
			require.True(t, h.Store.OK)
			require.True(t, h.Auth.OK)

			// The clock is put right.
			session.StepClock(svc, -step)
			auth.SetClockSkew(0)
			stepRecord(t, store, alice, -step, auth.MintToken(email, time.Now().Add(15*time.Minute)))
			auth.ResetCalls()
			require.Eventually(t, hit, 10*time.Second, time.Millisecond, "the next heartbeat renews the trust")
			require.LessOrEqual(t, auth.Calls(sessiontest.Any), 1)
			users := 0
			for _, err := range svc.Users(t.Context()) {
				require.NoError(t, err)
				users++
			}
			require.Equal(t, 1, users, "the session is kept")
		})
	}
}

// What happened in one process happened in the order in which it did, whatever
// the clock said at the time.
func TestClockThatIsSetBackDoesNotReorderLoginsAndLogouts(t *testing.T) {
	const alice, email, password = "@alice:matrix.example", "alice@example.com", "correct horse"
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaultStore()
		defer store.Close()
		auth := sessiontest.New()
		defer auth.Close()
		auth.AddUser(email, password)
		svc, err := session.New(session.WithStore(world.WithoutLogoutLog(store)), session.WithAuthURL(auth.URL), session.WithHTTPClient(auth.Client()), session.WithNearCache(0))
		require.NoError(t, err)
		defer func() { require.NoError(t, svc.Close()) }()
		login := func() {
			_, err := svc.Login(t.Context(), alice, email, password)
			require.NoError(t, err)
		}
		in := func() bool {
			_, err := svc.Token(t.Context(), alice)
			if err != nil {
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
			}
			return err == nil
		}
		store.Inject(storetest.Away)
		login()
		session.StepClock(svc, -time.Hour)
		require.ErrorIs(t, svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
		require.False(t, in(), "a logout after a login")
		session.StepClock(svc, -time.Hour)
		login()
		require.True(t, in(), "a login after a logout")
		store.Clear()
		time.Sleep(time.Second)
		require.Zero(t, svc.Health(t.Context()).Queued)
		require.True(t, in())

		store.Inject(storetest.Away)
		session.StepClock(svc, -time.Hour)
		require.ErrorIs(t, svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
		store.Clear()
		time.Sleep(time.Second)
		require.False(t, in(), "a logout of a session that is stored with a later time")
	})
}
