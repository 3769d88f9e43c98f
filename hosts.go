package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// ClientOption configures [Service.HTTPClient], [Service.Client] and
// [Service.Transport].
type ClientOption func(*clientConfig)

type clientConfig struct {
	limited bool // AllowHosts was given
	allowed []origin
	err     error // in what AllowHosts was given
}

// AllowHosts names the hosts that the token is sent to. A request to any other
// goes without it, and without a user being needed. Given more than once, all that
// is named counts; given without hosts, the token is sent nowhere.
//
// "api.example.com" is the host at its default port by https, and
// "api.example.com:8443" another port of it; localhost and loopback addresses are
// reached by http as well. "http://todo:3000" is that host and port by http. Only
// the host itself is meant: neither its subdomains nor its spelling with a trailing
// dot, and punycode is not translated. The Host header has to name a host that is
// allowed, too.
//
// What is not a host makes every request fail.
func AllowHosts(hosts ...string) ClientOption {
	return func(c *clientConfig) {
		c.limited = true
		for _, host := range hosts {
			origins, err := parseHost(host)
			if err != nil {
				c.err = errors.Join(c.err, err)
			}
			c.allowed = append(c.allowed, origins...)
		}
	}
}

// parseHost returns the origins that an entry of AllowHosts stands for.
func parseHost(entry string) ([]origin, error) {
	scheme, host, explicit := strings.Cut(entry, "://")
	if !explicit {
		scheme, host = "https", entry
	}
	scheme = asciiLower(scheme)
	u, err := url.Parse("//" + host)
	bare := strings.Count(host, ":") > 1 && !strings.HasPrefix(host, "[") // an IPv6 address needs brackets
	if err != nil || bare || u.Hostname() == "" || u.Host != host || scheme != "http" && scheme != "https" || u.Port() != "" && !isPort(u.Port()) {
		return nil, fmt.Errorf("session: AllowHosts: want host, host:port, http://host or https://host, not %q", printable(entry))
	}
	schemes := []string{scheme}
	if !explicit && isLoopback(asciiLower(u.Hostname())) {
		schemes = append(schemes, "http")
	}
	var origins []origin
	for _, scheme := range schemes {
		o := origin{scheme: scheme}
		o.at = o.parse(host)
		origins = append(origins, o)
	}
	return origins, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// allows reports whether a request to o may carry the token.
func (c *clientConfig) allows(o origin) bool {
	return !c.limited || c.names(o.scheme, o.at) && c.names(o.scheme, o.as)
}

func (c *clientConfig) names(scheme string, h hostPort) bool {
	for _, a := range c.allowed {
		if a.scheme == scheme && a.at == h {
			return true
		}
	}
	return false
}

// WithUser returns a context for requests of the user's: see [Service.HTTPClient].
func WithUser(ctx context.Context, userID string) context.Context {
	return context.WithValue(ctx, userKey{}, userID)
}

// UserFrom returns the user that [WithUser] put into ctx, or "".
func UserFrom(ctx context.Context) string {
	userID, _ := ctx.Value(userKey{}).(string)
	return userID
}

type userKey struct{}
