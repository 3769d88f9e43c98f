package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

func TestDoctorFindsNothingWrongWithWhatIsRight(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	e := runJSON[examined](w, exitOK, "doctor")
	assert.Zero(t, e.Errors)
	assert.Zero(t, e.Warnings)
	assert.GreaterOrEqual(t, len(e.Findings), 9)
	r := w.run("doctor")
	assert.Contains(t, r.out, "0 errors, 0 warnings")
	assert.Equal(t, "1", w.redis.MustDo("EVAL", "return #redis.call('KEYS', 'bot:session:*')", "0"), "it leaves nothing")
}

// With the ACL that docs/operations.md gives to bots everything that looks works.
func TestTheACLOfABotIsEnoughToLook(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	rules := regexp.MustCompile("(?s)`(~bot:session[^`]*)`").FindSubmatch(page)
	require.NotNil(t, rules)
	w := newWorld(t, redistest.WithACL("bot on >secret "+strings.Join(strings.Fields(string(rules[1])), " ")))
	t.Setenv("REDIS_URL", "redis://bot:secret@"+w.redis.Addr)
	w.redis.MustDo("SET", "bot:session:"+alice, `{"token":"a.b.c"}`)
	e := runJSON[examined](w, exitOK, "doctor")
	assert.Zero(t, e.Errors)
	assert.Equal(t, 1, e.Warnings, "TIME")
	for _, args := range [][]string{{"status"}, {"users"}, {"show", alice}, {"why", alice}} {
		assert.Equal(t, exitOK, w.run(args...).code, args)
	}
	assert.Equal(t, warning, found(t, w, exitOK, "clock of Redis").Level)
}

func TestDoctorFindsFaultsOfRedis(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	w.redis.MustDo("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	assert.Equal(t, warning, found(t, w, exitOK, "eviction").Level)
	w.redis.MustDo("CONFIG", "SET", "maxmemory", "1gb")
	f := found(t, w, exitFailed, "eviction")
	assert.Contains(t, f.Found, "allkeys-lru")
	assert.Contains(t, f.Remedy, "noeviction")
	w.redis.MustDo("CONFIG", "SET", "maxmemory-policy", "noeviction")
	w.redis.MustDo("CONFIG", "SET", "maxmemory", "1")
	assert.Contains(t, found(t, w, exitStore, "permissions").Found, "Redis is full")
	w.redis.MustDo("CONFIG", "SET", "maxmemory", "0")

	w.redis.MustDo("SET", "bot:session:"+bob, "no session")
	f = found(t, w, exitFailed, "records")
	assert.Contains(t, f.Found, "1 (the record is no session: not JSON)")
	w.redis.MustDo("DEL", "bot:session:"+bob)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	assert.Contains(t, found(t, w, exitOK, "records").Remedy, "migrate encrypt")
	t.Setenv("SESSION_ENCRYPTION_KEYS", "")
	assert.Contains(t, found(t, w, exitOK, "records", "--key-prefix", "other:").Remedy, "--key-prefix")
	assert.Equal(t, fault, found(t, w, exitStore, "Redis", "--cluster").Level)
}

func TestDoctorFindsTrackingRefused(t *testing.T) {
	w := newWorld(t, redistest.WithACL("bot on >secret ~bot:session* &bot:session* +@all -client|tracking"))
	t.Setenv("REDIS_URL", "redis://bot:secret@"+w.redis.Addr)
	w.redis.MustDo("SET", "bot:session:"+alice, `{"token":"a.b.c"}`)
	f := found(t, w, exitOK, "change feed")
	assert.Equal(t, warning, f.Level)
	assert.Contains(t, f.Remedy, "+client|tracking")
	assert.Equal(t, "pubsub", runJSON[state](w, exitOK, "status").Feed.Kind)
}

func TestDoctorLooksAtEveryMasterOfACluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	w := newWorld(t)
	t.Setenv("REDIS_URL", "redis://"+cluster.Addrs()[0])
	f := found(t, w, exitStore, "Cluster")
	assert.Contains(t, f.Remedy, "--cluster")
	ok := runJSON[examined](w, exitOK, "doctor", "--cluster")
	versions := 0
	for _, f := range ok.Findings {
		if f.Check == "version" {
			versions++
		}
	}
	assert.Equal(t, 3, versions)
	assert.Contains(t, found(t, w, exitOK, "Cluster", "--cluster").Found, "all slots served by 3 masters")
	for _, args := range [][]string{{"status"}, {"users"}, {"logout", alice}} {
		assert.Equal(t, exitOK, w.run(append(args, "--cluster")...).code, args)
	}
}

func TestMigrationsWorkOnACluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	w := newWorld(t)
	t.Setenv("REDIS_URL", "redis://"+cluster.Addrs()[0])
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	owner := func(key string) *redistest.Server { return cluster.Owner(key) }
	value := `{"token":"` + w.auth.MintToken(email, time.Now().Add(time.Hour)) + `","email":"x","expiresAt":"2999-01-01T00:00:00Z","data":{}}`
	for i := range 50 {
		owner("bot:session:"+userID(i)).MustDo("SET", "bot:session:"+userID(i), value, "PX", "600000")
	}
	assert.Equal(t, 50, runJSON[migrated](w, exitOK, "migrate", "encrypt", "--write", "--cluster").Changed)
	assert.Equal(t, 50, runJSON[migrated](w, exitOK, "migrate", "prefix", newPrefix, "--write", "--cluster").Changed)
	for i := range 50 {
		assert.Contains(t, owner(newPrefix+userID(i)).MustDo("GET", newPrefix+userID(i)), "sealed1:")
	}
	assert.Len(t, runJSON[listed](w, exitOK, "users", "--cluster", "--key-prefix", newPrefix).Users, 50)
}

func TestDoctorFindsFaultsOfTheAuthServer(t *testing.T) {
	w := newWorld(t)
	w.redis.MustDo("SET", "bot:session:"+alice, `{"token":"a.b.c"}`)

	f := found(t, w, exitAuth, "auth server", "--link-path", "/wrong")
	assert.Contains(t, f.Found, "answered 404: Cannot GET /wrong")
	assert.Contains(t, f.Remedy, "--link-path")
	w.auth.BreakDatabase(true)
	assert.Contains(t, found(t, w, exitAuth, "auth server").Found, "answered 500: connect ECONNREFUSED")
	w.auth.BreakDatabase(false)
	w.auth.Inject(sessiontest.Any, 1, sessiontest.Redirect(http.StatusFound, "http://elsewhere.invalid/"))
	assert.Contains(t, found(t, w, exitAuth, "auth server").Remedy, "Redirects are not followed")
	w.auth.Inject(sessiontest.Any, 1, sessiontest.HTML())
	assert.Contains(t, found(t, w, exitAuth, "auth server").Remedy, "not what the auth server says")
	w.auth.Inject(sessiontest.Any, -1, sessiontest.EchoRaw(http.StatusInternalServerError))
	w.run("doctor") // which looks for secrets in what it prints
	w.auth.ClearFaults()
	w.auth.Inject(sessiontest.Any, -1, sessiontest.Echo(http.StatusInternalServerError))
	w.run("doctor")
	w.auth.ClearFaults()

	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, []byte(" another-key\n"), 0o600))
	f = found(t, w, exitAuth, "service key", "--service-key-file", key)
	assert.Contains(t, f.Found, "401")
	assert.NotContains(t, f.Found, "another-key")
	require.NoError(t, os.WriteFile(key, []byte(sessiontest.DefaultServiceKey+"\n"), 0o600))
	t.Setenv("MANA_CORE_SERVICE_KEY", "")
	assert.Equal(t, fine, found(t, w, exitOK, "auth server", "--service-key-file", key).Level)
	assert.Equal(t, warning, found(t, w, exitOK, "service key").Level)
	assert.Equal(t, fine, found(t, w, exitOK, "auth server").Level)

	w.auth.Inject(sessiontest.Any, 1, w.auth.Hang())
	assert.Contains(t, found(t, w, exitAuth, "auth server").Found, "no answer in time")
	assert.Contains(t, found(t, w, exitAuth, "auth server", "--auth-url", strings.Replace(w.auth.URL, "http:", "https:", 1)).Remedy, "no TLS")
	web := httptest.NewTLSServer(http.NotFoundHandler())
	defer web.Close()
	assert.Contains(t, found(t, w, exitAuth, "auth server", "--auth-url", web.URL).Remedy, "certificate")

	w.auth.Stop()
	assert.Contains(t, found(t, w, exitAuth, "auth server").Found, "connection refused")
	assert.Equal(t, exitAuth, w.run("status").code)
	assert.Contains(t, found(t, w, exitAuth, "auth URL", "--auth-url", "http://auth.invalid").Remedy, "https")
}

func TestDoctorComparesClocks(t *testing.T) {
	w := newWorld(t)
	w.redis.MustDo("SET", "bot:session:"+alice, `{"token":"a.b.c"}`)
	for ahead, want := range map[time.Duration]level{0: fine, 12 * time.Second: warning, -time.Minute: fault, -12 * time.Second: warning, time.Minute: fault} {
		w.auth.SetClockSkew(ahead)
		code := exitOK
		if want == fault {
			code = exitAuth
		}
		f := found(t, w, code, "clock of the auth server")
		assert.Equal(t, want, f.Level, ahead)
		assert.Equal(t, want != fine, f.Remedy != "", ahead)
	}
}

