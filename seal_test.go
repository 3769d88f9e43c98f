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
	w := newWorld(t, store, session.WithEncryption(sealKey(1)))
	w.loginDead()                                                 // a login
	mustToken(t, w.svc, alice)                                    // the refresh token
	require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1)) // data
	require.NoError(t, w.svc.DeleteData(t.Context(), alice, "k"))
	w.auth.Link(bob, email)
	mustToken(t, w.svc, bob) // a session from the link
	w.auth.SetTokenTTL(2 * time.Minute)
	w.login(w.svc)
	w.auth.SetTokenTTL(15 * time.Minute)
	first := mustToken(t, w.svc, alice)
	eventually(t, "a refresh ahead", func() bool { return mustToken(t, w.svc, alice) != first })
	before := store.writes
	require.GreaterOrEqual(t, before, 7)

	unlinked := w.service(session.WithEncryption(sealKey(1)), session.WithSSOLink(false))
	w.auth.SetTokenTTL(30 * time.Second)
	w.login(unlinked)
	w.auth.RevokeRefreshTokens(email)
	_, err := unlinked.Token(t.Context(), alice) // drops the spent refresh token
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Equal(t, before+2, store.writes)
}

func TestSealedRecordsShowNothingAndServeAsOthersDo(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		svc := w.service(session.WithEncryption(sealKey(1)))
		w.auth.SetTokenTTL(30 * time.Second)
		s, err := svc.Login(t.Context(), alice, email, password)
		require.NoError(t, err)
		w.auth.SetTokenTTL(15 * time.Minute)
		require.NoError(t, svc.SetData(t.Context(), alice, "colour", "ultramarine"))
		token := mustToken(t, svc, alice)
		require.NotEqual(t, s.Token(), token, "the refresh token came back from the record")

		sealed := w.stored(alice)
		require.True(t, strings.HasPrefix(sealed, "sealed1:"))
		for _, part := range append(strings.Split(token, "."), email, "token", "colour", "ultramarine", "expiresAt") {
			require.NotContains(t, sealed, part)
		}

		other := w.service(session.WithEncryption(sealKey(1)))
		require.Equal(t, token, mustToken(t, other, alice))
		colour, found, err := session.DataAs[string](t.Context(), other, alice, "colour")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "ultramarine", colour)
		require.Equal(t, []string{alice}, users(t, other))
		stats, err := other.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, stats.Active)
		require.Zero(t, stats.Unreadable)
		require.NoError(t, other.Logout(t.Context(), alice))
		_, err = svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestKeysRotateWithoutALogin(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		opens := func(keys ...byte) bool {
			t.Helper()
			var all [][]byte
			for _, key := range keys {
				all = append(all, sealKey(key))
			}
			_, err := w.service(session.WithEncryption(all[0], all[1:]...)).Token(t.Context(), alice)
			if err != nil {
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
			}
			return err == nil
		}
		first := w.service(session.WithEncryption(sealKey(1)))
		w.login(first)
		require.True(t, opens(1))
		require.False(t, opens(2))

		// Bots that know the new key, one of which writes with it.
		require.True(t, opens(1, 2))
		second := w.service(session.WithEncryption(sealKey(2), sealKey(9), sealKey(1)))
		require.NoError(t, second.SetData(t.Context(), alice, "k", 1))
		require.True(t, opens(1, 2))
		require.True(t, opens(2))
		require.False(t, opens(1), "the next write was with the current key")
	})
}

func TestEncryptionIsSwitchedOnAndOffWithoutALogin(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		key := sealKey(1)
		ready := w.service(session.WithEncryption(nil, key))
		require.Contains(t, w.log.String(), "plain text")
		w.login(ready)
		require.True(t, strings.HasPrefix(w.stored(alice), "{"))
		token := mustToken(t, w.svc, alice)

		require.NoError(t, w.service(session.WithEncryption(key)).SetData(t.Context(), alice, "k", 1))
		require.True(t, strings.HasPrefix(w.stored(alice), "sealed1:"))
		eventually(t, "the bot that only reads has seen the write", func() bool {
			found, err := ready.Data(t.Context(), alice, "k", new(int))
			return err == nil && found
		})
		require.Equal(t, token, mustToken(t, ready, alice))

		require.NoError(t, ready.SetData(t.Context(), alice, "k", 2))
		require.True(t, strings.HasPrefix(w.stored(alice), "{"))
		require.Equal(t, token, mustToken(t, w.service(), alice))
	})
}

