package jwks_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

func TestRotatedKeyIsFetchedWhenATokenNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		b := newBot(t, auth, newVerifier(t, auth))
		before := auth.MintToken(email, time.Now().Add(time.Hour))
		b.put(t, before, "{}")
		_, err := b.Token(t.Context(), alice)
		require.NoError(t, err)
		auth.RotateSigningKey()
		after := auth.MintToken(email, time.Now().Add(time.Hour))
		b.put(t, after, "{}")
		token, err := b.Token(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, after, token)
		b.put(t, before, "{}")
		_, err = b.Token(t.Context(), alice)
		require.NoError(t, err, "the old key is in the set still")
		require.Equal(t, 2, auth.Calls(sessiontest.Keys))
	})
}

// keySet is a key set as the auth server answers it.
func keySet(keys ...object) sessiontest.Fault { return sessiontest.JSON(object{"keys": keys}) }

func TestKeyThatWasWithdrawnIsForgottenWithinTheHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		v := newVerifier(t, auth)
		token := auth.MintToken(email, time.Now().Add(time.Hour))
		require.NoError(t, v.Verify(t.Context(), token))
		public, _, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		withdrawn := keySet(object{"alg": "EdDSA", "crv": "Ed25519", "kty": "OKP", "kid": "new", "x": base64.RawURLEncoding.EncodeToString(public)})
		auth.Inject(sessiontest.Keys, -1, func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			sessiontest.Delay(time.Second)(w, r, func(w http.ResponseWriter, r *http.Request) { withdrawn(w, r, nil) })
		})
		time.Sleep(59 * time.Minute)
		require.NoError(t, v.Verify(t.Context(), token))
		require.Equal(t, 1, auth.Calls(sessiontest.Keys))
		time.Sleep(2 * time.Minute)
		for range 10 {
			require.NoError(t, v.Verify(t.Context(), token), "nobody waits for the fetch")
		}
		time.Sleep(10 * time.Second)
		require.Equal(t, 2, auth.Calls(sessiontest.Keys))
		err = v.Verify(t.Context(), token)
		require.Error(t, err)
		require.NotErrorIs(t, err, session.ErrAuthUnavailable)
	})
}

func TestKeysAreKeptWhateverTheServerAnswers(t *testing.T) {
	for name, fault := range map[string]func(*sessiontest.AuthServer) sessiontest.Fault{
		"an empty set": func(*sessiontest.AuthServer) sessiontest.Fault { return keySet() },
		"no set":       func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.JSON(object{}) },
		"a list":       func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.JSON([]int{1}) },
		"no usable key": func(*sessiontest.AuthServer) sessiontest.Fault {
			return keySet(object{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}, object{"kty": "OKP", "crv": "Ed25519", "kid": "b", "x": "c2hvcnQ"}, object{"kty": "OKP", "crv": "Ed25519", "x": 7}, object{"kid": 7})
		},
		"500":             func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.Status(500, "down") },
		"204":             func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.Raw(204, "", "") },
		"HTML":            func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.HTML() },
		"a reset":         func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.Reset() },
		"half an answer":  func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.CutBody(20) },
		"truncated":       func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.TruncateJSON(20) },
		"nothing":         func(a *sessiontest.AuthServer) sessiontest.Fault { return a.Hang() },
		"a byte a second": func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.Trickle(time.Second) },
		"2 GB":            func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.Oversize(2 << 30) },
		"a gzip bomb":     func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.GzipBomb(64 << 20) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				auth := newAuth(t)
				v := newVerifier(t, auth)
				b := newBot(t, auth, v)
				known := auth.MintToken(email, time.Now().Add(10*time.Hour))
				require.NoError(t, v.Verify(t.Context(), known))
				auth.RotateSigningKey()
				rotated := auth.MintToken(email, time.Now().Add(10*time.Hour))
				b.put(t, rotated, "{}")
				record := b.stored(t)

				auth.Inject(sessiontest.Keys, -1, fault(auth))
				_, err := b.Token(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrAuthUnavailable)
				require.Equal(t, record, b.stored(t))
				time.Sleep(2 * time.Hour)
				require.NoError(t, v.Verify(t.Context(), known))
				synctest.Wait()
				require.NoError(t, v.Verify(t.Context(), known))

				auth.ClearFaults()
				time.Sleep(10 * time.Second) // a fetch under way ends, another may begin
				token, err := b.Token(t.Context(), alice)
				require.NoError(t, err)
				require.Equal(t, rotated, token)
			})
		})
	}
}

