// Package redistest runs real Redis servers for tests: a single server, a
// Cluster, a master with its Sentinels, and a [Proxy] that makes the network
// between a client and a server misbehave.
//
//	srv := redistest.Start(t)
//	client := redis.NewClient(&redis.Options{Addr: srv.Addr})
//	srv.Kill()    // a crash
//	srv.Restart() // same address, empty unless WithPersistence was given
//
// Every server listens on loopback only, on ports of its own, works in a
// temporary directory of its own and is gone when its test ends. On Linux it is
// also gone when the test binary dies without cleaning up, and its ports stay
// reserved for it while it is down; elsewhere both hold as far as the system
// allows. The package needs redis-server in the PATH: without it a test is
// skipped, or fails if the environment says CI=true. [StartCluster] and
// [StartSentinel] need Redis 7.
package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	startTimeout = 20 * time.Second // for a server to answer; much more than it needs, for loaded machines
	stopTimeout  = 10 * time.Second // for a server to obey SIGTERM
	pollInterval = 10 * time.Millisecond
)

// Servers that ask for credentials know this user too, so that Do, replicas and
// Sentinels get in whatever the test does to the others.
const (
	adminUser     = "redistest"
	adminPassword = "redistest"
)

// An Option changes how servers are started.
type Option func(*config)

type config struct {
	lines    []string // of redis.conf, after our own
	port     int      // 0: any that is free
	admin    bool     // adminUser exists
	cluster  bool     // a node of a Cluster
	sentinel bool     // a Sentinel, not a server
}

func newConfig(opts []Option) config {
	var c config
	for _, opt := range opts {
		opt(&c)
	}
	return c
}

func (c *config) add(format string, args ...any) {
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

// WithConfig sets a directive of redis.conf, with its values as they would be
// written there: WithConfig("maxmemory", "10mb"). It overrides what the package
// sets itself.
func WithConfig(directive string, values ...string) Option {
	return func(c *config) {
		words := []string{directive}
		for _, value := range values {
			if value == "" {
				value = `""`
			}
			words = append(words, value)
		}
		c.add("%s", strings.Join(words, " "))
	}
}

// WithPersistence keeps every acknowledged write across Kill and Restart.
func WithPersistence() Option {
	return func(c *config) { c.add("appendonly yes\nappendfsync always") }
}

// WithPassword demands a password of the default user.
func WithPassword(password string) Option {
	return func(c *config) {
		c.add("requirepass %s", strconv.Quote(password))
		c.admin = true
	}
}

// WithACL defines users, each in the form "alice on >secret ~app:* +@all".
func WithACL(users ...string) Option {
	return func(c *config) {
		for _, user := range users {
			c.add("user %s", user)
		}
		c.admin = true
	}
}

// OnPort starts the server on a port of the caller's choice, for example that of
// a server killed before.
func OnPort(port int) Option {
	return func(c *config) { c.port = port }
}

// file is the configuration file of a server on the given ports.
func (c *config) file(port, busPort int) []byte {
	own := []string{
		"port " + strconv.Itoa(port),
		"bind 127.0.0.1",
		"daemonize no",
		"logfile redis.log",
	}
	if !c.sentinel {
		own = append(own, `save ""`, "appendonly no", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
	}
	if c.admin {
		own = append(own,
			"user "+adminUser+" on >"+adminPassword+" ~* &* +@all",
			"masteruser "+adminUser,
			"masterauth "+adminPassword)
	}
	if c.cluster {
		own = append(own,
			"cluster-enabled yes",
			"cluster-config-file nodes.conf",
			"cluster-port "+strconv.Itoa(busPort),
			"cluster-announce-ip 127.0.0.1",
			"cluster-node-timeout 1000",
			"cluster-allow-replica-migration no")
	}
	var file []byte
	for _, line := range slices.Concat(own, c.lines) {
		file = append(append(file, line...), '\n')
	}
	return file
}

// binary finds redis-server or ends the test: with -short nothing real is started.
func binary(tb testing.TB) string {
	tb.Helper()
	if testing.Testing() && testing.Short() { // bench and faults also start servers outside of tests
		tb.Skip("redistest: real servers are not for -short")
	}
	path, err := exec.LookPath("redis-server")
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		tb.Fatalf("redistest: redis-server is not in the PATH: %v", err)
	default:
		tb.Skipf("redistest: needs redis-server in the PATH (CI=true makes this a failure): %v", err)
	}
	return path
}

// poll calls condition until it returns nil, the time is up or stop is closed;
// in the latter cases it returns the condition's last error.
func poll(timeout time.Duration, stop <-chan struct{}, condition func() error) error {
	deadline := time.Now().Add(timeout)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("gave up after %v: %w", timeout, err)
		}
		select {
		case <-stop:
			return err
		case <-tick.C:
		}
	}
}
