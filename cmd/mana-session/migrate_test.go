package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

// The keys of the tests, as the environment has them.
var (
	oldKey = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))
	newKey = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{2}, 32))
)

func withKeys(t require.TestingT, keys ...string) session.Option {
	var parsed [][]byte
	for _, text := range keys {
		key, err := session.ParseKey(text)
		require.NoError(t, err)
		parsed = append(parsed, key)
	}
	return session.WithEncryption(parsed[0], parsed[1:]...)
}

func userID(i int) string { return fmt.Sprintf("@user%d:matrix.example", i) }

// seed stores sessions as the TypeScript service does, and returns their values.
func (w *world) seed(n int) map[string]string {
	w.Helper()
	ends := time.Now().Add(6 * 24 * time.Hour).Truncate(time.Millisecond)
	values := make(map[string]string)
	token := w.auth.MintToken(email, time.Now().Add(time.Hour))
	w.tokens = append(w.tokens, token)
	pipe := w.client.Pipeline()
	for i := range n {
		value := fmt.Sprintf(`{"token":%q,"email":%q,"expiresAt":%q,"data":{"n":%d},"unknown":[1, 2]}`,
			token, email, ends.UTC().Format("2006-01-02T15:04:05.000Z"), i)
		values[userID(i)] = value
		pipe.Do(w.Context(), "SET", "bot:session:"+userID(i), value, "PXAT", ends.UnixMilli()+int64(i))
		if pipe.Len() == 5000 || i == n-1 {
			_, err := pipe.Exec(w.Context())
			require.NoError(w, err)
		}
	}
	return values
}

// ttls are the times at which users' records are dropped, in milliseconds.
func (w *world) ttls(prefix string, users map[string]string) map[string]int64 {
	w.Helper()
	cmds := make(map[string]*redis.Cmd)
	pipe := w.client.Pipeline()
	for user := range users {
		cmds[user] = pipe.Do(w.Context(), "PEXPIRETIME", prefix+user)
	}
	_, err := pipe.Exec(w.Context())
	require.NoError(w, err)
	ttls := make(map[string]int64)
	for user, cmd := range cmds {
		ttls[user], err = cmd.Int64()
		require.NoError(w, err)
	}
	return ttls
}

// opened are the records of users as a bot with the given keys reads them, which must
// all be sealed with the first of them.
func (w *world) allSealedWith(users map[string]string, keys ...string) {
	w.Helper()
	reader := w.bot(withKeys(w, keys...), session.WithNearCache(0))
	for user := range users {
		rec, err := w.store().Get(w.Context(), user)
		require.NoError(w, err)
		require.True(w, strings.HasPrefix(rec.Value, "sealed1:"), user)
		changed, err := reader.Reseal(w.Context(), rec, false)
		require.NoError(w, err, user)
		require.False(w, changed, user)
	}
}

func TestMigrateEncryptSealsEveryRecordAndKeepsWhatIsInItToTheByte(t *testing.T) {
	w := newWorld(t)
	values := w.seed(500)
	before := w.ttls("bot:session:", values)
	w.redis.MustDo("SET", "bot:session:@endless:matrix.example", values[userID(0)])
	w.redis.MustDo("SET", "bot:session-lock:{bot:session:"+userID(1)+"}", "owner:a-bot", "PX", "60000")
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)

	dry := runJSON[migrated](w, exitOK, "migrate", "encrypt")
	assert.False(t, dry.Written)
	assert.Equal(t, 501, dry.Changed)
	assert.Equal(t, values[userID(3)], w.redis.MustDo("GET", "bot:session:"+userID(3)), "a dry run writes nothing")

	wet := runJSON[migrated](w, exitOK, "migrate", "encrypt", "--write")
	assert.True(t, wet.Written)
	assert.Equal(t, 501, wet.Records)
	assert.Equal(t, 501, wet.Changed)
	w.allSealedWith(values, newKey)
	assert.Equal(t, before, w.ttls("bot:session:", values), "TTLs stay, to the millisecond")
	assert.Equal(t, "-1", w.redis.MustDo("PTTL", "bot:session:@endless:matrix.example"))
	assert.Equal(t, "owner:a-bot", w.redis.MustDo("GET", "bot:session-lock:{bot:session:"+userID(1)+"}"), "leases stay")
	assert.Empty(t, w.redis.MustDo("KEYS", "bot:session-trail:*"), "nothing goes into trails")

	again := runJSON[migrated](w, exitOK, "migrate", "encrypt", "--write")
	assert.Equal(t, 501, again.Already)
	assert.Zero(t, again.Changed)

	t.Setenv("SESSION_ENCRYPTION_KEYS", ","+newKey)
	back := runJSON[migrated](w, exitOK, "migrate", "decrypt", "--write")
	assert.Equal(t, 501, back.Changed)
	for user, value := range values {
		require.Equal(t, value, w.redis.MustDo("GET", "bot:session:"+user), "what is in a record stays, to the byte")
	}
	assert.Equal(t, before, w.ttls("bot:session:", values))
}

