package session_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// sealKey is a key of which every byte is b.
func sealKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// users is what Users yields, in order.
func users(t *testing.T, svc *session.Service) []string {
	t.Helper()
	var ids []string
	for id, err := range svc.Users(t.Context()) {
		require.NoError(t, err)
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// sealedOnly is a store that takes no record in plain text.
type sealedOnly struct {
	*session.MemoryStore
	t      *testing.T
	writes int
}

func (s *sealedOnly) look(next session.Record) {
	s.writes++
	if !strings.HasPrefix(next.Value, "sealed1:") {
		s.t.Errorf("written in plain text: %s", next.Value)
	}
}

func (s *sealedOnly) Swap(ctx context.Context, old, next session.Record) (session.Record, error) {
	s.look(next)
	return s.MemoryStore.Swap(ctx, old, next)
}

func (s *sealedOnly) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	s.look(next)
	return s.MemoryStore.SwapLeased(ctx, owner, old, next)
}

func TestEveryWriteIsSealed(t *testing.T) {
	store := &sealedOnly{session.NewMemoryStore(), t, 0}
	w := world.New(t, store, session.WithEncryption(sealKey(1)))
	w.LoginDead()                                                       // a login
	world.MustToken(t, w.Svc, world.Alice)                              // the refresh token
	require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1)) // data
	require.NoError(t, w.Svc.DeleteData(t.Context(), world.Alice, "k"))
	w.Auth.Link(world.Bob, world.Email)
	world.MustToken(t, w.Svc, world.Bob) // a session from the link
	w.Auth.SetTokenTTL(2 * time.Minute)
	w.Login(w.Svc)
	w.Auth.SetTokenTTL(15 * time.Minute)
	first := world.MustToken(t, w.Svc, world.Alice)
	world.Eventually(t, "a refresh ahead", func() bool { return world.MustToken(t, w.Svc, world.Alice) != first })
	before := store.writes
	require.GreaterOrEqual(t, before, 7)

	unlinked := w.Service(session.WithEncryption(sealKey(1)), session.WithSSOLink(false))
	w.Auth.SetTokenTTL(30 * time.Second)
	w.Login(unlinked)
	w.Auth.RevokeRefreshTokens(world.Email)
	_, err := unlinked.Token(t.Context(), world.Alice) // drops the spent refresh token
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Equal(t, before+2, store.writes)
}

func TestSealedRecordsShowNothingAndServeAsOthersDo(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		svc := w.Service(session.WithEncryption(sealKey(1)))
		w.Auth.SetTokenTTL(30 * time.Second)
		s, err := svc.Login(t.Context(), world.Alice, world.Email, world.Password)
		require.NoError(t, err)
		w.Auth.SetTokenTTL(15 * time.Minute)
		require.NoError(t, svc.SetData(t.Context(), world.Alice, "colour", "ultramarine"))
		token := world.MustToken(t, svc, world.Alice)
		require.NotEqual(t, s.Token(), token, "the refresh token came back from the record")

		sealed := w.Stored(world.Alice)
		require.True(t, strings.HasPrefix(sealed, "sealed1:"))
		for _, part := range append(strings.Split(token, "."), world.Email, "token", "colour", "ultramarine", "expiresAt") {
			require.NotContains(t, sealed, part)
		}

		other := w.Service(session.WithEncryption(sealKey(1)))
		require.Equal(t, token, world.MustToken(t, other, world.Alice))
		colour, found, err := session.DataAs[string](t.Context(), other, world.Alice, "colour")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "ultramarine", colour)
		require.Equal(t, []string{world.Alice}, users(t, other))
		stats, err := other.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, stats.Active)
		require.Zero(t, stats.Unreadable)
		require.NoError(t, other.Logout(t.Context(), world.Alice))
		_, err = svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestKeysRotateWithoutALogin(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		opens := func(keys ...byte) bool {
			t.Helper()
			var all [][]byte
			for _, key := range keys {
				all = append(all, sealKey(key))
			}
			_, err := w.Service(session.WithEncryption(all[0], all[1:]...)).Token(t.Context(), world.Alice)
			if err != nil {
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
			}
			return err == nil
		}
		first := w.Service(session.WithEncryption(sealKey(1)))
		w.Login(first)
		require.True(t, opens(1))
		require.False(t, opens(2))

		// Bots that know the new key, one of which writes with it.
		require.True(t, opens(1, 2))
		second := w.Service(session.WithEncryption(sealKey(2), sealKey(9), sealKey(1)))
		require.NoError(t, second.SetData(t.Context(), world.Alice, "k", 1))
		require.True(t, opens(1, 2))
		require.True(t, opens(2))
		require.False(t, opens(1), "the next write was with the current key")
	})
}

