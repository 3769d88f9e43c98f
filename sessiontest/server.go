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
//	svc, err := session.New(auth.Options()...)
//
// # Faults
//
// Faults are injected by kind of call. This one loses the answer to the next
// refresh, though the server has spent the refresh token:
//
//	auth.Inject(sessiontest.Refresh, 1, sessiontest.LoseAnswer())
//
// Others are states of the server: [AuthServer.FreezeDatabase],
// [AuthServer.BreakDatabase], [AuthServer.BreakSigning], [AuthServer.Stop] and
// [AuthServer.Restart].
//
// # Refresh tokens
//
// As on the deployed server, rotation is not atomic: the server looks a refresh
// token up when the call arrives, and revokes it some time later. Calls that
// overlap therefore all succeed, each with a successor of its own; a call that
// arrives after another one was answered is refused. Inside testing/synctest
// the revocation waits until every other goroutine of the bubble is blocked,
// without moving its clock, so calls that are made at once overlap for certain.
// Elsewhere it waits for 10 ms. A refresh token lives for 7 days.
//
// # Differences from the deployed server
//
//   - Tokens carry a random jti, so that no two are equal. The deployed server
//     mints equal tokens for logins within the same second.
//   - sid names the login for as long as it is refreshed. The deployed server
//     leaves it empty at login and changes it with each refresh.
//   - Link calls are not limited unless [WithCallLimit] says so, because tests
//     make thousands of them. The deployed server permits 100 a minute of each
//     kind to an address.
//   - A login costs no time, where the deployed server hashes the password for
//     120 to 190 ms.
package sessiontest

import (
	"bytes"
	"context"
	"net/http"
	"sync"
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
	life      context.Context // ends with Close
	end       context.CancelFunc

	mu         sync.Mutex         // guards what follows
	thawed     *sync.Cond         // on mu: the database is not frozen, or the server closed
	run        context.Context    // of calls in flight: ends with Stop
	endRun     context.CancelFunc // nil while stopped
	address    string             // that Start chose; "" before
	server     *http.Server       // nil while nothing listens
	served     chan struct{}      // closed when the goroutine of server has ended
	tokenTTL   time.Duration
	skew       time.Duration
	serviceKey string
	keys       []signingKey // the last one signs
	noSigning  bool
	noDatabase bool
	frozen     bool
	users      map[string]*user  // by lower-case email
	ids        map[string]*user  // the same, by user ID
	links      map[string]string // Matrix user ID to user ID
	refresh    map[string]*grant // refresh tokens that were not revoked
	grants     int64             // refresh tokens issued so far
	limits     map[Op]int        // calls a minute and address; 0: no limit
	throttles  map[caller]*throttle
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

// WithCallLimit sets how many calls of a kind a client address has within any
// minute; 0 is no limit. Any sets all kinds. The defaults are 10 for Login, 100
// for Refresh, Keys and Logout, as deployed, and none for the link calls, which
// have 100 as deployed.
//
// The call beyond the limit is answered with 429, and so are all that follow
// within a minute. Calls that fail count too, unless their body is not JSON or
// too large.
func WithCallLimit(op Op, n int) Option {
	return func(s *AuthServer) {
		if op != Any {
			s.limits[op] = n
			return
		}
		for _, op := range []Op{Login, Refresh, Logout, Keys, LinkFetch, LinkCheck, LinkCreate, LinkRemove} {
			s.limits[op] = n
		}
	}
}

// WithLoginLimit sets how many logins a minute a client address has, failed
// ones included; default 10, as deployed; 0 is no limit. See [WithCallLimit].
func WithLoginLimit(n int) Option { return WithCallLimit(Login, n) }

// WithRefreshLimit sets how many refreshes a minute a client address has;
// default 100, as deployed; 0 is no limit. See [WithCallLimit].
func WithRefreshLimit(n int) Option { return WithCallLimit(Refresh, n) }

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
		refresh:    make(map[string]*grant),
		limits:     map[Op]int{Login: 10, Refresh: 100, Keys: 100, Logout: 100},
		throttles:  make(map[caller]*throttle),
	}
	s.thawed = sync.NewCond(&s.mu)
	s.life, s.end = newContext(context.Background())
	s.run, s.endRun = newContext(s.life)
	for _, opt := range opts {
		opt(s)
	}
	s.RotateSigningKey()
	return s
}

// SetTokenTTL sets how long tokens live that are minted from now on.
func (s *AuthServer) SetTokenTTL(ttl time.Duration) { s.set(func() { s.tokenTTL = ttl }) }

// SetServiceKey changes the service key.
func (s *AuthServer) SetServiceKey(key string) { s.set(func() { s.serviceKey = key }) }

// SetClockSkew sets the server's clock ahead of ours, or behind if negative.
func (s *AuthServer) SetClockSkew(d time.Duration) { s.set(func() { s.skew = d }) }

// BreakSigning makes the server unable to sign: logins answer with an opaque
// token, refreshes with 500 after they have spent the refresh token, link
// fetches as if there were no link, while link checks still tell that there is
// one.
func (s *AuthServer) BreakSigning(broken bool) { s.set(func() { s.noSigning = broken }) }

// BreakDatabase makes the server answer as it does without its database: 500,
// and an empty key set with 200.
func (s *AuthServer) BreakDatabase(broken bool) { s.set(func() { s.noDatabase = broken }) }

// FreezeDatabase freezes the database, or thaws it. Calls that need it, which is
// all but Logout and those refused before, hang until the thaw. Then they are
// carried out, also those whose client has given up or was cut off by Stop.
// Close drops them.
//
// In testing/synctest, a server that is frozen inside a bubble must be thawed or
// closed inside it.
func (s *AuthServer) FreezeDatabase(frozen bool) {
	s.set(func() {
		s.frozen = frozen
		s.thawed.Broadcast()
	})
}

// database waits for a frozen database, and returns the refusal if there is
// none. It is called with s.mu held, and releases it while it waits.
func (s *AuthServer) database() *refusal {
	for s.frozen && s.life.Err() == nil {
		s.thawed.Wait()
	}
	if s.life.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	if s.noDatabase {
		return errNoDatabase
	}
	return nil
}

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