func TestMigrateRotateLeavesWhatNoKeyOpens(t *testing.T) {
	w := newWorld(t)
	values := w.seed(20)
	t.Setenv("SESSION_ENCRYPTION_KEYS", oldKey)
	require.Equal(t, exitOK, w.run("migrate", "encrypt", "--write").code)
	stranger := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32))
	bot := w.bot(withKeys(t, stranger), session.WithNearCache(0))
	w.login(bot)
	w.redis.MustDo("SET", "bot:session:"+bob, "no session")
	w.redis.MustDo("SET", "bot:session:nobody", "no user")
	w.redis.MustDo("RPUSH", "bot:session:@list:matrix.example", "a list")

	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey+","+oldKey)
	r := runJSON[migrated](w, exitFailed, "migrate", "rotate", "--write")
	assert.Equal(t, 20, r.Changed)
	assert.Equal(t, 3, r.Left)
	assert.Equal(t, map[string]int{
		"the record is no session: sealed with another key, for another user, or changed since": 1,
		"the record is no session: not JSON":                                                    1,
		"invalid Matrix user ID: does not start with @":                                         1,
	}, r.Reasons)
	w.allSealedWith(values, newKey)
	assert.Equal(t, "no session", w.redis.MustDo("GET", "bot:session:"+bob))
	text := w.run("migrate", "rotate", "--write")
	assert.Equal(t, exitFailed, text.code)
	assert.Regexp(t, `in order already +20`, text.out)
	assert.Regexp(t, `left as they are +3`, text.out)
}

func TestMigrateAsksForTheKeysThatItTakes(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ keys, what string }{
		{"", "encrypt"}, {"," + newKey, "encrypt"}, {"", "rotate"}, {newKey, "rotate"}, {newKey, "decrypt"}, {"", "decrypt"}, {"short", "encrypt"},
	} {
		t.Setenv("SESSION_ENCRYPTION_KEYS", c.keys)
		r := w.run("migrate", c.what, "--write")
		assert.Equal(t, exitUsage, r.code, c)
		assert.NotContains(t, r.err, newKey)
		assert.NotContains(t, r.err, "short")
	}
	assert.Equal(t, exitUsage, w.run("migrate").code)
	assert.Equal(t, exitUsage, w.run("migrate", "encrypt", "--rate", "-1").code)
	assert.Equal(t, exitUsage, w.run("migrate", "prefix", "bot:session:v2:").code, "one prefix begins with the other")
	assert.Equal(t, exitUsage, w.run("migrate", "prefix", "a{b").code)
}

func TestMigrateEncryptWaitsForTheBotsToTakeTheirSteps(t *testing.T) {
	w := newWorld(t)
	w.seed(5)
	behind := w.bot()
	w.login(behind)
	eventually(t, "a heartbeat", func() bool { return w.redis.MustDo("KEYS", "bot:session-heartbeat:*") != "" })
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	r := w.run("migrate", "encrypt", "--write")
	assert.Equal(t, exitFailed, r.code)
	assert.Contains(t, r.err, "bots run (1), and none has written a record as this would")
	assert.NotContains(t, w.redis.MustDo("GET", "bot:session:"+alice), "sealed")

	w.login(w.bot(withKeys(t, newKey))) // one that is
	assert.Equal(t, exitOK, w.run("migrate", "encrypt", "--write").code)
}

// A key with a slip in it must not seal what the bots can still read.
func TestMigrateEncryptWithKeysThatAreNotTheBotsIsRefused(t *testing.T) {
	w := newWorld(t)
	values := w.seed(30)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	require.Equal(t, exitOK, w.run("migrate", "encrypt", "--write").code)
	for i := range 10 { // as a bot that was forgotten writes them
		w.redis.MustDo("SET", "bot:session:"+userID(i), values[userID(i)])
	}
	t.Setenv("SESSION_ENCRYPTION_KEYS", oldKey)
	r := w.run("migrate", "encrypt", "--write")
	assert.Equal(t, exitFailed, r.code)
	assert.Contains(t, r.err, "of 30 records that were looked at, 20 are sealed, none with a key that is given here")
	for i := range 10 {
		assert.Equal(t, values[userID(i)], w.redis.MustDo("GET", "bot:session:"+userID(i)))
	}
	j := runJSON[migrated](w, exitFailed, "migrate", "encrypt", "--write", "--force")
	assert.Equal(t, 10, j.Changed)
	assert.Equal(t, 20, j.Left)

	t.Setenv("SESSION_ENCRYPTION_KEYS", oldKey+","+newKey)
	assert.Equal(t, 20, runJSON[migrated](w, exitOK, "migrate", "encrypt", "--write").Changed, "with all keys it goes on")
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	assert.Equal(t, 30, runJSON[migrated](w, exitFailed, "migrate", "encrypt", "--write").Left, "there is nothing to be spoiled")
}

