package session

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"
)

const (
	authTimeout   = 10 * time.Second // one call, repeats included
	maxAuthBody   = 1 << 20          // bytes, decompressed
	maxRetryAfter = time.Hour        // what a server may ask for and be believed

	authRepeats     = 2 // of idempotent calls
	authRepeatDelay = 100 * time.Millisecond

	maxAuthCalls = 64          // at a time, logins apart
	turnPatience = time.Second // for a turn, with a single-use token in hand

	breakerTrips = 5 // outages in a row
	breakerOpen  = 5 * time.Second

	keysProbeBows = breakerOpen // how long a failed call counts for more than the key set

	userAgent = "mana-session/1 (Go)"
)

// The calls, as AuthError.Op names them.
const (
	opLogin      = "login"
	opRefresh    = "refresh"
	opLinkFetch  = "link fetch"
	opLinkCheck  = "link check"
	opLinkCreate = "link create"
	opLinkRemove = "link remove"
	opKeys       = "keys"
	opLease      = "lease"
)

// authClient speaks HTTP to the auth server. It knows nothing of stores.
// The SSO-Link calls are in ssolink.go.
type authClient struct {
	http         *http.Client
	base         string // without trailing slash
	loginPath    string
	refreshPath  string
	linkPrefix   string
	serviceKey   secret
	verify       tokenCheck // of what fetchLink returns; login and refresh have more to consider
	breaker      *breaker   // of all calls but those that a login makes
	loginBreaker *breaker
	health       *component
	failedAt     atomic.Int64 // when a call last failed, in Unix nanoseconds; probes apart
	logger       *slog.Logger
	pauses       pauses
	spends       *spendGate
	turns        *semaphore.Weighted
	observer     Observer // or nil
}

func newAuthClient(c config, health *component, logger *slog.Logger, life *lifetime) *authClient {
	a := &authClient{
		http:        boundedClient(c.httpClient),
		base:        c.authURL,
		loginPath:   c.loginPath,
		refreshPath: "/api/v1/auth/refresh",
		linkPrefix:  c.linkPrefix,
		serviceKey:  c.serviceKey,
		verify:      c.verify,
		health:      health,
		logger:      logger,
		spends:      newSpendGate(),
		turns:       semaphore.NewWeighted(maxAuthCalls),
		observer:    c.observer,
	}
	changes := &breakerLog{logger: logger, life: life}
	a.breaker = newBreaker("the auth server", changes, isOutage, func(err error) bool { return !isAuthError(err) })
	a.loginBreaker = newBreaker("logins", changes, isLoginOutage, func(err error) bool {
		return !isAuthError(err) || isOutage(err) && !isLoginOutage(err)
	})
	return a
}

// boundedClient is a copy of a caller's client that keeps to our limits. One
// without a transport gets ours.
func boundedClient(given *http.Client) *http.Client {
	own := defaultHTTPClient()
	if given != nil {
		if given.Transport != nil {
			own.Transport = given.Transport
		}
		if given.Timeout > 0 {
			own.Timeout = min(given.Timeout, authTimeout)
		}
	}
	// A redirect would carry the password or the service key elsewhere.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return own
}

// defaultHTTPClient reads no proxy from the environment, and drops idle
// connections before the auth server does (after 5 s).
func defaultHTTPClient() *http.Client {
	return &http.Client{
		Timeout: authTimeout,
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:    5 * time.Second,
			ResponseHeaderTimeout:  authTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout:        4 * time.Second,
			MaxIdleConnsPerHost:    maxAuthCalls,
			ForceAttemptHTTP2:      true,
		},
	}
}

// login exchanges email and password for tokens. It is never repeated.
func (a *authClient) login(ctx context.Context, email, password string) (g grant, err error) {
	err = a.once(ctx, authCall{
		op: opLogin, method: http.MethodPost, path: a.loginPath,
		body: map[string]string{"email": email, "password": password}, hide: newSecret(password),
		read: func(r *authAnswer) (err error) { g, err = r.servable(); return err },
	})
	if err != nil {
		return grant{}, err
	}
	if g.email == "" {
		g.email = email
	}
	return g, nil
}

// refresh spends a refresh token for new tokens. It is never repeated: the
// token is single-use. It waits for its turn for as long as patience and ctx
// allow: see spendGate. errTokenSpent is the server's clear no. The grant may hold
// an unusable access token: its refresh token must be kept all the same.
func (a *authClient) refresh(ctx context.Context, token secret, patience time.Duration) (g grant, err error) {
	leave, err := a.spends.enter(ctx, token, patience)
	if err != nil {
		return grant{}, err
	}
	sent, fate := new(atomic.Bool), unanswered
	defer func() { leave(fate) }()
	err = a.once(ctx, authCall{
		op: opRefresh, method: http.MethodPost, path: a.refreshPath,
		body: map[string]string{"refreshToken": token.reveal()}, hide: token, sent: sent,
		read: func(r *authAnswer) (err error) { g, err = r.grant(); return err },
	})
	fate = fateOf(err, sent.Load())
	if err != nil {
		return grant{}, err
	}
	return g, nil
}

// refreshPause is how long refreshes that can wait should: as the auth server
// asked, or until it answers refreshes again.
func (a *authClient) refreshPause(now time.Time) time.Duration {
	return max(a.pauses.refreshes.left(now), a.pauses.ahead.left(now), a.spends.left(now))
}

// authCall is one request to the auth server.
type authCall struct {
	op     string
	method string
	path   string // escaped
	key    bool   // authenticate with the service key
	bearer string // or with a user's token
	body   any
	hide   secret                  // in body, never to be echoed into an error
	fresh  bool                    // no cache may answer
	sent   *atomic.Bool            // set if the transport takes any of body; may be nil
	read   func(*authAnswer) error // takes what is wanted out of a good answer, or refuses it; may be nil
}

