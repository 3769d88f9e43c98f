package session

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// feedConfig holds the times of the change feed.
type feedConfig struct {
	beat   time.Duration // between heartbeats
	lease  time.Duration // how long an answered heartbeat vouches for the feed
	ageCap time.Duration // what stands in for it where tracking does not work

	// Where tracking does not work it is tried again, after retryFirst, then
	// ever more rarely.
	retryFirst, retryLast time.Duration
}

func defaultFeedConfig() feedConfig {
	return feedConfig{
		beat: 250 * time.Millisecond, lease: time.Second, ageCap: time.Second,
		retryFirst: 2 * time.Second, retryLast: time.Minute,
	}
}

// The kinds of Pub/Sub messages, which the user ID follows.
const (
	changed = "changed:"
	ended   = "ended:"
)

// reportEnded tells a feed of the end of a session, as far as it can tell that
// from other changes.
func reportEnded(feed Feed, userID string) {
	if ends, ok := feed.(EndFeed); ok {
		ends.Ended(userID)
	} else {
		feed.Changed(userID)
	}
}

// Watch implements [Watcher] with CLIENT TRACKING in broadcast mode, on a
// connection of its own to every master. It sees the writes of any software,
// expiry and FLUSHALL. What it has reported is vouched for by a heartbeat from
// end to end: a key written through the store's own client has to come back as
// a notice, which also tells a demoted master from the current one.
//
// Where tracking is refused or swallowed (some proxies, an ACL), it reports the
// writes of this package by Pub/Sub, and records are believed for a second at
// most; tracking is tried again now and then.
func (s *RedisStore) Watch(ctx context.Context, feed Feed) error {
	return guarded(func() error {
		err := s.watchByTracking(ctx, feed, func() {})
		for wait := s.feed.retryFirst; isTrackingError(err); wait = min(4*wait, s.feed.retryLast) {
			if isRefusal(err) {
				wait = s.feed.retryLast
			}
			err = s.watchWithoutTracking(ctx, feed, wait)
		}
		return err
	})
}

// trackingError says that tracking does not work though Redis does.
type trackingError struct{ cause error }

func (e *trackingError) Error() string {
	return "session: CLIENT TRACKING does not work: " + e.cause.Error()
}
func (e *trackingError) Unwrap() error { return e.cause }

func isTrackingError(err error) bool {
	var e *trackingError
	return errors.As(err, &e)
}

// watchWithoutTracking reports changes by Pub/Sub, and goes over to tracking if
// that works after the given time.
func (s *RedisStore) watchWithoutTracking(ctx context.Context, feed Feed, wait time.Duration) error {
	subscribed, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- guarded(func() error { return s.subscribe(subscribed, feed) })
	}()
	retry := time.NewTimer(wait)
	defer retry.Stop()
	select {
	case err := <-done:
		return err
	case <-retry.C:
	}
	leave := func() {
		stop()
		<-done
	}
	defer leave()
	return s.watchByTracking(ctx, feed, leave)
}

// watchByTracking reports changes by tracking. It calls begin before it trusts
// the feed for the first time. If it does not come to that although Redis
// answers, it fails with a trackingError.
func (s *RedisStore) watchByTracking(callers context.Context, feed Feed, begin func()) error {
	ctx, cancel := context.WithCancelCause(callers)
	defer cancel(nil)

	trackers, err := s.track(ctx, feed)
	defer func() {
		for _, t := range trackers {
			t.close()
		}
	}()
	if err != nil {
		return err
	}

	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	for _, t := range trackers {
		running.Go(func() { cancel(guarded(func() error { return t.receive(ctx) })) })
	}
	trusted := false
	for {
		started := time.Now()
		// Entries are vouched for by all masters or not at all.
		var beats sync.WaitGroup
		for _, t := range trackers {
			beats.Go(func() {
				if err := guarded(func() error { return t.beat(ctx) }); err != nil {
					cancel(err)
				}
			})
		}
		beats.Wait()
		if ctx.Err() != nil {
			err := context.Cause(ctx)
			if lost := (*feedLost)(nil); !trusted && errors.As(err, &lost) {
				err = lost.tracker.orTrackingError(callers, lost.cause)
			}
			return err
		}
		if !trusted {
			begin()
			feed.Flush()
			trusted = true
		}
		feed.Trust(started.Add(s.feed.lease), 0)
		pause := time.NewTimer(time.Until(started.Add(s.feed.beat)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
}

// isRefusal reports whether a server will go on answering so, because of what it
// is or what it permits. What an operator or time sets right is tried again: a
// password, the loading of the data, a failover, too many clients.
func isRefusal(err error) bool {
	for _, passing := range [...]string{
		"NOAUTH", "WRONGPASS", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "max number of clients",
	} {
		if redis.HasErrorPrefix(err, passing) {
			return false
		}
	}
	return isReply(err)
}

// subscribe is the feed where tracking does not work. Only the age cap is relied
// upon; the messages spare most callers from it and wake those who wait.
func (s *RedisStore) subscribe(ctx context.Context, feed Feed) error {
	conn := s.client.Subscribe(ctx, s.keys.Channel())
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	for {
		notice, err := conn.Receive(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isRefusal(err): // not allowed either: the age cap alone
			feed.Flush()
			feed.Trust(time.Time{}, s.feed.ageCap)
			<-ctx.Done()
			return context.Cause(ctx)
		case err != nil:
			return err
		}
		switch notice := notice.(type) {
		case *redis.Subscription:
			feed.Flush()
			feed.Trust(time.Time{}, s.feed.ageCap)
		case *redis.Message:
			if userID, ok := strings.CutPrefix(notice.Payload, ended); ok {
				reportEnded(feed, userID)
			} else {
				feed.Changed(strings.TrimPrefix(notice.Payload, changed))
			}
		}
	}
}
