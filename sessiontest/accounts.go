package sessiontest

import (
	"crypto/rand"
	"maps"
	"strings"
	"time"
)

// User is an account.
type User struct {
	ID    string
	Email string
}

type user struct {
	User
	password   string
	unverified bool
	deleted    bool
	sid        string // of the session behind link fetches
	revoked    int64  // the last refresh token that RevokeRefreshTokens revoked
}

// grant is what a refresh token is good for.
type grant struct {
	number  int64 // in the order of issue
	userID  string
	sid     string
	expires time.Time
}

// AddUser creates an account with a confirmed email address. An account that
// has the address already is replaced by another one, with another ID.
func (s *AuthServer) AddUser(email, password string) User {
	return s.addUser(email, password, false)
}

// AddUnverifiedUser creates an account whose email is not confirmed yet.
func (s *AuthServer) AddUnverifiedUser(email, password string) User {
	return s.addUser(email, password, true)
}

func (s *AuthServer) addUser(email, password string, unverified bool) User {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &user{User: User{ID: rand.Text(), Email: email}, password: password, unverified: unverified, sid: rand.Text()}
	if replaced := s.users[strings.ToLower(email)]; replaced != nil {
		delete(s.ids, replaced.ID)
	}
	s.users[strings.ToLower(email)], s.ids[u.ID] = u, u
	return u.User
}

// DeleteUser deletes an account softly, as the server does: its links stay, and
// one can still log in to it, but link fetches and refreshes are refused.
func (s *AuthServer) DeleteUser(email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[strings.ToLower(email)]; u != nil {
		u.deleted = true
	}
}

// Link links a Matrix user to an account, as signing in to Matrix through the
// identity provider does. It panics if there is no such account.
func (s *AuthServer) Link(matrixUserID, email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[matrixUserID] = s.mustUser("Link", email).ID
}

// Unlink removes a Matrix user's link.
func (s *AuthServer) Unlink(matrixUserID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, matrixUserID)
}

// Linked reports whether a Matrix user has a link.
func (s *AuthServer) Linked(matrixUserID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.links[matrixUserID]
	return ok
}

// LinkOwner returns the account a Matrix user is linked to, and whether there
// is one: a link outlives its account.
func (s *AuthServer) LinkOwner(matrixUserID string) (User, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.userByID(s.links[matrixUserID])
	if u == nil {
		return User{}, false
	}
	return u.User, true
}

// RevokeRefreshTokens makes all refresh tokens of an account unusable, those
// included that calls in flight are about to spend.
func (s *AuthServer) RevokeRefreshTokens(email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[strings.ToLower(email)]
	if u == nil {
		return
	}
	u.revoked = s.grants
	maps.DeleteFunc(s.refresh, func(_ string, g *grant) bool { return g.userID == u.ID })
}

// mustUser is called with s.mu held.
func (s *AuthServer) mustUser(method, email string) *user {
	u := s.users[strings.ToLower(email)]
	if u == nil {
		panic("sessiontest: " + method + ": no account with email " + email)
	}
	return u
}

// userByID returns the account with an ID unless it was deleted, or nil. It is
// called with s.mu held.
func (s *AuthServer) userByID(id string) *user {
	if u := s.ids[id]; u != nil && !u.deleted {
		return u
	}
	return nil
}

// opaque returns n characters that mean nothing.
func opaque(n int) string {
	s := ""
	for len(s) < n {
		s += rand.Text()
	}
	return s[:n]
}