func TestEncryptionIsSwitchedOnAndOffWithoutALogin(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		key := sealKey(1)
		ready := w.Service(session.WithEncryption(nil, key))
		require.Contains(t, w.Log.String(), "plain text")
		w.Login(ready)
		require.True(t, strings.HasPrefix(w.Stored(world.Alice), "{"))
		token := world.MustToken(t, w.Svc, world.Alice)

		require.NoError(t, w.Service(session.WithEncryption(key)).SetData(t.Context(), world.Alice, "k", 1))
		require.True(t, strings.HasPrefix(w.Stored(world.Alice), "sealed1:"))
		world.Eventually(t, "the bot that only reads has seen the write", func() bool {
			found, err := ready.Data(t.Context(), world.Alice, "k", new(int))
			return err == nil && found
		})
		require.Equal(t, token, world.MustToken(t, ready, world.Alice))

		require.NoError(t, ready.SetData(t.Context(), world.Alice, "k", 2))
		require.True(t, strings.HasPrefix(w.Stored(world.Alice), "{"))
		require.Equal(t, token, world.MustToken(t, w.Service(), world.Alice))
	})
}

func TestSessionsOfTheTypeScriptServiceAreSealedByTheNextWrite(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
		record := world.TsRecord(token, world.Email, `{"a":{"b":[1,2]}}`)
		w.Put(world.Alice, record)
		svc := w.Service(session.WithEncryption(sealKey(1)))
		require.Equal(t, token, world.MustToken(t, svc, world.Alice))
		require.Equal(t, []string{world.Alice}, users(t, svc))
		require.Equal(t, record, w.Stored(world.Alice), "reading is not writing")
		require.NoError(t, svc.SetData(t.Context(), world.Alice, "k", "v"))
		require.True(t, strings.HasPrefix(w.Stored(world.Alice), "sealed1:"))

		strict := w.Service(session.WithEncryption(sealKey(1)), session.WithEncryptionRequired())
		require.Equal(t, token, world.MustToken(t, strict, world.Alice))
		a, found, err := session.DataAs[map[string][]int](t.Context(), strict, world.Alice, "a")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, map[string][]int{"b": {1, 2}}, a)
	})
}

func TestPlainTextIsNoSessionOnceEncryptionIsRequired(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		planted := world.TsRecord(w.Auth.MintToken("bob@example.com", time.Now().Add(time.Hour)), world.Email, "{}")
		w.Put(world.Alice, planted)
		svc := w.Service(session.WithEncryptionRequired(), session.WithEncryption(sealKey(1)))
		requireNoSession(t, w, svc, world.Alice, "in plain text")
		w.Login(svc)
		world.MustToken(t, svc, world.Alice)
	})
}

// requireNoSession is what holds for a record that cannot be read.
func requireNoSession(t *testing.T, w *world.World, svc *session.Service, userID, reason string) {
	t.Helper()
	before, err := svc.Stats(t.Context())
	require.NoError(t, err)
	value := w.Stored(userID)
	logged := len(w.Log.String())
	_, err = svc.Token(t.Context(), userID)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	line := w.Log.String()[logged:]
	require.Contains(t, line, "record is not a session")
	require.Contains(t, line, reason)
	require.NotContains(t, line, value)
	if len(value) > 16 {
		require.NotContains(t, line, value[8:16])
	}
	require.ErrorIs(t, svc.SetData(t.Context(), userID, "k", 1), session.ErrNotLoggedIn)
	after, err := svc.Stats(t.Context())
	require.NoError(t, err)
	require.Greater(t, after.Unreadable, before.Unreadable)
	require.Equal(t, value, w.Stored(userID), "nothing was removed or overwritten")
}

func TestRecordThatNoKeyOpensIsNoSessionAndIsReplaced(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		key := sealKey(1)
		plain := world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), world.Email, "{}")
		sealed := session.Seal(key, world.Alice, plain)
		w.Put(world.Alice, sealed)
		world.MustToken(t, w.Service(session.WithEncryption(key)), world.Alice)

		requireNoSession(t, w, w.Service(), world.Alice, "there is no key")
		requireNoSession(t, w, w.Service(session.WithEncryption(sealKey(2), sealKey(3))), world.Alice, "another key")

		svc := w.Service(session.WithEncryption(key))
		for name, poison := range map[string]string{
			"another user's":   session.Seal(key, world.Bob, plain),
			"changed":          sealed[:len(sealed)-1] + string(sealed[len(sealed)-1]^1),
			"cut off":          sealed[:40],
			"the prefix alone": "sealed1:",
			"another version":  "sealed2:" + sealed[8:],
			"no record in it":  session.Seal(key, world.Alice, "hello"),
			"nothing in it":    session.Seal(key, world.Alice, ""),
		} {
			t.Run(name, func(t *testing.T) {
				w.Put(world.Alice, poison)
				world.Eventually(t, "the write has been seen", func() bool {
					_, err := svc.Token(t.Context(), world.Alice)
					return err != nil
				})
				requireNoSession(t, w, svc, world.Alice, "")
			})
		}
		w.Login(svc)
		world.MustToken(t, svc, world.Alice)
	})
}

func TestUsersCannotBeHandedEachOthersRecords(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		svc := w.Service(session.WithEncryption(sealKey(1)))
		w.Login(svc)
		_, err := svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
		require.NoError(t, err)
		alices, bobs := w.Stored(world.Alice), w.Stored(world.Bob)
		w.Put(world.Alice, bobs)
		w.Put(world.Bob, alices)
		for _, id := range []string{world.Alice, world.Bob} {
			world.Eventually(t, "the writes have been seen", func() bool {
				_, err := svc.Token(t.Context(), id)
				return err != nil
			})
			requireNoSession(t, w, svc, id, "for another user")
		}
	})
}

