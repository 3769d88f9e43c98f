package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // on a machine without
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

// strange is a user as a homeserver of old may have had, with what some terminals take
// for an order, what turns the direction of text, and what nobody sees.
const strange = "@a\u202eb\u2066c\u00ad\U000e0041'd:matrix.example"

// putStrange stores a session of that user, with such characters in all that is theirs.
func (w *world) putStrange() {
	w.Helper()
	token := w.auth.Sign(map[string]any{"sub": "a\u009b31m<b>", "exp": time.Now().Add(time.Hour).Unix(), "\u009d0;x": "\u202e"})
	w.tokens = append(w.tokens, token)
	record, err := json.Marshal(map[string]any{"token": token, "email": "a\u009b2J\u202e@example.com", "expiresAt": time.Now().Add(time.Hour).UTC(), "data": map[string]any{}})
	require.NoError(w, err)
	w.redis.MustDo("SET", "bot:session:"+strange, string(record), "PX", "100000")
	w.redis.MustDo("SET", "bot:session:no user\u009b\x7f", string(record), "PX", "100000")
	now := time.Now().UnixMilli()
	line, err := json.Marshal(map[string]any{"k": "ended", "by": "auth server\u009b", "bot": "b\u202e", "why": "\u009bsaid"})
	require.NoError(w, err)
	for _, user := range []string{strange, bob} {
		w.redis.MustDo("SET", "bot:session-trail:{bot:session:"+user+"}", strings.Join([]string{itoa(now), itoa(now), "1", "0", string(line)}, " "))
	}
}

func itoa(n int64) string { text, _ := json.Marshal(n); return string(text) }

func TestJSONHasNothingInItThatATerminalObeys(t *testing.T) {
	w := newWorld(t)
	w.putStrange()
	for _, c := range []struct {
		code int
		args []string
		user string
	}{
		{exitOK, []string{"show", strange}, strange}, {exitOK, []string{"why", strange}, strange}, {exitNothing, []string{"why", bob}, bob},
		{exitOK, []string{"users"}, strange}, {exitOK, []string{"doctor"}, ""}, {exitOK, []string{"logout", strange}, strange},
		{exitUsage, []string{"show", "\u009b2J\u202e"}, ""}, {exitUsage, []string{"users", "--filter", "(\u009b"}, "\u009b"},
	} {
		for _, form := range []string{"--json", "--json=false"} {
			args := append([]string{form}, c.args...)
			if c.args[0] == "logout" {
				w.putStrange()
			}
			r := w.run(args...)
			if c.args[0] != "doctor" { // which finds no session in one of them
				assert.Equal(t, c.code, r.code, "%q: %s", args, r.err)
			}
			shown := strings.NewReplacer("\n", "").Replace(r.out + r.err)
			assert.Less(t, strings.IndexFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }), 0, "%q: %q", args, shown)
			if form == "--json" && c.user != "" {
				var document any
				require.NoError(t, json.Unmarshal([]byte(r.out), &document), args)
				said, err := json.Marshal(document)
				require.NoError(t, err)
				assert.Contains(t, string(said), c.user, "a program reads what is there")
			}
		}
	}
}

func TestWatchPrintsNothingThatATerminalObeys(t *testing.T) {
	w := newWorld(t)
	out, stop := w.watching("--json")
	w.putStrange()
	w.sees(out, `@a\u202eb\u2066c\u00ad\udb40\udc41'd:matrix.example`)
	assert.Equal(t, exitOK, stop())
	assert.Less(t, strings.IndexFunc(strings.ReplaceAll(out.String(), "\n", ""), func(r rune) bool { return !unicode.IsPrint(r) }), 0)
}

// What is to be copied into a shell runs nothing but this program.
func TestAUserIDIsQuotedForTheShell(t *testing.T) {
	w := newWorld(t)
	shell, err := exec.LookPath("bash")
	require.NoError(t, err)
	for _, user := range []string{alice, "@o'brien:matrix.example", "@x';touch ran;':matrix.example", "@$(touch ran) `touch ran`:matrix.example", strange, `@a\'b:matrix.example`, "@\u202e\\'$(touch ran):matrix.example"} {
		out := w.run("show", user).out
		_, command, found := strings.Cut(out, "\nmana-session why ")
		require.True(t, found, out)
		command, _, _ = strings.Cut(command, " says why, and what to do.")
		echo := exec.CommandContext(t.Context(), shell, "-c", "printf %s "+command)
		echo.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		echo.Dir = t.TempDir()
		got, err := echo.Output()
		require.NoError(t, err, command)
		assert.Equal(t, user, string(got), command)
		ran, err := os.ReadDir(echo.Dir)
		require.NoError(t, err)
		assert.Empty(t, ran, command)
	}
}

