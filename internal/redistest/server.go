package redistest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A Server is one redis-server process. Its methods may be called from any
// goroutine; those without an error result fail the test when they cannot do
// what they say.
type Server struct {
	// Addr is the server's address, host and port. It stays the same across
	// Kill, Stop and Restart.
	Addr string
	Port int // of Addr

	tb      testing.TB
	cfg     config
	bin     string
	dir     string
	busPort int      // of a Cluster node
	release []func() // of the reserved ports

	mu     sync.Mutex
	proc   *process // guarded by mu; nil when the server is down
	paused bool     // guarded by mu
}

var errPortTaken = errors.New("the port is taken")

// Start starts a server and waits until it answers. The server is stopped when
// the test ends. Nothing is persisted unless asked for.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	s := NewStopped(tb, opts...)
	s.startAnywhere()
	return s
}

// NewStopped prepares a server that is down, with its address known and its port
// reserved, for tests in which Redis comes up late. [Server.Start] starts it.
func NewStopped(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	return newServer(tb, newConfig(opts))
}

func newServer(tb testing.TB, cfg config) *Server {
	tb.Helper()
	s := &Server{tb: tb, cfg: cfg, bin: binary(tb), dir: tb.TempDir()}
	tb.Cleanup(s.cleanup) // after TempDir: the process is gone before its directory is
	if err := s.assignPorts(); err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	return s
}

// assignPorts chooses the server's ports and writes its configuration, once:
// from then on the file belongs to Redis, which rewrites it after a failover.
func (s *Server) assignPorts() error {
	s.releasePorts()
	reserve := func(port int) (int, error) {
		got, release, err := reservePort(port)
		switch {
		case err == nil:
			s.release = append(s.release, release)
		case port != 0: // in use now, perhaps by a server about to be killed
			return port, nil
		}
		return got, err
	}
	port, err := reserve(s.cfg.port)
	if err != nil {
		return err
	}
	if s.cfg.cluster {
		if s.busPort, err = reserve(0); err != nil {
			return err
		}
	}
	s.Port = port
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return os.WriteFile(filepath.Join(s.dir, "redis.conf"), s.cfg.file(port, s.busPort), 0o600)
}

func (s *Server) releasePorts() {
	for _, release := range s.release {
		release()
	}
	s.release = nil
}

// startAnywhere is Start for a server whose address nobody has seen yet: if
// somebody took its port, it moves to another.
func (s *Server) startAnywhere() {
	s.tb.Helper()
	err := s.launch()
	for tries := 1; errors.Is(err, errPortTaken) && s.cfg.port == 0 && tries < 5; tries++ {
		if err = s.assignPorts(); err == nil {
			err = s.launch()
		}
	}
	if err != nil {
		s.tb.Fatalf("redistest: %v", err)
	}
}

// Start starts a server that is down and waits until it answers.
func (s *Server) Start() {
	s.tb.Helper()
	if err := s.launch(); err != nil {
		s.tb.Fatalf("redistest: %v", err)
	}
}

// Restart stops the server if it is running and starts it again, with the same
// address, directory and configuration. It comes back empty unless it was
// started WithPersistence.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	s.Start()
}

// Stop ends the server in good order (SIGTERM) and waits until it is gone.
func (s *Server) Stop() { s.end((*process).stop) }

// Kill ends the server at once (SIGKILL) and waits until it is gone.
func (s *Server) Kill() { s.end((*process).kill) }

func (s *Server) end(how func(*process)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return
	}
	if s.paused {
		_ = s.proc.resume()
	}
	how(s.proc)
	s.proc, s.paused = nil, false
}

// Pause freezes the server (SIGSTOP): its connections stay open, the system goes
// on accepting new ones in its name, and nothing is answered until Resume.
func (s *Server) Pause() {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		s.tb.Fatal("redistest: Pause: the server is down")
	}
	if err := s.proc.pause(); err != nil {
		s.tb.Fatalf("redistest: Pause: %v", err)
	}
	s.paused = true
}

// Resume lets a paused server go on (SIGCONT).
func (s *Server) Resume() {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.paused {
		return
	}
	if err := s.proc.resume(); err != nil {
		s.tb.Fatalf("redistest: Resume: %v", err)
	}
	s.paused = false
}

// PID is the server's process id, 0 when it is down.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.pid()
}

