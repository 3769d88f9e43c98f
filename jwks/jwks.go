// Package jwks checks the signatures of tokens against the public keys that the
// auth server publishes:
//
//	keys, err := jwks.New("https://auth.example.com")
//	if err != nil { … }
//	defer keys.Close()
//
//	svc, err := session.New(
//		session.WithAuthURL("https://auth.example.com"),
//		session.WithTokenVerifier(keys.Verify),
//	)
//
// Keys are fetched when the Verifier is made, again when a token names a key
// that is not among them, and every hour of use. After two hours without use the
// next token waits for them, so a key that the auth server has withdrawn is
// believed for two hours at most. Keys are only ever replaced by other keys: an
// auth server that is away, or that has lost its database and answers with an
// empty set, changes nothing, however long that lasts.
package jwks

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"

	"github.com/mana/session"
)

const (
	path         = "/api/v1/auth/jwks"
	fetchTimeout = 5 * time.Second
	maxBody      = 1 << 20 // bytes, decompressed

	// Keys that are older than maxAge are fetched again behind whoever uses
	// one, and before it is used if nobody has tried for maxIdle.
	maxAge  = time.Hour
	maxIdle = 2 * time.Hour

	// Tokens that name unknown keys cause this many fetches at once, and then
	// one in this time.
	fetchBurst = 3
	fetchEvery = 5 * time.Second

	// How long it is believed that there is no key of an ID: a server of many
	// nodes may sign with a key before all of them publish it.
	unknownFor = time.Minute

	// How many unknown key IDs are remembered, and how long those may be.
	maxUnknown   = 1000
	maxUnknownID = 128

	userAgent = "mana-session/1 (Go)"
)

// Verifier checks tokens. Make one with [New]; it is safe for concurrent use.
type Verifier struct {
	url      string
	client   *http.Client
	issuer   string
	audience string
	parser   *jwt.Parser

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	fetching sync.WaitGroup

	mu        sync.Mutex // guards what follows
	keys      map[string]ed25519.PublicKey
	fetchedAt time.Time     // the keys
	triedAt   time.Time     // when the last fetch ended, with keys or without
	limit     *rate.Limiter // of fetches
	current   *fetch        // nil: none under way
	begun     int           // fetches so far; each is numbered by it
	succeeded int           // the number of the last fetch that brought keys
	unknown   map[string]int
	closed    bool
}

// fetch is one attempt to get the keys.
type fetch struct {
	number int
	done   chan struct{} // closed when it has ended
	err    error         // to be read after that
}

// New makes a Verifier for the auth server at authURL, as in
// [session.WithAuthURL], and begins to fetch its keys. It does not wait for
// them, so it works while the server is away.
func New(authURL string, opts ...Option) (*Verifier, error) {
	if err := checkURL(authURL); err != nil {
		return nil, err
	}
	v := &Verifier{
		url:    strings.TrimRight(authURL, "/") + path,
		client: &http.Client{},
		// No other algorithm, so that neither "none" nor the public key as a
		// shared secret passes; and no look at the times, which are the
		// session's business.
		parser:  jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithoutClaimsValidation()),
		limit:   rate.NewLimiter(rate.Every(fetchEvery), fetchBurst),
		unknown: make(map[string]int),
	}
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		if err := opt(v); err != nil {
			return nil, err
		}
	}
	own := *v.client
	own.Jar = nil
	if own.Transport == nil {
		own.Transport = defaultTransport()
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	v.client = &own
	v.ctx, v.cancel = context.WithCancel(context.Background())
	v.mu.Lock()
	v.fetchKeys()
	v.mu.Unlock()
	return v, nil
}

// Close ends a fetch that is under way and waits for it. Verify goes on with the
// keys it has. Calling Close again does nothing.
func (v *Verifier) Close() error {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.cancel()
	v.fetching.Wait()
	return nil
}

// claims are those that are looked at.
type claims struct {
	jwt.Claims `json:"-"`       // to be one; none is validated
	Issuer     string           `json:"iss"`
	Audience   jwt.ClaimStrings `json:"aud"`
}

