package session

import (
	"context"
	"sync"
	"time"
)

// lifetime counts the calls that run on something that can be closed.
type lifetime struct {
	// ctx ends with close, late when close has waited for what it waits for.
	// Both are nil in a lifetime that only counts.
	ctx, late         context.Context
	cancel, cancelAll context.CancelFunc

	mu      sync.Mutex
	closed  bool           // guarded by mu
	running sync.WaitGroup // added to under mu, so never after close
	spent   sync.WaitGroup // those of running that hold the answer to a single-use token
}

// newLifetime returns a lifetime with contexts.
func newLifetime() *lifetime {
	l := new(lifetime)
	l.late, l.cancelAll = context.WithCancel(context.Background())
	l.ctx, l.cancel = context.WithCancel(l.late)
	return l
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

// beginSpending registers, for a call that has begun, that a single-use token is
// about to be spent, so that close waits for longer; done says that its
// successor is stored. It returns ErrClosed after close.
func (l *lifetime) beginSpending() (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	l.spent.Add(1)
	return l.spent.Done, nil
}

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
func (l *lifetime) wait(limit time.Duration) bool { return waitIn(&l.running, limit) }

// waitSpent is wait for those that hold the answer to a single-use token.
func (l *lifetime) waitSpent(limit time.Duration) bool { return waitIn(&l.spent, limit) }

func waitIn(calls *sync.WaitGroup, limit time.Duration) bool {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		calls.Wait()
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
