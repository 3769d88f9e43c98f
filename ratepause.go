package session

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// The auth server counts the calls of a kind from one address over a minute, and
// says when there were too many or are about to be. What it asks for holds for
// the whole client: to ask all the same would earn refusals, and with them a
// longer wait.

const (
	maxRateWindow   = time.Minute      // what the server counts over
	maxStrangerWait = 10 * time.Minute // what a gateway may ask for and be obeyed
	fewCalls        = 10               // when no more remain, those that can wait do
)

// errPaused is why a call was not made that the server would refuse.
var errPaused = errors.New("the auth server asked to be left alone")

// ratePause is until when calls of a kind are not made, by the server's own word.
type ratePause struct {
	mu    sync.Mutex
	until time.Time // guarded by mu
}

// extend makes the pause last at least for d from now.
func (p *ratePause) extend(d time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := now.Add(d); d > 0 && until.After(p.until) {
		p.until = until
	}
}

// left is how long the pause still lasts, in whole seconds.
func (p *ratePause) left(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, wholeSeconds(p.until.Sub(now)))
}

// pauses are the pauses of an authClient, by kind of call.
type pauses struct {
	logins    ratePause
	refreshes ratePause
	ahead     ratePause // of refreshes that can wait
	links     ratePause
}

// of returns the pause that a call is subject to, or nil. A login is refused
// before it gets here: see admitLogin.
func (p *pauses) of(op string) *ratePause {
	switch op {
	case opRefresh:
		return &p.refreshes
	case opLinkFetch, opLinkCheck, opLinkCreate, opLinkRemove:
		return &p.links
	}
	return nil
}

// observe takes note of what an answer says about the next call of its kind.
func (p *pauses) observe(r *authAnswer, now time.Time) {
	remaining, reset := r.rateLimit()
	tooMany := r.status == http.StatusTooManyRequests
	if r.call.op == opLogin {
		switch {
		case tooMany:
			p.logins.extend(min(max(r.retryAfter(), reset), maxRateWindow), now)
		case remaining == 0:
			p.logins.extend(reset, now)
		}
		return
	}
	kind := p.of(r.call.op)
	if kind == nil {
		return
	}
	wait := r.retryAfter()
	if _, own := r.refusal(); !own {
		wait = min(wait, maxStrangerWait)
	}
	switch {
	case tooMany:
		kind.extend(max(wait, reset), now)
	case remaining == 0:
		kind.extend(reset, now)
	}
	if r.call.op == opRefresh && remaining >= 0 && remaining <= fewCalls {
		p.ahead.extend(reset, now)
	}
}

// rateLimit reads X-RateLimit-Remaining, -1 if it is not there, and
// X-RateLimit-Reset if it is a number of seconds within the server's window.
// Other software means a point in time by it.
func (r *authAnswer) rateLimit() (remaining int, reset time.Duration) {
	if n, err := strconv.Atoi(r.header.Get("X-RateLimit-Reset")); err == nil && n > 0 && n <= int(maxRateWindow/time.Second) {
		reset = time.Duration(n) * time.Second
	}
	remaining, err := strconv.Atoi(r.header.Get("X-RateLimit-Remaining"))
	if err != nil || remaining < 0 {
		remaining = -1
	}
	return remaining, reset
}

// pausedError is the error of a call that was not made for want of leave.
func pausedError(op string, left time.Duration) *AuthError {
	return &AuthError{
		Op: op, StatusCode: http.StatusTooManyRequests, Message: "not asked", RetryAfter: left,
		kind: ErrAuthUnavailable, cause: errPaused, unsent: true,
	}
}
