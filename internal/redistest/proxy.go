package redistest

import (
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between clients and a server and makes the network between them
// misbehave. Clients dial Addr. Every fault is in force when the method that
// calls for it returns, and Restore ends them all. The methods may be called from
// any goroutine.
type Proxy struct {
	// Addr is the address to give to the client, host and port.
	Addr string

	tb      testing.TB
	target  string
	port    int
	release func() // of the port

	refusing sync.Mutex // held while the listener changes; before mu

	mu       sync.Mutex
	listener *net.TCPListener   // guarded by mu; nil while refusing
	links    map[*link]struct{} // guarded by mu
	dark     bool               // guarded by mu; new links are blackholed
	delay    time.Duration      // guarded by mu
	cut      *cut               // guarded by mu; nil unless armed
	closed   bool               // guarded by mu

	accepting sync.WaitGroup // the accept loop
	serving   sync.WaitGroup // the links
}

// A cut waits for the first link on which n more bytes of replies pass.
type cut struct {
	n    int
	seen map[*link]int
}

// NewProxy starts a proxy to target, which need not be up. It is closed when the
// test ends.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	port, release, err := reservePort(0)
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	p := &Proxy{
		Addr:    net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		tb:      tb,
		target:  target,
		port:    port,
		release: release,
		links:   make(map[*link]struct{}),
	}
	tb.Cleanup(p.close)
	p.Refuse(false)
	return p
}

// Blackhole stops all bytes on all connections, those open and those to come.
// They stay open: neither side hears from the other, nor of the other's end.
// What was under way arrives after Restore.
func (p *Proxy) Blackhole() { p.blackhole(true) }

// BlackholeExisting is Blackhole for the connections that are open now; new ones
// work.
func (p *Proxy) BlackholeExisting() { p.blackhole(false) }

func (p *Proxy) blackhole(dark bool) {
	p.mu.Lock()
	p.dark = p.dark || dark
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		if l.gate == nil {
			l.gate = make(chan struct{})
		}
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.quiesce()
	}
}

// Cut resets all open connections, towards both sides. New ones work.
func (p *Proxy) Cut() {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.reset()
	}
	for _, l := range links {
		<-l.done
	}
}

// CutAfter arms a single reset: the first connection, open or new, on which n
// more bytes of replies pass is reset right after them, others are left alone.
// CutAfter(0) loses the next reply altogether: its command has been carried out.
func (p *Proxy) CutAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = &cut{n: n, seen: make(map[*link]int)}
}

// Delay holds back every chunk of bytes for d, in each direction: a round trip
// takes at least 2d.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Refuse makes the system refuse new connections, as it does for a server that
// is down, or accept them again. Open connections are left alone.
func (p *Proxy) Refuse(refuse bool) {
	p.tb.Helper()
	p.refusing.Lock()
	defer p.refusing.Unlock()

	p.mu.Lock()
	listener, closed := p.listener, p.closed
	p.mu.Unlock()
	switch {
	case refuse && listener != nil:
		p.mu.Lock()
		p.listener = nil
		p.mu.Unlock()
		_ = listener.Close()
		p.accepting.Wait()
	case !refuse && listener == nil && !closed:
		if err := poll(startTimeout, nil, p.listen); err != nil {
			p.tb.Fatalf("redistest: proxy: %v", err)
		}
	}
}

// Restore ends all faults. Blackholed connections go on where they stood.
func (p *Proxy) Restore() {
	p.tb.Helper()
	p.mu.Lock()
	p.dark, p.delay, p.cut = false, 0, nil
	for l := range p.links {
		if l.gate != nil {
			close(l.gate)
			l.gate = nil
		}
	}
	p.mu.Unlock()
	p.Refuse(false)
}

func (p *Proxy) listen() error {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p.port})
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.listener = ln
	p.mu.Unlock()
	p.accepting.Go(func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			p.admit(conn)
		}
	})
	return nil
}

func (p *Proxy) admit(client *net.TCPConn) {
	l := &link{
		proxy:  p,
		client: client,
		ended:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		reset(client)
		return
	}
	if p.dark {
		l.gate = make(chan struct{})
	}
	p.links[l] = struct{}{}
	p.serving.Go(l.run)
}

// take counts bytes of a reply that are about to pass l. It returns how many of
// them may, and whether l is to be reset after them.
func (p *Proxy) take(l *link, n int) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut == nil {
		return n, false
	}
	left := p.cut.n - p.cut.seen[l]
	if n < left {
		p.cut.seen[l] += n
		return n, false
	}
	p.cut = nil
	return left, true
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Refuse(true)
	p.Cut()
	p.serving.Wait()
	p.release()
}
