package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// await runs op beside the caller, so that the caller's context and
// storeTimeout hold however long the client's own time-outs are. When the
// caller has gone, so has op's context: what is not sent yet is not sent.
func await[T any](ctx context.Context, s *RedisStore, op func(context.Context) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	if err := s.life.begin(); err != nil {
		return zero, err
	}
	c := &call[T]{Context: ctx, over: make(chan struct{})}
	w, _ := s.waits.Get().(*wait)
	if w == nil {
		w = &wait{done: make(chan struct{}, 1), timeout: time.NewTimer(storeTimeout)}
	} else {
		w.timeout.Reset(storeTimeout)
	}
	go func() {
		defer s.life.end()
		defer func() { w.done <- struct{}{} }() // whatever op does
		c.run(s, op)
	}()
	select {
	case <-w.done:
		w.timeout.Stop() // before somebody else sets it
		s.waits.Put(w)
		return c.value, c.err
	case <-ctx.Done():
		w.timeout.Stop()
		close(c.over)
		return zero, ctx.Err()
	case <-w.timeout.C:
		close(c.over)
		s.reloadTopology(errTimeout)
		return zero, fmt.Errorf("no answer from Redis in %s", storeTimeout)
	}
}

// reloadTopology has a Cluster client look for who serves what after an
// operation that got no answer. go-redis does so only once a minute and when a
// node sends it elsewhere, which a dead master does not; it limits the rate
// itself.
func (s *RedisStore) reloadTopology(err error) {
	if cluster, ok := s.client.(*redis.ClusterClient); ok && !isReply(err) {
		cluster.ReloadState(context.Background())
	}
}

// wait is what await can use again, once the answer has come.
type wait struct {
	done    chan struct{}
	timeout *time.Timer
}

// call is an operation's context, which is its caller's until the caller has
// gone, and its result. It is cheaper than a context of package context, which
// every read would pay for.
type call[T any] struct {
	context.Context
	over  chan struct{}
	value T
	err   error
}

// run runs op, which goes through hooks, dialers and providers of credentials
// that are not ours.
func (c *call[T]) run(s *RedisStore, op func(context.Context) (T, error)) {
	returned := false
	defer func() {
		if !returned {
			c.err = brokenOff(recover())
		}
	}()
	c.value, c.err = op(c)
	if c.err != nil {
		c.err = s.explain(c.err)
		s.reloadTopology(c.err)
	}
	returned = true
}

// brokenOff is the error of what ended by a panic or by [runtime.Goexit]. What
// it panicked with may hold a password, so only the type is told.
func brokenOff(panicked any) error {
	if panicked == nil {
		return errors.New("session: the Redis client ended its goroutine")
	}
	return fmt.Errorf("session: panic in the Redis client: %T", panicked)
}

func (c *call[T]) Done() <-chan struct{} { return c.over }

func (c *call[T]) Err() error {
	select {
	case <-c.over:
		return context.Canceled
	default:
		return nil
	}
}

// guarded runs what uses the client in a goroutine of ours, and makes an error
// of a panic.
func guarded(run func() error) (err error) {
	returned := false
	defer func() {
		if !returned {
			err = brokenOff(recover())
		}
	}()
	err = run()
	returned = true
	return err
}
