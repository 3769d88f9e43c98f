package redistest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	slots            = 16384
	formationTimeout = 60 * time.Second // for a deployment to find together
)

// A Cluster is a Redis Cluster.
type Cluster struct {
	Nodes []*Server // the masters it was started with, then their replicas in turn

	masters int
}

// StartCluster starts a Cluster whose masters share all slots, each with the
// given number of replicas, and waits until every node says that it is well. A
// node is held for dead after a second, so that failover is quick; the options
// apply to all nodes.
func StartCluster(tb testing.TB, masters, replicas int, opts ...Option) *Cluster {
	tb.Helper()
	c := &Cluster{masters: masters}
	for range masters * (1 + replicas) {
		cfg := newConfig(opts)
		cfg.cluster = true
		node := newServer(tb, cfg)
		node.startAnywhere()
		c.Nodes = append(c.Nodes, node)
	}
	if err := c.form(); err != nil {
		tb.Fatalf("redistest: cluster: %v", err)
	}
	return c
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string { return addrs(c.Nodes) }

// Owner returns the node that serves the key, as the first node that is up sees
// it, or nil if that sees none alive.
func (c *Cluster) Owner(key string) *Server {
	for _, node := range c.Nodes {
		if !node.answering() {
			continue
		}
		slot, err := node.Do("CLUSTER", "KEYSLOT", key)
		if err != nil {
			continue
		}
		view, err := node.view()
		if err != nil {
			continue
		}
		n, _ := strconv.Atoi(slot)
		for _, peer := range view {
			if !peer.dead && peer.master && peer.owns(n) {
				return c.node(peer.addr)
			}
		}
		return nil
	}
	return nil
}

func (c *Cluster) node(addr string) *Server {
	for _, node := range c.Nodes {
		if node.Addr == addr {
			return node
		}
	}
	return nil
}

func (c *Cluster) form() error {
	for i, node := range c.Nodes {
		if _, err := node.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)); err != nil {
			return err
		}
		if i < c.masters {
			first, last := i*slots/c.masters, (i+1)*slots/c.masters-1
			_, err := node.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last))
			if err != nil {
				return err
			}
		}
	}
	if err := poll(formationTimeout, nil, c.meet); err != nil {
		return err
	}
	for i, node := range c.Nodes[c.masters:] {
		id, err := c.Nodes[i%c.masters].Do("CLUSTER", "MYID")
		if err != nil {
			return err
		}
		if _, err := node.Do("CLUSTER", "REPLICATE", id); err != nil {
			return err
		}
	}
	return poll(formationTimeout, nil, c.wellFormed)
}

// meet introduces to the first node all those it does not know, which it may also
// have forgotten because the handshake took too long. It returns nil once all
// know all.
func (c *Cluster) meet() error {
	view, err := c.Nodes[0].view()
	if err != nil {
		return err
	}
	for _, node := range c.Nodes[1:] {
		if view.knows(node.Addr) {
			continue
		}
		bus := strconv.Itoa(node.busPort)
		if _, err := c.Nodes[0].Do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(node.Port), bus); err != nil {
			return err
		}
	}
	for _, node := range c.Nodes {
		view, err := node.view()
		if err != nil {
			return err
		}
		for _, other := range c.Nodes {
			if !view.met(other.Addr) {
				return fmt.Errorf("%s has not met %s", node.Addr, other.Addr)
			}
		}
	}
	return nil
}

// wellFormed reports the first thing that is wrong with the cluster in the eyes
// of any node.
func (c *Cluster) wellFormed() error {
	for i, node := range c.Nodes {
		err := node.expect([]string{"CLUSTER", "INFO"},
			[2]string{"cluster_state", "ok"},
			[2]string{"cluster_slots_ok", strconv.Itoa(slots)},
			[2]string{"cluster_known_nodes", strconv.Itoa(len(c.Nodes))})
		if err != nil {
			return err
		}
		if i >= c.masters {
			if err := node.replicates(); err != nil {
				return err
			}
		}
		view, err := node.view()
		if err != nil {
			return err
		}
		if got := view.masters(); got != c.masters {
			return fmt.Errorf("%s sees %d masters, not %d", node.Addr, got, c.masters)
		}
	}
	return nil
}

// A view is what a node says of all nodes, itself included.
type view []peer

type peer struct {
	addr   string
	master bool
	dead   bool
	met    bool     // the handshake is over
	ranges []string // of slots: "7", "0-5460"
}

// view parses CLUSTER NODES: id, address@bus[,host], flags, master, two times,
// epoch, link, slots.
func (s *Server) view() (view, error) {
	reply, err := s.Do("CLUSTER", "NODES")
	if err != nil {
		return nil, err
	}
	var v view
	for line := range strings.Lines(reply) {
		f := strings.Fields(line)
		if len(f) < 8 {
			return nil, fmt.Errorf("%s: unexpected line of CLUSTER NODES: %q", s.Addr, line)
		}
		addr, _, _ := strings.Cut(f[1], "@")
		p := peer{addr: addr, met: true, ranges: f[8:]}
		for flag := range strings.SplitSeq(f[2], ",") {
			switch flag {
			case "master":
				p.master = true
			case "fail":
				p.dead = true
			case "handshake":
				p.met = false
			}
		}
		v = append(v, p)
	}
	return v, nil
}

func (v view) knows(addr string) bool {
	for _, p := range v {
		if p.addr == addr {
			return true
		}
	}
	return false
}

func (v view) met(addr string) bool {
	for _, p := range v {
		if p.addr == addr && p.met {
			return true
		}
	}
	return false
}

func (v view) masters() int {
	n := 0
	for _, p := range v {
		if p.master {
			n++
		}
	}
	return n
}

func (p peer) owns(slot int) bool {
	for _, r := range p.ranges {
		from, to, ok := strings.Cut(r, "-")
		if !ok {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 == nil && err2 == nil && first <= slot && slot <= last { // else a slot on the move
			return true
		}
	}
	return false
}

func addrs(servers []*Server) []string {
	list := make([]string, len(servers))
	for i, s := range servers {
		list[i] = s.Addr
	}
	return list
}
