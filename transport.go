package session

import (
	"fmt"
	"io"
	"net/http"
)

// Client returns an HTTP client that sends requests with the user's token, and
// again with a new one when a backend answers 401. See [Service.Transport].
func (s *Service) Client(userID string) *http.Client {
	return &http.Client{Transport: s.Transport(userID, nil)}
}

// Transport returns a round tripper over base (nil: [http.DefaultTransport])
// that adds "Authorization: Bearer" with the user's token to each request. When
// the answer is 401 it refreshes the token and sends the request once more,
// provided its body can be sent again (Request.GetBody). A redirect to another
// host goes without the token. RoundTrip returns the errors of [Service.Token].
// It is safe for concurrent use.
func (s *Service) Transport(userID string, base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &userTransport{s, userID, base}
}

type userTransport struct {
	service *Service
	userID  string
	base    http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t *userTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if redirectedElsewhere(req) {
		return t.base.RoundTrip(req)
	}
	token, err := t.service.Token(req.Context(), t.userID)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := t.base.RoundTrip(withBearer(req, token))
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	again := req.Clone(req.Context())
	if req.Body != nil && req.Body != http.NoBody {
		if req.GetBody == nil {
			return resp, nil
		}
		if again.Body, err = req.GetBody(); err != nil {
			return resp, nil
		}
	}
	renewed, err := t.service.Refresh(req.Context(), t.userID, token)
	if err != nil || renewed == token {
		closeBody(again)
		return resp, nil // the backend's answer says more than our error
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // to reuse the connection
	resp.Body.Close()
	resp, err = t.base.RoundTrip(withBearer(again, renewed))
	if err != nil {
		return nil, fmt.Errorf("session: sent again with a new token: %w", err)
	}
	return resp, nil
}

// withBearer returns a copy: a round tripper must not modify its request.
func withBearer(req *http.Request, token string) *http.Request {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	return req
}

// redirectedElsewhere reports whether req follows a redirect away from the
// host that the caller named.
func redirectedElsewhere(req *http.Request) bool {
	first := req
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	return first.URL.Scheme != req.URL.Scheme || first.URL.Host != req.URL.Host
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}
