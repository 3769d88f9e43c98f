package jwks_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mana/session"
	"github.com/mana/session/jwks"
	"github.com/mana/session/sessiontest"
)

const (
	alice    = "@alice:matrix.example"
	bob      = "@bob:matrix.example"
	email    = "alice@example.com"
	password = "correct horse"
)

func newAuth(t testing.TB) *sessiontest.AuthServer {
	t.Helper()
	auth := sessiontest.New(sessiontest.WithLoginLimit(0))
	t.Cleanup(auth.Close)
	auth.AddUser(email, password)
	auth.AddUser("bob@example.com", password)
	return auth
}

func newVerifier(t testing.TB, auth *sessiontest.AuthServer, opts ...jwks.Option) *jwks.Verifier {
	t.Helper()
	v, err := jwks.New(auth.URL, append([]jwks.Option{jwks.WithHTTPClient(auth.Client())}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v
}

// bot is a Service that checks its tokens.
type bot struct {
	*session.Service
	store *session.MemoryStore
	log   *bytes.Buffer
}

func newBot(t testing.TB, auth *sessiontest.AuthServer, v *jwks.Verifier) bot {
	t.Helper()
	b := bot{store: session.NewMemoryStore(), log: &bytes.Buffer{}}
	t.Cleanup(func() { b.store.Close() })
	var err error
	b.Service, err = session.New(
		session.WithAuthURL(auth.URL), session.WithHTTPClient(auth.Client()), session.WithStore(b.store),
		session.WithServiceKey(sessiontest.DefaultServiceKey), session.WithTokenVerifier(v.Verify),
		session.WithLogger(slog.New(slog.NewTextHandler(b.log, nil))),
	)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// put stores a session of alice's with a token.
func (b bot) put(t testing.TB, token, data string) {
	t.Helper()
	old, err := b.store.Get(t.Context(), alice)
	if err != nil {
		old = session.Record{UserID: alice}
	}
	value := fmt.Sprintf(`{"token":%q,"email":%q,"expiresAt":"2999-01-01T00:00:00Z","data":%s}`, token, email, data)
	_, err = b.store.Swap(t.Context(), old, session.Record{UserID: alice, Value: value, Expires: time.Now().Add(24 * time.Hour)})
	require.NoError(t, err)
}

func (b bot) stored(t testing.TB) string {
	t.Helper()
	rec, err := b.store.Get(t.Context(), alice)
	require.NoError(t, err)
	return rec.Value
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

type object map[string]any

// forge is a token whose header and signature are the forger's.
func forge(header, claims object, sign func(signed []byte) []byte) string {
	signed := encode(header) + "." + encode(claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(signed)))
}

// kidOf is the ID of the key that a token names.
func kidOf(t testing.TB, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(head)
	require.NoError(t, err)
	var header struct{ Kid string }
	require.NoError(t, json.Unmarshal(decoded, &header))
	return header.Kid
}

// forgeries are tokens that the auth server did not sign.
func forgeries(t testing.TB, auth *sessiontest.AuthServer) map[string]string {
	t.Helper()
	genuine := auth.MintToken(email, time.Now().Add(time.Hour))
	parts := strings.Split(genuine, ".")
	kid := kidOf(t, genuine)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	claims := object{"sub": "admin", "exp": time.Now().Add(time.Hour).Unix(), "iss": auth.URL, "aud": "manacore"}
	mallory := func(signed []byte) []byte { return ed25519.Sign(private, signed) }
	nobody := func([]byte) []byte { return nil }
	shared := func(key []byte) func([]byte) []byte {
		return func(signed []byte) []byte {
			mac := hmac.New(sha256.New, key)
			mac.Write(signed)
			return mac.Sum(nil)
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	require.NoError(t, err)
	flipped := bytes.Clone(signature)
	flipped[10] ^= 1
	return map[string]string{
		"another key under a known ID":     forge(object{"alg": "EdDSA", "kid": kid}, claims, mallory),
		"another key under its own ID":     forge(object{"alg": "EdDSA", "kid": "mallory"}, claims, mallory),
		"another key without an ID":        forge(object{"alg": "EdDSA"}, claims, mallory),
		"an ID that is no string":          forge(object{"alg": "EdDSA", "kid": 7}, claims, mallory),
		"a key that it brings":             forge(object{"alg": "EdDSA", "kid": kid, "jwk": object{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(public)}}, claims, mallory),
		"alg none":                         forge(object{"alg": "none", "kid": kid}, claims, nobody),
		"alg None":                         forge(object{"alg": "None", "kid": kid}, claims, nobody),
		"no alg":                           forge(object{"kid": kid}, claims, mallory),
		"HS256 with the public key":        forge(object{"alg": "HS256", "kid": kid}, claims, shared(auth.PublicKey())),
		"HS256 with the public key's text": forge(object{"alg": "HS256", "kid": kid}, claims, shared([]byte(base64.RawURLEncoding.EncodeToString(auth.PublicKey())))),
		"claims changed":                   parts[0] + "." + encode(claims) + "." + parts[2],
		"header changed":                   encode(object{"alg": "EdDSA", "kid": kid, "x": 1}) + "." + parts[1] + "." + parts[2],
		"a bit of the signature changed":   parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(flipped),
		"no signature":                     parts[0] + "." + parts[1] + ".",
		"opaque":                           "0123456789abcdef0123456789abcdef",
	}
}

func TestTokensOfTheAuthServerPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		b := newBot(t, auth, newVerifier(t, auth, jwks.WithIssuer(auth.URL), jwks.WithAudience("manacore")))
		_, err := b.Login(t.Context(), alice, email, password)
		require.NoError(t, err)
		_, err = b.Token(t.Context(), alice)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		_, err = b.Token(t.Context(), alice) // with the refresh token
		require.NoError(t, err)
		auth.Link(bob, "bob@example.com")
		_, err = b.Token(t.Context(), bob)
		require.NoError(t, err)
		require.Equal(t, 1, auth.Calls(sessiontest.Refresh))
		require.Equal(t, 1, auth.Calls(sessiontest.Keys))
	})
}

func TestForgedTokenIsRefusedAndItsRecordNoSession(t *testing.T) {
	for name := range forgeries(t, newAuth(t)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				auth := newAuth(t)
				v := newVerifier(t, auth)
				forged := forgeries(t, auth)[name]
				err := v.Verify(t.Context(), forged)
				require.Error(t, err)
				require.NotErrorIs(t, err, session.ErrAuthUnavailable)
				require.NotContains(t, err.Error(), forged)

				b := newBot(t, auth, v)
				b.put(t, forged, `{"k":1}`)
				_, err = b.Token(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
				_, err = b.Session(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
				require.Contains(t, b.log.String(), "record is not a session")
				require.Contains(t, b.log.String(), "token failed its check: jwks: ")
				for part := range strings.SplitSeq(forged, ".") {
					if part != "" {
						require.NotContains(t, b.log.String(), part)
					}
				}
				stats, err := b.Stats(t.Context())
				require.NoError(t, err)
				require.NotZero(t, stats.Unreadable)

				_, err = b.Login(t.Context(), alice, email, password)
				require.NoError(t, err)
				_, err = b.Token(t.Context(), alice)
				require.NoError(t, err)
			})
		})
	}
}

