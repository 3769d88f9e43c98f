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
//
// Faults are injected by kind of call. This one loses the answer to the next
// refresh, though the server has spent the refresh token:
//
//	auth.Inject(sessiontest.Refresh, 1, sessiontest.LoseAnswer())
package sessiontest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// DefaultServiceKey is the service key unless WithServiceKey says otherwise.
const DefaultServiceKey = "service-key-for-tests"

// DefaultLinkPath is the prefix of the link calls unless WithLinkPath says
// otherwise: doubled, as the server is deployed.
const DefaultLinkPath = "/api/v1/api/v1/auth"

// AuthServer answers like the deployed auth server. It is an http.Handler, and
// safe for concurrent use.
type AuthServer struct {
	// URL is the base URL: http://auth.test until Start gives it an address.
	URL string

	linkPath  string
	corrected bool
	ctx       context.Context // of the server's life: calls in flight end with it
	stop      context.CancelFunc

	mu         sync.Mutex    // guards what follows
	server     *http.Server  // nil until Start
	served     chan struct{} // closed when the goroutine of Start has ended
	tokenTTL   time.Duration
	skew       time.Duration
	serviceKey string
	keys       []signingKey // the last one signs
	noSigning  bool
	noDatabase bool
	users      map[string]*user  // by lower-case e-mail
	ids        map[string]*user  // the same, by user ID
	links      map[string]string // Matrix user ID to user ID
	refresh    map[string]grant  // refresh tokens that may be spent
	limits     map[string]*window
	loginLimit int
	refreshes  int // limit of refreshes
	faults     []injected
	requests   []Request
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

// WithLoginLimit sets how many logins a minute a client address has, failed
// ones included; default 10, as deployed; 0 is no limit.
func WithLoginLimit(n int) Option {
	return func(s *AuthServer) { s.loginLimit = n }
}

// WithRefreshLimit sets how many refreshes a minute a client address has;
// default 100, as deployed; 0 is no limit.
func WithRefreshLimit(n int) Option {
	return func(s *AuthServer) { s.refreshes = n }
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
		tokenTTL:   15 * time.Minute,
		serviceKey: DefaultServiceKey,
		users:      make(map[string]*user),
		ids:        make(map[string]*user),
		links:      make(map[string]string),
		refresh:    make(map[string]grant),
		limits:     make(map[string]*window),
		loginLimit: 10,
		refreshes:  100,
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.ctx.Done() // makes the channel here, not in the synctest bubble of the first call
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

// Start listens on a loopback port and sets URL. It can be called once, and
// not after Close.
func (s *AuthServer) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil || s.ctx.Err() != nil {
		return errors.New("sessiontest: server already started or closed")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("sessiontest: %w", err)
	}
	s.URL = "http://" + listener.Addr().String()
	s.served = make(chan struct{})
	s.server = &http.Server{
		Handler:           s,
		IdleTimeout:       5 * time.Second, // as deployed
		ReadHeaderTimeout: 5 * time.Second,
	}
	go func() {
		defer close(s.served)
		_ = s.server.Serve(listener)
	}()
	return nil
}

// Close cuts calls in flight and stops listening. Later calls find nobody
// there, those of Client included.
func (s *AuthServer) Close() {
	s.stop()
	s.mu.Lock()
	server, served := s.server, s.served
	s.mu.Unlock()
	if server != nil {
		_ = server.Close()
		<-served
	}
}

// SetTokenTTL sets how long tokens live that are minted from now on.
func (s *AuthServer) SetTokenTTL(ttl time.Duration) { s.set(func() { s.tokenTTL = ttl }) }

// SetServiceKey changes the service key.
func (s *AuthServer) SetServiceKey(key string) { s.set(func() { s.serviceKey = key }) }

// SetClockSkew sets the server's clock ahead of ours, or behind if negative.
func (s *AuthServer) SetClockSkew(d time.Duration) { s.set(func() { s.skew = d }) }

// BreakSigning makes the server unable to sign: logins answer with an opaque
// token, refreshes with 500, link fetches as if there were no link, while link
// checks still tell that there is one.
func (s *AuthServer) BreakSigning(broken bool) { s.set(func() { s.noSigning = broken }) }

// BreakDatabase makes the server answer as it does without its database: 500,
// and an empty key set with 200.
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
	Host   string // the host that the client addressed
	Path   string // as sent, escaped
	Header http.Header
	Body   []byte // at most 100 KiB and a byte, which is all that the server reads
}

// Requests returns copies of the calls the server got, oldest first.
func (s *AuthServer) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	copies := append([]Request(nil), s.requests...)
	for i := range copies {
		copies[i].Header = copies[i].Header.Clone()
		copies[i].Body = bytes.Clone(copies[i].Body)
	}
	return copies
}

// Calls returns how many calls of a kind the server got; Any counts all.
func (s *AuthServer) Calls(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for i := range s.requests {
		if op == Any || s.requests[i].Op == op {
			n++
		}
	}
	return n
}

// ResetCalls forgets the calls so far.
func (s *AuthServer) ResetCalls() { s.set(func() { s.requests = nil }) }

// now is the server's clock. It is called with s.mu held.
func (s *AuthServer) now() time.Time { return time.Now().Add(s.skew) }
