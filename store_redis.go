package session

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session/internal/rediskeys"
)

const (
	defaultKeyPrefix = "bot:session:"

	trailPause = time.Minute // see trailRefused
)

// RedisStore keeps records on Redis: one server, Sentinel or Cluster. It
// implements [Locker], [Watcher], [LogoutLog], [TrailLog] and [Lister] and is safe
// for concurrent use.
//
// The user's record lies under the key prefix followed by the user ID, as a
// plain string with a TTL. The lease on it, the note of the last logout and the
// trail lie beside it, in the same Cluster slot, under prefixes of their own
// (bot:session-lock:, bot:session-logout: and bot:session-trail: by default), because
// the TypeScript service takes every key under the session prefix for a session.
//
// Get does not tell the Version of an absence, which would take a second key;
// Acquire and LoggedOutAt do.
type RedisStore struct {
	client  redis.UniversalClient
	keys    rediskeys.Keys
	feed    feedConfig
	scripts redisScripts

	noTrails atomic.Pointer[time.Time] // until then: see trailRefused

	heldOnly bool                      // see WithHeldKeysTracked
	held     atomic.Pointer[heldReads] // reads are noted on it; nil while no feed runs

	life  lifetime // of commands, also those whose callers stopped waiting
	waits sync.Pool
}

var (
	_ Store     = (*RedisStore)(nil)
	_ Locker    = (*RedisStore)(nil)
	_ Watcher   = (*RedisStore)(nil)
	_ LogoutLog = (*RedisStore)(nil)
	_ Lister    = (*RedisStore)(nil)
	_ TrailLog  = (*RedisStore)(nil)
)

// RedisOption configures [NewRedisStore].
type RedisOption func(*RedisStore) error

// WithKeyPrefix puts the records under another prefix than "bot:session:". It
// must not be empty, and all bots that share sessions need the same. A hash tag
// in it ("{bots}:session:") keeps all records on one Cluster node.
func WithKeyPrefix(prefix string) RedisOption {
	return func(s *RedisStore) (err error) {
		s.keys, err = rediskeys.New(prefix)
		return err
	}
}

