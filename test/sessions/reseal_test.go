package sessions_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
)

func keyOf(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// reseal has alice's record sealed as svc does it.
func reseal(t *testing.T, w *world.World, svc *session.Service) (changed bool) {
	t.Helper()
	rec, err := w.Store.Get(t.Context(), world.Alice)
	require.NoError(t, err)
	would, err := svc.Reseal(t.Context(), rec, false)
	require.NoError(t, err)
	require.Equal(t, rec.Value, w.Stored(world.Alice), "nothing is written yet")
	changed, err = svc.Reseal(t.Context(), rec, true)
	require.NoError(t, err)
	require.Equal(t, would, changed)
	return changed
}

func TestRecordsAreSealedAnewAndBack(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		sealing := w.Service(session.WithEncryption(keyOf(1)))
		rotating := w.Service(session.WithEncryption(keyOf(2), keyOf(1)))
		opening := w.Service(session.WithEncryption(nil, keyOf(2)))
		value := world.TsRecord("a.b.c", world.Email, `{ "n" : 1 }`)
		w.Put(world.Alice, value)
		before, err := w.Store.Get(t.Context(), world.Alice)
		require.NoError(t, err)

		require.False(t, reseal(t, w, w.Svc))
		require.True(t, reseal(t, w, sealing))
		once := w.Stored(world.Alice)
		require.True(t, strings.HasPrefix(once, "sealed1:"))
		require.False(t, reseal(t, w, sealing))
		require.Equal(t, once, w.Stored(world.Alice), "what is sealed already stays")
		require.True(t, reseal(t, w, rotating))
		require.True(t, reseal(t, w, opening))
		require.Equal(t, value, w.Stored(world.Alice), "what is in it stays, to the byte")

		after, err := w.Store.Get(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, before.Expires, after.Expires)
		trail, err := w.Svc.Trail(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Empty(t, trail, "nothing goes into the trail")
	})
}

func TestSealingAnewGivesWayToWhatWasWrittenMeanwhile(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		sealing := w.Service(session.WithEncryption(keyOf(1)))
		w.Login(w.Svc)
		rec, err := w.Store.Get(t.Context(), world.Alice)
		require.NoError(t, err)
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "n", 1))
		written := w.Stored(world.Alice)
		changed, err := sealing.Reseal(t.Context(), rec, true)
		require.ErrorIs(t, err, session.ErrConflict)
		require.False(t, changed)
		require.Equal(t, written, w.Stored(world.Alice))
		rec, err = w.Store.Get(t.Context(), world.Alice)
		require.NoError(t, err)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		_, err = sealing.Reseal(t.Context(), rec, true)
		require.ErrorIs(t, err, session.ErrConflict)
		require.Empty(t, w.Stored(world.Alice), "a logout stays one")
	})
}

func TestWhatIsNoSessionIsNotSealed(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	sealing := w.Service(session.WithEncryption(keyOf(1)))
	for value, reason := range map[string]string{
		"": "not JSON", "x": "not JSON", "sealed1:x": "sealed with another key", "sealed7:x": "does not know", `{"token":"a.b.c","email":"` + strings.Repeat("x", 2<<20) + `"}`: "larger than",
	} {
		_, err := sealing.Reseal(t.Context(), session.Record{UserID: world.Alice, Value: value}, true)
		require.ErrorContains(t, err, reason)
	}
	_, err := sealing.Reseal(t.Context(), session.Record{UserID: "nobody", Value: "x"}, true)
	require.ErrorIs(t, err, session.ErrInvalidUserID)
	full := `{"token":"a.b.c","email":"` + strings.Repeat("x", 1<<20+64<<10-30) + `"}`
	_, err = sealing.Reseal(t.Context(), session.Record{UserID: world.Alice, Value: full}, true)
	require.ErrorIs(t, err, session.ErrTooLarge)
	require.NoError(t, sealing.Close())
	_, err = sealing.Reseal(t.Context(), session.Record{UserID: world.Alice, Value: "x"}, true)
	require.ErrorIs(t, err, session.ErrClosed)
}

func TestOnRedisSealingAnewKeepsTheTTLAndTheLease(t *testing.T) {
	server := redistest.Start(t)
	store := world.NewRedisStore(t, world.NewClient(t, server.Addr))
	w := world.New(t, store)
	sealing := w.Service(session.WithEncryption(keyOf(1)))
	w.Login(w.Svc)
	key := "bot:session:" + world.Alice
	server.MustDo("PEXPIREAT", key, "32503680000123") // another than the session's end
	lease, _, err := store.Acquire(t.Context(), world.Alice, "somebody", time.Minute)
	require.NoError(t, err)
	require.True(t, lease.Held)
	require.True(t, reseal(t, w, sealing))
	require.Equal(t, "32503680000123", server.MustDo("PEXPIRETIME", key))
	lease, _, err = store.Acquire(t.Context(), world.Alice, "somebody else", time.Minute)
	require.NoError(t, err)
	require.False(t, lease.Held)
	server.MustDo("PERSIST", key)
	server.MustDo("SET", key, world.TsRecord("a.b.c", world.Email, "{}"))
	require.True(t, reseal(t, w, sealing))
	require.Equal(t, "-1", server.MustDo("PTTL", key))
}