func TestSessionsOfTheTypeScriptServiceAreSealedByTheNextWrite(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		token := w.auth.MintToken(email, time.Now().Add(time.Hour))
		record := tsRecord(token, email, `{"a":{"b":[1,2]}}`)
		w.put(alice, record)
		svc := w.service(session.WithEncryption(sealKey(1)))
		require.Equal(t, token, mustToken(t, svc, alice))
		require.Equal(t, []string{alice}, users(t, svc))
		require.Equal(t, record, w.stored(alice), "reading is not writing")
		require.NoError(t, svc.SetData(t.Context(), alice, "k", "v"))
		require.True(t, strings.HasPrefix(w.stored(alice), "sealed1:"))

		strict := w.service(session.WithEncryption(sealKey(1)), session.WithEncryptionRequired())
		require.Equal(t, token, mustToken(t, strict, alice))
		a, found, err := session.DataAs[map[string][]int](t.Context(), strict, alice, "a")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, map[string][]int{"b": {1, 2}}, a)
	})
}

func TestPlainTextIsNoSessionOnceEncryptionIsRequired(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		planted := tsRecord(w.auth.MintToken("bob@example.com", time.Now().Add(time.Hour)), email, "{}")
		w.put(alice, planted)
		svc := w.service(session.WithEncryptionRequired(), session.WithEncryption(sealKey(1)))
		requireNoSession(t, w, svc, alice, "in plain text")
		w.login(svc)
		mustToken(t, svc, alice)
	})
}

// requireNoSession is what holds for a record that cannot be read.
func requireNoSession(t *testing.T, w *world, svc *session.Service, userID, reason string) {
	t.Helper()
	before, err := svc.Stats(t.Context())
	require.NoError(t, err)
	value := w.stored(userID)
	logged := len(w.log.String())
	_, err = svc.Token(t.Context(), userID)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	line := w.log.String()[logged:]
	require.Contains(t, line, "record is not a session")
	require.Contains(t, line, reason)
	require.NotContains(t, line, value)
	if len(value) > 16 {
		require.NotContains(t, line, value[8:16])
	}
	require.ErrorIs(t, svc.SetData(t.Context(), userID, "k", 1), session.ErrNotLoggedIn)
	require.NotContains(t, users(t, svc), userID)
	after, err := svc.Stats(t.Context())
	require.NoError(t, err)
	require.Greater(t, after.Unreadable, before.Unreadable)
	require.Equal(t, value, w.stored(userID), "nothing was removed or overwritten")
}

func TestRecordThatNoKeyOpensIsNoSessionAndIsReplaced(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		key := sealKey(1)
		plain := tsRecord(w.auth.MintToken(email, time.Now().Add(time.Hour)), email, "{}")
		sealed := session.Seal(key, alice, plain)
		w.put(alice, sealed)
		mustToken(t, w.service(session.WithEncryption(key)), alice)

		requireNoSession(t, w, w.service(), alice, "there is no key")
		requireNoSession(t, w, w.service(session.WithEncryption(sealKey(2), sealKey(3))), alice, "another key")

		svc := w.service(session.WithEncryption(key))
		for name, poison := range map[string]string{
			"another user's":   session.Seal(key, bob, plain),
			"changed":          sealed[:len(sealed)-1] + string(sealed[len(sealed)-1]^1),
			"cut off":          sealed[:40],
			"the prefix alone": "sealed1:",
			"another version":  "sealed2:" + sealed[8:],
			"no record in it":  session.Seal(key, alice, "hello"),
			"nothing in it":    session.Seal(key, alice, ""),
		} {
			t.Run(name, func(t *testing.T) {
				w.put(alice, poison)
				eventually(t, "the write has been seen", func() bool {
					_, err := svc.Token(t.Context(), alice)
					return err != nil
				})
				requireNoSession(t, w, svc, alice, "")
			})
		}
		w.login(svc)
		mustToken(t, svc, alice)
	})
}