// ofLogin reports whether the call is part of a login.
func (c authCall) ofLogin() bool { return c.op == opLogin || c.op == opLinkCreate }

// redactor is for texts that may quote what the call carries.
func (c authCall) redactor(serviceKey secret) redactor {
	secrets := []secret{c.hide, newSecret(c.bearer)}
	if c.key || len(serviceKey.reveal()) >= shortSecret {
		secrets = append(secrets, serviceKey)
	}
	return redactor{secrets}
}

// errTimeout is the cause of a context that we, not the caller, gave a time
// limit: running into it is the auth server's fault.
var errTimeout = errors.New("time limit reached")

// once makes a call that must not be repeated.
func (a *authClient) once(ctx context.Context, c authCall) error {
	ctx, cancel := context.WithTimeoutCause(ctx, authTimeout, errTimeout)
	defer cancel()
	return a.attempt(ctx, c)
}

// repeat makes an idempotent call, and makes it again after a failure that may
// pass, within authTimeout in all: after a delay that doubles, jittered by half,
// or after the time that the server asks for.
func (a *authClient) repeat(ctx context.Context, c authCall) error {
	ctx, cancel := context.WithTimeoutCause(ctx, authTimeout, errTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	for delay, left := authRepeatDelay, authRepeats; ; delay, left = 2*delay, left-1 {
		err := a.attempt(ctx, c)
		if err == nil || left == 0 || !mayPass(err) {
			return err
		}
		wait := delay/2 + rand.N(delay)
		if e, ok := errors.AsType[*AuthError](err); ok {
			wait = max(wait, e.RetryAfter)
		}
		if wait >= time.Until(deadline) || !pause(ctx, wait) {
			return err // rather than the context's, which says less
		}
	}
}

// mayPass reports whether an idempotent call is worth repeating.
func mayPass(err error) bool {
	e, ok := errors.AsType[*AuthError](err)
	if !ok || wasNotAsked(err) {
		return false
	}
	switch e.StatusCode {
	case 0, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// isAuthError tells what the server did from what the caller did: giving up.
func isAuthError(err error) bool {
	_, ok := errors.AsType[*AuthError](err)
	return ok
}

// wasNotAsked reports whether a call was not made: the breaker was open, no turn
// came, or the server or the gate of refresh tokens asked for a pause.
func wasNotAsked(err error) bool {
	for _, cause := range []error{gobreaker.ErrOpenState, gobreaker.ErrTooManyRequests, errNoTurn, errPaused, errHeldBack} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

func notAskedError(op, why string, cause error) *AuthError {
	return &AuthError{Op: op, Message: why, kind: ErrAuthUnavailable, cause: cause, unsent: true}
}

// errNoTurn is why a call was not made while too many others ran.
var errNoTurn = errors.New("too many calls at once")

// turn waits until the call may run, so that ten thousand dead tokens do not
// become as many connections, and returns what ends it. What a login asks does
// not wait: logins are few by a limit of their own. Half of the call's time is
// left for the call, or a server that is merely slow would look like an outage;
// and a refresh token has more, to hear its fate.
func (a *authClient) turn(ctx context.Context, c authCall) (end func(), err error) {
	if c.ofLogin() {
		return func() {}, nil
	}
	deadline, _ := ctx.Deadline()
	patience := time.Until(deadline) / 2
	if c.op == opRefresh {
		patience = turnPatience
	}
	patient, cancel := context.WithTimeoutCause(ctx, patience, errTimeout)
	defer cancel()
	if a.turns.Acquire(patient, 1) == nil {
		return func() { a.turns.Release(1) }, nil
	}
	if gaveUp(ctx) {
		return nil, ctx.Err()
	}
	return nil, notAskedError(c.op, "not asked", errNoTurn)
}

// hasTurns reports whether a call would run at once.
func (a *authClient) hasTurns() bool {
	free := a.turns.TryAcquire(1)
	if free {
		a.turns.Release(1)
	}
	return free
}

// attempt makes a call once, through the breaker, and turns everything but the
// expected answer into an error.
func (a *authClient) attempt(ctx context.Context, c authCall) error {
	end, err := a.turn(ctx, c) // first, so that those who waited heed the breaker
	if err != nil {
		return err
	}
	defer end()
	if kind := a.pauses.of(c.op); kind != nil {
		if left := kind.left(time.Now()); left > 0 {
			return pausedError(c.op, left)
		}
	}
	breaker := a.breaker
	if c.ofLogin() {
		if breaker = a.loginBreaker; a.breaker.State() == gobreaker.StateOpen {
			return notAskedError(c.op, notAskedText, gobreaker.ErrOpenState)
		}
	}
	_, err = breaker.Execute(func() (struct{}, error) {
		started := time.Now()
		observedCtx, told := observed(ctx, a.observer, authOperation(c.op))
		answer, err := a.exchange(observedCtx, c)
		if err == nil {
			a.pauses.observe(answer, time.Now())
			if err = answer.verdict(); err == nil && c.read != nil {
				err = c.read(answer)
			}
		}
		told(err)
		a.book(ctx, c, err, time.Since(started))
		return struct{}{}, err
	})
	if wasNotAsked(err) && !isAuthError(err) {
		err = notAskedError(c.op, notAskedText, err)
	}
	return err
}

const notAskedText = "not asked after failures in a row"

// loginsStopped reports whether a login would not be passed on.
func (a *authClient) loginsStopped() bool {
	return a.breaker.State() == gobreaker.StateOpen || a.loginBreaker.State() == gobreaker.StateOpen
}

// gaveUp reports whether the caller ended ctx, rather than our time limit.
func gaveUp(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout)
}
