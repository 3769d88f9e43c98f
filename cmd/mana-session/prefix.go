package main

import (
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
	m := &migration{app: a, what: "prefix"}
	return m.flags(&cobra.Command{
		Use: "prefix NEW", Short: "Move all records, and their trails, to another key prefix",
		Long: "Move all records, and their trails, from the --key-prefix to another one. The bots of the old prefix must be\n" +
			"stopped first: they would go on writing there. Those of the new prefix may run. A user who has a session\n" +
			"under both keeps both.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := rediskeys.New(args[0])
			switch {
			case err != nil:
				return usage(errors.New(strings.TrimPrefix(plain(err), "WithKeyPrefix: ")))
			case strings.HasPrefix(args[0], a.config.keyPrefix), strings.HasPrefix(a.config.keyPrefix, args[0]):
				return usage(fmt.Errorf("%q and %q: none may begin with the other, or bots would take the keys of one for users of the other",
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
	defer to.Close()
	if m.write && !m.force {
		bots, err := m.d.running(ctx)
		if err != nil {
			return err
		}
		if bots > 0 {
			return &exit{exitFailed, fmt.Errorf("bots run (%d) under the prefix %s: stop them first, because they would go on writing there. "+
				"(--force moves the records all the same; to those bots their users are then logged out.)", bots, m.config.keyPrefix)}
		}
	}
	mv := &mover{migration: m, to: to, toKeys: keys, until: redis.NewScript(untilSource)}
	if err := m.each(ctx, m.d.store.List(ctx, false), mv.move); err != nil {
		return err
	}
	return mv.moveTrails(ctx)
}

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
		old, err := mv.d.store.Get(ctx, userID)
		switch {
		case errors.Is(err, session.ErrNotFound) && copied == "":
			return gone, "", nil
		case errors.Is(err, session.ErrNotFound):
			return done, "", nil
		case err != nil:
			return 0, "", err
		}
		side, err := mv.beside(ctx, userID)
		switch {
		case err != nil:
			return 0, "", err
		case side.ttl == noKey:
			continue // it is gone
		case now.Exists() && now.Value != old.Value && now.Value != copied:
			return left, "there is a session under both prefixes", nil
		case !now.Exists() && !loggedOut.IsZero() && !side.lastEvent.After(loggedOut):
			return left, "the user was logged out under the new prefix", nil
		case !mv.write:
			return done, "", nil
		}
		if err = mv.copy(ctx, now, old, side); errors.Is(err, session.ErrConflict) {
			continue
		} else if err != nil {
			return 0, "", err
		}
		copied = old.Value
		if err = mv.d.store.Delete(ctx, old); errors.Is(err, session.ErrConflict) {
			continue // a bot has written under the old prefix: that is newer
		} else if err != nil {
			return 0, "", err
		}
		return done, "", mv.d.client.Del(ctx, mv.d.keys.Trail(userID)).Err()
	}
}

// Redis's words for a key without a TTL, and for none.
const (
	noTTL = -1
	noKey = -2
)

// besides is what a record does not tell of itself.
type besides struct {
	ttl, until int64 // milliseconds, the latter since 1970
	trail      string
	trailUntil int64
	lastEvent  time.Time
}

// maxTrail is more than a trail of ours has, in bytes.
const maxTrail = 8 << 10

func (mv *mover) beside(ctx context.Context, userID string) (b besides, err error) {
	record, trail := mv.d.keys.Record(userID), mv.d.keys.Trail(userID)
	pipe := mv.d.client.Pipeline()
	ttl := redis.NewIntCmd(ctx, "pttl", record)
	_ = pipe.Process(ctx, ttl)
	until := redis.NewIntCmd(ctx, "pexpiretime", record)
	_ = pipe.Process(ctx, until)
	text := pipe.GetRange(ctx, trail, 0, maxTrail-1)
	trailUntil := redis.NewIntCmd(ctx, "pexpiretime", trail)
	_ = pipe.Process(ctx, trailUntil)
	if _, err = pipe.Exec(ctx); err != nil {
		return b, err
	}
	events, err := mv.d.svc.Trail(ctx, userID)
	if err == nil && len(events) > 0 {
		b.lastEvent = events[0].Last
	}
	b.ttl, b.until, b.trail, b.trailUntil = ttl.Val(), until.Val(), text.Val(), trailUntil.Val()
	return b, err
}

// copy puts a record and its trail under the new prefix, in the place of now.
func (mv *mover) copy(ctx context.Context, now, old session.Record, side besides) error {
	if err := mv.copyTrail(ctx, old.UserID, side); err != nil {
		return err
	}
	if now.Value != old.Value {
		next := session.Record{UserID: old.UserID, Value: old.Value}
		if side.ttl != noTTL {
			next.Expires = time.Now().Add(time.Duration(max(side.ttl, 1)) * time.Millisecond)
		}
		if _, err := mv.to.Swap(ctx, now, next); err != nil {
			return err
		}
	}
	if side.ttl == noTTL {
		return nil
	}
	// Swap has counted from this machine's clock, and a little later than it was read.
	return mv.until.Run(ctx, mv.d.client, []string{mv.toKeys.Record(old.UserID)}, old.Value, side.until).Err()
}

// copyTrail puts a trail under the new prefix, unless there is one.
func (mv *mover) copyTrail(ctx context.Context, userID string, side besides) error {
	if side.trail == "" {
		return nil
	}
	args := []any{"set", mv.toKeys.Trail(userID), side.trail, "nx"}
	if side.trailUntil > 0 {
		args = append(args, "pxat", side.trailUntil)
	}
	err := mv.d.client.Do(ctx, args...).Err()
	if errors.Is(err, redis.Nil) { // there is one
		err = nil
	}
	return err
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
	group.SetLimit(workers)
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
	if mv.write {
		side, err := mv.beside(ctx, userID)
		if err == nil {
			err = mv.copyTrail(ctx, userID, side)
		}
		if err == nil {
			err = mv.d.client.Del(ctx, mv.d.keys.Trail(userID)).Err()
		}
		if err != nil {
			return err
		}
	}
	mv.mu.Lock()
	defer mv.mu.Unlock()
	mv.result.Trails++
	return nil
}