func TestCleanupDropsSealedSessionsThatHaveExpired(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		key := sealKey(1)
		token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
		// The store would keep both for an hour.
		w.Put(world.Alice, session.Seal(key, world.Alice, `{"token":"`+token+`","expiresAt":"2020-01-01T00:00:00.000Z","data":{}}`))
		w.Put(world.Bob, session.Seal(key, world.Bob, world.TsRecord(token, world.Email, "{}")))
		keyless := w.Service()
		dropped, err := keyless.Cleanup(t.Context())
		require.NoError(t, err)
		require.Zero(t, dropped, "it cannot tell")

		svc := w.Service(session.WithEncryption(key))
		dropped, err = svc.Cleanup(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, dropped)
		require.Empty(t, w.Stored(world.Alice))
		require.NotEmpty(t, w.Stored(world.Bob))
	})
}

// Bots in the middle of a rotation write to one user side by side.
func TestConcurrentSealedWritesAllSurvive(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		bots := []*session.Service{
			w.Service(session.WithEncryption(sealKey(1), sealKey(2))),
			w.Service(session.WithEncryption(sealKey(2), sealKey(1))),
			w.Service(session.WithEncryption(nil, sealKey(1), sealKey(2))),
		}
		w.Login(bots[0])
		const writers, writes = 4, 5
		var running sync.WaitGroup
		for i, svc := range bots {
			for writer := range writers {
				running.Go(func() {
					for n := range writes {
						if err := svc.SetData(t.Context(), world.Alice, fmt.Sprintf("%d/%d/%d", i, writer, n), n); err != nil {
							t.Error(err)
						}
						if _, err := svc.Token(t.Context(), world.Alice); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		running.Wait()
		reader := w.Service(session.WithEncryption(sealKey(1), sealKey(2)))
		for i := range bots {
			for writer := range writers {
				for n := range writes {
					found, err := reader.Data(t.Context(), world.Alice, fmt.Sprintf("%d/%d/%d", i, writer, n), new(int))
					require.NoError(t, err)
					require.True(t, found)
				}
			}
		}
	})
}

func TestRefreshTokenIsSpentOnceOverSealedRecords(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		bots := []*session.Service{w.Service(session.WithEncryption(sealKey(1))), w.Service(session.WithEncryption(sealKey(1)))}
		w.Auth.SetTokenTTL(30 * time.Second)
		w.Login(bots[0])
		w.Auth.SetTokenTTL(15 * time.Minute)
		tokens := make(chan string, 16)
		var running sync.WaitGroup
		for i := range cap(tokens) {
			running.Go(func() {
				token, err := bots[i%2].Token(t.Context(), world.Alice)
				if err != nil {
					t.Error(err)
				}
				tokens <- token
			})
		}
		running.Wait()
		close(tokens)
		first := <-tokens
		for token := range tokens {
			require.Equal(t, first, token)
		}
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
	})
}

func TestNonsenseKeysAreRefused(t *testing.T) {
	key := []byte("0123456789abcdefghijklmnopqrstuv")
	for name, opts := range map[string][]session.Option{
		"no key":                   {session.WithEncryption(nil)},
		"empty":                    {session.WithEncryption([]byte{})},
		"empty beside a good one":  {session.WithEncryption([]byte{}, key)},
		"16 bytes":                 {session.WithEncryption(key[:16])},
		"31 bytes":                 {session.WithEncryption(key[:31])},
		"33 bytes":                 {session.WithEncryption(append(slices.Clone(key), 'w'))},
		"hex of a key":             {session.WithEncryption([]byte(fmt.Sprintf("%x", key)))},
		"zeros":                    {session.WithEncryption(make([]byte, 32))},
		"short older":              {session.WithEncryption(key, key[:31])},
		"empty older":              {session.WithEncryption(key, nil)},
		"twice":                    {session.WithEncryption(key), session.WithEncryption(sealKey(1))},
		"twice the same":           {session.WithEncryption(key), session.WithEncryption(key)},
		"twice, once not written":  {session.WithEncryption(nil, key), session.WithEncryption(key)},
		"required without a key":   {session.WithEncryptionRequired()},
		"required but not written": {session.WithEncryptionRequired(), session.WithEncryption(nil, key)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := session.New(opts...)
			require.ErrorContains(t, err, "session: WithEncryption")
			for _, form := range []string{"%v", "%+v", "%#v"} {
				text := fmt.Sprintf(form, err)
				require.NotContains(t, text, string(key[:8]))
				require.NotContains(t, text, fmt.Sprintf("%x", key[:8]))
			}
		})
	}
}

func TestKeyIsCopied(t *testing.T) {
	key := sealKey(1)
	opt := session.WithEncryption(key)
	clear(key)
	w := world.New(t, session.NewMemoryStore(), opt)
	w.Login(w.Svc)
	world.MustToken(t, w.Service(session.WithEncryption(sealKey(1))), world.Alice)
}