func TestBrokenDatabaseOfTheAuthServerCostsNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		b := newBot(t, auth, newVerifier(t, auth))
		_, err := b.Login(t.Context(), alice, email, password)
		require.NoError(t, err)
		auth.BreakDatabase(true)
		time.Sleep(2 * time.Hour) // the keys are old, the token is dead
		for range 3 {
			_, err = b.Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			time.Sleep(time.Minute)
		}
		auth.BreakDatabase(false)
		_, err = b.Token(t.Context(), alice)
		require.NoError(t, err)
	})
}

func TestKeysThatAreAwayAtTheStartAreFetchedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		auth.Inject(sessiontest.Keys, -1, sessiontest.Reset())
		b := newBot(t, auth, newVerifier(t, auth))
		token := auth.MintToken(email, time.Now().Add(time.Hour))
		b.put(t, token, `{"k":1}`)
		auth.Link(alice, email)
		record := b.stored(t)
		for range 30 {
			_, err := b.Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			time.Sleep(time.Second)
		}
		require.Equal(t, record, b.stored(t))
		require.Zero(t, auth.Calls(sessiontest.LinkFetch))
		require.LessOrEqual(t, auth.Calls(sessiontest.Keys), 1+3+30/5)
		auth.ClearFaults()
		time.Sleep(5 * time.Second)
		got, err := b.Token(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, token, got)
	})
}

func TestFloodOfUnknownKeysIsBoundedAndDecidedAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		v := newVerifier(t, auth)
		good := auth.MintToken(email, time.Now().Add(time.Hour))
		_, private, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		garbage := func(kid string) string {
			return forge(object{"alg": "EdDSA", "kid": kid}, object{"sub": "admin"}, func(signed []byte) []byte { return ed25519.Sign(private, signed) })
		}
		require.NoError(t, v.Verify(t.Context(), good))
		auth.ResetCalls()
		refused, undecided := 0, 0
		count := func(err error) {
			require.Error(t, err)
			if errors.Is(err, session.ErrAuthUnavailable) {
				undecided++
			} else {
				refused++
			}
		}
		const seconds = 60
		for second := range seconds {
			for i := range 100 {
				count(v.Verify(t.Context(), garbage(fmt.Sprintf("%d/%d", second, i))))
			}
			count(v.Verify(t.Context(), garbage(strings.Repeat("x", 1<<20))))
			require.NoError(t, v.Verify(t.Context(), good))
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, auth.Calls(sessiontest.Keys), 3+seconds/5+1)
		require.NotZero(t, undecided)
		require.NotZero(t, refused)

		// One that keeps being asked about is decided by the next fetch, and
		// stays so without another.
		token := garbage("persistent")
		eventual := func() error {
			for range 10 {
				if err := v.Verify(t.Context(), token); !errors.Is(err, session.ErrAuthUnavailable) {
					return err
				}
				time.Sleep(time.Second)
			}
			return session.ErrAuthUnavailable
		}
		require.NotErrorIs(t, eventual(), session.ErrAuthUnavailable)
		before := auth.Calls(sessiontest.Keys)
		for range 100 {
			err := v.Verify(t.Context(), token)
			require.Error(t, err)
			require.NotErrorIs(t, err, session.ErrAuthUnavailable)
		}
		require.Equal(t, before, auth.Calls(sessiontest.Keys))
	})
}

