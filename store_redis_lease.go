package session

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// What lies beside a user's record on Redis: the lease on it, and the tombstone
// of a log-out.

const swapLeasedSource = readRecord + `
local old, new, ttl, owner = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if cur ~= old then
  if cur == new then return 1 end
  return 0
end
local mine = redis.call('GET', KEYS[2]) == owner
if old == '' and not mine then return 0 end
redis.call('SET', KEYS[1], new, 'PX', ttl)
if mine then redis.call('DEL', KEYS[2]) end
` + announce

const releaseSource = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
`

// The time is compared as text, which works for as many digits as it has.
const entombSource = `
local noted = redis.pcall('GET', KEYS[1])
if type(noted) == 'string' and noted >= ARGV[1] then return 1 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`

// tombstoneTTL is as long as a login can wait to be stored: a session's life.
const tombstoneTTL = 7 * 24 * time.Hour

// Values of a lease key: who holds it, or what the last holder left to say.
const (
	leaseOwner = "owner:"
	leaseNote  = "note:"
)

// Acquire implements [Locker]: the lease and the record in one pipeline.
func (s *RedisStore) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (Lease, Record, error) {
	recordKey, leaseKey := s.keys.record(userID), s.keys.lease(userID)
	type answer struct{ holder, value string }
	got, err := await(ctx, s, func(ctx context.Context) (answer, error) {
		pipe := s.client.Pipeline()
		take := pipe.SetNX(ctx, leaseKey, leaseOwner+owner, ttl)
		holder := pipe.Get(ctx, leaseKey)
		value := pipe.GetRange(ctx, recordKey, 0, maxRecord)
		_, _ = pipe.Exec(ctx) // each command is asked for its own error
		for _, err := range []error{take.Err(), holder.Err(), value.Err()} {
			if err != nil && !errors.Is(err, redis.Nil) && !isWrongType(err) {
				return answer{}, err
			}
		}
		// The holder decides, not SetNX: go-redis may have sent it twice.
		if isWrongType(value.Err()) {
			return answer{holder.Val(), notAString}, nil
		}
		return answer{holder.Val(), value.Val()}, nil
	})
	if err != nil {
		return Lease{}, Record{}, err
	}
	lease := Lease{Held: got.holder == leaseOwner+owner}
	if note, ok := strings.CutPrefix(got.holder, leaseNote); ok {
		lease.Note = note
	}
	return lease, Record{UserID: userID, Value: got.value}, nil
}

// SwapLeased implements [Locker].
func (s *RedisStore) SwapLeased(ctx context.Context, owner string, old, next Record) (Record, error) {
	ttl, err := ttlOf(next)
	if err != nil {
		return Record{}, err
	}
	err = s.run(ctx, s.swapLeasedScript, next.UserID, s.bothKeys(next.UserID), old.Value, next.Value, ttl, leaseOwner+owner)
	if isTryAgain(err) && old.Exists() { // replacing needs no lease, so it can be released apart
		if _, err = s.Swap(ctx, old, next); err == nil {
			_ = s.Release(ctx, next.UserID, owner, "", 0) // or it runs out
		}
	}
	return next, err
}

// Release implements [Locker].
func (s *RedisStore) Release(ctx context.Context, userID, owner, note string, keep time.Duration) error {
	if note != "" {
		note = leaseNote + note
	}
	_, err := await(ctx, s, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.releaseScript.Run(ctx, s.client, []string{s.keys.lease(userID)},
			leaseOwner+owner, note, keep.Milliseconds()).Err()
	})
	return err
}

// Entomb implements [Tombstoner].
func (s *RedisStore) Entomb(ctx context.Context, userID string, loggedOut time.Time) error {
	_, err := await(ctx, s, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.entombScript.Run(ctx, s.client, []string{s.keys.tombstone(userID)},
			fmt.Sprintf("%016d", loggedOut.UnixMicro()), tombstoneTTL.Milliseconds()).Err()
	})
	return err
}

// Tombstone implements [Tombstoner].
func (s *RedisStore) Tombstone(ctx context.Context, userID string) (time.Time, error) {
	noted, err := await(ctx, s, func(ctx context.Context) (int64, error) {
		return s.client.Get(ctx, s.keys.tombstone(userID)).Int64()
	})
	switch {
	case errors.Is(err, redis.Nil), isWrongType(err), errors.Is(err, strconv.ErrSyntax):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, err
	}
	return time.UnixMicro(noted), nil
}