// What the auth server never writes is refused without asking it for keys.
func TestOtherAlgorithmsAndTokensWithoutAKeyCostNoFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		v := newVerifier(t, auth)
		synctest.Wait() // for the first fetch
		sign := func([]byte) []byte { return make([]byte, 64) }
		for _, alg := range []any{"none", "HS256", "HS512", "RS256", "PS256", "ES256", "Ed25519", "eddsa", "", 7, nil} {
			require.Error(t, v.Verify(t.Context(), forge(object{"alg": alg, "kid": "unknown"}, object{}, sign)), alg)
		}
		for _, kid := range []any{"", 7, nil, []string{"a"}} {
			require.Error(t, v.Verify(t.Context(), forge(object{"alg": "EdDSA", "kid": kid}, object{}, sign)), kid)
		}
		require.Equal(t, 1, auth.Calls(sessiontest.Keys))
	})
}

func TestTimesInATokenAreTheSessionsBusiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		v := newVerifier(t, auth)
		for name, claims := range map[string]object{
			"expired":     {"exp": time.Now().Add(-time.Hour).Unix()},
			"not yet":     {"nbf": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Add(time.Hour).Unix()},
			"no times":    {},
			"text":        {"exp": "4102444800"},
			"no time":     {"exp": "soon", "nbf": object{}, "iat": []int{1}},
			"odd subject": {"sub": 7},
		} {
			require.NoError(t, v.Verify(t.Context(), auth.Sign(claims)), name)
		}

		b := newBot(t, auth, v)
		b.put(t, auth.MintToken(email, time.Now().Add(-time.Hour)), `{"k":1}`)
		auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(400, "not now"))
		_, err := b.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		auth.Link(alice, email)
		time.Sleep(2 * time.Second)
		_, err = b.Token(t.Context(), alice)
		require.NoError(t, err)
		k, found, err := session.DataAs[int](t.Context(), b.Service, alice, "k")
		require.NoError(t, err)
		require.True(t, found, "the expired token kept its session")
		require.Equal(t, 1, k)
	})
}

func TestIssuerAndAudienceAreCheckedOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		lax := newVerifier(t, auth)
		strict := newVerifier(t, auth, jwks.WithIssuer("https://auth.example.com"), jwks.WithAudience("manacore"))
		for name, c := range map[string]struct {
			claims object
			passes bool
		}{
			"both":           {object{"iss": "https://auth.example.com", "aud": "manacore"}, true},
			"one of many":    {object{"iss": "https://auth.example.com", "aud": []string{"x", "manacore"}}, true},
			"other issuer":   {object{"iss": "https://auth.example.com/", "aud": "manacore"}, false},
			"no issuer":      {object{"aud": "manacore"}, false},
			"other audience": {object{"iss": "https://auth.example.com", "aud": "manacore2"}, false},
			"no audience":    {object{"iss": "https://auth.example.com"}, false},
			"none of many":   {object{"iss": "https://auth.example.com", "aud": []string{}}, false},
		} {
			token := auth.Sign(c.claims)
			require.NoError(t, lax.Verify(t.Context(), token), name)
			err := strict.Verify(t.Context(), token)
			require.Equal(t, c.passes, err == nil, "%s: %v", name, err)
			require.NotErrorIs(t, err, session.ErrAuthUnavailable)
		}
	})
}

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

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestKeysInAnAnswerThatIsNoneAreNotTaken(t *testing.T) {
	auth := newAuth(t)
	token := auth.MintToken(email, time.Now().Add(time.Hour))
	set := fmt.Sprintf(`{"keys":[{"alg":"EdDSA","crv":"Ed25519","kty":"OKP","kid":%q,"x":%q}]}`,
		kidOf(t, token), base64.RawURLEncoding.EncodeToString(auth.PublicKey()))
	for name, c := range map[string]struct {
		status int
		body   string
		taken  bool
	}{
		"as it should be":    {200, set, true},
		"just small enough":  {200, set + strings.Repeat(" ", 1<<20-len(set)), true},
		"too large":          {200, set + strings.Repeat(" ", 1<<20-len(set)+1), false},
		"beside an error":    {500, set, false},
		"beside a redirect":  {302, set, false},
		"cached by somebody": {203, set, false},
		"followed by more":   {200, set + set, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, auth, jwks.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: c.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(c.body)), Request: r}, nil
			})}))
			err := v.Verify(t.Context(), token)
			if c.taken {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, session.ErrAuthUnavailable)
			}
		})
	}
}

// endless is a body without an end, which counts what is read of it.
type endless struct{ read *atomic.Int64 }

func (e endless) Read(b []byte) (int, error) {
	if e.read.Add(int64(len(b))) > 64<<20 {
		return 0, errors.New("read far too much")
	}
	return len(b), nil
}

func (endless) Close() error { return nil }

func TestEndlessAnswerIsNotReadToItsEnd(t *testing.T) {
	auth := newAuth(t)
	var read atomic.Int64
	v := newVerifier(t, auth, jwks.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		read.Store(0)
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: endless{&read}, Request: r}, nil
	})}))
	err := v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour)))
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	require.LessOrEqual(t, read.Load(), int64(1<<20+1))
}

func TestRedirectIsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			elsewhere := sessiontest.NewAuthServer(t) // whose keys sign the token
			elsewhere.AddUser(email, password)
			auth := sessiontest.NewAuthServer(t)
			auth.Inject(sessiontest.Keys, -1, sessiontest.Redirect(status, elsewhere.URL+"/api/v1/auth/jwks"))
			v, err := jwks.New(auth.URL)
			require.NoError(t, err)
			defer v.Close()
			err = v.Verify(t.Context(), elsewhere.MintToken(email, time.Now().Add(time.Hour)))
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.Zero(t, elsewhere.Calls(sessiontest.Any))
		})
	}
}

func TestDefaultClientFetchesOverTheNetwork(t *testing.T) {
	auth := sessiontest.NewAuthServer(t)
	auth.AddUser(email, password)
	v, err := jwks.New(auth.URL + "/")
	require.NoError(t, err)
	defer v.Close()
	require.NoError(t, v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour))))
	requests := auth.Requests()
	require.Equal(t, "/api/v1/auth/jwks", requests[0].Path)
	require.Empty(t, requests[0].Header.Get("Authorization"))
}