// A key may be published between a fetch and the first token that names it.
func TestUnknownKeyIsUndecidedUntilItHasBeenAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		v := newVerifier(t, auth)
		synctest.Wait() // for the first fetch
		for range 3 {   // uses up the burst
			auth.RotateSigningKey()
			require.NoError(t, v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour))))
		}
		auth.RotateSigningKey()
		token := auth.MintToken(email, time.Now().Add(time.Hour))
		require.ErrorIs(t, v.Verify(t.Context(), token), session.ErrAuthUnavailable)
		time.Sleep(5 * time.Second)
		require.NoError(t, v.Verify(t.Context(), token))
	})
}

// Tokens may be signed with a key before everybody is shown it: by another node
// of the auth server, or through a cache.
func TestKeyThatIsPublishedLateIsFoundAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		v := newVerifier(t, auth)
		synctest.Wait() // for the first fetch
		public, _, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		auth.RotateSigningKey()
		auth.Inject(sessiontest.Keys, 1, keySet(object{"crv": "Ed25519", "kty": "OKP", "kid": "old", "x": base64.RawURLEncoding.EncodeToString(public)}))
		token := auth.MintToken(email, time.Now().Add(24*time.Hour))
		err = v.Verify(t.Context(), token)
		require.Error(t, err)
		require.NotErrorIs(t, err, session.ErrAuthUnavailable)
		time.Sleep(time.Minute)
		require.NoError(t, v.Verify(t.Context(), token))
	})
}

func TestManyWaitForOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		auth.Inject(sessiontest.Keys, 1, sessiontest.Delay(300*time.Millisecond))
		v := newVerifier(t, auth)
		token := auth.MintToken(email, time.Now().Add(time.Hour))
		var asking sync.WaitGroup
		for range 100 {
			asking.Go(func() {
				if err := v.Verify(t.Context(), token); err != nil {
					t.Error(err)
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		started := time.Now()
		require.ErrorIs(t, v.Verify(ctx, token), context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(started), "each waits under their own context")
		asking.Wait()
		require.Equal(t, 1, auth.Calls(sessiontest.Keys))
	})
}

// otherKeys is an answer with the key of an auth server of today, but not with
// those that were published before.
func otherKeys(t testing.TB) sessiontest.Fault {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return keySet(object{"alg": "EdDSA", "crv": "Ed25519", "kty": "OKP", "kid": "new", "x": base64.RawURLEncoding.EncodeToString(public)})
}

func TestKeyThatWasWithdrawnIsNotBelievedAfterAnIdleTime(t *testing.T) {
	for _, idle := range []time.Duration{3 * time.Hour, 24 * time.Hour, 30 * 24 * time.Hour} {
		t.Run(idle.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				auth := newAuth(t)
				v := newVerifier(t, auth)
				withdrawn := auth.MintToken(email, time.Now().Add(1000*time.Hour))
				require.NoError(t, v.Verify(t.Context(), withdrawn))
				other := otherKeys(t)
				auth.Inject(sessiontest.Keys, -1, func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
					time.Sleep(300 * time.Millisecond)
					other(w, r, nil)
				})
				time.Sleep(idle)
				errs := make(chan error, 10)
				for range cap(errs) {
					go func() { errs <- v.Verify(t.Context(), withdrawn) }()
				}
				for range cap(errs) {
					err := <-errs
					require.Error(t, err)
					require.NotErrorIs(t, err, session.ErrAuthUnavailable)
				}
				require.LessOrEqual(t, auth.Calls(sessiontest.Keys), 3)
			})
		})
	}
}

