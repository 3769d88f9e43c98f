package jwks

import (
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"unicode"
)

// Option configures [New].
type Option func(*Verifier) error

// WithIssuer has tokens refused that are not of this issuer ("iss"). The auth
// server puts its own base URL there.
func WithIssuer(issuer string) Option {
	return func(v *Verifier) error {
		if issuer == "" {
			return errors.New("jwks: WithIssuer: empty")
		}
		v.issuer = issuer
		return nil
	}
}

// WithAudience has tokens refused that are not for this audience ("aud"). The
// auth server's are for "manacore".
func WithAudience(audience string) Option {
	return func(v *Verifier) error {
		if audience == "" {
			return errors.New("jwks: WithAudience: empty")
		}
		v.audience = audience
		return nil
	}
}

// WithHTTPClient sets the client that fetches the keys, for its transport;
// without one it gets the default transport of this package, which uses no
// proxy. Redirects are not followed whatever the client says, nor may its
// transport follow them: keys from another address than the auth server's are
// not taken. No fetch takes longer than 5 s. The client itself is not modified.
func WithHTTPClient(client *http.Client) Option {
	return func(v *Verifier) error {
		switch {
		case client == nil:
			return errors.New("jwks: WithHTTPClient: no client")
		case client.Transport != nil && isNil(client.Transport):
			return errors.New("jwks: WithHTTPClient: the client's transport is nil")
		}
		v.client = client
		return nil
	}
}

// isNil sees a nil pointer or function in an interface.
func isNil(v any) bool {
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func || r.Kind() == reflect.Map) && r.IsNil()
}

// checkURL does not quote the URL: what is wrong with it may be where the
// password stands.
func checkURL(authURL string) error {
	u, err := url.Parse(authURL)
	switch {
	case err != nil, strings.ContainsFunc(authURL, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return errors.New("jwks: New: not a URL")
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return errors.New("jwks: New: want http://host or https://host")
	case u.User != nil, strings.ContainsAny(authURL, "?#"):
		return errors.New("jwks: New: no user, query or fragment, please")
	}
	return nil
}
