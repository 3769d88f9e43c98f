package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/redis/go-redis/v9/push"
)

// tracker is a connection to one master that is told of changes there.
type tracker struct {
	store  *RedisStore
	feed   Feed
	client *redis.Client // of the tracking connection alone
	conn   *redis.PubSub
	master *redis.Client
	slots  string // the master's own, as it reported them; "" outside Cluster
	key    string // of the heartbeat, without its number
	number int

	holds bool         // see WithHeldKeysTracked; else in broadcast mode
	id    atomic.Int64 // of the tracking connection, on the server
	held  *heldReads   // whose reads are noted for it

	mu     sync.Mutex
	expect string        // guarded by mu: the heartbeat that is out
	echo   chan struct{} // guarded by mu: closed when it comes back
}

// track connects to all masters. What it has connected to it returns, also
// with an error.
func (s *RedisStore) track(ctx context.Context, feed Feed) ([]*tracker, error) {
	masters, err := s.masters(ctx)
	if err != nil {
		return nil, err
	}
	instance := rand.Text()
	var trackers []*tracker
	for _, master := range masters {
		t := &tracker{store: s, feed: feed, master: master, holds: s.heldOnly && s.held.Load() == nil}
		slot := -1
		if _, ok := s.client.(*redis.ClusterClient); ok {
			t.holds = false
			if t.slots, err = ownSlots(ctx, master); err != nil {
				return trackers, err
			}
			if t.slots == "" {
				continue // a master without slots has no keys
			}
			if _, err = fmt.Sscanf(t.slots, "%d", &slot); err != nil {
				return trackers, fmt.Errorf("slots %q: %w", t.slots, err)
			}
		}
		t.key = s.keys.Heartbeat(instance, slot)
		t.client = redis.NewClient(t.options(s.keys.HeartbeatPrefix(instance)))
		t.conn = t.client.Subscribe(ctx)
		trackers = append(trackers, t)
		if err := t.client.RegisterPushNotificationHandler("invalidate", t, false); err != nil {
			return trackers, err
		}
		err := t.connect(ctx)
		if err == nil && t.id.Load() != 0 {
			err = t.connectHeld(ctx)
		}
		if err != nil {
			return trackers, t.orTrackingError(ctx, err)
		}
	}
	if len(trackers) == 0 {
		return nil, errors.New("session: no master to watch")
	}
	return trackers, nil
}

// options are the master's, for one connection that tracks from the start.
func (t *tracker) options(heartbeats string) *redis.Options {
	o := *t.master.Options()
	o.Protocol = 3
	o.PoolSize, o.MinIdleConns, o.MaxRetries = 1, 0, -1
	o.ContextTimeoutEnabled = true
	o.PushNotificationProcessor = nil
	o.ClientSideCacheConfig, o.ClientSideCache = nil, nil
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	before := o.OnConnect
	o.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		if before != nil {
			if err := before(ctx, conn); err != nil {
				return err
			}
		}
		// go-redis makes do with RESP2, over which nothing would be announced.
		if err := conn.Hello(ctx, 3, "", "", "").Err(); err != nil {
			return err
		}
		if t.holds {
			id, err := conn.ClientID(ctx).Result()
			t.id.Store(id)
			return err
		}
		return conn.Process(ctx, redis.NewStatusCmd(ctx, "client", "tracking", "on", "bcast",
			"prefix", t.store.keys.Prefix(), "prefix", t.store.keys.FencePrefix(), "prefix", heartbeats))
	}
	return &o
}

// connect opens the tracking connection, by way of a Ping: subscribing to
// nothing does not.
func (t *tracker) connect(ctx context.Context) error {
	_, err := await(ctx, t.store, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, t.conn.Ping(ctx)
	})
	return err
}

func (t *tracker) close() {
	t.closeHeld()
	_ = t.conn.Close()
	_ = t.client.Close()
}

