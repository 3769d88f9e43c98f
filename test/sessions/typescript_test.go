package sessions_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// beside is a world on a real Redis that the TypeScript service uses as well.
func beside(t *testing.T) (*world.World, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t)
	return world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr))), server
}

func TestRecordIsLaidOutAsTheTypeScriptServiceExpects(t *testing.T) {
	w, server := beside(t)
	s := w.Login(w.Svc)
	require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", "v"))
	value := server.MustDo("GET", "bot:session:"+world.Alice)
	layout := regexp.MustCompile(`^\{"token":"([^"]+)","email":"alice@example.com",` +
		`"expiresAt":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)","data":\{"k":"v"\},"refreshToken":"[^"]{64}","since":\d{16}\}$`)
	match := layout.FindStringSubmatch(value)
	require.NotNil(t, match, value)
	require.Equal(t, s.Token(), match[1])
	expires, err := time.Parse(time.RFC3339Nano, match[2])
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(7*24*time.Hour), expires, time.Minute)
}

func TestTTLFollowsTheSessionsExpiry(t *testing.T) {
	w, server := beside(t)
	token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
	expires := time.Now().Add(100 * time.Second).UTC().Format(time.RFC3339)
	server.MustDo("SETEX", "bot:session:"+world.Alice, "604800", `{"token":"`+token+`","email":"","expiresAt":"`+expires+`","data":{}}`)
	require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
	require.Regexp(t, `^(9\d|100)$`, server.MustDo("TTL", "bot:session:"+world.Alice))
	require.Contains(t, w.Stored(world.Alice), expires[:19])
}

func TestSessionsOfTheTypeScriptServiceGoOn(t *testing.T) {
	w, server := beside(t)
	token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
	for name, record := range map[string]string{
		"as it writes it":       world.TsRecord(token, world.Email, `{"a":{"b":[1,2]}}`),
		"nanoseconds":           `{"token":"` + token + `","email":"","expiresAt":"2999-01-01T00:00:00.123456789Z","data":{}}`,
		"zone offset":           `{"token":"` + token + `","email":"","expiresAt":"2999-01-01T00:00:00+02:00","data":{}}`,
		"no data":               `{"token":"` + token + `","email":"","expiresAt":"2999-01-01T00:00:00Z"}`,
		"null data":             `{"token":"` + token + `","email":"","expiresAt":"2999-01-01T00:00:00Z","data":null}`,
		"no expiry":             `{"token":"` + token + `","email":"","data":{}}`,
		"unreadable expiry":     `{"token":"` + token + `","email":"","expiresAt":"next week","data":{}}`,
		"milliseconds":          `{"token":"` + token + `","email":"","expiresAt":4102444800000,"data":{}}`,
		"fields it never wrote": `{"token":"` + token + `","email":"","expiresAt":"2999-01-01T00:00:00Z","data":{},"later":{"x":1}}`,
	} {
		t.Run(name, func(t *testing.T) {
			server.MustDo("SETEX", "bot:session:"+world.Alice, "604800", record)
			svc := w.Service()
			require.Equal(t, token, world.MustToken(t, svc, world.Alice))
			require.NoError(t, svc.SetData(t.Context(), world.Alice, "k", 1))
			require.NotEqual(t, "-1", server.MustDo("TTL", "bot:session:"+world.Alice))
			require.Equal(t, token, world.MustToken(t, svc, world.Alice))
		})
	}
}

func TestItsRewriteThatDropsTheRefreshTokenIsTolerated(t *testing.T) {
	w, server := beside(t)
	w.LoginDead()
	var record map[string]any
	require.NoError(t, json.Unmarshal([]byte(w.Stored(world.Alice)), &record))
	delete(record, "refreshToken")
	record["data"] = map[string]any{"theirs": true}
	rewritten, err := json.Marshal(record)
	require.NoError(t, err)
	server.MustDo("SETEX", "bot:session:"+world.Alice, "604800", string(rewritten))
	world.Eventually(t, "its write is seen", func() bool {
		found, err := w.Svc.Data(t.Context(), world.Alice, "theirs", new(bool))
		return err == nil && found
	})
	w.Auth.Link(world.Alice, world.Email)
	world.MustToken(t, w.Svc, world.Alice)
	found, err := w.Svc.Data(t.Context(), world.Alice, "theirs", new(bool))
	require.NoError(t, err)
	require.True(t, found)
}

