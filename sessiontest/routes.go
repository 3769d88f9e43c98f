package sessiontest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
)

// Op is a kind of call.
type Op string

// The kinds of calls. Any stands for all of them.
const (
	Any        Op = "any"
	Login      Op = "login"
	Refresh    Op = "refresh"
	Logout     Op = "logout"
	Keys       Op = "keys"
	LinkFetch  Op = "link fetch"
	LinkCheck  Op = "link check"
	LinkCreate Op = "link create"
	LinkRemove Op = "link remove"
	Other      Op = "other" // a route that does not exist
)

const (
	maxBody  = 100 << 10 // the server's body parser refuses more, with a 500
	maxDrain = 16 << 20
)

// call is a call that is being served.
type call struct {
	op   Op
	id   string // in the path, as it was sent
	body []byte
	run  context.Context // of the server, when the call arrived

	// The refresh token in the body, as it was looked up when the call arrived;
	// nil if it was not good then, or is spent. Guarded by AuthServer.mu.
	selected *grant
}

// ServeHTTP implements http.Handler.
func (s *AuthServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	run, up := s.running()
	if !up {
		panic(http.ErrAbortHandler)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(run, cancel)()
	r = r.WithContext(ctx)

	body, err := readBody(r)
	if err != nil || run.Err() != nil {
		panic(http.ErrAbortHandler) // the client is gone, or we are
	}
	r.Body = io.NopCloser(bytes.NewReader(body)) // for faults to read
	c := &call{body: body, run: run}
	c.op, c.id = s.route(r)
	s.mu.Lock()
	s.requests = append(s.requests, Request{c.op, r.Method, r.Host, r.URL.EscapedPath(), r.Header.Clone(), bytes.Clone(body)})
	if c.op == Refresh {
		c.selected = s.selectGrant(body)
	}
	fault := s.nextFault(c.op)
	s.mu.Unlock()

	answer := func(w http.ResponseWriter, r *http.Request) {
		// No lock is held while writing to a client that may be slow.
		status, value := s.answer(w.Header(), c, r)
		writeJSON(w, status, value)
	}
	if fault != nil {
		fault(w, r, answer)
		return
	}
	answer(w, r)
}

// readBody returns what the server reads of a body. The rest is read too, for a
// client that is still sending gets no answer but a reset.
func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(r.Body, maxDrain))
	}
	return body, err
}

// route tells the kind of a call, and the ID in its path as it was sent. A slash
// at the end of a path makes no difference.
func (s *AuthServer) route(r *http.Request) (Op, string) {
	path := strings.TrimSuffix(r.URL.EscapedPath(), "/")
	switch r.Method + " " + path {
	case "POST /api/v1/auth/login":
		return Login, ""
	case "POST /api/v1/auth/refresh":
		return Refresh, ""
	case "POST /api/v1/auth/logout":
		return Logout, ""
	case "GET /api/v1/auth/jwks":
		return Keys, ""
	case "POST " + s.linkPath + "/matrix-user-links":
		return LinkCreate, ""
	}
	rest, ok := strings.CutPrefix(path, s.linkPath)
	if !ok {
		return Other, ""
	}
	for _, route := range []struct {
		op     Op
		prefix string
	}{
		{LinkFetch, "GET /matrix-session/"},
		{LinkCheck, "GET /matrix-user-links/check/"},
		{LinkRemove, "DELETE /matrix-user-links/"},
	} {
		id, ok := strings.CutPrefix(r.Method+" "+rest, route.prefix)
		if ok && id != "" && id != "." && id != ".." && !strings.Contains(id, "/") {
			return route.op, id
		}
	}
	return Other, ""
}

// answer works out the answer to a call, and adds to its header.
func (s *AuthServer) answer(header http.Header, c *call, r *http.Request) (int, any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.run.Err() != nil { // a server that is down begins nothing
		panic(http.ErrAbortHandler)
	}
	header.Set("Date", s.now().UTC().Format(http.TimeFormat)) // by the server's clock
	// The body is parsed before calls are counted.
	value, bad := any(nil), parsable(c)
	if bad == nil {
		bad = s.limited(header, c.op, r)
	}
	if bad == nil {
		value, bad = s.handle(c, r)
	}
	switch {
	case bad != nil:
		if bad.retryAfter != "" {
			header.Set("Retry-After", bad.retryAfter)
		}
		return bad.status, newErrorAnswer(bad.status, bad.message, s.now(), r)
	case c.op == LinkCreate:
		return http.StatusCreated, value
	default:
		return http.StatusOK, value
	}
}

func parsable(c *call) *refusal {
	if len(c.body) > maxBody {
		return errTooLarge
	}
	switch c.op {
	case Login, Refresh, Logout, LinkCreate:
		_, bad := parseObject(c.body)
		return bad
	}
	return nil
}
