package sessiontest

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
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

// ServeHTTP implements http.Handler.
func (s *AuthServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	r = r.WithContext(ctx)

	body, err := readBody(r)
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	if s.ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	op, id := s.route(r)
	s.mu.Lock()
	s.requests = append(s.requests, Request{op, r.Method, r.Host, r.URL.EscapedPath(), r.Header.Clone(), body})
	fault := s.nextFault(op)
	s.mu.Unlock()

	answer := func(w http.ResponseWriter, r *http.Request) {
		// No lock is held while writing to a client that may be slow.
		status, value := s.answer(w.Header(), op, id, body, r)
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

// route tells the kind of a call, and the ID in its path as it was sent.
func (s *AuthServer) route(r *http.Request) (Op, string) {
	path := r.URL.EscapedPath()
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
func (s *AuthServer) answer(header http.Header, op Op, id string, body []byte, r *http.Request) (int, any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, bad := any(nil), s.limited(header, op, r)
	if bad == nil {
		value, bad = s.handle(op, id, body, r)
	}
	switch {
	case bad != nil:
		if bad.retryAfter != "" {
			header.Set("Retry-After", bad.retryAfter)
		}
		return bad.status, newErrorAnswer(bad.status, bad.message, s.now(), r)
	case op == LinkCreate:
		return http.StatusCreated, value
	default:
		return http.StatusOK, value
	}
}

// window counts the calls of a client address within a minute.
type window struct {
	began time.Time
	calls int
}

// limited counts a call and refuses it beyond the limit of its kind.
func (s *AuthServer) limited(header http.Header, op Op, r *http.Request) *refusal {
	limit := 0
	switch op {
	case Login:
		limit = s.loginLimit
	case Refresh:
		limit = s.refreshes
	}
	if limit <= 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	key := string(op) + " " + host
	win := s.limits[key]
	if win == nil || time.Since(win.began) >= time.Minute {
		win = &window{began: time.Now()}
		s.limits[key] = win
	}
	win.calls++
	reset := (time.Minute - time.Since(win.began) + time.Second - 1) / time.Second
	header.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	header.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, limit-win.calls)))
	header.Set("X-RateLimit-Reset", strconv.Itoa(int(reset)))
	if win.calls > limit {
		return errTooMany
	}
	return nil
}

// handle is called with s.mu held, and so are the handlers below.
func (s *AuthServer) handle(op Op, id string, body []byte, r *http.Request) (any, *refusal) {
	if len(body) > maxBody {
		return nil, errTooLarge
	}
	switch op {
	case Login:
		return s.login(body)
	case Refresh:
		return s.spend(body)
	case Logout: // revokes nothing
		if s.verify(bearer(r)) == nil {
			return nil, errUnauthorized
		}
		return doneAnswer{true, "Logged out"}, nil
	case Keys:
		return s.keySet(), nil
	case LinkFetch:
		return s.linkFetch(id, r)
	case LinkCheck:
		return s.linkCheck(id, r)
	case LinkCreate:
		return s.linkCreate(body, r)
	case LinkRemove:
		return s.linkRemove(id, r)
	}
	return nil, refuse(http.StatusNotFound, "Cannot "+r.Method+" "+r.URL.RequestURI())
}

func (s *AuthServer) login(body []byte) (any, *refusal) {
	fields, bad := parseFields(body, "email", "password")
	if bad != nil {
		return nil, bad
	}
	if s.noDatabase {
		return nil, errNoDatabase
	}
	u := s.users[strings.ToLower(fields["email"])]
	switch {
	case u == nil || u.deleted || u.password != fields["password"]:
		return nil, refuse(http.StatusInternalServerError, "Invalid email or password")
	case u.unverified:
		return nil, refuse(http.StatusInternalServerError, "Email not verified")
	}
	answer := s.tokens(u, rand.Text())
	if s.noSigning {
		answer.AccessToken = opaque(32)
	}
	return answer, nil
}

const refreshTokenTTL = 7 * 24 * time.Hour

