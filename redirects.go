package session

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// chain is what has become of a request by the redirects that were followed so
// far. Each response carries it in the context of its Request, where the request
// that a redirect leads to finds it: neither the requests that a base transport
// makes nor what it says about them are relied on.
type chain struct {
	last    origin
	strayed bool // for good: the chain has left its host, or https
}

type chainKey struct{}

// chainOf returns the chain that ends with req.
func chainOf(req *http.Request) chain {
	here := originOf(req)
	ctx := req.Context()
	if req.Response != nil { // a redirect; else ctx may still come from a response
		if req.Response.Request == nil {
			return chain{here, true}
		}
		ctx = req.Response.Request.Context()
	}
	before, ok := ctx.Value(chainKey{}).(chain)
	if !ok {
		return chain{here, req.Response != nil} // nobody knows where it began
	}
	return chain{here, before.strayed || !before.last.mayLeadTo(here)}
}

// followed looks at the redirects that a base transport followed by itself,
// from the request it was given to the one it says was answered. It reports
// whether one of them took the Authorization header to another host.
func (c *chain) followed(sent, answered *http.Request, bearer string) (leaked bool) {
	first := originOf(sent)
	for r := answered; r != nil && r.URL != nil && r.Response != nil && r.Response != sent.Response; r = r.Response.Request {
		if first.mayLeadTo(originOf(r)) {
			continue
		}
		c.strayed = true
		leaked = leaked || bearer != "" && r.Header.Get("Authorization") == bearer
	}
	return leaked
}

// note returns a copy of answered that carries the chain, with the caller's own
// Authorization header in place of the user's token.
func (c chain) note(answered, caller *http.Request, bearer string) *http.Request {
	answered = answered.WithContext(context.WithValue(answered.Context(), chainKey{}, c))
	if bearer != "" && answered.Header.Get("Authorization") == bearer {
		answered.Header = answered.Header.Clone()
		answered.Header.Del("Authorization")
		if own := caller.Header.Values("Authorization"); len(own) > 0 {
			answered.Header["Authorization"] = own
		}
	}
	return answered
}

// origin is where a request goes: the host that is connected to, and the one
// that the Host header names.
type origin struct {
	scheme string
	at, as hostPort
}

type hostPort struct{ host, port string }

func originOf(req *http.Request) origin {
	o := origin{scheme: asciiLower(req.URL.Scheme)}
	o.at = o.parse(req.URL.Host)
	o.as = o.at
	if req.Host != "" {
		o.as = o.parse(req.Host)
	}
	return o
}

// parse splits "host:port" and fills in the scheme's default port.
func (o origin) parse(s string) hostPort {
	u := url.URL{Host: s}
	h := hostPort{asciiLower(u.Hostname()), u.Port()}
	if h.port == "" {
		h.port = map[string]string{"http": "80", "https": "443"}[o.scheme]
	}
	return h
}

// mayLeadTo reports whether a redirect may take a token along: within the host,
// and to https there, but never from https to anything else.
func (o origin) mayLeadTo(next origin) bool {
	if o.scheme == next.scheme {
		return o == next
	}
	return o.scheme == "http" && next.scheme == "https" && o.at.upgradesTo(next.at) && o.as.upgradesTo(next.as)
}

func (h hostPort) upgradesTo(next hostPort) bool {
	return h.host == next.host && (h.port == next.port || h.port == "80" && next.port == "443")
}

// asciiLower leaves other letters alone, some of which have lower-case forms
// that are other names.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
