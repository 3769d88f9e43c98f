package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// onStore are the commands that cannot do without the store.
var onStore = [][]string{
	{"status"}, {"show", alice}, {"users"}, {"logout", alice}, {"watch"}, {"why", alice}, {"doctor"},
	{"migrate", "encrypt"}, {"migrate", "encrypt", "--write"}, {"migrate", "prefix", newPrefix, "--write"},
}

func TestWithoutRedisItSaysSo(t *testing.T) {
	w := newWorld(t)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	for _, unset := range []func(){
		func() { t.Setenv("REDIS_URL", "") },
		func() { t.Setenv("SESSION_STORAGE_MODE", "memory"); t.Setenv("REDIS_URL", "redis://"+w.redis.Addr) },
	} {
		unset()
		for _, args := range onStore {
			r := w.run(args...)
			assert.Equal(t, exitUsage, r.code, args)
			assert.Contains(t, r.err, "Bots without one keep their sessions in memory, where nobody else can look", args)
			assert.Empty(t, r.out, args)
		}
	}
}

func TestARedisThatIsAwayIsExitCode4(t *testing.T) {
	w := newWorld(t)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	w.redis.Kill()
	for _, args := range onStore {
		r := w.run(args...)
		assert.Equal(t, exitStore, r.code, "%v: %s", args, r.err)
		assert.Contains(t, r.out+r.err, "connection refused", args)
		j := runJSON[map[string]any](w, exitStore, args...)
		assert.Contains(t, fmt.Sprint(j), "connection refused", args)
	}
}

func TestARedisThatDoesNotAnswerIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.seed(10)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	w.redis.Pause()
	defer w.redis.Resume()
	for _, args := range [][]string{{"show", alice}, {"logout", alice}, {"watch"}, {"doctor"}, {"migrate", "encrypt", "--write"}} {
		began := time.Now()
		r := w.run(args...)
		assert.Equal(t, exitStore, r.code, "%v: %s%s", args, r.out, r.err)
		assert.Less(t, time.Since(began), 12*time.Second, args)
	}
}

// Nobody waits for an answer that they have given up.
func TestAnInterruptEndsWhatWaitsForRedis(t *testing.T) {
	w := newWorld(t)
	w.seed(10)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	w.redis.Pause()
	defer w.redis.Resume()
	for _, args := range onStore {
		ctx, interrupt := context.WithCancel(t.Context())
		var out, errOut bytes.Buffer
		var interrupted time.Time
		time.AfterFunc(200*time.Millisecond, func() { interrupted = time.Now(); interrupt() })
		code := run(ctx, args, strings.NewReader(""), &out, &errOut)
		<-ctx.Done()
		assert.Less(t, time.Since(interrupted), time.Second, args)
		assert.Empty(t, out.String(), args)
		if args[0] == "watch" {
			assert.Equal(t, exitOK, code)
			continue
		}
		assert.Equal(t, exitFailed, code, args)
		assert.Contains(t, errOut.String(), "mana-session: interrupted", args)
	}
}

func TestASlowRedisIsWaitedForAndNamed(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot(session.WithNearCache(0)))
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	proxy := redistest.NewProxy(t, w.redis.Addr)
	proxy.Delay(110 * time.Millisecond) // each way
	t.Setenv("REDIS_URL", "redis://"+proxy.Addr)
	for _, args := range [][]string{{"status"}, {"show", alice}, {"users"}, {"why", alice}, {"migrate", "encrypt", "--write"}, {"migrate", "prefix", newPrefix, "--write", "--force"}} {
		r := w.run(args...)
		assert.Equal(t, exitOK, r.code, "%v: %s%s", args, r.out, r.err)
	}
	f := found(t, w, exitOK, "Redis", "--key-prefix", newPrefix)
	assert.Equal(t, warning, f.Level)
	assert.Contains(t, f.Remedy, "SLOWLOG GET")
}

// One of the two speaks TLS, and the other does not.
func TestTLSThatOneSideExpectsIsNamed(t *testing.T) {
	w := newWorld(t)
	t.Setenv("REDIS_URL", "rediss://"+w.redis.Addr)
	assert.Contains(t, found(t, w, exitStore, "Redis").Remedy, "TLS")
	web := httptest.NewTLSServer(http.NotFoundHandler())
	defer web.Close()
	for _, scheme := range []string{"redis://", "rediss://"} {
		t.Setenv("REDIS_URL", scheme+web.Listener.Addr().String())
		assert.Contains(t, found(t, w, exitStore, "Redis").Remedy, "TLS", scheme)
	}
}

func TestAWatchThatCouldLearnNothingSaysSo(t *testing.T) {
	w := newWorld(t)
	t.Setenv("REDIS_URL", "redis://"+w.redis.Addr+"/99")
	r := w.run("watch")
	assert.Equal(t, exitStore, r.code)
	assert.Contains(t, r.err, "DB index is out of range")
}

