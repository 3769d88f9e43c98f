package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/sethvargo/go-retry"
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

	userAgent = "mana-session/1 (Go)"
)

// authClient speaks HTTP to the auth server. It knows nothing of stores.
// The SSO-Link calls are in ssolink.go.
type authClient struct {
	http        *http.Client
	base        string // without trailing slash
	loginPath   string
	refreshPath string
	linkPrefix  string
	serviceKey  secret
	verify      tokenCheck // of what fetchLink returns; login and refresh have more to consider
	breaker     *gobreaker.CircuitBreaker[*authAnswer]
	health      *component
	logins      loginPause
	turns       *semaphore.Weighted
}

// grant is what the auth server hands out for a user.
type grant struct {
	token   string
	email   string
	refresh string
}

func newAuthClient(c config, health *component, logger *slog.Logger) *authClient {
	a := &authClient{
		http:        c.httpClient,
		base:        c.authURL,
		loginPath:   c.loginPath,
		refreshPath: "/api/v1/auth/refresh",
		linkPrefix:  c.linkPrefix,
		serviceKey:  c.serviceKey,
		verify:      c.verify,
		health:      health,
		turns:       semaphore.NewWeighted(maxAuthCalls),
	}
	if a.http == nil {
		a.http = defaultHTTPClient()
	} else {
		own := *a.http
		own.Jar = nil // which would mix accounts
		a.http = &own
	}
	// A redirect would carry the password or the service key elsewhere.
	a.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	a.breaker = gobreaker.NewCircuitBreaker[*authAnswer](gobreaker.Settings{
		Name:         "auth server",
		Timeout:      breakerOpen,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerTrips },
		IsSuccessful: func(err error) bool { return !isOutage(err) },
		IsExcluded:   func(err error) bool { return err != nil && !isAuthError(err) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			logger.Warn("session: circuit breaker of the auth server", "from", from.String(), "to", to.String())
		},
	})
	return a
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

// login exchanges e-mail and password for tokens. It is never repeated.
func (a *authClient) login(ctx context.Context, email, password string) (grant, error) {
	const op = "login"
	answer, err := a.once(ctx, authCall{
		op: op, method: http.MethodPost, path: a.loginPath,
		body: map[string]string{"email": email, "password": password}, hide: password,
	})
	if err != nil {
		return grant{}, err
	}
	g, err := answer.grant()
	if err != nil {
		return grant{}, err
	}
	if !parseToken(g.token).readable {
		return grant{}, answer.unusable("the access token is not a JWT")
	}
	if g.email == "" {
		g.email = email
	}
	return g, nil
}

// refresh spends a refresh token for new tokens. It is never repeated: the
// token is single-use. errTokenSpent is the server's clear no.
func (a *authClient) refresh(ctx context.Context, token secret) (grant, error) {
	answer, err := a.once(ctx, authCall{
		op: "refresh", method: http.MethodPost, path: a.refreshPath,
		body: map[string]string{"refreshToken": token.reveal()}, hide: token.reveal(),
	})
	if err != nil {
		return grant{}, err
	}
	return answer.grant()
}

// authCall is one request to the auth server.
type authCall struct {
	op     string
	method string
	path   string // escaped
	key    bool   // authenticate with the service key
	bearer string // or with a user's token
	body   any
	hide   string // a secret in body, never to be echoed into an error
}

// errTimeout is the cause of a context that we, not the caller, gave a time
// limit: running into it is the auth server's fault.
var errTimeout = errors.New("time limit reached")

// once makes a call that must not be repeated.
func (a *authClient) once(ctx context.Context, c authCall) (*authAnswer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, authTimeout, errTimeout)
	defer cancel()
	return a.attempt(ctx, c)
}

// repeat makes an idempotent call, and makes it again after a failure that may
// pass, within authTimeout in all.
func (a *authClient) repeat(ctx context.Context, c authCall) (*authAnswer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, authTimeout, errTimeout)
	defer cancel()
	var last error
	delays := retry.WithMaxRetries(authRepeats, retry.WithJitterPercent(50, retry.NewExponential(authRepeatDelay)))
	answer, err := retry.DoValue(ctx, retry.BackoffFunc(func() (time.Duration, bool) {
		delay, stop := delays.Next()
		if e, ok := errors.AsType[*AuthError](last); ok && e.RetryAfter > delay {
			delay = e.RetryAfter
		}
		deadline, _ := ctx.Deadline()
		return delay, stop || delay >= time.Until(deadline)
	}), func(ctx context.Context) (*authAnswer, error) {
		answer, err := a.attempt(ctx, c)
		if err != nil {
			last = err
			if mayPass(err) {
				return nil, retry.RetryableError(err)
			}
		}
		return answer, err
	})
	if err != nil && last != nil {
		err = last // rather than the context's, which says less
	}
	return answer, err
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

