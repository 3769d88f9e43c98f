package session

import "sync"

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
// running.Wait then waits for those that have begun.
func (l *lifetime) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.closed
	l.closed = true
	return first
}
