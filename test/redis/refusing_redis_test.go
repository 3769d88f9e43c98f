package redis_test

import (
	"errors"
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
