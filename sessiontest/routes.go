package sessiontest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
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

const maxBody = 100 << 10 // the server's body parser refuses more, with a 500

// refusal is an error answer. message is a string or a list of strings.
type refusal struct {
	status  int
	message any
	header  http.Header
}

func refuse(status int, message any) *refusal { return &refusal{status: status, message: message} }

var (
	errNoDatabase = refuse(http.StatusInternalServerError, "connect ECONNREFUSED 127.0.0.1:5432")
	errNoLink     = refuse(http.StatusNotFound, "No link found for this Matrix user")
	errNoKey      = refuse(http.StatusUnauthorized, "Valid service key required")
	errNotSigned  = refuse(http.StatusInternalServerError, "Failed to generate access token")
)

// ServeHTTP implements http.Handler.
func (s *AuthServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, id := s.route(r)
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return // the client is gone
	}
	s.mu.Lock()
	s.requests = append(s.requests, Request{op, r.Method, r.URL.EscapedPath(), r.Header.Clone(), body})
	fault := s.fault(op)
	s.mu.Unlock()

	answer := func(w http.ResponseWriter, r *http.Request) {
		// No lock is held while writing to a client that may be slow.
		status, value, header := s.answer(op, id, body, r)
		maps.Copy(w.Header(), header)
		writeJSON(w, status, value)
	}
	if fault != nil {
		fault(w, r, answer)
		return
	}
	answer(w, r)
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// route tells the kind of a call, and the ID in its path as the server reads it.
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

// answer works out the answer to a call.
func (s *AuthServer) answer(op Op, id string, body []byte, r *http.Request) (int, any, http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	header := http.Header{}
	value, bad := s.limited(op, r, header)
	if bad == nil {
		value, bad = s.handle(op, id, body, r)
	}
	if bad == nil {
		if created, ok := value.(creation); ok {
			return http.StatusCreated, created, header
		}
		return http.StatusOK, value, header
	}
	maps.Copy(header, bad.header)
	return bad.status, map[string]any{
		"statusCode": bad.status,
		"message":    bad.message,
		"timestamp":  time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
		"path":       r.URL.RequestURI(),
	}, header
}

// creation is an answer with status 201.
type creation map[string]any

// window counts the calls of a client address within a minute.
type window struct {
	began time.Time
	calls int
}

func (s *AuthServer) limited(op Op, r *http.Request, header http.Header) (any, *refusal) {
	limit := map[Op]int{Login: s.loginLimit, Refresh: refreshPerMinute}[op]
	if limit == 0 {
		return nil, nil
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
		return nil, &refusal{http.StatusTooManyRequests, "ThrottlerException: Too Many Requests", http.Header{"Retry-After": {"60"}}}
	}
	return nil, nil
}

