package redistest

import (
	"bytes"
	"context"
	"net"
	"sync"
)

// Freezer dials for a client and can freeze its change feed, the connection that
// asked for CLIENT TRACKING: it stays open, and nothing arrives any more.
type Freezer struct {
	mu    sync.Mutex
	feeds []*freezable // guarded by mu
}

// Dial is for redis.Options.Dialer.
func (f *Freezer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &freezable{Conn: conn, owner: f, closed: make(chan struct{})}, nil
}

// Freeze freezes the feeds that there are. What is dialed later is not frozen.
func (f *Freezer) Freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.feeds {
		c.mu.Lock()
		c.frozen = true
		c.mu.Unlock()
	}
	f.feeds = nil
}

type freezable struct {
	net.Conn
	owner  *Freezer
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex
	frozen bool // guarded by mu
}

// Write tells the feed from other connections by what is sent over it.
func (c *freezable) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("tracking")) {
		c.owner.mu.Lock()
		c.owner.feeds = append(c.owner.feeds, c)
		c.owner.mu.Unlock()
	}
	return c.Conn.Write(b)
}

func (c *freezable) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	frozen := c.frozen
	c.mu.Unlock()
	if frozen {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *freezable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
