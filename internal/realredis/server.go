// Package realredis starts real redis-server processes for tests, on free
// loopback ports, and stops them by their process IDs.
package realredis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startTimeout is generous: the machine may be busy with other tests.
const startTimeout = 20 * time.Second

// Server is a redis-server process.
type Server struct {
	Addr string // 127.0.0.1:port
	Port int

	tb       testing.TB
	dir      string
	args     []string
	password string
	process  *process // nil while it does not run
}

// Option configures a Server.
type Option func(*Server)

// WithConfig sets a configuration directive, as in redis.conf.
func WithConfig(name string, values ...string) Option {
	return func(s *Server) { s.args = append(append(s.args, "--"+name), values...) }
}

// WithPersistence keeps the data over restarts, each write synced.
func WithPersistence() Option {
	return func(s *Server) { s.args = append(s.args, "--appendonly", "yes", "--appendfsync", "always") }
}

// WithPassword requires a password.
func WithPassword(password string) Option {
	return func(s *Server) {
		s.password = password
		s.args = append(s.args, "--requirepass", password)
	}
}

// Start starts a server that runs until the test ends. Without a redis-server
// on the machine the test is skipped, or fails under CI=true.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	s := New(tb, opts...)
	s.Start()
	return s
}

// New reserves a port for a server and does not start it.
func New(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatal("redis-server is not installed")
		}
		tb.Skip("redis-server is not installed: install it to run this test")
	}
	s := &Server{tb: tb, dir: tb.TempDir(), Port: freePort(tb)}
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
	for _, opt := range opts {
		opt(s)
	}
	tb.Cleanup(s.Kill)
	return s
}

// freePort returns a port that nothing listens on, with room for the Cluster
// bus 10,000 above it.
func freePort(tb testing.TB) int {
	tb.Helper()
	for range 200 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if port+10000 > 65535 {
			port -= 20000 // below the range that connections take theirs from
		}
		bus, busErr := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+10000))
		main, mainErr := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		for _, l := range []net.Listener{bus, main} {
			if l != nil {
				_ = l.Close()
			}
		}
		if busErr == nil && mainErr == nil {
			return port
		}
	}
	tb.Fatal("no free port")
	return 0
}

// Start starts the server, which must not be running, and waits until it
// answers.
func (s *Server) Start() {
	s.tb.Helper()
	s.start("redis-server", append([]string{
		"--port", strconv.Itoa(s.Port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--save", "", "--daemonize", "no",
	}, s.args...)...)
	s.Await("PING", func(answer string, err error) bool {
		// An error answer is an answer: a password may be asked for.
		return err == nil && answer == "PONG" || isAnswer(err) && !strings.HasPrefix(err.Error(), "LOADING")
	})
}

func (s *Server) start(name string, args ...string) {
	s.tb.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if s.process, err = launch(cmd); err != nil {
		s.tb.Fatal(err)
	}
}

// Await asks the server with one command until ok takes its answer.
func (s *Server) Await(command string, ok func(answer string, err error) bool) {
	s.tb.Helper()
	limit := time.Now().Add(startTimeout)
	for {
		answer, err := s.Do(strings.Fields(command)...)
		if ok(answer, err) {
			return
		}
		if time.Now().After(limit) || !s.running() {
			s.tb.Fatalf("%s on %s: %q, %v; its log:\n%s", command, s.Addr, answer, err, s.log())
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (s *Server) log() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(b[max(0, len(b)-2000):])
}

func (s *Server) running() bool {
	if s.process == nil {
		return false
	}
	select {
	case <-s.process.exited:
		return false
	default:
		return true
	}
}

// PID returns the process ID, or 0.
func (s *Server) PID() int {
	if !s.running() {
		return 0
	}
	return s.process.cmd.Process.Pid
}

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() {
	if s.process != nil {
		_ = s.process.cmd.Process.Kill()
		<-s.process.exited
		s.process = nil
	}
}

// Stop ends the server in an orderly manner.
func (s *Server) Stop() {
	if s.process != nil {
		_ = s.process.cmd.Process.Signal(syscall.SIGTERM)
		<-s.process.exited
		s.process = nil
	}
}

// Pause stops the process without ending it; Resume lets it go on. Connections
// stay open meanwhile, and nothing answers.
func (s *Server) Pause() { _ = s.process.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() { _ = s.process.cmd.Process.Signal(syscall.SIGCONT) }

// Do sends one command on a connection of its own and returns the answer: a
// string for simple replies, lines for arrays, "" for nil.
func (s *Server) Do(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return do(ctx, s.Addr, s.password, args)
}

// MustDo is Do that fails the test on an error.
func (s *Server) MustDo(args ...string) string {
	s.tb.Helper()
	answer, err := s.Do(args...)
	if err != nil {
		s.tb.Fatalf("%v: %v", args, err)
	}
	return answer
}

// process is a child that dies with this process.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// launch starts cmd from a thread that lives as long as it does: the kernel
// ties the signal a child gets at its parent's death to the starting thread.
func launch(cmd *exec.Cmd) (*process, error) {
	dieWithParent(cmd)
	p := &process{cmd, make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	return p, <-started
}

type answerError string

func (e answerError) Error() string { return string(e) }

func isAnswer(err error) bool {
	_, ok := errors.AsType[answerError](err)
	return ok
}

func do(ctx context.Context, addr, password string, args []string) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	r := &reader{conn: conn}
	if password != "" {
		if _, err := r.roundTrip([]string{"AUTH", password}); err != nil {
			return "", err
		}
	}
	return r.roundTrip(args)
}

// reader reads RESP2 replies.
type reader struct {
	conn net.Conn
	buf  bytes.Buffer
}

func (r *reader) roundTrip(args []string) (string, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := r.conn.Write(b.Bytes()); err != nil {
		return "", err
	}
	return r.reply()
}

func (r *reader) more() error {
	chunk := make([]byte, 32<<10)
	n, err := r.conn.Read(chunk)
	r.buf.Write(chunk[:n])
	if n > 0 {
		return nil
	}
	return err
}

func (r *reader) line() (string, error) {
	for {
		if i := bytes.Index(r.buf.Bytes(), []byte("\r\n")); i >= 0 {
			line := string(r.buf.Next(i))
			r.buf.Next(2)
			return line, nil
		}
		if err := r.more(); err != nil {
			return "", err
		}
	}
}

func (r *reader) reply() (string, error) {
	line, err := r.line()
	if err != nil || line == "" {
		return "", err
	}
	kind, rest := line[0], line[1:]
	n, _ := strconv.Atoi(rest)
	switch kind {
	case '-':
		return "", answerError(rest)
	case '$':
		if n < 0 {
			return "", nil
		}
		for r.buf.Len() < n+2 {
			if err := r.more(); err != nil {
				return "", err
			}
		}
		value := string(r.buf.Next(n))
		r.buf.Next(2)
		return value, nil
	case '*':
		lines := make([]string, 0, max(0, n))
		for range n {
			value, err := r.reply()
			if err != nil {
				return "", err
			}
			lines = append(lines, value)
		}
		return strings.Join(lines, "\n"), nil
	}
	return rest, nil
}
