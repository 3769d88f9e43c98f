package session

import (
	"context"
	"errors"
	"fmt"

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
// Reads go through connections of their own, as many as the client has, and an ACL user
// also needs +client|id. On a Cluster, and for a second Service on the same store, the
// option changes nothing.
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

// reading is await for what reads records, on the connections by which Redis notes
// that this process holds them, if there are such. A feed that ends closes those: the
// client itself then has the last word.
func reading[T any](ctx context.Context, s *RedisStore, op func(context.Context, redis.UniversalClient) (T, error)) (T, error) {
	return await(ctx, s, func(ctx context.Context) (T, error) {
		if held := s.held.Load(); held != nil {
			got, err := op(ctx, held.Client)
			if err == nil {
				return got, nil
			}
			// What the client reads is not noted, so nobody may believe it.
			defer held.feed.Flush()
		}
		return op(ctx, s.client)
	})
}

// connectHeld opens the connections whose reads are noted for the tracking connection.
func (t *tracker) connectHeld(ctx context.Context) error {
	o := *t.master.Options()
	o.Protocol = 3
	o.ClientSideCacheConfig, o.ClientSideCache, o.PushNotificationProcessor = nil, nil, nil
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
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
	_, err := await(ctx, t.store, func(ctx context.Context) (int64, error) { return t.held.Exists(ctx, key).Result() })
	return err
}

func (t *tracker) closeHeld() {
	if t.held != nil {
		t.store.held.CompareAndSwap(t.held, nil)
		_ = t.held.Close()
	}
}
