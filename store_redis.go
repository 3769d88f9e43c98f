package session

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	defaultKeyPrefix = "bot:session:"

	scanCount = 1000
)

// RedisStore keeps records on Redis: one server, Sentinel or Cluster. It
// implements [Locker], [Watcher] and [Tombstoner] and is safe for concurrent
// use.
//
// The user's record lies under the key prefix followed by the user ID, as a
// plain string with a TTL. The lease on it and the tombstone of a log-out lie
// beside it, in the same Cluster slot, under prefixes of their own
// (bot:session-lock: and bot:session-logout: by default), because the TypeScript
// service takes every key under the session prefix for a session.
type RedisStore struct {
	client redis.UniversalClient
	keys   redisKeys
	feed   feedConfig

	swapScript, swapLeasedScript, deleteScript, dropScript, releaseScript, entombScript *redis.Script

	life  lifetime // of commands, also those whose callers stopped waiting
	waits sync.Pool
}

var (
	_ Store   = (*RedisStore)(nil)
	_ Locker  = (*RedisStore)(nil)
	_ Watcher = (*RedisStore)(nil)
)

// RedisOption configures [NewRedisStore].
type RedisOption func(*RedisStore) error

// WithKeyPrefix puts the records under another prefix than "bot:session:". It
// must not be empty, and all bots that share sessions need the same. A hash tag
// in it ("{bots}:session:") keeps all records on one Cluster node.
func WithKeyPrefix(prefix string) RedisOption {
	return func(s *RedisStore) (err error) {
		s.keys, err = newRedisKeys(prefix)
		return err
	}
}

// NewRedisStore returns a store on client, which stays the caller's to close
// (after the store). It does not connect. A context's deadline and cancellation
// hold on every call, also when client was built without ContextTimeoutEnabled;
// in addition no call takes longer than 2 s.
func NewRedisStore(client redis.UniversalClient, opts ...RedisOption) (*RedisStore, error) {
	if client == nil {
		return nil, errors.New("session: NewRedisStore: no client")
	}
	s := &RedisStore{
		client:           client,
		feed:             defaultFeedConfig(),
		swapScript:       redis.NewScript(swapSource),
		swapLeasedScript: redis.NewScript(swapLeasedSource),
		deleteScript:     redis.NewScript(deleteSource),
		dropScript:       redis.NewScript(dropSource),
		releaseScript:    redis.NewScript(releaseSource),
		entombScript:     redis.NewScript(entombSource),
	}
	if c, ok := client.(*redis.ClusterClient); ok {
		// A replica may answer with what a change notice has long overtaken.
		if o := c.Options(); o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
			return nil, errors.New("session: NewRedisStore: the client reads from replicas; sessions have to be read from masters")
		}
	}
	for _, opt := range append([]RedisOption{WithKeyPrefix(defaultKeyPrefix)}, opts...) {
		if err := opt(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// notAString is what a key of another type reads as: no session, and something
// that the next SET replaces.
const notAString = "\x00not a string"

// A record is read with GETRANGE so that something huge under a key costs no
// more than the largest record.
const readRecord = `
local cur = redis.pcall('GETRANGE', KEYS[1], 0, ARGV[1])
if type(cur) ~= 'string' then cur = '\0not a string' end
`

// Announcing is for those who cannot be told by CLIENT TRACKING; a server that
// forbids PUBLISH does not fail the write.
const announce = `
redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return 1
`

// Scripts on one key go on working while the key's Cluster slot moves; the two
// on two keys get TRYAGAIN then, and have a way around it.
const swapSource = readRecord + `
local old, new, ttl = ARGV[4], ARGV[5], ARGV[6]
if cur ~= old then
  if cur == new then return 1 end -- a retry of a call that got through
  return 0
end
redis.call('SET', KEYS[1], new, 'PX', ttl)
` + announce

const deleteSource = readRecord + `
if cur == '' then return 1 end
if cur ~= ARGV[4] then return 0 end
redis.call('DEL', KEYS[1])
` + announce

// dropSource removes whatever there is, and the lease with it.
const dropSource = `
redis.call('DEL', unpack(KEYS))
` + announce

// Get implements [Store]: one round trip.
func (s *RedisStore) Get(ctx context.Context, userID string) (Record, error) {
	key := s.keys.record(userID)
	value, err := await(ctx, s, func(ctx context.Context) (string, error) {
		get := redis.NewStringCmd(ctx, "getrange", key, 0, maxRecord)
		_ = s.client.Process(ctx, get)
		return get.Result()
	})
	switch {
	case isWrongType(err):
		return Record{UserID: userID, Value: notAString}, nil
	case err != nil:
		return Record{}, err
	case value == "":
		return Record{}, ErrNotFound
	}
	return Record{UserID: userID, Value: value}, nil
}

// Swap implements [Store].
func (s *RedisStore) Swap(ctx context.Context, old, next Record) (Record, error) {
	ttl, err := ttlOf(next)
	if err != nil {
		return Record{}, err
	}
	return next, s.run(ctx, s.swapScript, next.UserID, s.recordKey(next.UserID), old.Value, next.Value, ttl)
}

// ttlOf is relative to our clock, like the expiry itself: the server's may
// differ.
func ttlOf(next Record) (milliseconds int64, err error) {
	if milliseconds = time.Until(next.Expires).Milliseconds(); milliseconds <= 0 {
		err = fmt.Errorf("session: record of %s has expired", next.UserID)
	}
	return milliseconds, err
}

// Delete implements [Store].
func (s *RedisStore) Delete(ctx context.Context, old Record) error {
	if old.Exists() {
		return s.run(ctx, s.deleteScript, old.UserID, s.recordKey(old.UserID), old.Value)
	}
	keys := s.bothKeys(old.UserID)
	err := s.run(ctx, s.dropScript, old.UserID, keys)
	if isTryAgain(err) { // the lease first: without it nothing can be created
		if err = s.run(ctx, s.dropScript, old.UserID, keys[1:]); err == nil {
			err = s.run(ctx, s.dropScript, old.UserID, keys[:1])
		}
	}
	return err
}

func (s *RedisStore) recordKey(userID string) []string { return []string{s.keys.record(userID)} }

func (s *RedisStore) bothKeys(userID string) []string {
	return []string{s.keys.record(userID), s.keys.lease(userID)}
}

// run executes a script; 0 is a conflict.
func (s *RedisStore) run(ctx context.Context, script *redis.Script, userID string, keys []string, args ...any) error {
	argv := append([]any{maxRecord, s.keys.channel(), userID}, args...)
	done, err := await(ctx, s, func(ctx context.Context) (int, error) {
		return script.Run(ctx, s.client, keys, argv...).Int()
	})
	if err == nil && done == 0 {
		err = ErrConflict
	}
	return err
}

// All implements [Store]: SCAN over every master, with the values of each page
// fetched in one pipeline. Expired records are the server's to drop.
func (s *RedisStore) All(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		masters, err := s.masters(ctx)
		if err != nil {
			yield(Record{}, err)
			return
		}
		seen := make(map[string]struct{}) // SCAN may return a key twice
		for _, master := range masters {
			for cursor := uint64(0); ; {
				page, next, err := s.page(ctx, master, cursor)
				if err != nil {
					yield(Record{}, err)
					return
				}
				for _, rec := range page {
					if _, twice := seen[rec.UserID]; twice {
						continue
					}
					seen[rec.UserID] = struct{}{}
					if !yield(rec, nil) {
						return
					}
				}
				if cursor = next; cursor == 0 {
					break
				}
			}
		}
	}
}

func (s *RedisStore) page(ctx context.Context, master redis.Cmdable, cursor uint64) ([]Record, uint64, error) {
	type answer struct {
		page []Record
		next uint64
	}
	got, err := await(ctx, s, func(ctx context.Context) (answer, error) {
		keys, next, err := master.Scan(ctx, cursor, s.keys.pattern(), scanCount).Result()
		if err != nil || len(keys) == 0 {
			return answer{nil, next}, err
		}
		values := make([]*redis.StringCmd, len(keys))
		pipe := master.Pipeline()
		for i, key := range keys {
			values[i] = pipe.GetRange(ctx, key, 0, maxRecord)
		}
		if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
			return answer{}, err
		}
		page := make([]Record, 0, len(keys))
		for i, value := range values {
			// Gone since the SCAN, moved to another node, or not a string.
			if value.Err() != nil || value.Val() == "" {
				continue
			}
			page = append(page, Record{UserID: s.keys.userID(keys[i]), Value: value.Val()})
		}
		return answer{page, next}, nil
	})
	return got.page, got.next, err
}