// program is the program as a process of its own.
func (w *world) program(args ...string) *exec.Cmd {
	w.Helper()
	self, err := os.Executable()
	require.NoError(w, err)
	cmd := exec.CommandContext(w.Context(), self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// sealed is how many of the users' records are sealed.
func (w *world) sealed(users map[string]string) (n int) {
	w.Helper()
	for user := range users {
		if strings.HasPrefix(w.client.GetRange(w.Context(), "bot:session:"+user, 0, 6).Val(), "sealed") {
			n++
		}
	}
	return n
}

func TestMigrateThatIsKilledIsRunAgain(t *testing.T) {
	w := newWorld(t)
	values := w.seed(3000)
	before := w.ttls("bot:session:", values)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	killed := w.program("migrate", "encrypt", "--write", "--rate", "1500")
	require.NoError(t, killed.Start())
	eventually(t, "a part is done", func() bool { return w.sealed(values) > 200 })
	require.NoError(t, killed.Process.Kill())
	require.Error(t, killed.Wait())
	done := w.sealed(values)
	require.Less(t, done, 3000, "it was killed in the middle")

	r := runJSON[migrated](w, exitOK, "migrate", "encrypt", "--write")
	assert.Equal(t, done, r.Already)
	assert.Equal(t, 3000-done, r.Changed)
	w.allSealedWith(values, newKey)
	assert.Equal(t, before, w.ttls("bot:session:", values))
}

func TestMigrateThatIsInterruptedSaysHowToGoOn(t *testing.T) {
	w := newWorld(t)
	values := w.seed(3000)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	var errOut bytes.Buffer
	interrupted := w.program("migrate", "encrypt", "--write", "--rate", "1000")
	interrupted.Stderr = &errOut
	require.NoError(t, interrupted.Start())
	eventually(t, "a part is done", func() bool { return w.sealed(values) > 100 })
	require.NoError(t, interrupted.Process.Signal(os.Interrupt))
	require.Error(t, interrupted.Wait())
	assert.Equal(t, exitFailed, interrupted.ProcessState.ExitCode())
	assert.Contains(t, errOut.String(), "interrupted: run it again to go on")
	w.noSecrets(errOut.String())
}

func TestTwoMigrationsAtOnceDoTheWorkOnce(t *testing.T) {
	w := newWorld(t)
	values := w.seed(1500)
	before := w.ttls("bot:session:", values)
	shared := false
	for round := 0; round < 20 && !shared; round++ { // until both have had a part in it
		keys := []string{newKey, oldKey}
		if round%2 == 1 {
			keys = []string{oldKey, newKey}
		}
		t.Setenv("SESSION_ENCRYPTION_KEYS", strings.Join(keys, ","))
		results := make([]migrated, 2)
		var both sync.WaitGroup
		for i := range results {
			both.Go(func() { results[i] = runJSON[migrated](w, exitOK, "migrate", "rotate", "--write") })
		}
		both.Wait()
		require.Equal(t, 1500, results[0].Changed+results[1].Changed, "each record is written once")
		w.allSealedWith(values, keys...)
		require.Equal(t, before, w.ttls("bot:session:", values))
		shared = results[0].Changed > 0 && results[1].Changed > 0
	}
	assert.True(t, shared)
}

func TestMigrateLosesNoWriteOfABotBesideIt(t *testing.T) {
	w := newWorld(t)
	values := w.seed(400)
	bot := w.bot(withKeys(t, newKey, oldKey))
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey+","+oldKey)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	written := make([]map[string]int, 4) // the last value of each user, by writer
	for i := range written {
		written[i] = make(map[string]int)
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				user := userID((n*7 + i) % len(values))
				if !assert.NoError(t, bot.SetData(t.Context(), user, fmt.Sprintf("writer%d", i), n)) {
					return
				}
				written[i][user] = n
			}
		})
	}
	for round := range 6 {
		if round%2 == 1 {
			t.Setenv("SESSION_ENCRYPTION_KEYS", oldKey+","+newKey) // back and forth, to have more to do
		} else {
			t.Setenv("SESSION_ENCRYPTION_KEYS", newKey+","+oldKey)
		}
		r := runJSON[migrated](w, exitOK, "migrate", "rotate", "--write", "--force")
		assert.NotZero(t, r.Changed)
	}
	close(stop)
	writers.Wait()
	for i, users := range written {
		require.NotEmpty(t, users)
		for user, n := range users {
			var got int
			found, err := bot.Data(t.Context(), user, fmt.Sprintf("writer%d", i), &got)
			require.NoError(t, err)
			require.True(t, found && got == n, "writer %d of %s: %d, want %d", i, user, got, n)
		}
	}
}

func TestALogoutBesideAMigrationStaysOne(t *testing.T) {
	w := newWorld(t)
	values := w.seed(600)
	bot := w.bot(withKeys(t, newKey))
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	var migration sync.WaitGroup
	migration.Go(func() { runJSON[migrated](w, exitOK, "migrate", "encrypt", "--write", "--force") })
	for i := range 300 {
		require.NoError(t, bot.Logout(t.Context(), userID(i)))
	}
	migration.Wait()
	for i := range 300 {
		assert.Empty(t, w.redis.MustDo("GET", "bot:session:"+userID(i)))
		delete(values, userID(i))
	}
	w.allSealedWith(values, newKey)
}