// NewRedisStore returns a store on client, a *redis.Client (also one for
// Sentinel) or a *redis.ClusterClient, which stays the caller's to close (after
// the store). It does not connect. A client that reads from replicas or caches
// on its own side is refused: it would answer with what was overtaken.
//
// A context's deadline and cancellation hold on every call, also when client was
// built without ContextTimeoutEnabled; in addition no call takes longer than 2 s.
func NewRedisStore(client redis.UniversalClient, opts ...RedisOption) (*RedisStore, error) {
	if err := checkClient(client); err != nil {
		return nil, fmt.Errorf("session: NewRedisStore: %w", err)
	}
	s := &RedisStore{client: client, feed: defaultFeedConfig(), scripts: newRedisScripts()}
	for _, opt := range append([]RedisOption{WithKeyPrefix(defaultKeyPrefix)}, opts...) {
		if err := opt(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// checkClient refuses clients that sessions cannot be kept with.
func checkClient(client redis.UniversalClient) error {
	if client == nil {
		return errors.New("no client")
	}
	if v := reflect.ValueOf(client); v.Kind() == reflect.Pointer && v.IsNil() {
		return fmt.Errorf("no client, but a nil %T", client)
	}
	switch c := client.(type) {
	case *redis.Client:
		o := c.Options()
		if o.ClientSideCacheConfig != nil || o.ClientSideCache != nil {
			return errors.New("the client has client-side caching turned on; sessions have to be read from the server: give the store a client of its own")
		}
	case *redis.ClusterClient:
		// A replica may answer with what a change notice has long overtaken.
		if o := c.Options(); o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
			return errors.New("the client reads from replicas; sessions have to be read from masters: leave ReadOnly, RouteByLatency and RouteRandomly off")
		}
	case *redis.Ring:
		return errors.New("a *redis.Ring loses sessions when a shard is away: pass a *redis.Client or a *redis.ClusterClient")
	default:
		return fmt.Errorf("the servers behind a %T cannot be listed and watched: pass a *redis.Client or a *redis.ClusterClient", client)
	}
	return nil
}

// Get implements [Store]: one round trip.
func (s *RedisStore) Get(ctx context.Context, userID string) (Record, error) {
	value, err := reading(ctx, s, userID, func(ctx context.Context, client redis.UniversalClient, held bool) (string, error) {
		if !held {
			return readFrom(ctx, client, s.keys.Record(userID), maxRecord)
		}
		// The fence, too: a change of it tells the end of a session from other changes.
		pipe := client.Pipeline()
		answer := readBoth(ctx, pipe, s.keys.Record(userID), s.keys.Fence(userID))
		_, _ = pipe.Exec(ctx) // each command is asked for its own error
		got, err := answer()
		return got.record, err
	})
	switch {
	case err != nil:
		return Record{}, err
	case value == "":
		return Record{UserID: userID}, ErrNotFound
	}
	return Record{UserID: userID, Value: value}, nil
}

// Swap implements [Store].
func (s *RedisStore) Swap(ctx context.Context, old, next Record) (Record, error) {
	err := s.swap(ctx, "", old, next)
	if isTryAgain(err) {
		err = s.createInSteps(ctx, "", old, next)
	}
	next.Event = ""
	return next, err
}

// swap is Swap, and SwapLeased if there is a holder of the lease.
func (s *RedisStore) swap(ctx context.Context, holder string, old, next Record) error {
	ttl, err := ttlOf(next)
	if err != nil {
		return err
	}
	keys, version := append(make([]string, 0, 4), s.keys.Record(next.UserID)), versionArg(old.versionOfAbsence())
	if holder != "" {
		keys = append(keys, s.keys.Lease(next.UserID))
	}
	if version != "" {
		keys = append(keys, s.keys.Fence(next.UserID))
	}
	args := []any{old.Value, next.Value, ttl, holder, version}
	if next.Event == "" || !s.mayNote() {
		return s.run(ctx, s.scripts.swap, changed, next.UserID, keys, append(args, "")...)
	}
	noted := slices.Concat(args, s.eventArgs(next.Event, next.Expires))
	err = s.run(ctx, s.scripts.swap, changed, next.UserID, append(keys, s.keys.Trail(next.UserID)), noted...)
	if apart := isTryAgain(err); apart || isNoPerm(err) {
		err = s.run(ctx, s.scripts.swap, changed, next.UserID, keys, append(args, "")...)
		switch {
		case !apart:
			s.trailRefused(err)
		case err == nil:
			s.noteApart(ctx, next.UserID, next.Event, next.Expires)
		}
	}
	return err
}

// trailRefused is for what an ACL forbids with the key of a trail, and the result of the
// same without. If that was the key, no trail is written for a while: each attempt costs
// a round trip.
func (s *RedisStore) trailRefused(err error) {
	if !isNoPerm(err) {
		until := time.Now().Add(trailPause)
		s.noTrails.Store(&until)
	}
}

func (s *RedisStore) mayNote() bool {
	until := s.noTrails.Load()
	return until == nil || !time.Now().Before(*until)
}

// noteApart notes an event after the write, while the Cluster slot moves. If it cannot
// be noted, it is not.
func (s *RedisStore) noteApart(ctx context.Context, userID, event string, ends time.Time) {
	if event != "" {
		_, _ = runScript(ctx, s, s.scripts.note, []string{s.keys.Trail(userID)}, s.eventArgs(event, ends)...)
	}
}

// eventArgs are the arguments of a script that notes an event.
func (s *RedisStore) eventArgs(event string, ends time.Time) []any {
	now := time.Now()
	return []any{event, now.UnixMilli(), milliOrZero(ends), trailUntil(now, ends).Sub(now).Milliseconds()}
}

// Trail implements [TrailLog].
func (s *RedisStore) Trail(ctx context.Context, userID string) ([]TrailEntry, error) {
	trail, err := s.readKey(ctx, s.keys.Trail(userID), maxTrail)
	return readTrail(trail), err
}

// ttlOf is the TTL in milliseconds, or "" for none. It is relative to our clock,
// like the expiry itself: the server's may differ.
func ttlOf(next Record) (any, error) {
	if next.Expires.IsZero() {
		return "", nil
	}
	ttl := time.Until(next.Expires).Milliseconds()
	if ttl <= 0 {
		return nil, fmt.Errorf("session: record of %s has expired", next.UserID)
	}
	return ttl, nil
}

// run executes a script that changes a record and announces it as such; 0 is a
// conflict.
func (s *RedisStore) run(ctx context.Context, script *redis.Script, kind, userID string, keys []string, args ...any) error {
	done, err := runScript(ctx, s, script, keys, append([]any{maxRecord, s.keys.Channel(), kind + userID}, args...)...)
	if err == nil && done == 0 {
		err = ErrConflict
	}
	return err
}

// runScript executes a script, which Redis may have to be sent first.
func runScript(ctx context.Context, s *RedisStore, script *redis.Script, keys []string, args ...any) (int, error) {
	return await(ctx, s, func(ctx context.Context) (int, error) {
		done, err := script.EvalSha(ctx, s.client, keys, args...).Int()
		if isReplyWith(err, "NOSCRIPT") {
			done, err = script.Eval(ctx, s.client, keys, args...).Int()
		}
		return done, err
	})
}

// Close ends the store: calls from now on return [ErrClosed]. It waits for
// commands whose callers have stopped waiting, 5 s at most. It does not close
// the client.
func (s *RedisStore) Close() error { return s.closeWithin(closeTimeout) }

func (s *RedisStore) closeWithin(limit time.Duration) error {
	s.life.close()
	if !s.life.wait(limit) {
		return fmt.Errorf("session: RedisStore.Close: commands still running after %s", limit.Round(time.Millisecond))
	}
	return nil
}
