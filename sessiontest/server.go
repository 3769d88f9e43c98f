// Package sessiontest provides an auth server for tests of bots that use
// package session: real signed JWTs, real rotation of refresh tokens, the
// status codes, messages and oddities of the deployed server, and faults on
// demand.
//
// Over the network:
//
//	auth := sessiontest.NewAuthServer(t)
//	auth.AddUser("alice@example.com", "secret")
//	svc, err := session.New(session.WithAuthURL(auth.URL))
//
// Without one, which also works inside testing/synctest:
//
//	auth := sessiontest.New()
//	svc, err := session.New(session.WithAuthURL(auth.URL), session.WithHTTPClient(auth.Client()))
package sessiontest

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// DefaultServiceKey is the service key unless WithServiceKey says otherwise.
const DefaultServiceKey = "service-key-for-tests"

// DefaultLinkPath is the prefix of the link calls unless WithLinkPath says
// otherwise: doubled, as the server is deployed.
const DefaultLinkPath = "/api/v1/api/v1/auth"

const (
	refreshTokenTTL  = 7 * 24 * time.Hour
	refreshPerMinute = 100
)

// AuthServer answers like the deployed auth server. It is an http.Handler, and
// safe for concurrent use.
type AuthServer struct {
	// URL is the base URL: http://auth.test until Start gives it an address.
	URL string

	linkPath  string
	corrected bool
	server    *http.Server
	done      chan struct{} // closed by Close; ends calls that hang

	mu         sync.Mutex // guards what follows
	tokenTTL   time.Duration
	skew       time.Duration
	serviceKey string
	keys       []signingKey // the last one signs
	noSigning  bool
	noDatabase bool
	users      map[string]*user  // by lower-case e-mail
	links      map[string]string // Matrix user ID to user ID
	refresh    map[string]grant  // refresh tokens that may be spent
	limits     map[string]*window
	loginLimit int
	faults     []injected
	requests   []Request
}

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
}

type grant struct {
	userID  string
	sid     string
	expires time.Time
}

type signingKey struct {
	id      string
	private ed25519.PrivateKey
}

// Option configures an AuthServer.
type Option func(*AuthServer)

// WithTokenTTL sets how long tokens live; default 15 minutes.
func WithTokenTTL(ttl time.Duration) Option {
	return func(s *AuthServer) { s.tokenTTL = ttl }
}

// WithServiceKey sets the service key that link calls need.
func WithServiceKey(key string) Option {
	return func(s *AuthServer) { s.serviceKey = key }
}

// WithLinkPath sets the prefix of the link calls.
func WithLinkPath(path string) Option {
	return func(s *AuthServer) { s.linkPath = path }
}

// WithLoginLimit sets how many logins a minute a client address has; default
// 10, as deployed; 0 is no limit.
func WithLoginLimit(n int) Option {
	return func(s *AuthServer) { s.loginLimit = n }
}

// WithCorrectedLinks makes the server a corrected deployment: it makes links
// on request, where the recorded one refuses, and decodes IDs once.
func WithCorrectedLinks() Option {
	return func(s *AuthServer) { s.corrected = true }
}

// New returns a server that does not listen: use Client or Start, or mount it
// as a handler.
func New(opts ...Option) *AuthServer {
	s := &AuthServer{
		URL:        "http://auth.test",
		linkPath:   DefaultLinkPath,
		done:       make(chan struct{}),
		tokenTTL:   15 * time.Minute,
		serviceKey: DefaultServiceKey,
		users:      make(map[string]*user),
		links:      make(map[string]string),
		refresh:    make(map[string]grant),
		limits:     make(map[string]*window),
		loginLimit: 10,
	}
	for _, opt := range opts {
		opt(s)
	}
	s.RotateSigningKey()
	return s
}

// NewAuthServer returns a server that listens on a loopback port until the
// test ends.
func NewAuthServer(tb testing.TB, opts ...Option) *AuthServer {
	tb.Helper()
	s := New(opts...)
	if err := s.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// Start listens on a loopback port and sets URL.
func (s *AuthServer) Start() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("sessiontest: %w", err)
	}
	s.URL = "http://" + listener.Addr().String()
	s.server = &http.Server{
		Handler:           s,
		IdleTimeout:       5 * time.Second, // as deployed
		ReadHeaderTimeout: 5 * time.Second,
	}
	go func() { _ = s.server.Serve(listener) }()
	return nil
}

// Close ends calls that hang and stops listening.
func (s *AuthServer) Close() {
	s.mu.Lock()
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	s.mu.Unlock()
	if s.server != nil {
		_ = s.server.Close()
	}
}

// AddUser creates an account with a confirmed e-mail address.
func (s *AuthServer) AddUser(email, password string) User {
	return s.addUser(email, password, false)
}

// AddUnverifiedUser creates an account whose e-mail is not confirmed yet.
func (s *AuthServer) AddUnverifiedUser(email, password string) User {
	return s.addUser(email, password, true)
}

func (s *AuthServer) addUser(email, password string, unverified bool) User {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &user{User: User{ID: rand.Text(), Email: email}, password: password, unverified: unverified, sid: rand.Text()}
	s.users[strings.ToLower(email)] = u
	return u.User
}

// DeleteUser deletes an account. Its links stay, as they do on the server.
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
	u := s.users[strings.ToLower(email)]
	if u == nil {
		panic("sessiontest: Link: no account with e-mail " + email)
	}
	s.links[matrixUserID] = u.ID
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

// RevokeRefreshTokens makes all refresh tokens of an account unusable.
func (s *AuthServer) RevokeRefreshTokens(email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[strings.ToLower(email)]
	for token, g := range s.refresh {
		if u != nil && g.userID == u.ID {
			delete(s.refresh, token)
		}
	}
}

// SetTokenTTL sets how long tokens live that are minted from now on.
func (s *AuthServer) SetTokenTTL(ttl time.Duration) { s.set(func() { s.tokenTTL = ttl }) }

// SetServiceKey changes the service key.
func (s *AuthServer) SetServiceKey(key string) { s.set(func() { s.serviceKey = key }) }

// SetClockSkew sets the server's clock ahead of ours, or behind.
func (s *AuthServer) SetClockSkew(d time.Duration) { s.set(func() { s.skew = d }) }

// BreakSigning makes the server unable to sign: logins answer with an opaque
// token, refreshes with 500, link fetches as if there were no link.
func (s *AuthServer) BreakSigning(broken bool) { s.set(func() { s.noSigning = broken }) }

// BreakDatabase makes the server answer as it does without its database.
func (s *AuthServer) BreakDatabase(broken bool) { s.set(func() { s.noDatabase = broken }) }

func (s *AuthServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Request is a call the server got.
type Request struct {
	Op     Op
	Method string
	Path   string // as sent, escaped
	Header http.Header
	Body   []byte
}

// Requests returns the calls the server got, oldest first.
func (s *AuthServer) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Calls returns how many calls of a kind the server got; Any counts all.
func (s *AuthServer) Calls(op Op) int {
	n := 0
	for _, r := range s.Requests() {
		if op == Any || r.Op == op {
			n++
		}
	}
	return n
}

// ResetCalls forgets the calls so far.
func (s *AuthServer) ResetCalls() { s.set(func() { s.requests = nil }) }