func TestIdleTimeAndAnOutageCostNoKeyAndOneWait(t *testing.T) {
	for name, fault := range map[string]func(*sessiontest.AuthServer) sessiontest.Fault{
		"an empty set": func(*sessiontest.AuthServer) sessiontest.Fault { return keySet() },
		"500":          func(*sessiontest.AuthServer) sessiontest.Fault { return sessiontest.Status(500, "down") },
		"nothing":      func(a *sessiontest.AuthServer) sessiontest.Fault { return a.Hang() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				auth := newAuth(t)
				v := newVerifier(t, auth)
				token := auth.MintToken(email, time.Now().Add(1000*time.Hour))
				require.NoError(t, v.Verify(t.Context(), token))
				auth.Inject(sessiontest.Keys, -1, fault(auth))
				time.Sleep(24 * time.Hour)

				hasty, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				if err := v.Verify(hasty, token); err != nil {
					require.ErrorIs(t, err, context.DeadlineExceeded, "it cannot be told yet")
				}
				require.NoError(t, v.Verify(t.Context(), token))
				started := time.Now()
				for range 100 {
					time.Sleep(time.Minute)
					require.NoError(t, v.Verify(t.Context(), token))
				}
				require.Equal(t, 100*time.Minute, time.Since(started), "nobody waits again")

				synctest.Wait() // for the last fetch to meet its fault
				auth.ClearFaults()
				auth.Inject(sessiontest.Keys, -1, otherKeys(t))
				time.Sleep(10 * time.Second)
				_ = v.Verify(t.Context(), token) // has them fetched
				time.Sleep(10 * time.Second)
				require.Error(t, v.Verify(t.Context(), token), "the server's word counts again")
			})
		})
	}
}

func TestVerifierThatIsClosedGoesOnWithOldKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		v := newVerifier(t, auth)
		token := auth.MintToken(email, time.Now().Add(1000*time.Hour))
		require.NoError(t, v.Verify(t.Context(), token))
		require.NoError(t, v.Close())
		time.Sleep(24 * time.Hour)
		require.NoError(t, v.Verify(t.Context(), token))
		require.Equal(t, 1, auth.Calls(sessiontest.Keys))
	})
}

func TestKeysAreUsedForWhatTheyAreFor(t *testing.T) {
	for name, c := range map[string]struct {
		says   object
		usable bool
	}{
		"nothing":                  {object{}, true},
		"everything right":         {object{"use": "sig", "key_ops": []string{"verify"}, "alg": "EdDSA"}, true},
		"null":                     {object{"use": nil, "key_ops": nil, "alg": nil}, true},
		"verify among others":      {object{"key_ops": []string{"sign", "verify"}}, true},
		"an operation of its own":  {object{"key_ops": []string{"verify", "urn:x"}}, true},
		"for encryption":           {object{"use": "enc"}, false},
		"for encryption and right": {object{"use": "enc", "alg": "EdDSA", "key_ops": []string{"verify"}}, false},
		"another use":              {object{"use": "SIG"}, false},
		"an empty use":             {object{"use": ""}, false},
		"a use that is no text":    {object{"use": 7}, false},
		"for signing only":         {object{"key_ops": []string{"sign"}}, false},
		"for nothing":              {object{"key_ops": []string{}}, false},
		"for deriving":             {object{"use": "sig", "key_ops": []string{"deriveKey", "deriveBits"}}, false},
		"operations as a text":     {object{"key_ops": "verify"}, false},
		"another algorithm":        {object{"alg": "ECDH-ES"}, false},
		"an algorithm in lower":    {object{"alg": "eddsa"}, false},
		"an empty algorithm":       {object{"alg": ""}, false},
		"another type":             {object{"kty": "EC"}, false},
		"another curve":            {object{"crv": "X25519"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				auth := newAuth(t)
				token := auth.MintToken(email, time.Now().Add(time.Hour))
				key := object{"kty": "OKP", "crv": "Ed25519", "kid": kidOf(t, token), "x": base64.RawURLEncoding.EncodeToString(auth.PublicKey())}
				maps.Copy(key, c.says)
				auth.Inject(sessiontest.Keys, -1, keySet(key, object{"kty": "OKP", "crv": "Ed25519", "kid": "b", "x": key["x"]}))
				err := newVerifier(t, auth).Verify(t.Context(), token)
				if c.usable {
					require.NoError(t, err)
					return
				}
				require.Error(t, err)
				require.NotErrorIs(t, err, session.ErrAuthUnavailable)
			})
		})
	}
}
