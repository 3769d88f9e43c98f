package session

import (
	"context"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// The fence of a user tells one absence of a record from another, and says when
// the user was last logged out. It is written whenever a session is ended, and
// only then: the time in microseconds since 1970, in 16 digits, 0 if nobody
// logged out, and the mark of the absence that began, in 16 hexadecimal digits.

const (
	// fenceTTL is how long a fence lasts at least: longer than any write of a
	// session can be on its way.
	fenceTTL = 7 * 24 * time.Hour

	// noFence is the version of the absence of a user who has no fence.
	noFence = 1

	fenceSize = 16 + len(" ") + 16

	// A logout is noted for no time that is further ahead than clocks differ: it
	// would undo the logins of years to come.
	clocksDiffer = 24 * time.Hour
)

// newMark is the version of an absence that is about to begin. It is drawn once
// per call, so that a command which go-redis sends twice counts once.
func newMark() uint64 { return 2 + mathrand.Uint64N(math.MaxUint64-2) }

func hexMark(mark uint64) string { return fmt.Sprintf("%016x", mark) }

// versionArg is a version to be compared, or "" for any.
func versionArg(version uint64) string {
	if version == 0 {
		return ""
	}
	return hexMark(version)
}

// noteOfTime is a logout's time as a fence has it. What no clock can mean is
// taken for now.
func noteOfTime(at, now time.Time) string {
	if at.After(now.Add(clocksDiffer)) {
		at = now
	}
	var micros int64
	if at.After(time.UnixMicro(0)) {
		micros = at.UnixMicro()
	}
	return fmt.Sprintf("%016d", micros)
}

// readFenceValue takes a fence apart, as the scripts do. What is not of our
// making counts as none.
func readFenceValue(value string, now time.Time) (version uint64, loggedOut time.Time) {
	if len(value) != fenceSize || value[16] != ' ' || !digits(value[:16], "0123456789") || !digits(value[17:], "0123456789abcdef") {
		return noFence, time.Time{}
	}
	version, _ = strconv.ParseUint(value[17:], 16, 64)
	if version <= noFence {
		return noFence, time.Time{}
	}
	micros, _ := strconv.ParseInt(value[:16], 10, 64)
	if at := time.UnixMicro(micros); micros > 0 && !at.After(now.Add(clocksDiffer)) {
		loggedOut = at
	}
	return version, loggedOut
}

func digits(s, alphabet string) bool {
	for i := range len(s) {
		known := false
		for j := range len(alphabet) {
			known = known || s[i] == alphabet[j]
		}
		if !known {
			return false
		}
	}
	return true
}

// Delete implements [Store].
func (s *RedisStore) Delete(ctx context.Context, old Record) error {
	return s.end(ctx, old, time.Time{}, 0)
}

// MarkLoggedOut implements [LogoutLog]. A time more than a day ahead, which only
// a wrong clock can mean, is noted as now.
func (s *RedisStore) MarkLoggedOut(ctx context.Context, old Record, at time.Time, keep time.Duration) error {
	return s.end(ctx, old, at, keep)
}

// end ends a session or an absence, and notes a logout unless at is zero.
func (s *RedisStore) end(ctx context.Context, old Record, at time.Time, keep time.Duration) error {
	userID := old.UserID
	keys := []string{s.keys.Fence(userID), s.keys.Record(userID), s.keys.Lease(userID)}
	if !s.mayNote() {
		old.Event = ""
	}
	if old.Event != "" {
		keys = append(keys, s.keys.Trail(userID))
	}
	err := s.runEnd(ctx, keys, old, at, keep)
	if old.Event != "" && isNoPerm(err) {
		old.Event = ""
		err = s.runEnd(ctx, keys[:3], old, at, keep)
		s.trailRefused(err)
	}
	if isTryAgain(err) {
		if err = s.endInSteps(ctx, old, at, keep); err == nil {
			s.noteApart(ctx, userID, old.Event, time.Time{})
		}
	}
	return err
}

func (s *RedisStore) runEnd(ctx context.Context, keys []string, old Record, at time.Time, keep time.Duration) error {
	now := time.Now()
	version := ""
	if !old.Exists() {
		version = versionArg(old.Version)
	}
	args := []any{old.Value, version, hexMark(newMark()),
		noteOfTime(at, now), max(fenceTTL, keep).Milliseconds(), noteOfTime(now.Add(clocksDiffer), now)}
	return s.run(ctx, s.scripts.end, ended, old.UserID, keys, append(args, s.eventArgs(old.Event, time.Time{})...)...)
}

// endInSteps is end while the Cluster slot moves, in which no command can use
// two keys. Once the lease and the old fence are gone nobody can create the
// record that is then removed; the logout is noted when it has been.
func (s *RedisStore) endInSteps(ctx context.Context, old Record, at time.Time, keep time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	userID := old.UserID
	record, fence := s.keys.Record(userID), []string{s.keys.Fence(userID)}
	current, err := s.readKey(ctx, record, maxRecord)
	if err != nil {
		return err
	}
	whatever := !old.Exists() && old.Version == 0
	if current != "" && current != old.Value && !whatever {
		return ErrConflict
	}
	_, err = await(ctx, s, func(ctx context.Context) (int64, error) {
		return s.client.Del(ctx, s.keys.Lease(userID)).Result()
	})
	if err == nil {
		err = s.runEnd(ctx, fence, Record{UserID: userID, Version: old.versionOfAbsence()}, time.Time{}, keep)
	}
	if err == nil {
		err = s.run(ctx, s.scripts.remove, ended, userID, []string{record}, old.Value, strconv.FormatBool(whatever))
	}
	if err == nil && !at.IsZero() {
		err = s.runEnd(ctx, fence, Record{UserID: userID}, at, keep)
	}
	return err
}

// versionOfAbsence is the version of a record that does not exist, 0 for others.
func (r Record) versionOfAbsence() uint64 {
	if r.Exists() {
		return 0
	}
	return r.Version
}

// createInSteps creates a record while the Cluster slot moves. A session that
// ended meanwhile has moved the fence, and what was created is removed again.
func (s *RedisStore) createInSteps(ctx context.Context, owner string, old, next Record) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	record := s.keys.Record(next.UserID)
	switch current, err := s.readKey(ctx, record, maxRecord); {
	case err != nil:
		return err
	case current == next.Value: // a command that got through, sent again
		return nil
	case current != "":
		return ErrConflict
	}
	if owner != "" {
		holder, err := s.readKey(ctx, s.keys.Lease(next.UserID), maxLeaseValue)
		if err != nil {
			return err
		}
		if holder != leaseOwner+owner {
			return ErrConflict
		}
	}
	before, err := s.readFence(ctx, next.UserID)
	if err != nil {
		return err
	}
	if old.Version != 0 && old.Version != before {
		return ErrConflict
	}
	if err = s.swap(ctx, "", Record{UserID: next.UserID}, next); err != nil {
		return err
	}
	// From here on what was created has to be checked, whatever the caller does.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	after, err := s.readFence(ctx, next.UserID)
	if err != nil {
		return err
	}
	if after != before {
		if err = s.run(ctx, s.scripts.remove, ended, next.UserID, []string{record}, next.Value, "false"); err == nil {
			err = ErrConflict
		}
		return err
	}
	if owner != "" {
		_ = s.Release(ctx, next.UserID, owner, "", 0) // or it runs out
	}
	return nil
}

