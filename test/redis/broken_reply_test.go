package redis_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// breaking is a store behind a proxy, on one connection.
type breaking struct {
	t      *testing.T
	proxy  *redistest.Proxy
	client *redis.Client
	store  *session.RedisStore
}

func newBreaking(t *testing.T, server *redistest.Server, retries int) *breaking {
	t.Helper()
	proxy := redistest.NewProxy(t, server.Addr)
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr, PoolSize: 1, PipelinePoolSize: -1, MaxRetries: retries, MinRetryBackoff: -1})
	t.Cleanup(func() { client.Close() })
	return &breaking{t, proxy, client, world.NewRedisStore(t, client)}
}

// cutAfter makes the connection break off after n more bytes of replies.
func (b *breaking) cutAfter(n int) {
	b.t.Helper()
	world.Eventually(b.t, "a connection", func() bool { return b.client.Ping(b.t.Context()).Err() == nil })
	b.proxy.CutAfter(n)
}

// A connection that breaks off in the middle of a reply leaves the client
// without knowing whether the command was carried out. At every byte of the
// reply, with a client that repeats commands and with one that does not: what
// is broken off is never taken for an answer, and a write that is repeated after
// it got through is no conflict.
func TestReplyThatBreaksOffAtAnyByteIsNoAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	direct := world.NewRedisStore(t, world.NewClient(t, server.Addr))
	record := func(value string) session.Record {
		return session.Record{UserID: world.Alice, Value: value, Expires: time.Now().Add(time.Hour)}
	}
	current := func() session.Record {
		rec, err := direct.Get(context.WithoutCancel(t.Context()), world.Alice)
		if errors.Is(err, session.ErrNotFound) {
			return session.Record{UserID: world.Alice}
		}
		require.NoError(t, err)
		return rec
	}
	const owner = "me"
	value := strings.Repeat("v", 100)
	reset := func(t *testing.T) session.Record {
		require.NoError(t, direct.Delete(t.Context(), session.Record{UserID: world.Alice}))
		_, err := direct.Swap(t.Context(), session.Record{UserID: world.Alice}, record(value))
		require.NoError(t, err)
		return current()
	}
	free := func(t *testing.T) { // of a lease that may be left
		lease, _, err := direct.Acquire(t.Context(), world.Alice, owner, time.Minute)
		require.NoError(t, err)
		require.True(t, lease.Held, "nobody else has it")
		require.NoError(t, direct.Release(t.Context(), world.Alice, owner, "", 0))
	}
	operations := map[string]func(t *testing.T, store *session.RedisStore, arm func()) error{
		"read": func(t *testing.T, store *session.RedisStore, arm func()) error {
			arm()
			rec, err := store.Get(t.Context(), world.Alice)
			if err == nil {
				require.Equal(t, value, rec.Value)
			}
			require.NotErrorIs(t, err, session.ErrNotFound, "half an answer is not nothing")
			return err
		},
		"swap": func(t *testing.T, store *session.RedisStore, arm func()) error {
			base, next := current(), record(value+"2")
			arm()
			_, err := store.Swap(t.Context(), base, next)
			require.NotErrorIs(t, err, session.ErrConflict)
			if now := current().Value; err == nil || now != base.Value {
				require.Equal(t, next.Value, now)
			}
			_, again := direct.Swap(t.Context(), base, next)
			require.NoError(t, again, "repeated by the caller")
			require.Equal(t, next.Value, current().Value)
			return err
		},
		"swap under a lease": func(t *testing.T, store *session.RedisStore, arm func()) error {
			base, next := current(), record(value+"2")
			_, _, err := direct.Acquire(t.Context(), world.Alice, owner, time.Minute)
			require.NoError(t, err)
			arm()
			_, err = store.SwapLeased(t.Context(), owner, base, next)
			require.NotErrorIs(t, err, session.ErrConflict)
			_, again := direct.SwapLeased(t.Context(), owner, base, next)
			require.NoError(t, again, "repeated by the caller")
			require.Equal(t, next.Value, current().Value)
			free(t)
			return err
		},
		"acquire": func(t *testing.T, store *session.RedisStore, arm func()) error {
			arm()
			lease, rec, err := store.Acquire(t.Context(), world.Alice, owner, time.Minute)
			if err == nil {
				require.True(t, lease.Held, "repeated, it is still its owner's")
				require.Equal(t, value, rec.Value)
			}
			free(t)
			return err
		},
		"release": func(t *testing.T, store *session.RedisStore, arm func()) error {
			_, _, err := direct.Acquire(t.Context(), world.Alice, owner, time.Minute)
			require.NoError(t, err)
			arm()
			err = store.Release(t.Context(), world.Alice, owner, "", 0)
			free(t)
			return err
		},
		"delete": func(t *testing.T, store *session.RedisStore, arm func()) error {
			base := current()
			arm()
			err := store.Delete(t.Context(), base)
			require.NotErrorIs(t, err, session.ErrConflict)
			require.NoError(t, direct.Delete(t.Context(), base), "repeated by the caller")
			require.False(t, current().Exists())
			return err
		},
	}
	once, repeating := newBreaking(t, server, -1), newBreaking(t, server, 3)
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			reset(t) // and the scripts are loaded
			require.NoError(t, operation(t, direct, func() {}))
			length := 0
			for ; ; length++ {
				reset(t)
				if operation(t, once.store, func() { once.cutAfter(length) }) == nil {
					break
				}
			}
			t.Logf("replies of %d bytes", length)
			require.GreaterOrEqual(t, length, len(":1\r\n"))
			for n := range length {
				reset(t)
				require.NoError(t, operation(t, repeating.store, func() { repeating.cutAfter(n) }), "after %d bytes", n)
			}
		})
	}
}

// The same over a whole refresh, with a refresh token that can be spent once:
// whichever of its replies breaks off, the token's successor is kept.
func TestRefreshWhoseConnectionBreaksOffLosesNoLogin(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.LoginDead()
	b := newBreaking(t, server, -1)
	far := w.Bot(b.client, session.WithNearCache(0))
	// Two replies with the record, beside which there is the lease's owner, and the
	// short ones of the swap and of what follows it.
	short := 2*len(w.Stored(world.Alice)) + 60
	broken := 0
	for n := 0; n < short+9; n += map[bool]int{true: 97, false: 1}[n+97 < short] {
		w.LoginDead()
		b.cutAfter(n)
		_, err := far.Token(t.Context(), world.Alice)
		refusedOrDone(t, err)
		if err != nil {
			broken++
		}
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Refresh), 1)
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		_, err = w.Svc.Token(ctx, world.Alice)
		cancel()
		require.NoError(t, err, "long before a lease that was left runs out")
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Refresh), 1, "not spent again, and not lost")
		require.Contains(t, w.Stored(world.Alice), `"refreshToken"`)
	}
	require.NotZero(t, broken)
	require.NotContains(t, w.Log.String(), "ended by the auth server")
}
