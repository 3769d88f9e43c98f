package realredis

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and a server and makes trouble.
type Proxy struct {
	Addr string

	target   string
	listener net.Listener
	done     chan struct{}
	running  sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]struct{} // guarded by mu, both sides
	flow     chan struct{}         // guarded by mu; closed while bytes may flow
	delay    time.Duration         // guarded by mu
	cutAfter int                   // guarded by mu; bytes of replies left, -1: no limit
	refuse   bool                  // guarded by mu
}

// NewProxy starts a proxy to target that runs until the test ends.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{
		Addr:     l.Addr().String(),
		target:   target,
		listener: l,
		done:     make(chan struct{}),
		conns:    make(map[net.Conn]struct{}),
		flow:     make(chan struct{}),
		cutAfter: -1,
	}
	close(p.flow)
	p.running.Go(p.accept)
	tb.Cleanup(func() {
		close(p.done)
		_ = l.Close()
		p.Cut()
		p.running.Wait()
	})
	return p
}

// Blackhole keeps connections open, also new ones, and lets no byte through.
func (p *Proxy) Blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flow:
		p.flow = make(chan struct{})
	default:
	}
}

// Restore ends all trouble; what was held back by Blackhole flows again.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flow:
	default:
		close(p.flow)
	}
	p.delay, p.cutAfter, p.refuse = 0, -1, false
}

// Delay holds back each chunk of bytes, in either direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// CutAfter resets the connection that carries the n-th byte of replies from
// now on.
func (p *Proxy) CutAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAfter = n
}

// Refuse resets new connections.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = true
}

// Cut resets all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		if refuse {
			reset(client)
			continue
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.forget(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.forget(server)
	p.mu.Lock()
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pump(server, client, false) })
	both.Go(func() { p.pump(client, server, true) })
	both.Wait()
}

func (p *Proxy) forget(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) pump(to, from net.Conn, replies bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !p.pass(n, replies, to, from) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				reset(to)
			}
			return
		}
	}
}

// pass waits until n bytes may flow.
func (p *Proxy) pass(n int, replies bool, conns ...net.Conn) bool {
	p.mu.Lock()
	flow, delay := p.flow, p.delay
	cut := false
	if replies && p.cutAfter >= 0 {
		if p.cutAfter -= n; p.cutAfter <= 0 {
			p.cutAfter, cut = -1, true
		}
	}
	p.mu.Unlock()
	if cut {
		for _, c := range conns {
			reset(c)
		}
		return false
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-p.done:
		}
	}
	select {
	case <-flow:
		return true
	case <-p.done:
		return false
	}
}
