package main

import (
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// onTerminal runs the program on a terminal, at which somebody types. It returns what
// is on the screen.
func (w *world) onTerminal(typed string, args ...string) (screen string, code int) {
	w.Helper()
	program := w.program(args...)
	program.Env = append(program.Env, "TERM=xterm")
	terminal, err := pty.StartWithSize(program, &pty.Winsize{Rows: 40, Cols: w.columns})
	require.NoError(w, err)
	defer terminal.Close()
	_, err = io.WriteString(terminal, typed)
	require.NoError(w, err)
	text, _ := io.ReadAll(terminal) // which ends with an error of the terminal's
	err = program.Wait()
	if err != nil {
		require.IsType(w, &exec.ExitError{}, err)
	}
	w.noSecrets(string(text))
	return string(text), program.ProcessState.ExitCode()
}

func TestATerminalGetsColoursUnlessTheyAreNotWanted(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	screen, code := w.onTerminal("", "why", alice)
	assert.Equal(t, exitOK, code)
	assert.Contains(t, screen, "\x1b[32m"+alice)
	screen, _ = w.onTerminal("", "why", alice, "--json")
	assert.NotContains(t, screen, "\x1b[")
	assert.NotContains(t, w.run("why", alice).out, "\x1b[", "a pipe gets none")
	t.Setenv("NO_COLOR", "1")
	for _, args := range [][]string{{"why", alice}, {"show", alice}, {"status"}, {"doctor"}, {"users"}} {
		screen, code = w.onTerminal("", args...)
		assert.Equal(t, exitOK, code)
		assert.NotContains(t, screen, "\x1b[", args)
	}
}

func TestLogoutAsksOnATerminal(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	for _, no := range []string{"n\n", "\n", "what?\n", "\x04"} {
		screen, code := w.onTerminal(no, "logout", alice, "--unlink")
		assert.Equal(t, exitFailed, code)
		assert.Contains(t, screen, "Log out "+alice+", and remove their links? [y/N]")
		assert.Contains(t, screen, "nothing was done")
	}
	require.Equal(t, exitOK, w.run("show", alice).code)
	screen, code := w.onTerminal("y\n", "logout", alice)
	assert.Equal(t, exitOK, code)
	assert.Contains(t, screen, "logged out")
	require.Equal(t, exitNothing, w.run("show", alice).code)

	w.login(w.bot())
	screen, code = w.onTerminal("", "logout", alice, "--yes")
	assert.Equal(t, exitOK, code)
	assert.NotContains(t, screen, "[y/N]")
}

func TestAMigrationShowsItsProgressOnATerminal(t *testing.T) {
	w := newWorld(t)
	w.seed(600)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	screen, code := w.onTerminal("", "migrate", "encrypt", "--write", "--rate", "600")
	assert.Equal(t, exitOK, code)
	assert.Regexp(t, `encrypt +\d+% .*\(\d+/600, \d+ records/s\) \[\d+s:\d+s\]`, strings.ReplaceAll(screen, "\r", "\n"), "rate and time left")
	assert.Regexp(t, `changed +600`, screen)
}

// A progress bar that is wider than the terminal leaves a line behind for each of its
// states.
func TestTheProgressBarFitsTheTerminal(t *testing.T) {
	w := newWorld(t)
	w.seed(400)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)
	for _, width := range []uint16{30, 47, 50, 67, 80, 200} {
		w.columns = width
		screen, code := w.onTerminal("", "migrate", "encrypt", "--rate", "800")
		assert.Equal(t, exitOK, code)
		bar, _, found := strings.Cut(screen, "records ")
		require.True(t, found, screen)
		assert.Contains(t, bar, "%", width)
		states := strings.FieldsFunc(bar, func(r rune) bool { return r == '\r' || r == '\n' })
		assert.Greater(t, len(states), 2, width)
		for _, state := range states {
			assert.LessOrEqual(t, utf8.RuneCountInString(state), int(width), "%d: %q", width, state)
		}
	}
}

func TestAnInterruptIsANoToTheQuestion(t *testing.T) {
	w := newWorld(t)
	w.login(w.bot())
	program := w.program("logout", alice)
	terminal, err := pty.Start(program)
	require.NoError(t, err)
	defer terminal.Close()
	screen := new(buffer)
	go func() { _, _ = io.Copy(screen, terminal) }()
	w.sees(screen, "[y/N]")
	_, err = io.WriteString(terminal, "\x03")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = program.Process.Kill()
		<-ended
	}
	assert.Equal(t, exitFailed, program.ProcessState.ExitCode())
	w.sees(screen, "nothing was done")
	assert.Equal(t, exitOK, w.run("show", alice).code)
}