// receive reads notices until the connection fails or ctx ends.
func (t *tracker) receive(ctx context.Context) error {
	defer context.AfterFunc(ctx, t.close)()
	for {
		// Notices go to HandlePushNotification; what is returned is the answer
		// to the Ping. A lost connection must not be replaced silently.
		if _, err := t.conn.Receive(ctx); err != nil {
			return &feedLost{t, err}
		}
	}
}

// HandlePushNotification implements [push.NotificationHandler] for
// "invalidate": a list of keys, or nil when everything was flushed.
func (t *tracker) HandlePushNotification(_ context.Context, _ push.NotificationHandlerContext, notice []any) error {
	if len(notice) < 2 || notice[1] == nil {
		t.feed.Flush()
		return nil
	}
	keys, ok := notice[1].([]any)
	if !ok {
		t.feed.Flush()
		return nil
	}
	for _, k := range keys {
		key, _ := k.(string)
		if userID, ours := strings.CutPrefix(key, t.store.keys.Prefix()); ours {
			t.feed.Changed(userID)
		} else if userID, ours := t.store.keys.FenceOwner(key); ours {
			reportEnded(t.feed, userID)
		} else {
			t.heard(key)
		}
	}
	return nil
}

// beat writes a heartbeat through the store's own client and waits to be told.
func (t *tracker) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.store.feed.lease)
	defer cancel()
	// Numbered, so that a write which go-redis repeated is not taken for the
	// next heartbeat.
	t.number = (t.number + 1) % 4
	key := fmt.Sprintf("%s%d", t.key, t.number)
	echo := make(chan struct{})
	t.mu.Lock()
	t.expect, t.echo = key, echo
	t.mu.Unlock()
	if err := t.hold(ctx, key); err != nil {
		return err
	}
	if err := t.write(ctx, key); err != nil {
		return err
	}
	select {
	case <-echo:
	case <-ctx.Done():
		return &feedLost{t, fmt.Errorf("heartbeat not announced in %s", t.store.feed.lease)}
	}
	if t.slots == "" {
		return nil
	}
	// A slot that moved is one whose changes another master announces.
	slots, err := ownSlots(ctx, t.master)
	if err == nil && slots != t.slots {
		err = errors.New("cluster slots moved")
	}
	return err
}

// write writes a heartbeat, which takes a Redis that answers.
func (t *tracker) write(ctx context.Context, key string) error {
	_, err := await(ctx, t.store, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, t.store.client.Set(ctx, key, "", 10*time.Second).Err()
	})
	return err
}

// feedLost says that a tracking connection does not bring notices any more.
type feedLost struct {
	tracker *tracker
	cause   error
}

func (e *feedLost) Error() string { return "session: change feed lost: " + e.cause.Error() }
func (e *feedLost) Unwrap() error { return e.cause }

// orTrackingError makes err, by which a tracking connection failed before it
// brought anything, a trackingError if Redis refuses to track or answers other
// commands: then it is what is between that does not let tracking through.
func (t *tracker) orTrackingError(ctx context.Context, err error) error {
	if ctx.Err() != nil || !isRefusal(err) && (isReply(err) || t.write(ctx, t.key) != nil) {
		return err
	}
	return &trackingError{err}
}

func (t *tracker) heard(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.expect != "" && key == t.expect {
		close(t.echo)
		t.expect = ""
	}
}

// ownSlots asks a master which slots it serves, itself being the one to know.
// While one of them moves, its keys are on two masters, and the one that they
// move to may be unknown here: that is an error.
func ownSlots(ctx context.Context, master *redis.Client) (string, error) {
	nodes, err := master.ClusterNodes(ctx).Result()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(nodes) {
		// id address flags master ping pong epoch state slots …
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.Contains(fields[2], "myself") {
			continue
		}
		slots := strings.Join(fields[8:], " ")
		if strings.Contains(slots, "[") {
			return "", errors.New("cluster slots are moving")
		}
		return slots, nil
	}
	return "", errors.New("CLUSTER NODES without the node itself")
}
