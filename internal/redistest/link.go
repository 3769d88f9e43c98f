package redistest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A link is one connection through a Proxy: the client's, and the one made to
// the target on its behalf.
type link struct {
	proxy  *Proxy
	client *net.TCPConn
	server *net.TCPConn  // guarded by proxy.mu; nil until dialled
	gate   chan struct{} // guarded by proxy.mu; not nil while blackholed, closed after

	writing [2]sync.Mutex // held during a write: to the server, to the client

	end   sync.Once
	ended chan struct{} // closed when the link is to end
	done  chan struct{} // closed when it has
}

var errEnded = errors.New("link ended")

func (l *link) run() {
	defer close(l.done)
	defer func() {
		l.proxy.mu.Lock()
		delete(l.proxy.links, l)
		l.proxy.mu.Unlock()
	}()
	if err := l.dial(); err != nil {
		l.reset()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.forward(l.server, l.client, false) })
	both.Go(func() { l.forward(l.client, l.server, true) })
	both.Wait()
	_ = l.client.Close()
	_ = l.server.Close()
}

func (l *link) dial() error {
	if err := l.pass(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	go func() {
		select {
		case <-l.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", l.proxy.target)
	if err != nil {
		return err
	}
	server := conn.(*net.TCPConn)
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	select {
	case <-l.ended: // reset did not see this connection
		reset(server)
		return errEnded
	default:
		l.server = server
		return nil
	}
}

// forward copies from src to dst until src ends, which it passes on like the
// bytes: an orderly end as such, anything else as a reset of both sides.
func (l *link) forward(dst, src *net.TCPConn, reply bool) {
	buf := make([]byte, 32<<10)
	for {
		n, readErr := src.Read(buf)
		err := l.deliver(dst, buf[:n], reply)
		if err == nil && readErr != nil {
			err = l.pass()
		}
		switch {
		case err != nil, readErr != nil && !errors.Is(readErr, io.EOF):
			l.reset()
			return
		case readErr != nil:
			_ = dst.CloseWrite()
			return
		}
	}
}

// deliver writes a chunk to dst, when and as far as the faults allow.
func (l *link) deliver(dst *net.TCPConn, chunk []byte, reply bool) error {
	if len(chunk) == 0 {
		return nil
	}
	if err := l.wait(); err != nil {
		return err
	}
	last := false
	if reply {
		var n int
		n, last = l.proxy.take(l, len(chunk))
		chunk = chunk[:n]
	}
	for len(chunk) > 0 {
		if err := l.pass(); err != nil {
			return err
		}
		n, err := l.write(dst, chunk, reply)
		chunk = chunk[n:]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // that is quiesce
			return err
		}
	}
	if last {
		return errEnded
	}
	return nil
}

// write writes to dst unless the link is blackholed.
func (l *link) write(dst *net.TCPConn, chunk []byte, reply bool) (int, error) {
	writing := &l.writing[0]
	if reply {
		writing = &l.writing[1]
	}
	writing.Lock()
	defer writing.Unlock()
	if l.blackholed() != nil {
		return 0, nil
	}
	return dst.Write(chunk)
}

// quiesce returns once no write is under way. The gate is closed, so none begins.
func (l *link) quiesce() {
	l.proxy.mu.Lock()
	server := l.server
	l.proxy.mu.Unlock()
	if server == nil {
		return // it will be met by the gate
	}
	for i, dst := range []*net.TCPConn{server, l.client} {
		_ = dst.SetWriteDeadline(time.Now()) // for a write that waits for its reader
		l.writing[i].Lock()
		_ = dst.SetWriteDeadline(time.Time{})
		l.writing[i].Unlock()
	}
}

func (l *link) blackholed() chan struct{} {
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	return l.gate
}

// pass waits while the link is blackholed.
func (l *link) pass() error {
	for {
		gate := l.blackholed()
		if gate == nil {
			return nil
		}
		select {
		case <-gate:
		case <-l.ended:
			return errEnded
		}
	}
}

// wait holds a chunk back for the proxy's delay.
func (l *link) wait() error {
	l.proxy.mu.Lock()
	delay := l.proxy.delay
	l.proxy.mu.Unlock()
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-l.ended:
		return errEnded
	}
}

// reset ends the link with a reset towards both sides.
func (l *link) reset() {
	l.end.Do(func() {
		l.proxy.mu.Lock()
		defer l.proxy.mu.Unlock()
		close(l.ended)
		reset(l.client)
		if l.server != nil {
			reset(l.server)
		}
	})
}

func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
