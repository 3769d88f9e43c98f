package session

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Values of a lease key: who holds it, or what the last holder left to say.
const (
	leaseOwner = "owner:"
	leaseNote  = "note:"

	maxLeaseValue = 4096 // bytes

	// A lease key that would last longer is not of our making, and is replaced.
	maxLeaseTTL = 24 * time.Hour
)

var errLongOwner = errors.New("session: the owner of a lease is named by more than 4 kB")

// Acquire implements [Locker]: the lease, the record and the fence in one
// pipeline of commands on one key each, which works also while a Cluster slot
// moves. A lease lasts for a day at most.
func (s *RedisStore) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (Lease, Record, error) {
	mine := leaseOwner + owner
	if len(mine) > maxLeaseValue {
		return Lease{}, Record{}, errLongOwner
	}
	record, fence, keys := s.keys.Record(userID), s.keys.Fence(userID), []string{s.keys.Lease(userID)}
	args := []any{mine, milliseconds(min(ttl, maxLeaseTTL)), maxLeaseTTL.Milliseconds(), maxLeaseValue}
	type answer struct {
		holder string
		recordAndFence
	}
	got, err := reading(ctx, s, userID, func(ctx context.Context, client redis.UniversalClient, _ bool) (got answer, err error) {
		take := func(pipe redis.Pipeliner) *redis.Cmd { return s.scripts.lease.EvalSha(ctx, pipe, keys, args...) }
		for {
			pipe := client.Pipeline()
			taken := take(pipe)
			read := readBoth(ctx, pipe, record, fence)
			_, _ = pipe.Exec(ctx) // each command is asked for its own error
			if got.holder, err = taken.Text(); isReplyWith(err, "NOSCRIPT") {
				take = func(pipe redis.Pipeliner) *redis.Cmd { return s.scripts.lease.Eval(ctx, pipe, keys, args...) }
				continue // at most once: EVAL needs no script to be there
			}
			if err == nil {
				got.recordAndFence, err = read()
			}
			return got, err
		}
	})
	if err != nil {
		return Lease{}, Record{}, err
	}
	lease := Lease{Held: got.holder == mine}
	if note, ok := strings.CutPrefix(got.holder, leaseNote); ok {
		lease.Note = note
	}
	rec, _ := got.decode(userID)
	return lease, rec, nil
}

// SwapLeased implements [Locker].
func (s *RedisStore) SwapLeased(ctx context.Context, owner string, old, next Record) (Record, error) {
	err := s.swap(ctx, leaseOwner+owner, old, next)
	switch {
	case !isTryAgain(err):
	case !old.Exists():
		err = s.createInSteps(ctx, owner, old, next)
	default: // replacing needs no lease, so it can be released apart
		if err = s.swap(ctx, "", old, next); err == nil {
			_ = s.Release(ctx, next.UserID, owner, "", 0) // or it runs out
		}
	}
	next.Event = ""
	return next, err
}

// Release implements [Locker]. A note is cut off at 4 kB.
func (s *RedisStore) Release(ctx context.Context, userID, owner, note string, keep time.Duration) error {
	if note != "" {
		note = leaseNote + note
		note = strings.ToValidUTF8(note[:min(len(note), maxLeaseValue)], "")
	}
	_, err := runScript(ctx, s, s.scripts.release, []string{s.keys.Lease(userID)},
		leaseOwner+owner, note, milliseconds(min(keep, maxLeaseTTL)))
	return err
}

// milliseconds of a TTL: Redis knows none shorter than one.
func milliseconds(ttl time.Duration) int64 { return max(1, ttl.Milliseconds()) }
