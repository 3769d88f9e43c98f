package session

import (
	"context"
	"fmt"
	"strings"
)

// Reseal is for tools that change how records are sealed. With write it has rec, as
// the store returned it, replaced by what this Service would write: sealed with the
// current key of [WithEncryption], or in plain text if there is none. What is in it
// stays as it is to the byte; leases are left alone, nothing goes into the user's
// trail, and bots are told of the change as of any other. On Redis the time at which
// the record is dropped stays, to the millisecond; other stores are given rec.Expires,
// or the session's end if they left that zero. Without write it reads and writes
// nothing, and tells what would be done.
//
// It reports whether the record had to be replaced. It returns [ErrConflict] when the
// store holds another record by now, which then stays: read that and call again;
// [ErrStoreUnavailable]; or an error that says, without quoting it, why the record is
// no session. Safe for concurrent use.
func (s *Service) Reseal(ctx context.Context, rec Record, write bool) (changed bool, err error) {
	if err := s.enter(ctx, rec.UserID); err != nil {
		return false, err
	}
	defer s.life.end()
	codec := s.records.codec
	l, err := codec.decode(rec)
	if err != nil {
		return false, fmt.Errorf("session: the record is no session: %w", err)
	}
	next := Record{UserID: rec.UserID, Value: codec.reseal(rec), Expires: rec.Expires}
	switch {
	case next.Value == rec.Value, !write:
		return next.Value != rec.Value, nil
	case len(next.Value) > maxRecord:
		return false, fmt.Errorf("%w: sealed, the record has %d bytes, at most %d are allowed", ErrTooLarge, len(next.Value), maxRecord)
	case next.Expires.IsZero():
		next.Expires = l.expires
	}
	op := s.records.begin(ctx, OpStoreWrite)
	if redis, ok := s.records.store.(*RedisStore); ok {
		err = redis.swapKeepingTTL(op.ctx, rec, next)
	} else {
		_, err = s.records.store.Swap(op.ctx, rec, next)
	}
	s.near.MarkStale(rec.UserID)
	err = op.end(err)
	return err == nil, err
}

// reseal is the value of a record, which decode accepts, as encode would write it.
func (c codec) reseal(r Record) string {
	plain := r.Value
	if sealed, ok := strings.CutPrefix(r.Value, sealedPrefix); ok {
		for i, key := range c.keys {
			opened, fits := key.open(r.UserID, sealed)
			if fits && i == 0 && c.seals {
				return r.Value
			}
			if fits {
				plain = opened
				break
			}
		}
	}
	if !c.seals {
		return plain
	}
	return c.keys[0].seal(r.UserID, plain)
}

// swapKeepingTTL is Swap for a record that is there and keeps its TTL.
func (s *RedisStore) swapKeepingTTL(ctx context.Context, old, next Record) error {
	return s.run(ctx, s.scripts.swap, changed, next.UserID, []string{s.keys.Record(next.UserID)},
		old.Value, next.Value, keepTTL, "", "", "")
}