func TestErrorsAreOneDocumentHoweverWrongTheArguments(t *testing.T) {
	w := newWorld(t)
	t.Setenv("REDIS_URL", "")
	for _, args := range [][]string{
		{"--json", "nonsense"}, {"nonsense", "--json"}, {"users", "--nonsense", "--json"}, {"--json=true", "stauts"}, {"show", "--json"}, {"users", "--limit", "x", "--json"},
		{"--json", "migrate"}, {"migrate", "--json", "nonsense"}, {"users", "--json"}, {"logout", "--json"}, {"migrate", "prefix", "--json"}, {"--json", "users", "--limit=-1"},
		{"migrate", "encrypt", "--rate", "-1", "--json"}, {"show", "--nonsense", alice, "--json"},
	} {
		r := w.run(args...)
		assert.Equal(t, exitUsage, r.code, args)
		assert.Empty(t, r.err, args)
		var failed struct {
			Error    string
			ExitCode int
		}
		decoder := json.NewDecoder(strings.NewReader(r.out))
		if assert.NoError(t, decoder.Decode(&failed), "%v: %s", args, r.out) {
			assert.Equal(t, exitUsage, failed.ExitCode)
			assert.NotEmpty(t, failed.Error)
			assert.Equal(t, io.EOF, decoder.Decode(&failed), "one document")
		}
	}
	r := w.run("users", "--", "--json")
	assert.Contains(t, r.err, "mana-session: ", "that is no flag")
	r = w.run("stauts")
	assert.Contains(t, r.err, "Did you mean this? status\n")
}

// full is a disk that is.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestOutputThatIsLostIsAnError(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	for _, args := range [][]string{{"users"}, {"show", alice}, {"why", alice}, {"status"}, {"doctor"}, {"migrate", "encrypt"}, {"logout", bob}, {"watch"}, {"completion", "bash"}} {
		for _, form := range []string{"--json", "--json=false"} {
			var errOut bytes.Buffer
			code := run(t.Context(), append([]string{form}, args...), strings.NewReader(""), full{}, &errOut)
			assert.Equal(t, exitFailed, code, args)
			assert.Contains(t, errOut.String(), "short write", args)
			assert.Equal(t, 1, strings.Count(errOut.String(), "mana-session: "), "%v: %s", args, errOut.String())
		}
	}
	var errOut bytes.Buffer
	assert.Equal(t, exitNothing, run(t.Context(), []string{"show", bob}, strings.NewReader(""), full{}, &errOut))
	assert.Contains(t, errOut.String(), "short write")
}

// A million lines for somebody who reads one.
func TestAReaderWhoGoesAwayEndsIt(t *testing.T) {
	w := newWorld(t)
	w.seed(20_000)
	for _, args := range [][]string{{"users"}, {"users", "--json"}} {
		users := w.program(args...)
		var errOut bytes.Buffer
		users.Stderr = &errOut
		out, err := users.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, users.Start())
		_, err = out.Read(make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, out.Close())
		require.Error(t, users.Wait(), "as any program that writes into a pipe without a reader")
		assert.NotContains(t, errOut.String(), "goroutine")
	}
}

func TestTimesInJSONAreUTCWhereverTheMachineIs(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	t.Setenv("TZ", "Asia/Kolkata")
	for _, args := range [][]string{{"show", alice}, {"why", alice}, {"users"}, {"status"}} {
		out, err := w.program(append(args, "--json")...).Output()
		require.NoError(t, err, args)
		assert.NotContains(t, string(out), "+05:30", args)
	}
	watch := w.program("watch", "--json")
	lines, err := watch.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, watch.Start())
	text := bufio.NewReader(lines)
	for _, event := range []string{`"event":"watching"`, `"kind":"ended"`} {
		line, err := text.ReadString('\n')
		require.NoError(t, err)
		assert.Contains(t, line, event)
		assert.NotContains(t, line, "+05:30")
		if event == `"event":"watching"` {
			require.NoError(t, w.bot().Logout(t.Context(), alice))
		}
	}
	require.NoError(t, watch.Process.Signal(os.Interrupt))
	require.NoError(t, watch.Wait())
}

func TestATrailIsAListInUTC(t *testing.T) {
	assert.Equal(t, []session.TrailEvent{}, trailInUTC(nil))
	zone := time.FixedZone("Somewhere", 3600)
	e := trailInUTC([]session.TrailEvent{{First: noon.In(zone), Last: noon.In(zone), SessionEnds: noon.In(zone)}, {First: noon, Last: noon}})
	assert.Equal(t, []session.TrailEvent{{First: noon, Last: noon, SessionEnds: noon}, {First: noon, Last: noon}}, e)
}