func TestClientThatIsBroughtStaysAsItIs(t *testing.T) {
	auth := newAuth(t)
	client := auth.Client()
	newVerifier(t, auth, jwks.WithHTTPClient(client))
	require.Nil(t, client.CheckRedirect)
}

func TestCloseLeavesNoGoroutineBehindAndTheKeysInPlace(t *testing.T) {
	before := goleak.IgnoreCurrent()
	auth := sessiontest.New()
	auth.AddUser(email, password)
	require.NoError(t, auth.Start())
	v, err := jwks.New(auth.URL)
	require.NoError(t, err)
	token := auth.MintToken(email, time.Now().Add(time.Hour))
	require.NoError(t, v.Verify(t.Context(), token))

	arrived := make(chan struct{})
	auth.Inject(sessiontest.Keys, 1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		close(arrived)
		auth.Hang()(w, r, answer)
	})
	auth.RotateSigningKey()
	rotated := auth.MintToken(email, time.Now().Add(time.Hour))
	asked := make(chan error, 1)
	go func() { asked <- v.Verify(context.Background(), rotated) }()
	<-arrived
	require.NoError(t, v.Close())
	require.ErrorIs(t, <-asked, session.ErrAuthUnavailable)
	require.NoError(t, v.Close())

	calls := auth.Calls(sessiontest.Keys)
	require.NoError(t, v.Verify(t.Context(), token))
	require.ErrorIs(t, v.Verify(t.Context(), rotated), session.ErrAuthUnavailable)
	require.Equal(t, calls, auth.Calls(sessiontest.Keys))
	auth.Close()
	goleak.VerifyNone(t, before)
}

func TestCloseEndsAFetchWaitsForItAndBeginsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		fetches, ended := 0, false
		v := newVerifier(t, auth, jwks.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			fetches++
			<-r.Context().Done()
			time.Sleep(100 * time.Millisecond) // a transport that takes its time
			ended = true
			return nil, r.Context().Err()
		})}))
		synctest.Wait()
		started := time.Now()
		require.NoError(t, v.Close())
		require.Equal(t, 100*time.Millisecond, time.Since(started))
		require.True(t, ended)
		require.ErrorIs(t, v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour))), session.ErrAuthUnavailable)
		require.Equal(t, 1, fetches)
	})
}

func TestNonsenseIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		url  string
		opts []jwks.Option
	}{
		"no URL":              {url: "auth.example.com"},
		"empty URL":           {url: ""},
		"not even a URL":      {url: "http://["},
		"URL with a password": {url: "https://me:secret@auth.example.com"},
		"URL with a query":    {url: "https://auth.example.com?a=b"},
		"no client":           {"http://auth.test", []jwks.Option{jwks.WithHTTPClient(nil)}},
		"no issuer":           {"http://auth.test", []jwks.Option{jwks.WithIssuer("")}},
		"no audience":         {"http://auth.test", []jwks.Option{jwks.WithAudience("")}},
	} {
		_, err := jwks.New(c.url, c.opts...)
		require.ErrorContains(t, err, "jwks: ", name)
		require.NotContains(t, err.Error(), "secret", name)
	}
}

func FuzzVerify(f *testing.F) {
	auth := newAuth(f)
	v := newVerifier(f, auth)
	for _, token := range forgeries(f, auth) {
		f.Add(token)
	}
	f.Add("")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		err := v.Verify(t.Context(), token)
		if err == nil {
			t.Fatal("passed without the key")
		}
		if len(token) > 100 && strings.Contains(err.Error(), token) {
			t.Fatal("quoted")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	auth := newAuth(b)
	v := newVerifier(b, auth)
	token := auth.MintToken(email, time.Now().Add(24*time.Hour))
	if err := v.Verify(b.Context(), token); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Verify(context.Background(), token); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFill is that of the root module: Token when the near cache has to be
// filled, less the store's round trip.
func BenchmarkFill(b *testing.B) {
	auth := newAuth(b)
	for _, bench := range []struct {
		name string
		opts []session.Option
	}{
		{"unchecked", nil},
		{"checked", []session.Option{session.WithTokenVerifier(newVerifier(b, auth).Verify)}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			store := session.NewMemoryStore()
			defer store.Close()
			bot{store: store}.put(b, auth.MintToken(email, time.Now().Add(24*time.Hour)), `{"list":"shopping"}`)
			svc, err := session.New(append(bench.opts, session.WithStore(store), session.WithNearCache(0))...)
			if err != nil {
				b.Fatal(err)
			}
			defer svc.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := svc.Token(context.Background(), alice); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
