package session

import (
	"sync"
	"time"
)

// lifetime counts the calls that run on something that can be closed.
type lifetime struct {
	mu      sync.Mutex
	closed  bool           // guarded by mu
	running sync.WaitGroup // added to under mu, so never after close
}

// begin registers a call, which calls end when it is over, or returns
// ErrClosed.
func (l *lifetime) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.running.Add(1)
	return nil
}

func (l *lifetime) end() { l.running.Done() }

// close refuses further calls and reports whether it is the first to do so.
func (l *lifetime) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.closed
	l.closed = true
	return first
}

// wait waits for the calls that have begun before close, and reports whether
// they ended in time.
func (l *lifetime) wait(limit time.Duration) bool {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.running.Wait()
	}()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-ended:
		return true
	case <-timeout.C:
		return false
	}
}
