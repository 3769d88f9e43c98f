package redis_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// story is alice's trail in short, the newest event first.
func story(t *testing.T, w *world.World) string {
	t.Helper()
	events, err := w.Svc.Trail(t.Context(), world.Alice)
	require.NoError(t, err)
	var parts []string
	for _, e := range events {
		parts = append(parts, fmt.Sprintf("%s by %s", e.Kind, e.By))
	}
	return strings.Join(parts, ", ")
}

// aclWithoutTrails is an ACL from before there were trails.
func aclWithoutTrails(t *testing.T) []string {
	t.Helper()
	rules := []string{"~bot:session:*", "~bot:session-lock:*", "~bot:session-logout:*", "~bot:session-heartbeat:*"}
	for _, rule := range documentedACL(t) {
		if !strings.HasPrefix(rule, "~") {
			rules = append(rules, rule)
		}
	}
	return rules
}

// A note that cannot be made fails nothing: an ACL may be older than trails.
func TestACLWithoutTrailsCostsOnlyTheTrails(t *testing.T) {
	server := redistest.Start(t, redistest.WithACL("bot on >secret "+strings.Join(aclWithoutTrails(t), " ")))
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret"})
	t.Cleanup(func() { client.Close() })
	w := world.New(t, world.NewRedisStore(t, client))
	require.NoError(t, useEverything(t.Context(), w))
	require.Zero(t, w.Svc.Health(t.Context()).Queued)
	require.Zero(t, w.Svc.Counters().StoreErrors)
	_, err := w.Svc.Trail(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.NotContains(t, w.Log.String(), "store does not answer", "it does, to all else")
}

// counted counts the scripts that a client has Redis execute.
type counted struct{ scripts atomic.Int64 }

func (c *counted) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counted) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.HasPrefix(cmd.Name(), "eval") {
			c.scripts.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (c *counted) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// An ACL that does not name the trails is found out now and then, not at each write.
func TestACLWithoutTrailsCostsNoRoundTrips(t *testing.T) {
	server := redistest.Start(t, redistest.WithACL("bot on >secret "+strings.Join(aclWithoutTrails(t), " ")))
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret"})
	t.Cleanup(func() { client.Close() })
	var count counted
	client.AddHook(&count)
	w := world.New(t, world.NewRedisStore(t, client))
	w.Login(w.Svc)
	require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
	before := count.scripts.Load()
	for range 5 {
		w.Login(w.Svc)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
	}
	require.EqualValues(t, 10, count.scripts.Load()-before)
}

func TestACLWithoutTrailsFailsNothingWhileTheSlotMoves(t *testing.T) {
	w, _, _, _ := restrictedCluster(t, aclWithoutTrails(t))
	w.LoginDead()
	world.MustToken(t, w.Svc, world.Alice)
	require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
	w.LoginDead()
	w.Auth.RevokeRefreshTokens(world.Email)
	_, err := w.Svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	w.Login(w.Svc)
	require.Zero(t, w.Svc.Health(t.Context()).Queued)
	require.Zero(t, w.Svc.Counters().StoreErrors)
}

func TestTrailIsKeptWhileTheSlotMoves(t *testing.T) {
	w, _, _, moved := restrictedCluster(t, documentedACL(t))
	w.LoginDead()
	world.MustToken(t, w.Svc, world.Alice)
	require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
	w.Login(w.Svc)
	const want = "began by login, ended by logout, refreshed by refresh token, began by login"
	require.Equal(t, want, story(t, w))
	moved()
	require.Equal(t, want, story(t, w))
}

// Signs that JSON escapes do not crowd out older events.
func TestTrailHasRoomForEightEventsWhateverTheBotIsCalled(t *testing.T) {
	server := redistest.Start(t)
	for _, name := range []string{strings.Repeat("<", 64), strings.Repeat(`"`, 64), strings.Repeat("\u2028", 21)} {
		server.MustDo("FLUSHALL")
		w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)), session.WithBotName(name))
		w.Auth.Inject(sessiontest.Refresh, -1, sessiontest.Status(401, "Refresh token expired"))
		for range 4 {
			w.Put(world.Alice, "no session") // a login says that it found it
			w.LoginDead()
			_, err := w.Svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		}
		require.Equal(t, strings.TrimSuffix(strings.Repeat("ended by auth server, began by login, ", 4), ", "), story(t, w))
		events, err := w.Svc.Trail(t.Context(), world.Alice)
		require.NoError(t, err)
		for _, e := range events {
			require.Equal(t, name, e.Bot)
		}
		require.Contains(t, events[0].Reason, "Refresh token expired")
	}
}
