package jwks_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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

func TestTokensWithExtensionsThatMustBeUnderstoodAreRefused(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		auth.Inject(sessiontest.Keys, -1, keySet(object{"alg": "EdDSA", "crv": "Ed25519", "kty": "OKP", "kid": "k", "x": base64.RawURLEncoding.EncodeToString(public)}))
		v := newVerifier(t, auth)
		token := func(more object) string {
			header := object{"alg": "EdDSA", "kid": "k"}
			maps.Copy(header, more)
			return forge(header, object{"sub": "a"}, func(signed []byte) []byte { return ed25519.Sign(private, signed) })
		}
		for _, more := range []object{nil, {"typ": "JWT"}, {"x": 1}, {"b64": true}} {
			require.NoError(t, v.Verify(t.Context(), token(more)), more)
		}
		for _, crit := range []any{[]string{"exp"}, []string{"b64"}, []string{"x"}, []string{}, nil, "x", 7} {
			err := v.Verify(t.Context(), token(object{"crit": crit, "x": 1, "b64": false, "exp": 1}))
			require.Error(t, err, crit)
			require.NotErrorIs(t, err, session.ErrAuthUnavailable)
		}
	})
}
