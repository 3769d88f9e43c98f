package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// WithHeldKeysTracked has Redis tell this process of changes to the sessions that it
// has read, instead of all: CLIENT TRACKING in its default mode in the place of the
// broadcast mode. A write then costs Redis by the processes that hold the session, not
// by those that exist, but each session that is read again after a change costs Redis
// more, and some memory (at most tracking-table-max-keys, one million by default).
// It pays where there are many processes and each user uses few of them: docs/figures.md
// has the curves.
//
// Reads go through connections of their own, as many as the client has, which hooks of
// the client do not see; an ACL user also needs +client|id. When one of them ends, all
// that this process has read is read again. On a Cluster, and for a second Service on
// the same store, the option changes nothing.
func WithHeldKeysTracked() RedisOption {
	return func(s *RedisStore) error {
		s.heldOnly = true
		return nil
	}
}

// heldReads are the connections whose reads Redis notes, and the feed that is told of
// changes to what was read.
type heldReads struct {
	*redis.Client
	feed Feed
}

// reading is await for what reads a user's record for the near cache, on the connections
// by which Redis notes that this process holds it, if there are such. A feed that ends
// closes those: the client itself then has the last word.
func reading[T any](ctx context.Context, s *RedisStore, userID string, op func(context.Context, redis.UniversalClient, bool) (T, error)) (T, error) {
	return await(ctx, s, func(ctx context.Context) (T, error) {
		if held := s.held.Load(); held != nil {
			got, err := op(ctx, held.Client, true)
			if err == nil || ctx.Err() != nil {
				return got, err
			}
			// What the client reads is not noted, so nobody may believe it.
			defer held.feed.Changed(userID)
		}
		return op(ctx, s.client, false)
	})
}

// heldConn is a connection whose reads Redis notes for as long as it lasts. It is read
// from all the time, so that its end is noticed at once, whoever ends it and whether or
// not somebody uses it.
type heldConn struct {
	net.Conn
	answers net.Conn // what has been read from it
	ended   <-chan struct{}
}

// newHeldConn calls lost when conn has ended.
func newHeldConn(conn net.Conn, lost func()) net.Conn {
	answers, in := net.Pipe()
	ended := make(chan struct{})
	go func() {
		_ = guarded(func() error {
			_, err := io.CopyBuffer(in, struct{ io.Reader }{conn}, make([]byte, 8<<10))
			return err
		})
		close(ended)
		lost()
		in.Close()
	}()
	return &heldConn{conn, answers, ended}
}

func (c *heldConn) Read(b []byte) (int, error)        { return c.answers.Read(b) }
func (c *heldConn) SetReadDeadline(t time.Time) error { return c.answers.SetReadDeadline(t) }

func (c *heldConn) SetDeadline(t time.Time) error {
	return errors.Join(c.answers.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SyscallConn is how the client asks, before it hands out a connection, whether it has
// ended.
func (c *heldConn) SyscallConn() (syscall.RawConn, error) {
	select {
	case <-c.ended:
		return nil, net.ErrClosed
	default:
		return allRead{}, nil
	}
}

// allRead is a connection without anything that is left to be read.
type allRead struct{}

func (allRead) Control(func(uintptr)) error    { return nil }
func (allRead) Read(func(uintptr) bool) error  { return nil }
func (allRead) Write(func(uintptr) bool) error { return nil }

func (c *heldConn) Close() error {
	c.answers.Close()
	return c.Conn.Close()
}

// connectHeld opens the connections whose reads are noted for the tracking connection.
func (t *tracker) connectHeld(ctx context.Context) error {
	o := *t.master.Options()
	o.Protocol = 3
	o.ClientSideCacheConfig, o.ClientSideCache, o.PushNotificationProcessor = nil, nil, nil
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	// None is closed without need: what it has read would have to be read again.
	o.ContextTimeoutEnabled = false // await sees to it
	o.ConnMaxIdleTime, o.MaxIdleConns = -1, 0
	dial := o.Dialer
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return newHeldConn(conn, t.feed.Flush), nil
	}
	before := o.OnConnect
	o.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		if before != nil {
			if err := before(ctx, conn); err != nil {
				return err
			}
		}
		return conn.Process(ctx, redis.NewStatusCmd(ctx, "client", "tracking", "on", "redirect", t.id.Load()))
	}
	held := &heldReads{redis.NewClient(&o), t.feed}
	if _, err := await(ctx, t.store, func(ctx context.Context) (string, error) { return held.Ping(ctx).Result() }); err != nil {
		_ = held.Close()
		return fmt.Errorf("session: tracking of held keys: %w", err)
	}
	if t.store.held.CompareAndSwap(nil, held) {
		t.held = held
		return nil
	}
	_ = held.Close()
	return errors.New("session: tracking of held keys: another feed of the store has begun")
}

// hold has Redis note that the heartbeat is held, so that it is announced.
func (t *tracker) hold(ctx context.Context, key string) error {
	if t.held == nil {
		return nil
	}
	_, err := await(ctx, t.store, func(ctx context.Context) (string, error) {
		return t.held.GetRange(ctx, key, 0, 0).Result()
	})
	return err
}

func (t *tracker) closeHeld() {
	if t.held != nil {
		t.store.held.CompareAndSwap(t.held, nil)
		_ = t.held.Close()
	}
}