func TestNoKeyOfOursLooksLikeASession(t *testing.T) {
	w, server := beside(t)
	w.Auth.Link(world.Alice, world.Email)
	world.MustToken(t, w.Svc, world.Alice)
	w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(500, "down"))
	_, err := w.Svc.Token(t.Context(), world.Bob) // leaves a note
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	world.Eventually(t, "a heartbeat", func() bool { return strings.Contains(server.MustDo("KEYS", "*"), "heartbeat") })
	require.Contains(t, server.MustDo("KEYS", "*"), "lock")
	require.Equal(t, "bot:session:"+world.Alice, server.MustDo("KEYS", "bot:session:*"))
}

func TestPoisonIsNoSessionAndIsReplaced(t *testing.T) {
	t.Parallel()
	w, server := beside(t)
	key := "bot:session:" + world.Alice
	large := strings.Repeat("x", 8<<20)
	for name, poison := range map[string][]string{
		"not JSON":          {"SET", key, "{"},
		"another shape":     {"SET", key, `[1,2,3]`},
		"no token":          {"SET", key, `{"email":"a"}`},
		"token of a kind":   {"SET", key, `{"token":42}`},
		"binary":            {"SET", key, "\x00\xff\xfe"},
		"huge":              {"SET", key, large},
		"huge and valid":    {"SET", key, `{"token":"` + large + `"}`},
		"another type":      {"LPUSH", key, "a"},
		"a set":             {"SADD", key, "a"},
		"expired long ago":  {"SETEX", key, "1000", `{"token":"a.b.c","expiresAt":"2001-01-01T00:00:00Z"}`},
		"expired, in epoch": {"SETEX", key, "1000", `{"token":"a.b.c","expiresAt":1795430165}`},
	} {
		t.Run(name, func(t *testing.T) {
			server.MustDo("DEL", key)
			server.MustDo(poison...)
			svc := w.Service()
			_, err := svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
			if !strings.HasPrefix(name, "expired") {
				require.Contains(t, w.Log.String(), "not a session")
			}
			require.NotContains(t, w.Log.String(), "xxxxxxxx")
			require.ErrorIs(t, svc.SetData(t.Context(), world.Alice, "k", 1), session.ErrNotLoggedIn)
			for id := range svc.Users(t.Context()) {
				require.True(t, strings.HasPrefix(name, "expired"), "%s is no user: only a TTL is believed", id)
			}
			w.Login(svc)
			world.MustToken(t, svc, world.Alice)
		})
	}
}

func TestSessionsOutsideTheGrammarAreNobodys(t *testing.T) {
	w, server := beside(t)
	record := world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), world.Email, "{}")
	server.MustDo("SET", "bot:session:", record)
	server.MustDo("SET", "bot:session:not-a-user", record)
	server.MustDo("SET", "bot:session:"+world.Alice, record)
	var ids []string
	for id, err := range w.Svc.Users(t.Context()) {
		require.NoError(t, err)
		ids = append(ids, id)
	}
	require.Equal(t, []string{world.Alice}, ids)
}

func TestCleanupFindsWhatItsDataUpdatesKeptTooLong(t *testing.T) {
	w, server := beside(t)
	token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
	server.MustDo("SETEX", "bot:session:"+world.Bob, "604800",
		`{"token":"`+token+`","email":"","expiresAt":"2020-01-01T00:00:00.000Z","data":{}}`)
	w.Login(w.Svc)
	stats, err := w.Svc.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, stats.Active, "by the TTLs")
	dropped, err := w.Svc.Cleanup(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, dropped)
	stats, err = w.Svc.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, stats.Active)
	require.Equal(t, "bot:session:"+world.Alice, server.MustDo("KEYS", "bot:session:*"))
}