func TestUsersCannotBeHandedEachOthersRecords(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		svc := w.service(session.WithEncryption(sealKey(1)))
		w.login(svc)
		_, err := svc.Login(t.Context(), bob, "bob@example.com", password)
		require.NoError(t, err)
		alices, bobs := w.stored(alice), w.stored(bob)
		w.put(alice, bobs)
		w.put(bob, alices)
		for _, id := range []string{alice, bob} {
			eventually(t, "the writes have been seen", func() bool {
				_, err := svc.Token(t.Context(), id)
				return err != nil
			})
			requireNoSession(t, w, svc, id, "for another user")
		}
	})
}

func TestCleanupDropsSealedSessionsThatHaveExpired(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		key := sealKey(1)
		token := w.auth.MintToken(email, time.Now().Add(time.Hour))
		// The store would keep both for an hour.
		w.put(alice, session.Seal(key, alice, `{"token":"`+token+`","expiresAt":"2020-01-01T00:00:00.000Z","data":{}}`))
		w.put(bob, session.Seal(key, bob, tsRecord(token, email, "{}")))
		keyless := w.service()
		dropped, err := keyless.Cleanup(t.Context())
		require.NoError(t, err)
		require.Zero(t, dropped, "it cannot tell")
		require.Empty(t, users(t, keyless))

		svc := w.service(session.WithEncryption(key))
		require.Equal(t, []string{bob}, users(t, svc))
		stats, err := svc.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, stats.Total)
		require.Equal(t, 1, stats.Active)
		dropped, err = svc.Cleanup(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, dropped)
		require.Empty(t, w.stored(alice))
		require.NotEmpty(t, w.stored(bob))
	})
}

// Bots in the middle of a rotation write to one user side by side.
func TestConcurrentSealedWritesAllSurvive(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		bots := []*session.Service{
			w.service(session.WithEncryption(sealKey(1), sealKey(2))),
			w.service(session.WithEncryption(sealKey(2), sealKey(1))),
			w.service(session.WithEncryption(nil, sealKey(1), sealKey(2))),
		}
		w.login(bots[0])
		const writers, writes = 4, 5
		var running sync.WaitGroup
		for i, svc := range bots {
			for writer := range writers {
				running.Go(func() {
					for n := range writes {
						if err := svc.SetData(t.Context(), alice, fmt.Sprintf("%d/%d/%d", i, writer, n), n); err != nil {
							t.Error(err)
						}
						if _, err := svc.Token(t.Context(), alice); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		running.Wait()
		reader := w.service(session.WithEncryption(sealKey(1), sealKey(2)))
		for i := range bots {
			for writer := range writers {
				for n := range writes {
					found, err := reader.Data(t.Context(), alice, fmt.Sprintf("%d/%d/%d", i, writer, n), new(int))
					require.NoError(t, err)
					require.True(t, found)
				}
			}
		}
	})
}

func TestRefreshTokenIsSpentOnceOverSealedRecords(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		bots := []*session.Service{w.service(session.WithEncryption(sealKey(1))), w.service(session.WithEncryption(sealKey(1)))}
		w.auth.SetTokenTTL(30 * time.Second)
		w.login(bots[0])
		w.auth.SetTokenTTL(15 * time.Minute)
		tokens := make(chan string, 16)
		var running sync.WaitGroup
		for i := range cap(tokens) {
			running.Go(func() {
				token, err := bots[i%2].Token(t.Context(), alice)
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
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh))
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
	w := newWorld(t, session.NewMemoryStore(), opt)
	w.login(w.svc)
	mustToken(t, w.service(session.WithEncryption(sealKey(1))), alice)
}
