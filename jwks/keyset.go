package jwks

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/MicahParks/jwkset"
)

// defaultTransport reads no proxy from the environment. Fetches are too rare for
// connections to be kept.
func defaultTransport() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10}
}

// get asks the auth server for its keys. None are an error, and so is a panic in
// a caller's transport, which would end the bot.
func (v *Verifier) get(ctx context.Context) (keys map[string]ed25519.PublicKey, err error) {
	defer func() {
		if p := recover(); p != nil {
			keys, err = nil, fmt.Errorf("panic in the HTTP transport: %T", p)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	asked := req.URL.String()
	resp, err := v.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if r := resp.Request; r != nil && (r.Response != nil || r.URL == nil || r.URL.String() != asked) {
		return nil, errors.New("the answer came from another address: the HTTP transport must not follow redirects")
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the auth server answered %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > maxBody:
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxBody)
	}
	return parse(body)
}

// parse reads the Ed25519 keys of a key set that are for verifying signatures,
// and passes over all else.
func parse(body []byte) (map[string]ed25519.PublicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil {
		return nil, errors.New("the answer is not a key set")
	}
	keys := make(map[string]ed25519.PublicKey)
	for _, raw := range set.Keys {
		var m jwkset.JWKMarshal
		if json.Unmarshal(raw, &m) != nil || m.KID == "" || m.CRV != jwkset.CrvEd25519 || !verifies(raw) {
			continue
		}
		// Only what makes the key: certificates and where to find them are not
		// looked at.
		jwk, err := jwkset.NewJWKFromMarshal(jwkset.JWKMarshal{
			KTY: m.KTY, CRV: m.CRV, X: m.X, KID: m.KID,
		}, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if key, ok := jwk.Key().(ed25519.PublicKey); err == nil && ok {
			keys[m.KID] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set has no Ed25519 key for verifying")
	}
	return keys, nil
}

// verifies reports whether a key may be used to verify EdDSA signatures, by what
// it says about itself (RFC 7517, 4.2 to 4.4). What it does not say is no limit.
func verifies(key []byte) bool {
	var m struct {
		Use    *jwkset.USE     `json:"use"`
		KeyOps []jwkset.KEYOPS `json:"key_ops"`
		Alg    *jwkset.ALG     `json:"alg"`
	}
	return json.Unmarshal(key, &m) == nil &&
		(m.Use == nil || *m.Use == jwkset.UseSig) &&
		(m.KeyOps == nil || slices.Contains(m.KeyOps, jwkset.KeyOpsVerify)) &&
		(m.Alg == nil || *m.Alg == jwkset.AlgEdDSA)
}