func TestAReplicaIsNamed(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot(session.WithNearCache(0)))
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	replica := redistest.Start(t, redistest.WithConfig("replicaof", "127.0.0.1", fmt.Sprint(w.redis.Port)))
	replica.Await("GET bot:session:"+alice, func(reply string, err error) bool { return err == nil && reply != "" })
	t.Setenv("REDIS_URL", "redis://"+replica.Addr)
	assert.Equal(t, exitOK, w.run("show", alice).code, "looking is all right")
	assert.Equal(t, exitOK, w.run("users").code)
	for _, args := range [][]string{{"logout", alice}, {"migrate", "encrypt", "--write"}, {"migrate", "prefix", newPrefix, "--write"}, {"status"}} {
		r := w.run(args...)
		assert.Equal(t, exitStore, r.code, "%v: %s", args, r.out)
		assert.Contains(t, r.out+r.err, "READONLY", args)
	}
	f := found(t, w, exitStore, "permissions")
	assert.Contains(t, f.Found, "replica")
	assert.Contains(t, f.Remedy, "Name the master")
}

// found is what doctor found out about something.
func found(t *testing.T, w *world, code int, check string, args ...string) finding {
	t.Helper()
	for _, f := range runJSON[examined](w, code, append([]string{"doctor"}, args...)...).Findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("doctor says nothing of %s", check)
	return finding{}
}

func TestAnACLWithoutScanIsNamed(t *testing.T) {
	w := newWorld(t, redistest.WithACL("bot on >secret ~bot:session* &bot:session* +getrange +set +del +pexpire +pttl +eval +evalsha +publish +subscribe +ping +client|tracking"))
	t.Setenv("REDIS_URL", "redis://bot:secret@"+w.redis.Addr)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	assert.Equal(t, exitNothing, w.run("show", alice).code, "which takes no SCAN")
	assert.Equal(t, exitOK, w.run("logout", alice).code)
	for _, args := range [][]string{{"users"}, {"status"}, {"migrate", "encrypt"}, {"migrate", "prefix", newPrefix}} {
		r := w.run(args...)
		assert.Equal(t, exitStore, r.code, args)
		assert.Contains(t, r.out+r.err, "NOPERM", args)
		assert.NotContains(t, r.out+r.err, "secret")
	}
	f := found(t, w, exitFailed, "permissions")
	assert.Equal(t, "the Redis user may not: +scan", f.Found)
	assert.Contains(t, f.Remedy, "ACL SETUSER NAME +scan")
}

func TestWrongCredentialsOfRedisAreNotQuoted(t *testing.T) {
	w := newWorld(t, redistest.WithPassword("right-password"))
	t.Setenv("REDIS_URL", "redis://:wrong-password@"+w.redis.Addr)
	for _, args := range onStore[:7] {
		r := w.run(args...)
		assert.Equal(t, exitStore, r.code, args)
		assert.NotContains(t, r.out+r.err, "wrong-password")
		assert.Contains(t, r.out+r.err, "WRONGPASS", args)
	}
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("right-password\n"), 0o600))
	assert.Equal(t, exitOK, w.run("users", "--redis", "redis://"+w.redis.Addr, "--redis-password-file", file).code)
	t.Setenv("REDIS_PASSWORD", "right-password")
	assert.Equal(t, exitOK, w.run("users", "--redis", "redis://"+w.redis.Addr).code)
	t.Setenv("REDIS_URL", "")
	t.Setenv("REDIS_HOST", "127.0.0.1")
	t.Setenv("REDIS_PORT", fmt.Sprint(w.redis.Port))
	assert.Equal(t, exitOK, w.run("users").code)

	r := w.run("users", "--redis", "redis://:right-password@"+w.redis.Addr)
	assert.Equal(t, exitUsage, r.code, "everybody on the machine could read it")
	assert.NotContains(t, r.err, "right-password")
	t.Setenv("REDIS_URL", "redis://:right-password@host:port")
	t.Setenv("REDIS_HOST", "")
	r = w.run("users")
	assert.Equal(t, exitUsage, r.code)
	assert.NotContains(t, r.err, "right-password")
}

func TestAPasswordFileGoesWithEveryAddress(t *testing.T) {
	w := newWorld(t, redistest.WithPassword("right-password"))
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("right-password\n"), 0o600))
	for _, fromEnv := range []string{"redis://" + w.redis.Addr, "redis://:wrong-password@" + w.redis.Addr} {
		t.Setenv("REDIS_URL", fromEnv)
		r := w.run("users", "--redis-password-file", file)
		assert.Equal(t, exitOK, r.code, "a flag wins: %s", r.err)
		assert.Equal(t, exitStore, w.run("users").code)
	}
	t.Setenv("REDIS_PASSWORD", "right-password")
	t.Setenv("REDIS_URL", "redis://"+w.redis.Addr)
	assert.Equal(t, exitStore, w.run("users").code, "to bots, too, it says nothing beside a REDIS_URL")
}

