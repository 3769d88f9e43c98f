package sessiontest

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// handle is called with s.mu held, and so are the handlers below. It is
// released while the database is frozen.
func (s *AuthServer) handle(c *call, r *http.Request) (any, *refusal) {
	switch c.op {
	case Login:
		return s.login(c.body)
	case Refresh:
		return s.spend(c)
	case Logout: // revokes nothing
		if s.verify(bearer(r)) == nil {
			return nil, errUnauthorized
		}
		return doneAnswer{true, "Logged out"}, nil
	case Keys:
		return s.keySet(), nil
	case LinkFetch:
		return s.linkFetch(c.id, r)
	case LinkCheck:
		return s.linkCheck(c.id, r)
	case LinkCreate:
		return s.linkCreate(c.body, r)
	case LinkRemove:
		return s.linkRemove(c.id, r)
	}
	return nil, refuse(http.StatusNotFound, "Cannot "+r.Method+" "+r.URL.RequestURI())
}

func (s *AuthServer) login(body []byte) (any, *refusal) {
	fields, bad := parseFields(body, "email", "password", "deviceId?", "deviceName?")
	if bad != nil {
		return nil, bad
	}
	if !isPlainEmail(fields["email"]) {
		return nil, errEmail
	}
	if bad := s.database(); bad != nil {
		return nil, bad
	}
	u := s.users[strings.ToLower(fields["email"])]
	switch {
	case u == nil || u.password != fields["password"]: // a deleted account is as good as any
		return nil, errLogin
	case u.unverified:
		return nil, errUnverified
	}
	answer := s.tokens(u, rand.Text())
	if s.noSigning {
		answer.AccessToken = opaque(32)
	}
	return answer, nil
}

func (s *AuthServer) keySet() keysAnswer {
	keys := []jwk{}
	if s.database() == nil { // without it the server has no keys, and says so with a 200
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
	return linkAnswer{s.mint(u, u.sid), u.Email}, nil // the account's email, whatever the link says
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
	if !s.corrected { // its list of permitted fields is empty, and checked before the bearer
		return nil, errLinkFields
	}
	if bearer(r) == "" {
		return nil, errNoBearer
	}
	u := s.verify(bearer(r))
	if u == nil {
		return nil, errUnauthorized
	}
	fields, bad := parseFields(body, "matrixUserId", "email")
	if bad != nil {
		return nil, bad
	}
	if bad := s.database(); bad != nil {
		return nil, bad
	}
	s.links[fields["matrixUserId"]] = u.ID
	return doneAnswer{true, "Matrix user linked"}, nil
}

// linkRemove takes any bearer for any link: a hole of the server's.
func (s *AuthServer) linkRemove(sent string, r *http.Request) (any, *refusal) {
	if !s.hasKey(r) && bearer(r) == "" {
		return nil, errUnauthorized
	}
	id, bad := s.matrixUserID(sent)
	if bad != nil {
		return nil, bad
	}
	if _, linked := s.links[id]; !linked {
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
	return id, s.database()
}

// bearer returns the bearer token of a call, or "".
func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == r.Header.Get("Authorization") {
		return ""
	}
	return token
}