// masters returns a client per master: a key is on exactly one of them.
func (s *RedisStore) masters(ctx context.Context) ([]*redis.Client, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		return []*redis.Client{c}, nil
	case *redis.ClusterClient:
		return await(ctx, s, func(ctx context.Context) ([]*redis.Client, error) {
			var mu sync.Mutex
			var masters []*redis.Client
			err := c.ForEachMaster(ctx, func(_ context.Context, master *redis.Client) error {
				mu.Lock()
				defer mu.Unlock()
				masters = append(masters, master)
				return nil
			})
			return masters, err
		})
	default:
		return nil, fmt.Errorf("session: cannot list the servers behind a %T", s.client)
	}
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
		c.value, c.err = op(c)
		if c.err != nil {
			s.lookAround(c.err)
		}
		w.done <- struct{}{}
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
		s.lookAround(errTimeout)
		return zero, fmt.Errorf("no answer from Redis in %s", storeTimeout)
	}
}

// lookAround has a Cluster client look for who serves what after an operation
// that got no answer. go-redis does so only once a minute and when a node sends
// it elsewhere, which a dead master does not; it limits the rate itself.
func (s *RedisStore) lookAround(err error) {
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

func (c *call[T]) Done() <-chan struct{} { return c.over }

func (c *call[T]) Err() error {
	select {
	case <-c.over:
		return context.Canceled
	default:
		return nil
	}
}

func isWrongType(err error) bool {
	return isReply(err) && strings.HasPrefix(err.Error(), "WRONGTYPE")
}

// isTryAgain reports whether a script needs keys of a slot that is half moved.
func isTryAgain(err error) bool {
	return isReply(err) && strings.HasPrefix(err.Error(), "TRYAGAIN")
}

// isReply reports whether err is an answer of the server, not a lost connection.
func isReply(err error) bool {
	if err == nil {
		return false
	}
	var reply redis.Error
	return errors.As(err, &reply)
}