func TestSentinelNamesTheMaster(t *testing.T) {
	sentinel := redistest.StartSentinel(t)
	w := newWorld(t)
	t.Setenv("REDIS_URL", "redis://"+sentinel.Addrs()[0])
	sentinel.Master.MustDo("SET", "bot:session:"+alice, `{"token":"a.b.c"}`, "PX", "600000")
	assert.Len(t, runJSON[listed](w, exitOK, "users", "--sentinel-master", sentinel.MasterName).Users, 1)
	assert.Contains(t, found(t, w, exitOK, "Redis", "--sentinel-master", sentinel.MasterName).Found, "the master that Sentinel names")
	assert.Equal(t, exitStore, w.run("users", "--sentinel-master", "another").code)
}

func TestWhatRedisSaysOfItselfIsJudged(t *testing.T) {
	for _, c := range []struct {
		version string
		want    level
	}{{"7.0.0", fine}, {"7.2.4", fine}, {"10.1.0", fine}, {"6.2.14", fault}, {"6", fault}, {"", fault}, {"unstable", fault}} {
		f := examineVersion(info{"redis_version": c.version})
		assert.Equal(t, c.want, f.Level, c.version)
		assert.Equal(t, c.want != fine, f.Remedy != "")
	}
	for apart, want := range map[time.Duration]level{0: fine, 4 * time.Second: fine, -4 * time.Second: fine, 6 * time.Second: warning, -time.Hour: warning} {
		f := judgeRedisClock(apart)
		assert.Equal(t, want, f.Level, apart)
		assert.Equal(t, want != fine, f.Remedy != "")
	}
	for _, c := range []struct {
		fields info
		want   level
	}{
		{info{"maxmemory_policy": "noeviction", "maxmemory": "0"}, fine},
		{info{"maxmemory_policy": "noeviction", "maxmemory": "100", "used_memory": "95"}, warning},
		{info{"maxmemory_policy": "volatile-lru", "maxmemory": "0"}, warning},
		{info{"maxmemory_policy": "volatile-lru", "maxmemory": "100"}, fault},
		{info{"maxmemory_policy": "noeviction", "evicted_keys": "1"}, fault},
		{info{}, fine},
	} {
		f := examineEviction(c.fields)
		assert.Equal(t, c.want, f.Level, c.fields)
		assert.Equal(t, c.want != fine, f.Remedy != "")
	}
}

func TestDoctorNamesANodeOfAClusterThatIsDown(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	w := newWorld(t)
	t.Setenv("REDIS_URL", "redis://"+cluster.Addrs()[0]+"?addr="+cluster.Addrs()[1])
	cluster.Nodes[2].Kill()
	eventually(t, "the Cluster notices", func() bool {
		return strings.Contains(cluster.Nodes[0].MustDo("CLUSTER", "INFO"), "cluster_state:fail")
	})
	e := runJSON[examined](w, exitStore, "doctor", "--cluster")
	checks := make(map[string]int)
	for _, f := range e.Findings {
		checks[f.Check]++
		assert.NotContains(t, f.Remedy, "Permit", "nothing is forbidden")
		assert.NotContains(t, f.Remedy, "+scan")
		if f.Check == "server" {
			assert.Equal(t, fault, f.Level)
			assert.Contains(t, f.Found, cluster.Nodes[2].Addr+": ")
		}
		if f.Check == "version" || f.Check == "eviction" {
			assert.Regexp(t, `^127\.0\.0\.1:\d+: `, f.Found)
		}
	}
	assert.Equal(t, 1, checks["server"])
	assert.Equal(t, 2, checks["version"])
	f := found(t, w, exitStore, "Cluster", "--cluster")
	assert.Contains(t, f.Found, "state fail")
	assert.Contains(t, f.Remedy, "--cluster check")
	assert.Contains(t, found(t, w, exitStore, "permissions", "--cluster").Remedy, "said of the ")
}

func TestDoctorNamesWhatIsWrongWithSentinels(t *testing.T) {
	sentinel := redistest.StartSentinel(t)
	w := newWorld(t)
	t.Setenv("REDIS_URL", "redis://"+sentinel.Addrs()[0])
	f := found(t, w, exitStore, "Redis")
	assert.Contains(t, f.Found, "is a Sentinel")
	assert.Contains(t, f.Remedy, "--sentinel-master")
	assert.Contains(t, found(t, w, exitStore, "Redis", "--sentinel-master", "another").Remedy, "knows a master of that name")
	t.Setenv("REDIS_URL", "redis://"+sentinel.Master.Addr)
	assert.Contains(t, found(t, w, exitStore, "Redis", "--sentinel-master", sentinel.MasterName).Remedy, "leave --sentinel-master out")
}