// Verify returns nil for a token that is signed with a key of the auth server,
// and is of the issuer and for the audience that were asked for. It does not
// look at the times in it. Its error wraps [session.ErrAuthUnavailable] when the
// keys to tell by could not be had, and is ctx's when that ended first; any
// other error means that the token is not to be trusted. No error quotes the
// token. It is for [session.WithTokenVerifier].
func (v *Verifier) Verify(ctx context.Context, token string) error {
	var c claims
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		// Extensions that must be understood (RFC 7515, 4.1.11): none is.
		if _, ok := t.Header["crit"]; ok {
			return nil, errors.New("it has extensions that must be understood")
		}
		kid, _ := t.Header["kid"].(string)
		if kid == "" {
			return nil, errors.New("it names no key")
		}
		return v.key(ctx, kid)
	})
	switch {
	case err != nil:
		return fmt.Errorf("jwks: %w", err)
	case v.issuer != "" && c.Issuer != v.issuer:
		return errors.New("jwks: token of another issuer")
	case v.audience != "" && !slices.Contains(c.Audience, v.audience):
		return errors.New("jwks: token for another audience")
	}
	return nil
}

// errUnknownKey is the end of a token whose key the auth server does not have.
var errUnknownKey = errors.New("signed with a key that the auth server does not have")

// key returns the key with an ID. That there is none is only certain when a
// fetch has brought keys without it that began after it was first asked for, and
// only for a minute.
func (v *Verifier) key(ctx context.Context, kid string) (ed25519.PublicKey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	asked, since := v.begun, -1
	for {
		key, known := v.keys[kid]
		if known && age(v.fetchedAt) > maxAge && v.mayFetch() {
			v.fetchKeys()
		}
		f := v.current
		if known && (f == nil || age(v.triedAt) <= maxIdle) {
			return key, nil
		}
		if !known {
			if since < 0 {
				since = min(asked, v.firstAsked(kid))
			}
			if v.succeeded > since && time.Since(v.fetchedAt) < unknownFor {
				return nil, errUnknownKey
			}
			if f == nil && v.mayFetch() {
				f = v.fetchKeys()
			}
			if f == nil {
				return nil, fmt.Errorf("%w: a key that is not known yet, and keys were asked for a moment ago", session.ErrAuthUnavailable)
			}
		}
		v.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		v.mu.Lock()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case f.err != nil && !known:
			return nil, fmt.Errorf("%w: no keys: %w", session.ErrAuthUnavailable, f.err)
		}
	}
}

// age is the time since t by whichever clock says more: the monotonic one stands
// still while the machine is suspended.
func age(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// firstAsked returns how many fetches had begun when a token first named an
// unknown key. It is called with v.mu held.
func (v *Verifier) firstAsked(kid string) int {
	if since, ok := v.unknown[kid]; ok {
		return since
	}
	if len(v.unknown) >= maxUnknown { // a flood: those that are decided go first
		for kid, since := range v.unknown {
			if v.succeeded > since {
				delete(v.unknown, kid)
			}
		}
	}
	if len(v.unknown) < maxUnknown && len(kid) <= maxUnknownID {
		v.unknown[kid] = v.begun
	}
	return v.begun
}

// mayFetch reports whether a fetch may begin, and counts it. It is called with
// v.mu held.
func (v *Verifier) mayFetch() bool {
	return v.current == nil && !v.closed && v.limit.Allow()
}

// fetchKeys begins a fetch. It is called with v.mu held, when none is under way.
func (v *Verifier) fetchKeys() *fetch {
	v.begun++
	f := &fetch{number: v.begun, done: make(chan struct{})}
	v.current = f
	v.fetching.Go(func() {
		ctx, cancel := context.WithTimeout(v.ctx, fetchTimeout)
		defer cancel()
		var keys map[string]ed25519.PublicKey
		err := errors.New("the fetch was abandoned") // by runtime.Goexit in a transport
		defer func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.triedAt = time.Now()
			if err == nil {
				v.keys, v.fetchedAt, v.succeeded = keys, v.triedAt, f.number
			}
			f.err = err
			v.current = nil
			close(f.done)
		}()
		keys, err = v.get(ctx)
	})
	return f
}
