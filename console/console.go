// Package console is a page for operators: how a bot's sessions are, and a way to log
// a user out. It is an [http.Handler] to mount behind the embedder's own
// authorization, which it demands, and it also answers the probes of an orchestrator:
//
//	c, err := console.New(svc, func(r *http.Request) (operator string, err error) {
//		return whoIs(r) // the embedder's own
//	}, console.WithLogger(logger))
//	defer c.Close()
//	http.Handle("/console/", http.StripPrefix("/console", c))
//
// # What it serves
//
//	healthz   liveness, as JSON: 200 while the Service is open. Asks nobody.
//	readyz    readiness, as JSON: 503 when the store does not answer. See WithReadiness.
//	          These two say nothing secret and need no authorization.
//	(root)    health of store, auth server, change feed and queue; the counters; the
//	          last hour as charts
//	users     all sessions with their remaining life: search and pages
//	user?id=  one user: email, account, ends, trail, and a logout button
//	logout    what that button posts to
//
// # What it costs
//
// A request for a probe or for the root asks the store and the auth server at most
// once a second, however many come, and is answered within a second. The list of
// sessions is read behind its viewers, at most every 30 seconds and only while
// somebody looks, from keys and TTLs alone; it holds a million users at most and is
// dropped when nobody has looked for ten minutes. A single user is always looked up.
//
// # Security
//
// No token is ever shown, and no script is served. Whatever changes something needs a
// POST from the console's own page: [http.CrossOriginProtection] and a token bound to
// the browser's cookie, to the operator and to the user see to that.
package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/mana/session"
)

// Console serves the pages and the probes of one Service. Make one with [New]; it is
// safe for concurrent use.
type Console struct {
	config
	svc       *session.Service
	authorize func(*http.Request) (operator string, err error)
	pages     *pages
	forms     forms
	behind    *background
	health    *sharedHealth
	history   *history
	list      *list
}

var _ http.Handler = (*Console)(nil)

// ErrUnauthenticated is for the authorize function of [New] to return, wrapped or
// not, for a request that does not say who makes it: the answer is 401 in the place
// of 403.
var ErrUnauthenticated = errors.New("console: not authenticated")

type config struct {
	prefix    string
	challenge string
	logger    *slog.Logger
	ready     func(session.Health) bool
	formKey   []byte
}

// An Option changes what [New] makes.
type Option func(*config) error

// WithPrefix sets the path that the console is mounted at, for a handler that is
// mounted without [http.StripPrefix]: "/console" for requests to /console/users.
func WithPrefix(prefix string) Option {
	return func(c *config) error {
		if !strings.HasPrefix(prefix, "/") || strings.HasSuffix(prefix, "/") {
			return errors.New("console: WithPrefix: want a path that begins with a slash and does not end with one")
		}
		c.prefix = prefix
		return nil
	}
}

// WithChallenge sets the WWW-Authenticate header of a 401: see [ErrUnauthenticated].
// For example `Basic realm="console"`.
func WithChallenge(challenge string) Option {
	return func(c *config) error {
		if challenge == "" || strings.ContainsAny(challenge, "\r\n") {
			return errors.New("console: WithChallenge: want one line")
		}
		c.challenge = challenge
		return nil
	}
}

// WithLogger sets where each logout is logged, at the level INFO with the operator and
// the user. By default nothing is logged.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) error {
		if logger == nil {
			return errors.New("console: WithLogger: no logger")
		}
		c.logger = logger
		return nil
	}
}

// WithReadiness sets when readyz answers 200. By default that is while the store
// answers, to reads and to writes: without it, this process has to turn away whom it
// does not know. An auth server that is away does not count, because it is the same
// one for every process and tokens that live are served all the same; nor does a
// queue, which the process that holds it has to see through.
func WithReadiness(ready func(session.Health) bool) Option {
	return func(c *config) error {
		if ready == nil {
			return errors.New("console: WithReadiness: no function")
		}
		c.ready = ready
		return nil
	}
}

// WithFormKey sets the key that logout forms are signed with: 32 bytes at least. It is
// for several processes behind one address, where one may serve the page and another
// take the form. The default is a key of the process's own.
func WithFormKey(key []byte) Option {
	return func(c *config) error {
		if len(key) < 32 {
			return errors.New("console: WithFormKey: want 32 bytes at least")
		}
		c.formKey = append([]byte(nil), key...)
		return nil
	}
}

// New returns the console of a Service, which [Console.Close] stops. authorize is
// called with every request but those of healthz and readyz, before anything else is
// done; it returns the name of the operator, which is shown to them and logged, or an
// error, or no name, which refuse the request: see [ErrUnauthenticated]. Its error is
// not shown. A missing authorize is an error: whoever can see the console can log
// users out.
func New(svc *session.Service, authorize func(*http.Request) (operator string, err error), opts ...Option) (*Console, error) {
	if svc == nil {
		return nil, errors.New("console: New: no service")
	}
	if authorize == nil {
		return nil, errors.New("console: New: no authorize function: the console must not be open to everybody")
	}
	c := config{
		logger: slog.New(slog.DiscardHandler),
		ready:  func(h session.Health) bool { return h.Store.OK },
	}
	for _, opt := range opts {
		if opt == nil || reflect.ValueOf(opt).IsNil() {
			return nil, errors.New("console: New: an option is nil")
		}
		if err := opt(&c); err != nil {
			return nil, err
		}
	}
	pages, err := newPages()
	if err != nil {
		return nil, err
	}
	behind := newBackground()
	console := &Console{
		config: c, svc: svc, authorize: authorize, pages: pages, forms: newForms(c.formKey), behind: behind,
		health:  &sharedHealth{svc: svc, behind: behind},
		history: newHistory(svc),
		list:    &list{svc: svc, behind: behind},
	}
	behind.run(console.sample)
	return console, nil
}

// Close stops what the console does in the background and waits for it. The console
// answers 503 from then on; the Service stays open. It returns nil, also when it is
// called again.
func (c *Console) Close() error {
	c.behind.close()
	return nil
}

// background runs goroutines that close stops.
type background struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool           // guarded by mu
	running sync.WaitGroup // added to under mu, so never after close
}

func newBackground() *background {
	b := new(background)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// run runs do with a context that close ends, or returns false after close.
func (b *background) run(do func(ctx context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.running.Go(func() { do(b.ctx) })
	return true
}

func (b *background) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *background) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.running.Wait()
}

// guard makes a panic an error: a store of the embedder's that has a bug must not end
// the process over somebody's looking at it.
func guard(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %T", p)
		}
	}()
	return do()
}
