package botcmd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"
)

// Bounds of what waits, so that nobody fills the memory or starves the others.
const (
	maxWaiting    = 20   // commands of one user; what comes on top is refused
	maxRefused    = 80   // refusals of one user; what comes on top is dropped
	maxAllWaiting = 2000 // of all users
)

const (
	closeGrace = 10 * time.Second // for what was accepted before Close
	closeAbort = 5 * time.Second  // for what is told to stop after that
)

// A task is what one message asks for.
type task struct {
	do     func(context.Context)
	refuse func(context.Context) // in place of do, if too much of the user's is waiting; nil for nothing
}

// A queue runs the tasks of each user one after the other, and those of different
// users side by side up to a limit.
type queue struct {
	timeout time.Duration
	slots   chan struct{} // one for each task that runs
	aborted context.Context
	abort   context.CancelFunc
	running sync.WaitGroup // a worker for each user with tasks

	mu      sync.Mutex
	closed  bool                    // guarded by mu
	waiting map[id.UserID]*userLine // guarded by mu; has an entry for each worker
	total   int                     // guarded by mu
}

// userLine is what waits of one user.
type userLine struct {
	next    []func()
	refused int
}

func newQueue(timeout time.Duration, concurrency int) *queue {
	q := &queue{timeout: timeout, slots: make(chan struct{}, concurrency), waiting: make(map[id.UserID]*userLine)}
	q.aborted, q.abort = context.WithCancel(context.Background())
	return q
}

// add has the task run with the values of ctx and a deadline of its own. It
// reports whether it will be: not after close, and not if too much is waiting.
func (q *queue) add(ctx context.Context, user id.UserID, t task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := q.waiting[user]
	run := t.do
	switch {
	case q.closed || q.total >= maxAllWaiting:
		return false
	case line == nil:
		line = new(userLine)
		q.waiting[user] = line
		q.running.Go(func() { q.work(user, line) })
	case len(line.next) >= maxWaiting:
		if t.refuse == nil || line.refused >= maxRefused {
			return false
		}
		line.refused++
		run = t.refuse
	}
	q.total++
	line.next = append(line.next, func() { q.one(ctx, run) })
	return true
}

// work runs a user's tasks until there are no more.
func (q *queue) work(user id.UserID, line *userLine) {
	for {
		q.mu.Lock()
		if len(line.next) == 0 {
			delete(q.waiting, user)
			q.mu.Unlock()
			return
		}
		run := line.next[0]
		q.mu.Unlock()
		select {
		case q.slots <- struct{}{}:
		case <-q.aborted.Done():
			return
		}
		run()
		<-q.slots
		q.mu.Lock()
		line.next = line.next[1:]
		q.total--
		q.mu.Unlock()
	}
}

func (q *queue) one(ctx context.Context, run func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.timeout)
	defer cancel()
	defer context.AfterFunc(q.aborted, cancel)()
	run(ctx)
}

// close waits until what was added has run, aborts what takes too long, and
// refuses what is added from now on.
func (q *queue) close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	defer q.abort()
	done := make(chan struct{})
	go func() {
		q.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(closeGrace):
	}
	q.mu.Lock()
	left := q.total
	q.mu.Unlock()
	q.abort()
	select {
	case <-done:
		return fmt.Errorf("botcmd: Close: %d commands were given up after %s", left, closeGrace)
	case <-time.After(closeAbort):
		return fmt.Errorf("botcmd: Close: commands still running after %s", closeGrace+closeAbort)
	}
}