// wasNotAsked reports whether the breaker was open or no turn came.
func wasNotAsked(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) || errors.Is(err, errNoTurn)
}

// isOutage reports whether err says that the server is ill, as opposed to
// having been asked for something it refuses.
func isOutage(err error) bool {
	e, ok := errors.AsType[*AuthError](err)
	return ok && errors.Is(err, ErrAuthUnavailable) && (e.StatusCode == 0 || e.StatusCode >= 500)
}

// errNoTurn is why a call was not made while too many others ran.
var errNoTurn = errors.New("too many calls at once")

// turn waits until the call may run, so that ten thousand dead tokens do not
// become as many connections, and returns what ends it. What a login asks does
// not wait: logins are few by a limit of their own. Half of the call's time is
// left for the call, or a server that is merely slow would look like an outage;
// and a refresh token has more, to hear its fate.
func (a *authClient) turn(ctx context.Context, c authCall) (end func(), err error) {
	if c.op == "login" || c.op == "link create" {
		return func() {}, nil
	}
	deadline, _ := ctx.Deadline()
	patience := time.Until(deadline) / 2
	if c.op == "refresh" {
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
	return nil, &AuthError{Op: c.op, Message: "not asked", kind: ErrAuthUnavailable, cause: errNoTurn}
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
func (a *authClient) attempt(ctx context.Context, c authCall) (*authAnswer, error) {
	end, err := a.turn(ctx, c) // first, so that those who waited heed the breaker
	if err != nil {
		return nil, err
	}
	defer end()
	answer, err := a.breaker.Execute(func() (*authAnswer, error) {
		started := time.Now()
		answer, err := a.exchange(ctx, c)
		if err == nil {
			err = answer.verdict()
			if c.op == "login" {
				a.logins.heed(answer, time.Now())
			}
		}
		switch {
		case isOutage(err):
			a.health.failed(err, time.Since(started))
		case err == nil || isAuthError(err):
			a.health.worked(time.Since(started))
		}
		return answer, err
	})
	if wasNotAsked(err) {
		err = &AuthError{Op: c.op, Message: "not asked after failures in a row", kind: ErrAuthUnavailable, cause: err}
	}
	return answer, err
}

// exchange sends the request and reads the answer within the limits.
func (a *authClient) exchange(ctx context.Context, c authCall) (*authAnswer, error) {
	req, err := a.request(ctx, c)
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAuthBody+1))
	answer := &authAnswer{call: c, status: resp.StatusCode, header: resp.Header, body: body, serviceKey: a.serviceKey}
	switch {
	case err != nil && gaveUp(ctx):
		return nil, ctx.Err()
	case err != nil:
		e := answer.unusable("the answer broke off")
		e.StatusCode, e.cause = 0, err
		return nil, e
	case len(body) > maxAuthBody:
		return nil, answer.unusable(fmt.Sprintf("the answer is larger than %d bytes", maxAuthBody))
	}
	return answer, nil
}

func (a *authClient) request(ctx context.Context, c authCall) (*http.Request, error) {
	var body io.Reader
	if c.body != nil {
		b, err := json.Marshal(c.body)
		if err != nil {
			return nil, fmt.Errorf("session: %s: %w", c.op, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, c.method, a.base+c.path, body)
	if err != nil {
		return nil, fmt.Errorf("session: %s: %w", c.op, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	if c.key {
		req.Header.Set("X-Service-Key", a.serviceKey.reveal())
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	return req, nil
}

// unreachable wraps what net/http says, less the URL, which names the user.
func (c authCall) unreachable(ctx context.Context, err error) error {
	if gaveUp(ctx) {
		return ctx.Err()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return &AuthError{Op: c.op, Message: "no answer", kind: ErrAuthUnavailable, cause: err}
}

// gaveUp reports whether the caller ended ctx, rather than our time limit.
func gaveUp(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout)
}

// probe asks for a sign of life; its result is in health. A refusal is no
// outage, but it is not health either.
func (a *authClient) probe(ctx context.Context, link bool) {
	started := time.Now()
	var err error
	if link {
		_, err = a.linked(ctx, probeUser)
	} else {
		_, err = a.repeat(ctx, authCall{op: "keys", method: http.MethodGet, path: "/api/v1/auth/jwks"})
	}
	if isAuthError(err) && !errors.Is(err, errNoTurn) { // of which the calls that run know more
		a.health.failed(err, time.Since(started))
	}
}
