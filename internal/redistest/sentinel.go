package redistest

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// sentinelPace is set on every Sentinel that starts. The ping period must be well
// below down-after-milliseconds: as long as that, which is what a Sentinel makes
// of it by itself, each new master is held for dead before it has been asked, and
// the roles change back and forth. Nor may it be 200 ms or less: of a replica whose
// master is down a Sentinel asks news every second, and does not promote one whose
// news is older than five ping periods. The others spare waiting: for Sentinels to find
// each other (2 s), for an old master to be made a replica (four publish periods),
// and for a Sentinel that stood still to trust its clock again (30 s).
var sentinelPace = []string{
	"SENTINEL", "DEBUG",
	"ping-period", "250",
	"publish-period", "200",
	"info-period", "1000",
	"tilt-period", "1000",
}

// A Sentinel is a master with a replica, watched by three Sentinels of which two
// must agree.
type Sentinel struct {
	MasterName string
	Master     *Server // at the start; see MasterAddr
	Replica    *Server // at the start
	Sentinels  []*Server
}

// StartSentinel starts a master, its replica and three Sentinels and waits until
// all of them know each other. They replace a dead master within some two seconds.
// The options apply to the master and the replica.
func StartSentinel(tb testing.TB, opts ...Option) *Sentinel {
	tb.Helper()
	d := &Sentinel{MasterName: "sessions", Master: Start(tb, opts...)}
	master := strconv.Itoa(d.Master.Port)
	cfg := newConfig(opts)
	cfg.add("replicaof 127.0.0.1 %s", master)
	d.Replica = newServer(tb, cfg)
	d.Replica.startAnywhere()

	if err := poll(formationTimeout, nil, d.Replica.replicates); err != nil {
		tb.Fatalf("redistest: replica: %v", err)
	}
	for i := range 3 {
		watcher := config{sentinel: true}
		watcher.add("sentinel monitor %s 127.0.0.1 %s 2", d.MasterName, master)
		// One after the other: Sentinels that notice at the same moment each vote
		// for themselves, and try again only after twice the failover-timeout.
		watcher.add("sentinel down-after-milliseconds %s %d", d.MasterName, 500+300*i)
		watcher.add("sentinel failover-timeout %s 2000", d.MasterName)
		if cfg.admin {
			watcher.add("sentinel auth-user %s %s", d.MasterName, adminUser)
			watcher.add("sentinel auth-pass %s %s", d.MasterName, adminPassword)
		}
		s := newServer(tb, watcher)
		s.startAnywhere()
		d.Sentinels = append(d.Sentinels, s)
	}
	if err := poll(formationTimeout, nil, d.wellFormed); err != nil {
		tb.Fatalf("redistest: sentinel: %v", err)
	}
	return d
}

// Addrs returns the addresses of the Sentinels.
func (d *Sentinel) Addrs() []string { return addrs(d.Sentinels) }

// MasterAddr returns the address of the present master, as the first Sentinel
// that is up sees it.
func (d *Sentinel) MasterAddr() (string, error) {
	err := errors.New("redistest: no Sentinel is up")
	for _, s := range d.Sentinels {
		if !s.answering() {
			continue
		}
		var reply string
		reply, err = s.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", d.MasterName)
		if host, port, ok := strings.Cut(reply, "\n"); err == nil && ok {
			return net.JoinHostPort(host, port), nil
		}
	}
	return "", err
}

// wellFormed reports the first Sentinel that could not do a failover.
func (d *Sentinel) wellFormed() error {
	for _, s := range d.Sentinels {
		if _, err := s.Do("SENTINEL", "CKQUORUM", d.MasterName); err != nil {
			return err
		}
		err := s.expectPairs([]string{"SENTINEL", "MASTER", d.MasterName}, map[string]string{
			"flags": "master", "num-slaves": "1", "num-other-sentinels": "2",
		})
		if err != nil {
			return err
		}
		err = s.expectPairs([]string{"SENTINEL", "REPLICAS", d.MasterName}, map[string]string{
			"flags": "slave", "master-link-status": "ok",
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// expectPairs is expect for replies that are names and values in turn.
func (s *Server) expectPairs(command []string, want map[string]string) error {
	reply, err := s.Do(command...)
	if err != nil {
		return err
	}
	got := make(map[string]string)
	lines := strings.Split(reply, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		got[lines[i]] = lines[i+1]
	}
	for name, value := range want {
		if got[name] != value {
			return fmt.Errorf("%v on %s: %s is %q, not %q", command, s.Addr, name, got[name], value)
		}
	}
	return nil
}
