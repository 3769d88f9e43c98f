package sessiontest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// claims are the server's, in its order, and a jti, without which two tokens of
// the same second would be equal. There is no iat and no nbf.
type claims struct {
	Subject  string `json:"sub"`
	Email    string `json:"email"`
	Role     string `json:"role"`
	Session  string `json:"sid"`
	Expires  int64  `json:"exp"`
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	ID       string `json:"jti"`
}

var encoding = base64.RawURLEncoding

type signingKey struct {
	id      string
	private ed25519.PrivateKey
}

func (k signingKey) public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// RotateSigningKey makes the server sign with a new key. The old ones stay in
// its key set.
func (s *AuthServer) RotateSigningKey() {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, signingKey{rand.Text(), private})
}

// PublicKey returns the key that verifies the tokens signed from now on.
func (s *AuthServer) PublicKey() ed25519.PublicKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[len(s.keys)-1].public()
}

// MintToken returns a signed token of an account that runs out at expires. It
// panics if there is no such account.
func (s *AuthServer) MintToken(email string, expires time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.mustUser("MintToken", email)
	return s.sign(s.claims(u, u.sid, expires))
}

// Sign returns a token with the given claims, signed with the server's key. It
// panics if claims are not JSON.
func (s *AuthServer) Sign(claims any) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sign(claims)
}

// claims is called with s.mu held.
func (s *AuthServer) claims(u *user, sid string, expires time.Time) claims {
	return claims{u.ID, u.Email, "user", sid, expires.Unix(), s.URL, "manacore", opaque(16)}
}

// mint is called with s.mu held.
func (s *AuthServer) mint(u *user, sid string) string {
	return s.sign(s.claims(u, sid, s.now().Add(s.tokenTTL)))
}

// sign is called with s.mu held.
func (s *AuthServer) sign(claims any) string {
	key := s.keys[len(s.keys)-1]
	header := encodeJSON(struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
	}{"EdDSA", key.id})
	payload := encodeJSON(claims)
	signed := encoding.EncodeToString(header) + "." + encoding.EncodeToString(payload)
	return signed + "." + encoding.EncodeToString(ed25519.Sign(key.private, []byte(signed)))
}

// verify returns the user a bearer token belongs to, or nil. It is called with
// s.mu held.
func (s *AuthServer) verify(token string) *user {
	cut := strings.LastIndexByte(token, '.')
	_, payload, _ := strings.Cut(token[:max(0, cut)], ".")
	signature, err := encoding.DecodeString(token[cut+1:])
	decoded, err2 := encoding.DecodeString(payload)
	var c claims
	if cut < 0 || err != nil || err2 != nil || json.Unmarshal(decoded, &c) != nil {
		return nil
	}
	for _, key := range s.keys {
		if ed25519.Verify(key.public(), []byte(token[:cut]), signature) && time.Unix(c.Expires, 0).After(s.now()) {
			return s.ids[c.Subject]
		}
	}
	return nil
}

type jwk struct {
	Alg string `json:"alg"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Kty string `json:"kty"`
	Kid string `json:"kid"`
}

func (k signingKey) jwk() jwk {
	return jwk{"EdDSA", "Ed25519", encoding.EncodeToString(k.public()), "OKP", k.id}
}