func TestAddressesThatMakeNoSenseAreUsageErrors(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{
		{"--cluster", "--sentinel-master", "mymaster"}, {"--sentinel-master", "m", "--redis", "redis://host:26379?password=secret-word"},
		{"--sentinel-master", "m", "--redis", "redis://:secret-word@host:26379"}, {"--redis", "http://host"}, {"--redis", "redis://host:port"}, {"--redis", "redis://host/database"},
		{"--redis", "host:6379"}, {"--redis", "redis://host?nonsense=1"}, {"--redis-password-file", "/nowhere"}, {"--redis-password-file", os.DevNull},
	} {
		r := w.run(append(args, "users")...)
		assert.Equal(t, exitUsage, r.code, "%v: %s", args, r.err)
		assert.NotContains(t, r.err, "secret-word")
	}
}

// An ACL that names other keys, or other channels, is not taken for one that lacks
// commands.
func TestAnACLForOtherKeysIsNamed(t *testing.T) {
	for rules, missing := range map[string]string{
		"~other:* &* +@all":                "~bot:session*",
		"~bot:session:* &* +@all":          "~bot:session*",
		"~bot:session* &other:* +@all":     "&bot:session*",
		"~other:* &other:* +@all":          "~bot:session* &bot:session*",
		"~bot:session* &* +@all -evalsha":  "+evalsha",
		"~bot:session* &other +@all -scan": "+scan &bot:session*",
	} {
		w := newWorld(t, redistest.WithACL("bot on >secret "+rules))
		t.Setenv("REDIS_URL", "redis://bot:secret@"+w.redis.Addr)
		var f finding
		for _, f = range runJSON[examined](w, w.run("doctor", "--json").code, "doctor").Findings {
			if f.Check == "permissions" {
				break
			}
		}
		assert.Equal(t, "the Redis user may not: "+missing, f.Found, rules)
		assert.Contains(t, f.Remedy, "ACL SETUSER NAME "+missing)
	}
}

func TestWhatIsNoUserIDIsAUsageError(t *testing.T) {
	w := newWorld(t)
	for _, bad := range []string{"", "alice", "@alice", "@a\nb:matrix.example", "@\xff:matrix.example", "@" + strings.Repeat("a", 300) + ":x"} {
		for _, command := range []string{"show", "why", "logout"} {
			r := w.run(command, bad)
			assert.Equal(t, exitUsage, r.code, "%s %q", command, bad)
			assert.Contains(t, r.err, "invalid Matrix user ID")
		}
	}
	assert.Equal(t, exitUsage, w.run("show", "-x").code)
	for _, args := range [][]string{{"show"}, {"show", alice, bob}, {"nonsense"}, {"logout"}, {"users", "--nonsense"}, {"--key-prefix", "", "users"}, {"--key-prefix", "a{b", "users"},
		{"--auth-url", "ftp://x", "users"}, {"--service-key-file", "/nowhere", "users"}, {"--encryption-keys-file", "/nowhere", "users"}, {"man"}} {
		r := w.run(args...)
		assert.Equal(t, exitUsage, r.code, args)
		assert.Contains(t, r.err, "--help", args)
	}
	assert.Equal(t, exitOK, w.run("--help").code)
	assert.Equal(t, exitOK, w.run("--version").code)
	assert.NotContains(t, w.run("users", "--help").out, sessiontest.DefaultServiceKey)
}

func TestCompletionAndManualPages(t *testing.T) {
	w := newWorld(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := w.run("completion", shell)
		assert.Equal(t, exitOK, r.code)
		assert.Contains(t, r.out, "mana-session")
	}
	for _, args := range [][]string{{"completion"}, {"completion", "tcsh"}, {"help", "nonsense"}, {"help", "migrate", "nonsense"}} {
		r := w.run(args...)
		assert.Equal(t, exitUsage, r.code, args)
		assert.Empty(t, r.out, "what is written into a file is no help text")
	}
	assert.Contains(t, w.run("help", "migrate", "rotate").out, "--write")
	assert.Contains(t, w.run("help").out, "why")
	assert.Contains(t, w.run("__complete", "migrate", "").out, "encrypt\t")
	assert.Contains(t, w.run("__complete", "users", "--sort", "").out, "ends\nuser\n")
	dir := t.TempDir()
	require.Equal(t, exitOK, w.run("man", dir).code)
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, len(pages), 12)
	page, err := os.ReadFile(filepath.Join(dir, "mana-session-why.1"))
	require.NoError(t, err)
	assert.Contains(t, string(page), ".TH")
	assert.NotContains(t, string(page), sessiontest.DefaultServiceKey)
}