// tokens mints an access token and a refresh token.
func (s *AuthServer) tokens(u *user, sid string) tokensAnswer {
	token := opaque(64)
	s.refresh[token] = grant{u.ID, sid, s.now().Add(refreshTokenTTL)}
	name, _, _ := strings.Cut(u.Email, "@")
	return tokensAnswer{
		User:         accountAnswer{u.ID, u.Email, name},
		AccessToken:  s.mint(u, sid),
		RefreshToken: token,
		ExpiresIn:    int(s.tokenTTL.Seconds()),
	}
}

func (s *AuthServer) spend(body []byte) (any, *refusal) {
	fields, bad := parseFields(body, "refreshToken")
	if bad != nil {
		return nil, bad
	}
	if s.noDatabase {
		return nil, errNoDatabase
	}
	g, ok := s.refresh[fields["refreshToken"]]
	u := s.userByID(g.userID)
	if !ok || u == nil || !s.now().Before(g.expires) {
		return nil, refuse(http.StatusUnauthorized, "Invalid refresh token")
	}
	if s.noSigning {
		return nil, errNotSigned
	}
	delete(s.refresh, fields["refreshToken"])
	answer := s.tokens(u, g.sid)
	answer.TokenType = "Bearer"
	return answer, nil
}

func (s *AuthServer) keySet() keysAnswer {
	keys := []jwk{}
	if !s.noDatabase { // without it the server has no keys, and says so with a 200
		for _, k := range s.keys {
			keys = append(keys, k.jwk())
		}
	}
	return keysAnswer{keys}
}

func (s *AuthServer) linkFetch(sent string, r *http.Request) (any, *refusal) {
	if !s.hasKey(r) {
		return nil, errNoKey
	}
	id, bad := s.matrixUserID(sent)
	if bad != nil {
		return nil, bad
	}
	u := s.userByID(s.links[id])
	if u == nil || s.noSigning {
		return nil, errNoLink
	}
	return linkAnswer{s.mint(u, u.sid), u.Email}, nil
}

func (s *AuthServer) linkCheck(sent string, r *http.Request) (any, *refusal) {
	if !s.hasKey(r) {
		return nil, errNoKey
	}
	id, bad := s.matrixUserID(sent)
	if bad != nil {
		return nil, bad
	}
	_, linked := s.links[id]
	return checkAnswer{linked}, nil
}

func (s *AuthServer) linkCreate(body []byte, r *http.Request) (any, *refusal) {
	u := s.verify(bearer(r))
	switch {
	case u == nil:
		return nil, errUnauthorized
	case !s.corrected: // its list of permitted fields is empty
		return nil, refuse(http.StatusBadRequest, []string{"property matrixUserId should not exist", "property email should not exist"})
	}
	fields, bad := parseFields(body, "matrixUserId", "email")
	if bad != nil {
		return nil, bad
	}
	if s.noDatabase {
		return nil, errNoDatabase
	}
	s.links[fields["matrixUserId"]] = u.ID
	return doneAnswer{true, "Matrix user linked"}, nil
}

func (s *AuthServer) linkRemove(sent string, r *http.Request) (any, *refusal) {
	u := s.verify(bearer(r))
	if !s.hasKey(r) && u == nil {
		return nil, errUnauthorized
	}
	id, bad := s.matrixUserID(sent)
	if bad != nil {
		return nil, bad
	}
	owner, linked := s.links[id]
	if !linked || !s.hasKey(r) && owner != u.ID {
		return nil, errNoLink
	}
	delete(s.links, id)
	return doneAnswer{true, "Link removed"}, nil
}

func (s *AuthServer) hasKey(r *http.Request) bool {
	return s.serviceKey != "" && r.Header.Get("X-Service-Key") == s.serviceKey
}

// matrixUserID decodes the ID in a path, twice as the recorded deployment does,
// and then needs the database, as all calls with an ID do.
func (s *AuthServer) matrixUserID(sent string) (string, *refusal) {
	times := 2
	if s.corrected {
		times = 1
	}
	id := sent
	for range times {
		decoded, err := url.PathUnescape(id)
		if err != nil || !utf8.ValidString(decoded) {
			return "", errMalformedURI
		}
		id = decoded
	}
	if s.noDatabase {
		return "", errNoDatabase
	}
	return id, nil
}

func bearer(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}
