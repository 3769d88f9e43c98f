package redistest

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestServerKeepsDataOnlyWithPersistence(t *testing.T) {
	for name, tc := range map[string]struct {
		opts []Option
		want string
	}{
		"memory only":      {nil, ""},
		"append only file": {[]Option{WithPersistence()}, "v"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Start(t, tc.opts...)
			addr := s.Addr
			s.MustDo("SET", "k", "v")
			s.Kill()
			require.Zero(t, s.PID())
			require.Error(t, dial(addr))
			s.Restart()
			require.Equal(t, addr, s.Addr)
			require.Equal(t, tc.want, s.MustDo("GET", "k"))

			s.MustDo("SET", "k", "v")
			before := s.PID()
			s.Restart()
			require.NotEqual(t, before, s.PID())
			require.Equal(t, tc.want, s.MustDo("GET", "k"))
		})
	}
}

func TestServerStartsLate(t *testing.T) {
	s := NewStopped(t)
	require.Zero(t, s.PID())
	require.ErrorIs(t, dial(s.Addr), syscall.ECONNREFUSED)
	s.Start()
	pid := s.PID()
	s.Start()
	require.Equal(t, pid, s.PID(), "a server that runs is left alone")
	require.Equal(t, "PONG", s.MustDo("PING"))
	s.Stop()
	s.Stop()
	require.ErrorIs(t, dial(s.Addr), syscall.ECONNREFUSED)
}

func TestServerTakesOverAPort(t *testing.T) {
	first := Start(t)
	second := NewStopped(t, OnPort(first.Port))
	first.Kill()
	second.Start()
	require.Equal(t, first.Addr, second.Addr)
	require.Equal(t, "PONG", first.MustDo("PING"))
}

func TestServerIsNotMistakenForAnother(t *testing.T) {
	first := Start(t)
	second := NewStopped(t, OnPort(first.Port))
	require.ErrorIs(t, second.launch(), errPortTaken)
	require.Zero(t, second.PID())
}

func TestPausedServerAnswersNothingUntilResumed(t *testing.T) {
	s := Start(t)
	conn, err := net.Dial("tcp", s.Addr)
	require.NoError(t, err)
	defer conn.Close()

	s.Pause()
	_, err = conn.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	require.NoError(t, dial(s.Addr), "the system accepts in its name")
	requireSilence(t, conn)
	s.Resume()
	require.Equal(t, "+PONG\r\n", readLine(t, conn))

	s.Pause()
	s.Restart()
	require.Equal(t, "PONG", s.MustDo("PING"))
	s.Pause() // cleanup must cope
}

func TestServerRepliesAsText(t *testing.T) {
	s := Start(t, WithConfig("maxmemory", "10mb"), WithConfig("save", "900 1"), WithConfig("notify-keyspace-events", ""))
	require.Equal(t, "maxmemory\n10485760", s.MustDo("CONFIG", "GET", "maxmemory"))
	require.Equal(t, "save\n900 1", s.MustDo("CONFIG", "GET", "save"))
	require.Equal(t, "3", s.MustDo("RPUSH", "list", "a b", "", "c\r\n"))
	require.Equal(t, "a b\n\nc\r\n", s.MustDo("LRANGE", "list", "0", "-1"))
	require.Equal(t, "\nx", s.MustDo("EVAL", "return {false, 'x'}", "0"))
	require.Empty(t, s.MustDo("GET", "absent"))
	_, err := s.Do("GET", "list")
	require.ErrorContains(t, err, "WRONGTYPE")
}

func TestServerAsksForCredentials(t *testing.T) {
	s := Start(t, WithPassword(`se"cret`), WithACL("alice on >wonder ~app:* +get"))
	require.Equal(t, "PONG", s.MustDo("PING"))

	_, err := do(s.Addr, "", "", []string{"PING"})
	require.ErrorContains(t, err, "NOAUTH")
	_, err = do(s.Addr, "default", `se"cret`, []string{"PING"})
	require.NoError(t, err)
	_, err = do(s.Addr, "alice", "wonder", []string{"GET", "app:k"})
	require.NoError(t, err)
	_, err = do(s.Addr, "alice", "wonder", []string{"GET", "k"})
	require.ErrorContains(t, err, "NOPERM")
}

func TestServersAreGoneAfterTheirTest(t *testing.T) {
	binary(t)
	var pids []int
	t.Run("inner", func(t *testing.T) {
		running, paused, restarted := Start(t), Start(t), Start(t)
		restarted.Restart()
		paused.Pause()
		for _, s := range []*Server{running, paused, restarted} {
			pids = append(pids, s.PID())
		}
	})
	require.Len(t, pids, 3)
	for _, pid := range pids {
		process, err := os.FindProcess(pid)
		if err == nil {
			err = process.Signal(syscall.Signal(0))
		}
		require.ErrorIs(t, err, os.ErrProcessDone)
	}
}

func TestServerSurvivesTheEndOfAThread(t *testing.T) {
	binary(t)
	started := make(chan *Server)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		started <- Start(t)
	}()
	s := <-started
	for range 50 {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			runtime.LockOSThread()
		}()
		<-ended
	}
	require.Equal(t, "PONG", s.MustDo("PING"))
}

// helperEnv makes TestHelper a test binary that never cleans up.
const helperEnv = "REDISTEST_HELPER"

func TestServersDieWithAKilledTestBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends the children of a killed process")
	}
	binary(t)
	helper := exec.Command(os.Args[0], "-test.run=^TestHelper$", "-test.v")
	helper.Env = append(os.Environ(), helperEnv+"=1")
	out, err := helper.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, helper.Start())
	var addrs []string
	for lines := bufio.NewScanner(out); len(addrs) < 2 && lines.Scan(); {
		if _, addr, ok := strings.Cut(lines.Text(), "listening at "); ok {
			addrs = append(addrs, addr)
		}
	}
	require.NoError(t, helper.Process.Kill())
	_ = helper.Wait()
	require.Len(t, addrs, 2)
	for _, addr := range addrs {
		require.Eventually(t, func() bool { return dial(addr) != nil }, startTimeout, pollInterval)
	}
}

func TestHelper(t *testing.T) {
	if os.Getenv(helperEnv) == "" {
		t.Skip("run by TestServersDieWithAKilledTestBinary")
	}
	running, paused := Start(t), Start(t)
	paused.Pause()
	os.Stdout.WriteString("listening at " + running.Addr + "\nlistening at " + paused.Addr + "\n")
	<-make(chan struct{})
}

func TestReservedPortIsGivenToNobodyElse(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("ports are held on Linux only")
	}
	port, release, err := reservePort(0)
	require.NoError(t, err)
	addr := "127.0.0.1:" + strconv.Itoa(port)
	require.ErrorIs(t, dial(addr), syscall.ECONNREFUSED)
	for range 200 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		require.NotEqual(t, addr, ln.Addr().String())
	}
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err, "but whoever asks for it by number gets it")
	require.NoError(t, ln.Close())
	release()
}

func dial(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		conn.Close()
	}
	return err
}

// requireSilence waits for bytes that must not come.
func requireSilence(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, conn.SetReadDeadline(time.Time{}))
}

func readLine(t *testing.T, conn net.Conn) string {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(commandTimeout)))
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	return line
}