// Do runs one command on a connection of its own, for seeding and inspecting,
// and returns the reply as text: numbers in decimal, the elements of an array
// one a line, "" for nil. An error reply is an error with its text. Servers with users or passwords are entered as one who may do anything.
func (s *Server) Do(args ...string) (string, error) {
	var user, password string
	if s.cfg.admin {
		user, password = adminUser, adminPassword
	}
	reply, err := do(s.Addr, user, password, args)
	if err != nil {
		err = fmt.Errorf("redistest: %q on %s: %w", args, s.Addr, err)
	}
	return reply, err
}

// MustDo is Do that fails the test on an error.
func (s *Server) MustDo(args ...string) string {
	s.tb.Helper()
	reply, err := s.Do(args...)
	if err != nil {
		s.tb.Fatal(err)
	}
	return reply
}

// Await runs a command, its words separated by spaces, until ok accepts what it
// returns.
func (s *Server) Await(command string, ok func(reply string, err error) bool) {
	s.tb.Helper()
	err := poll(startTimeout, nil, func() error {
		reply, err := s.Do(strings.Fields(command)...)
		if !ok(reply, err) {
			return fmt.Errorf("%s on %s: %q, %v", command, s.Addr, reply, err) //nolint:errorlint // may be nil
		}
		return nil
	})
	if err != nil {
		s.tb.Fatalf("redistest: %v", err)
	}
}

// answering reports whether the server is up and not paused.
func (s *Server) answering() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc != nil && s.proc.running() && !s.paused
}

// launch starts the process unless it runs and waits until it answers.
func (s *Server) launch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil && s.proc.running() {
		return nil
	}
	args := []string{"redis.conf"}
	if s.cfg.sentinel {
		args = append(args, "--sentinel")
	}
	proc, err := startProcess(s.dir, s.bin, args...)
	if err != nil {
		return err
	}
	if err := poll(startTimeout, proc.done, func() error { return s.answers(proc) }); err != nil {
		proc.kill()
		log := s.log()
		if bytes.Contains(log, []byte("Address already in use")) {
			err = fmt.Errorf("%w: %w", errPortTaken, err)
		}
		s.tb.Logf("redistest: log of the server on %s:\n%s", s.Addr, log)
		return fmt.Errorf("the server on %s did not start: %w", s.Addr, err)
	}
	s.proc, s.paused = proc, false
	if s.cfg.sentinel {
		_, err = s.Do(sentinelPace...)
	}
	return err
}

// answers reports whether it is proc that answers at our address, and ready.
func (s *Server) answers(proc *process) error {
	if _, err := s.Do("PING"); err != nil {
		return err
	}
	info, err := s.Do("INFO", "server")
	if err != nil {
		return err
	}
	if !strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", proc.pid())) {
		return fmt.Errorf("another server answers: %w", syscall.EADDRINUSE)
	}
	return nil
}

// log is what the server wrote last.
func (s *Server) log() []byte {
	out, _ := os.ReadFile(filepath.Join(s.dir, "output.log"))
	log, _ := os.ReadFile(filepath.Join(s.dir, "redis.log"))
	const most = 8 << 10
	return append(out, log[max(0, len(log)-most):]...)
}

func (s *Server) cleanup() {
	s.Kill()
	s.releasePorts()
}

// field is the value of a line "name:value" in a reply of INFO or CLUSTER INFO.
func (s *Server) field(name string, command ...string) (string, error) {
	reply, err := s.Do(command...)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(reply) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return value, nil
		}
	}
	return "", fmt.Errorf("%v of %s has no %q", command, s.Addr, name)
}

// expect reports the first of the given fields that has another value.
func (s *Server) expect(command []string, fields ...[2]string) error {
	for _, f := range fields {
		got, err := s.field(f[0], command...)
		if err != nil {
			return err
		}
		if got != f[1] {
			return fmt.Errorf("%s: %s is %q, not %q", s.Addr, f[0], got, f[1])
		}
	}
	return nil
}

// replicates returns nil once the server receives what its master writes. That is
// later than the link is up: the master streams only after the replica's first
// acknowledgement. Its pings, one a second, move the offset off 0.
func (s *Server) replicates() error {
	command := []string{"INFO", "replication"}
	err := s.expect(command, [2]string{"role", "slave"}, [2]string{"master_link_status", "up"})
	if err != nil {
		return err
	}
	if s.expect(command, [2]string{"slave_repl_offset", "0"}) == nil {
		return fmt.Errorf("%s has received nothing from its master", s.Addr)
	}
	return nil
}
