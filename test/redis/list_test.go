package redis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
)

// commands tells which commands the server has run since its statistics were reset.
func commands(server *redistest.Server) string {
	var names []string
	for line := range strings.Lines(server.MustDo("INFO", "commandstats")) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":"); ok && !strings.HasPrefix(line, "#") {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func active(t *testing.T, svc *session.Service) int {
	t.Helper()
	stats, err := svc.Stats(t.Context())
	require.NoError(t, err)
	listed := 0
	for _, err := range svc.Users(t.Context()) {
		require.NoError(t, err)
		listed++
	}
	require.Equal(t, stats.Active, listed)
	return stats.Active
}

func TestCountingReadsNoValueOfARecordThatTheServerEnds(t *testing.T) {
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Login(w.Svc)
	w.Put(world.Bob, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), "", "{}"))
	server.MustDo("CONFIG", "RESETSTAT")
	require.Equal(t, 2, active(t, w.Svc))
	require.NotContains(t, commands(server), "get")
	require.NotContains(t, commands(server), "ttl", "none is without one")
}

func TestCountingReadsRecordsWithoutATTLForTheirEnd(t *testing.T) {
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Login(w.Svc)
	token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
	ended := `{"token":"` + token + `","expiresAt":"2020-01-01T00:00:00.000Z","data":{}}`
	server.MustDo("SET", "bot:session:@ended:h", ended)
	server.MustDo("SET", "bot:session:@lives:h", world.TsRecord(token, "", "{}"))
	server.MustDo("SET", "bot:session:@text:h", "no record")
	server.MustDo("SET", "bot:session:@empty:h", "")
	server.MustDo("HSET", "bot:session:@hash:h", "k", "v")
	server.MustDo("SET", "something:else", "v")
	require.Equal(t, 2, active(t, w.Svc), "alice and @lives")

	for _, gone := range []string{"@lives:h", "@text:h"} {
		server.MustDo("PEXPIRE", "bot:session:"+gone, "1")
	}
	world.Eventually(t, "they are gone", func() bool { return active(t, w.Svc) == 1 })
}

func TestCountingDoesWithoutINFO(t *testing.T) {
	server := redistest.Start(t)
	server.MustDo("ACL", "SETUSER", "bot", "on", ">secret", "~*", "&*", "+@all", "-info")
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret"})
	t.Cleanup(func() { _ = client.Close() })
	w := world.New(t, world.NewRedisStore(t, client))
	w.Login(w.Svc)
	server.MustDo("SET", "bot:session:@ended:h", `{"token":"x","expiresAt":"2020-01-01T00:00:00.000Z","data":{}}`)
	require.Equal(t, 1, active(t, w.Svc))
}

func TestCountersNeedNoStore(t *testing.T) {
	server := redistest.Start(t)
	server.MustDo("ACL", "SETUSER", "bot", "on", ">secret", "~*", "&*", "+@all", "-scan")
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret"})
	t.Cleanup(func() { _ = client.Close() })
	w := world.New(t, world.NewRedisStore(t, client))
	w.Login(w.Svc)
	stats, err := w.Svc.Stats(t.Context())
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.EqualValues(t, 1, stats.Logins)
	require.NotContains(t, w.Log.String(), "store does not answer", "it does, to all else")
	server.MustDo("CONFIG", "RESETSTAT")
	for range 10_000 {
		require.EqualValues(t, 1, w.Svc.Counters().Logins)
	}
	require.Equal(t, "config|resetstat", commands(server), "that was before")
}