func (s *AuthServer) handle(op Op, id string, body []byte, r *http.Request) (any, *refusal) {
	if len(body) > maxBody {
		return nil, refuse(http.StatusInternalServerError, "request entity too large")
	}
	switch op {
	case Login:
		return s.login(body)
	case Refresh:
		return s.spend(body)
	case Logout: // revokes nothing
		if s.verify(bearer(r)) == nil {
			return nil, refuse(http.StatusUnauthorized, "Unauthorized")
		}
		return map[string]any{"success": true, "message": "Logged out"}, nil
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
	fields, bad := parse(body, []string{"email", "password"}, func(name, value string) string {
		_, domain, at := strings.Cut(value, "@")
		if name == "email" && (!at || !strings.Contains(domain, ".") || strings.ContainsAny(value, " \t")) {
			return "email must be an email"
		}
		return ""
	})
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
	sid := rand.Text()
	answer := s.tokens(u, sid)
	if s.noSigning {
		answer["accessToken"] = opaque(32)
	}
	return answer, nil
}

// tokens is the answer to a login, and all but one field of that to a refresh.
func (s *AuthServer) tokens(u *user, sid string) map[string]any {
	token := opaque(64)
	s.refresh[token] = grant{u.ID, sid, time.Now().Add(refreshTokenTTL)}
	return map[string]any{
		"user":         map[string]any{"id": u.ID, "email": u.Email, "name": strings.Split(u.Email, "@")[0]},
		"accessToken":  s.mint(u, sid),
		"refreshToken": token,
		"expiresIn":    int(s.tokenTTL.Seconds()),
	}
}

func (s *AuthServer) spend(body []byte) (any, *refusal) {
	fields, bad := parse(body, []string{"refreshToken"}, nil)
	if bad != nil {
		return nil, bad
	}
	if s.noDatabase {
		return nil, errNoDatabase
	}
	g, ok := s.refresh[fields["refreshToken"]]
	u := s.userByID(g.userID)
	if !ok || u == nil || time.Now().After(g.expires) {
		return nil, refuse(http.StatusUnauthorized, "Invalid refresh token")
	}
	if s.noSigning {
		return nil, errNotSigned
	}
	delete(s.refresh, fields["refreshToken"])
	answer := s.tokens(u, g.sid)
	answer["tokenType"] = "Bearer"
	return answer, nil
}

func (s *AuthServer) keySet() any {
	keys := []jwk{}
	if !s.noDatabase { // without it the server has no keys, and says so with a 200
		for _, k := range s.keys {
			keys = append(keys, k.public())
		}
	}
	return map[string]any{"keys": keys}
}

func (s *AuthServer) linkFetch(id string, r *http.Request) (any, *refusal) {
	if !s.keyed(r) {
		return nil, errNoKey
	}
	id, bad := s.decodeID(id)
	if bad != nil {
		return nil, bad
	}
	if s.noDatabase {
		return nil, errNoDatabase
	}
	u := s.userByID(s.links[id])
	if u == nil || s.noSigning {
		return nil, errNoLink
	}
	return map[string]any{"token": s.mint(u, u.sid), "email": u.Email}, nil
}

func (s *AuthServer) linkCheck(id string, r *http.Request) (any, *refusal) {
	if !s.keyed(r) {
		return nil, errNoKey
	}
	id, bad := s.decodeID(id)
	if bad != nil {
		return nil, bad
	}
	if s.noDatabase {
		return nil, errNoDatabase
	}
	_, linked := s.links[id]
	return map[string]any{"linked": linked}, nil
}

func (s *AuthServer) linkCreate(body []byte, r *http.Request) (any, *refusal) {
	u := s.verify(bearer(r))
	if u == nil {
		return nil, refuse(http.StatusUnauthorized, "Unauthorized")
	}
	fields, bad := parse(body, []string{"matrixUserId", "email"}, nil)
	switch {
	case bad != nil && s.corrected:
		return nil, bad
	case !s.corrected:
		return nil, refuse(http.StatusBadRequest, []string{"property matrixUserId should not exist", "property email should not exist"})
	case s.noDatabase:
		return nil, errNoDatabase
	}
	s.links[fields["matrixUserId"]] = u.ID
	return creation{"success": true, "message": "Matrix user linked"}, nil
}

func (s *AuthServer) linkRemove(id string, r *http.Request) (any, *refusal) {
	u := s.verify(bearer(r))
	if !s.keyed(r) && u == nil {
		return nil, refuse(http.StatusUnauthorized, "Unauthorized")
	}
	id, bad := s.decodeID(id)
	if bad != nil {
		return nil, bad
	}
	if s.noDatabase {
		return nil, errNoDatabase
	}
	owner, linked := s.links[id]
	if !linked || !s.keyed(r) && owner != u.ID {
		return nil, errNoLink
	}
	delete(s.links, id)
	return map[string]any{"success": true, "message": "Link removed"}, nil
}

func (s *AuthServer) keyed(r *http.Request) bool {
	return r.Header.Get("X-Service-Key") == s.serviceKey
}

// decodeID decodes twice, as the recorded deployment does.
func (s *AuthServer) decodeID(id string) (string, *refusal) {
	times := 2
	if s.corrected {
		times = 1
	}
	for range times {
		decoded, err := url.PathUnescape(id)
		if err != nil {
			return "", refuse(http.StatusInternalServerError, "URI malformed")
		}
		id = decoded
	}
	return id, nil
}

func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// parse validates a body of string fields as the server does: unknown fields
// are refused, and all complaints come in one list.
func parse(body []byte, names []string, check func(name, value string) string) (map[string]string, *refusal) {
	var raw map[string]any
	decoder := json.NewDecoder(bytes.NewReader(body))
	if err := decoder.Decode(&raw); err != nil && !errors.Is(err, io.EOF) {
		return nil, refuse(http.StatusBadRequest, "Expected property name or '}' in JSON at position 1")
	}
	var complaints []string
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if !slices.Contains(names, name) {
			complaints = append(complaints, fmt.Sprintf("property %s should not exist", name))
		}
	}
	fields := make(map[string]string)
	for _, name := range names {
		value, ok := raw[name].(string)
		if check != nil {
			if complaint := check(name, value); complaint != "" {
				complaints = append(complaints, complaint)
				continue
			}
		}
		if !ok {
			complaints = append(complaints, name+" must be a string")
		}
		fields[name] = value
	}
	if complaints != nil {
		return nil, refuse(http.StatusBadRequest, complaints)
	}
	return fields, nil
}

// opaque returns n characters that mean nothing.
func opaque(n int) string {
	s := ""
	for len(s) < n {
		s += rand.Text()
	}
	return s[:n]
}
