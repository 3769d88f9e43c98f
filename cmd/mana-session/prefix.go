package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/mana/session"
	"github.com/mana/session/internal/rediskeys"
)

func (a *app) prefix() *cobra.Command {
	m := &migration{app: a, what: "prefix", workers: withoutBots}
	return m.flags(&cobra.Command{
		Use: "prefix NEW", Short: "Move all records, and their trails, to another key prefix",
		Long: "Move all records, and their trails, from the --key-prefix to another one. The bots of the old prefix must be\n" +
			"stopped first: they would go on writing there. Those of the new prefix may run. A user who has a session\n" +
			"under both keeps both.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := rediskeys.New(args[0])
			if err != nil {
				return usage(errors.New(strings.TrimPrefix(plain(err), "WithKeyPrefix: ")))
			}
			if old, err := rediskeys.New(a.config.keyPrefix); err == nil && old.Overlaps(keys) { // open says what is wrong with it
				return usage(fmt.Errorf("%q and %q: none may begin with the other, or with what lies beside it, or bots would take the keys of one for users of the other",
					a.config.keyPrefix, args[0]))
			}
			return m.run(cmd.Context(), func(ctx context.Context) error { return m.movePrefix(ctx, args[0], keys) })
		},
	})
}

// mover moves what belongs to a user from one prefix to another.
type mover struct {
	*migration
	to     *session.RedisStore
	toKeys rediskeys.Keys
	until  *redis.Script
}

