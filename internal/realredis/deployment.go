package realredis

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Cluster is a Redis Cluster.
type Cluster struct {
	Nodes []*Server // the masters first, then their replicas
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// StartCluster starts a Cluster of masters that share the slots evenly, each
// with the given number of replicas.
func StartCluster(tb testing.TB, masters, replicas int) *Cluster {
	tb.Helper()
	c := &Cluster{}
	for range masters * (1 + replicas) {
		c.Nodes = append(c.Nodes, Start(tb,
			WithConfig("cluster-enabled", "yes"),
			WithConfig("cluster-config-file", "nodes.conf"),
			WithConfig("cluster-node-timeout", "1000"),
			WithConfig("cluster-replica-validity-factor", "0"),
		))
	}
	const slots = 16384
	for i, n := range c.Nodes[:masters] {
		n.MustDo("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
		n.MustDo("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		if i > 0 {
			c.Nodes[0].meet(n)
		}
	}
	for _, n := range c.Nodes[masters:] {
		c.Nodes[0].meet(n)
	}
	for _, n := range c.Nodes {
		n.Await("CLUSTER INFO", func(answer string, _ error) bool {
			return strings.Contains(answer, "cluster_state:ok") &&
				strings.Contains(answer, fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes)))
		})
	}
	for i, n := range c.Nodes[masters:] {
		n.MustDo("CLUSTER", "REPLICATE", c.Nodes[i%masters].MustDo("CLUSTER", "MYID"))
	}
	for i, n := range c.Nodes[masters:] {
		n.Await("INFO replication", replicating)
		_ = i
	}
	for _, n := range c.Nodes {
		n.Await("CLUSTER NODES", func(answer string, _ error) bool {
			return strings.Count(answer, "slave") == masters*replicas && !strings.Contains(answer, "handshake")
		})
	}
	return c
}

func (s *Server) meet(other *Server) {
	s.MustDo("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(other.Port))
}

func replicating(answer string, _ error) bool {
	return strings.Contains(answer, "master_link_status:up")
}

// Sentinel is a master with a replica, watched by three sentinels.
type Sentinel struct {
	MasterName string
	Master     *Server
	Replica    *Server
	Sentinels  []*Server
}

// Addrs returns the addresses of the sentinels.
func (s *Sentinel) Addrs() []string {
	var addrs []string
	for _, n := range s.Sentinels {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// StartSentinel starts a master, a replica and three sentinels, which need half
// a second to find the master down.
func StartSentinel(tb testing.TB) *Sentinel {
	tb.Helper()
	d := &Sentinel{MasterName: "sessions", Master: Start(tb)}
	d.Replica = Start(tb, WithConfig("replicaof", "127.0.0.1", strconv.Itoa(d.Master.Port)),
		WithConfig("repl-diskless-sync-delay", "0"))
	d.Replica.Await("INFO replication", replicating)
	for range 3 {
		s := New(tb)
		conf := filepath.Join(s.dir, "sentinel.conf")
		text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor %s 127.0.0.1 %d 2\n"+
			"sentinel down-after-milliseconds %s 500\nsentinel failover-timeout %s 2000\n",
			s.Port, s.dir, d.MasterName, d.Master.Port, d.MasterName, d.MasterName)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		s.start("redis-server", conf, "--sentinel")
		d.Sentinels = append(d.Sentinels, s)
	}
	for _, s := range d.Sentinels {
		s.Await("SENTINEL MASTER "+d.MasterName, func(answer string, err error) bool {
			return strings.Contains(answer, "num-slaves\n1") && strings.Contains(answer, "num-other-sentinels\n2")
		})
	}
	return d
}