// LoggedOutAt implements [LogoutLog].
func (s *RedisStore) LoggedOutAt(ctx context.Context, userID string) (Record, time.Time, error) {
	record, fence := s.keys.Record(userID), s.keys.Fence(userID)
	got, err := await(ctx, s, func(ctx context.Context) (recordAndFence, error) {
		pipe := s.client.Pipeline()
		answer := readBoth(ctx, pipe, record, fence)
		_, _ = pipe.Exec(ctx) // each command is asked for its own error
		return answer()
	})
	if err != nil {
		return Record{}, time.Time{}, err
	}
	rec, loggedOut := got.decode(userID)
	return rec, loggedOut, nil
}

type recordAndFence struct{ record, fence string }

// readBoth adds the reads of a record and, after it, of its fence to a pipeline.
func readBoth(ctx context.Context, pipe redis.Pipeliner, record, fence string) func() (recordAndFence, error) {
	first := pipe.GetRange(ctx, record, 0, maxRecord)
	second := pipe.GetRange(ctx, fence, 0, int64(fenceSize))
	return func() (got recordAndFence, err error) {
		if got.record, err = cmdString(first); err == nil {
			got.fence, err = cmdString(second)
		}
		return got, err
	}
}

func (got recordAndFence) decode(userID string) (Record, time.Time) {
	version, loggedOut := readFenceValue(got.fence, time.Now())
	rec := Record{UserID: userID, Value: got.record}
	if !rec.Exists() {
		rec.Version = version
	}
	return rec, loggedOut
}

func (s *RedisStore) readFence(ctx context.Context, userID string) (version uint64, err error) {
	value, err := s.readKey(ctx, s.keys.Fence(userID), fenceSize)
	version, _ = readFenceValue(value, time.Now())
	return version, err
}

// readKey reads a string, at most the given number of bytes and one more. most is
// an int; as an any, a constant costs no allocation.
func (s *RedisStore) readKey(ctx context.Context, key string, most any) (string, error) {
	return await(ctx, s, func(ctx context.Context) (string, error) { return readFrom(ctx, s.client, key, most) })
}

func readFrom(ctx context.Context, client redis.UniversalClient, key string, most any) (string, error) {
	get := redis.NewStringCmd(ctx, "getrange", key, 0, most)
	_ = client.Process(ctx, get)
	return cmdString(get)
}

// cmdString is the answer to a read; of a key of another type, notAString.
func cmdString(cmd *redis.StringCmd) (string, error) {
	value, err := cmd.Result()
	if isWrongType(err) {
		return notAString, nil
	}
	return value, err
}