// untilSource gives a record the time at which it is to be dropped, if it is the one
// that is meant.
const untilSource = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIREAT', KEYS[1], ARGV[2])
`

func (m *migration) movePrefix(ctx context.Context, prefix string, keys rediskeys.Keys) error {
	to, err := session.NewRedisStore(m.d.client, session.WithKeyPrefix(prefix))
	if err != nil {
		return usage(err)
	}
	defer func() { _ = to.Close() }()
	if m.write && !m.force {
		bots, err := m.d.running(ctx)
		if err != nil {
			return err
		}
		if bots > 0 {
			return &exit{exitFailed, fmt.Errorf("bots run (%d) under the prefix %s: stop them first, because they would go on writing there. "+
				"(--force moves the records all the same; to those bots their users are then logged out. A mana-session watch counts as a bot.)", bots, m.config.keyPrefix)}
		}
	}
	mv := &mover{migration: m, to: to, toKeys: keys, until: redis.NewScript(untilSource)}
	if err := m.each(ctx, m.d.store.List(ctx, false), mv.move); err != nil {
		return err
	}
	return mv.moveTrails(ctx)
}

// mostRecord is the size of the largest record that is a session, in bytes.
const mostRecord = 1<<20 + 64<<10

// move copies a record, and then removes the old one if it still is what was copied.
func (mv *mover) move(ctx context.Context, listed session.Record) (outcome, string, error) {
	userID := listed.UserID
	if _, err := mv.d.svc.Reseal(ctx, listed, false); errors.Is(err, session.ErrInvalidUserID) {
		return left, "the key is not that of a user", nil
	}
	var copied string // what this process has put under the new prefix
	for {
		// The new prefix is read first: a logout there, later than this, has the copy refused.
		now, loggedOut, err := mv.to.LoggedOutAt(ctx, userID)
		if err != nil {
			return 0, "", err
		}
		old, err := mv.read(ctx, userID)
		switch {
		case errors.Is(err, errNoString):
			return left, "the key holds no string", nil
		case err != nil:
			return 0, "", err
		case !old.record.Exists() && copied == "":
			return gone, "", nil
		case !old.record.Exists():
			return done, "", nil
		case len(old.record.Value) > mostRecord:
			return left, "larger than any session", nil
		case now.Exists() && now.Value != old.record.Value && now.Value != copied:
			return left, "there is a session under both prefixes", nil
		}
		if !now.Exists() && !loggedOut.IsZero() {
			used, err := mv.lastEvent(ctx, userID)
			if err != nil {
				return 0, "", err
			}
			if !used.After(loggedOut) {
				return left, "the user was logged out under the new prefix", nil
			}
		}
		if !mv.write {
			return done, "", nil
		}
		err = mv.copy(ctx, now, old)
		if err == nil {
			copied = old.record.Value
			err = mv.d.store.Delete(ctx, old.record)
		}
		switch {
		case errors.Is(err, session.ErrConflict):
			continue // a bot has written, under one of the prefixes
		case err == nil && old.trail != "":
			err = mv.d.client.Del(ctx, mv.d.keys.Trail(userID)).Err()
		}
		return done, "", err
	}
}

// lastEvent is when something last happened to a user under the old prefix.
func (mv *mover) lastEvent(ctx context.Context, userID string) (at time.Time, err error) {
	events, err := mv.d.svc.Trail(ctx, userID)
	if len(events) > 0 {
		at = events[0].Last
	}
	return at, err
}

// noTTL is Redis's word for a key without a TTL.
const noTTL = -1

// belongings are what a user has under the old prefix.
type belongings struct {
	record     session.Record
	ttl, until int64 // of the record, in milliseconds; the latter since 1970
	trail      string
	trailUntil int64
}

// maxTrail is more than a trail of ours has, in bytes.
const maxTrail = 8 << 10

var errNoString = errors.New("not a string")

// isNoString reports whether Redis said that a key holds a list, a set, …
func isNoString(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE") }

func (mv *mover) read(ctx context.Context, userID string) (b belongings, err error) {
	record, trail := mv.d.keys.Record(userID), mv.d.keys.Trail(userID)
	pipe := mv.d.client.Pipeline()
	integer := func(args ...any) *redis.IntCmd {
		cmd := redis.NewIntCmd(ctx, args...)
		_ = pipe.Process(ctx, cmd)
		return cmd
	}
	value, ttl, until := pipe.GetRange(ctx, record, 0, mostRecord), integer("pttl", record), integer("pexpiretime", record)
	events, trailUntil := pipe.GetRange(ctx, trail, 0, maxTrail-1), integer("pexpiretime", trail)
	_, err = pipe.Exec(ctx)
	switch {
	case isNoString(value.Err()):
		return b, errNoString
	case isNoString(events.Err()): // no trail of ours, and of no harm to the record
		err = cmp.Or(value.Err(), ttl.Err(), until.Err())
	}
	b.record = session.Record{UserID: userID, Value: value.Val()}
	b.ttl, b.until, b.trail, b.trailUntil = ttl.Val(), until.Val(), events.Val(), trailUntil.Val()
	return b, err
}

// copy puts a record and its trail under the new prefix, in the place of now.
func (mv *mover) copy(ctx context.Context, now session.Record, old belongings) error {
	userID := old.record.UserID
	if now.Value != old.record.Value {
		next := session.Record{UserID: userID, Value: old.record.Value}
		if old.ttl != noTTL {
			next.Expires = time.Now().Add(time.Duration(max(old.ttl, 1)) * time.Millisecond)
		}
		if _, err := mv.to.Swap(ctx, now, next); err != nil {
			return err
		}
	}
	pipe := mv.d.client.Pipeline()
	mv.copyTrail(ctx, pipe, userID, old)
	if old.ttl != noTTL {
		// Swap has counted from this machine's clock, and a little later than it was read.
		mv.until.Eval(ctx, pipe, []string{mv.toKeys.Record(userID)}, old.record.Value, old.until)
	}
	return execute(ctx, pipe)
}

// copyTrail puts a trail under the new prefix, unless there is one.
func (mv *mover) copyTrail(ctx context.Context, pipe redis.Pipeliner, userID string, old belongings) {
	if old.trail == "" {
		return
	}
	args := []any{"set", mv.toKeys.Trail(userID), old.trail, "nx"}
	if old.trailUntil > 0 {
		args = append(args, "pxat", old.trailUntil)
	}
	pipe.Do(ctx, args...)
}

// execute sends a pipeline. A trail that is there already is no error.
func execute(ctx context.Context, pipe redis.Pipeliner) error {
	cmds, err := pipe.Exec(ctx)
	if !errors.Is(err, redis.Nil) {
		return err
	}
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
	}
	return nil
}

// moveTrails moves the trails of users without a record.
func (mv *mover) moveTrails(ctx context.Context) error {
	var users []string
	err := mv.d.scan(ctx, mv.d.keys.TrailPrefix(), func(keys []string) error {
		for _, key := range keys {
			if userID, ok := mv.d.keys.TrailOwner(key); ok {
				users = append(users, userID)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(mv.workers)
	for _, userID := range users {
		group.Go(func() error { return mv.moveTrail(ctx, userID) })
	}
	return group.Wait()
}

// moveTrail moves the trail of a user, unless there is a record for it to stay with.
func (mv *mover) moveTrail(ctx context.Context, userID string) error {
	_, err := mv.d.store.Get(ctx, userID)
	if !errors.Is(err, session.ErrNotFound) {
		return err
	}
	old, err := mv.read(ctx, userID)
	if err != nil || old.trail == "" { // gone meanwhile, or other software's
		return err
	}
	if mv.write {
		pipe := mv.d.client.Pipeline()
		mv.copyTrail(ctx, pipe, userID, old)
		if err := execute(ctx, pipe); err != nil {
			return err
		}
		if err := mv.d.client.Del(ctx, mv.d.keys.Trail(userID)).Err(); err != nil {
			return err
		}
	}
	mv.mu.Lock()
	defer mv.mu.Unlock()
	mv.result.Trails++
	return nil
}
