package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// renewWait is how long an answer of 401 to a request that cannot be sent again
// is held back, so that the next request has the new token.
const renewWait = 2 * time.Second

// HTTPClient returns one client for all users, for API clients that are built
// once: the user of a request is the one that [WithUser] put into its context. A
// request without one fails with [ErrInvalidUserID]. Give it [AllowHosts], so that
// no URL can lead the token elsewhere. See [Service.Transport] for the rest.
func (s *Service) HTTPClient(opts ...ClientOption) *http.Client {
	return &http.Client{Transport: s.transport(UserFrom, nil, opts)}
}

// Client returns an HTTP client that sends requests with the user's token, and
// again with a new one when a backend answers 401. See [Service.Transport].
func (s *Service) Client(userID string, opts ...ClientOption) *http.Client {
	return &http.Client{Transport: s.Transport(userID, nil, opts...)}
}

// Transport returns a round tripper over base (nil: [http.DefaultTransport])
// that adds "Authorization: Bearer" with the user's token to each request, unless
// [AllowHosts] leaves its host out. It is safe for concurrent use. RoundTrip
// returns the errors of [Service.Token].
//
// When the answer is 401 it replaces the token as [Service.Refresh] does and
// sends the request once more. The 401 is passed on when Refresh has no other
// token, be it that the auth server cannot be asked or that the token was
// replaced moments ago; and when the body cannot be sent again (it has no
// Request.GetBody), in which case the token is replaced for the next request.
// If it turns out that the session has ended, RoundTrip returns
// [ErrNotLoggedIn] instead.
//
// The token goes to the host of the caller's request and to no other: once a
// chain of redirects has led to another host or port, to another Host header, or
// from https to http, the rest of it goes without a token, also back at the
// first host. From http to https on the same host is allowed, and a default port
// may be spelled out. Host names are compared as they are written, apart from
// upper and lower case in ASCII: one with a trailing dot, or in punycode where
// the other is not, is another host.
//
// base must not follow redirects itself, because what it sends on the way cannot
// be seen here: an [http.Client] inside it would take the token to other ports
// and subdomains. If a response shows that base has done so, RoundTrip returns
// an error. The Response.Request that callers see does not have the token.
func (s *Service) Transport(userID string, base http.RoundTripper, opts ...ClientOption) http.RoundTripper {
	return s.transport(func(context.Context) string { return userID }, base, opts)
}

func (s *Service) transport(user func(context.Context) string, base http.RoundTripper, opts []ClientOption) *userTransport {
	if base == nil {
		base = http.DefaultTransport
	}
	t := &userTransport{service: s, user: user, base: base}
	for _, opt := range opts {
		if opt != nil {
			opt(&t.config)
		}
	}
	return t
}

type userTransport struct {
	service *Service
	user    func(context.Context) string // whose token a request gets
	base    http.RoundTripper
	config  clientConfig
}

// RoundTrip implements [http.RoundTripper].
func (t *userTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	switch {
	case req.URL == nil || req.Header == nil:
		closeBody(req)
		return nil, errors.New("session: request without a URL or a header")
	case t.config.err != nil:
		closeBody(req)
		return nil, t.config.err
	}
	hops := chainOf(req)
	if hops.strayed || !t.config.allows(hops.last) {
		return t.send(req, hops, "")
	}
	userID := t.user(req.Context())
	token, err := t.service.Token(req.Context(), userID)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := t.send(req, hops, token)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	renewed, err := t.renew(req, userID, token)
	switch {
	case errors.Is(err, ErrNotLoggedIn), err != nil && req.Context().Err() != nil:
		resp.Body.Close()
		return nil, err
	case err != nil, renewed == token, !replayable(req):
		return resp, nil //nolint:nilerr // the backend's answer says more than our error
	}
	again := req.WithContext(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return resp, nil //nolint:nilerr // likewise
		}
	}
	// Not read to its end, which would spare a connection but may never come.
	resp.Body.Close()
	resp, err = t.send(again, hops, renewed)
	if err != nil {
		return nil, fmt.Errorf("session: sent again with a new token: %w", err)
	}
	return resp, nil
}

// renew replaces the token that was refused. A caller whose request cannot be
// sent again does not wait for long: the replacement goes on without them.
func (t *userTransport) renew(req *http.Request, userID, refused string) (string, error) {
	ctx := req.Context()
	if !replayable(req) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, renewWait)
		defer cancel()
	}
	return t.service.Refresh(ctx, userID, refused)
}

// send passes a copy of req to base, with the token if there is one, and refuses
// the answers that [http.Client] refuses.
func (t *userTransport) send(req *http.Request, hops chain, token string) (*http.Response, error) {
	// A shallow copy: the caller's Trailer is filled while the body is sent.
	sent := req.WithContext(req.Context())
	bearer := ""
	if token != "" {
		bearer = "Bearer " + token
		sent.Header = req.Header.Clone()
		sent.Header.Set("Authorization", bearer)
	}
	resp, err := t.base.RoundTrip(sent)
	switch {
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, fmt.Errorf("session: %T returned neither a response nor an error", t.base)
	case resp.Body == nil && resp.ContentLength > 0 && req.Method != http.MethodHead:
		return nil, fmt.Errorf("session: %T returned a response of %d bytes without a body", t.base, resp.ContentLength)
	case resp.Body == nil:
		resp.Body = http.NoBody
	}
	if resp.Request == nil {
		resp.Request = sent
	}
	if hops.followed(sent, resp.Request, bearer) {
		resp.Body.Close()
		return nil, fmt.Errorf("session: %T followed a redirect to another host with the user's token", t.base)
	}
	resp.Request = hops.note(resp.Request, req, bearer)
	return resp, nil
}

// replayable reports whether req can be sent again.
func replayable(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}
