package session

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	spendHold    = 5 * time.Second // after a refresh that got no answer, doubled each time
	spendHoldMax = time.Minute
)

// errHeldBack is why a refresh token was not sent: another got no answer.
var errHeldBack = errors.New("another refresh got no answer")

// spendGate bounds how many refresh tokens are at risk. The auth server may
// freeze with requests in it and carry them out after we gave up: then the token
// is spent, its successor is lost, and with it the login. So one token is under
// way at a time, and after one that got no answer the others are held back until
// the server has answered again, or for a while. The token that is at risk
// already may be sent again: it can only win.
type spendGate struct {
	turn chan struct{} // holds one value while a token is under way

	mu       sync.Mutex
	atRisk   secret        // guarded by mu; the last token that got no answer
	hold     time.Duration // guarded by mu; how long others are held back; 0: not at all
	heldTill time.Time     // guarded by mu
}

func newSpendGate() *spendGate { return &spendGate{turn: make(chan struct{}, 1)} }

// fate is what became of a refresh token.
type fate int

const (
	notSpent   fate = iota // it was not sent, or put off
	answered               // the auth server accepted or refused it
	unanswered             // its fate is unknown
)

// enter waits for the turn of a token, for as long as patience and ctx allow.
// Whoever gets a nil error sends the token and then calls leave, exactly once.
// The errors are ctx's, if the caller gave up, and AuthErrors that wrap
// ErrAuthUnavailable and say that nothing was sent.
func (g *spendGate) enter(ctx context.Context, token secret, patience time.Duration) (leave func(fate), err error) {
	if err := g.held(token); err != nil {
		return nil, err
	}
	select {
	case g.turn <- struct{}{}:
	default:
		wait := time.NewTimer(patience)
		defer wait.Stop()
		select {
		case g.turn <- struct{}{}:
		case <-wait.C:
			return nil, notAskedError(opRefresh, "not asked", errNoTurn)
		case <-ctx.Done():
			if gaveUp(ctx) {
				return nil, ctx.Err()
			}
			return nil, notAskedError(opRefresh, "not asked", errNoTurn)
		}
		if err := g.held(token); err != nil { // the call before ours got no answer
			<-g.turn
			return nil, err
		}
	}
	return func(f fate) {
		g.settle(token, f)
		<-g.turn
	}, nil
}

func (g *spendGate) held(token secret) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := time.Until(g.heldTill)
	if g.hold == 0 || left <= 0 || token.equal(g.atRisk) {
		return nil
	}
	e := notAskedError(opRefresh, "not asked", errHeldBack)
	e.RetryAfter = wholeSeconds(left)
	return e
}

func (g *spendGate) settle(token secret, f fate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch f {
	case answered:
		g.atRisk, g.hold, g.heldTill = secret{}, 0, time.Time{}
	case unanswered:
		g.atRisk = token
		g.hold = min(max(2*g.hold, spendHold), spendHoldMax)
		g.heldTill = time.Now().Add(g.hold)
	}
}

// left is how long a token other than the one at risk is held back.
func (g *spendGate) left(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, g.heldTill.Sub(now))
}

// fateOf tells what became of the token of a refresh that ended with err. sent
// says whether the transport has taken it. What stands in front of the server
// does not know, nor does a server that failed: it may fail after it has spent
// the token.
func fateOf(err error, sent bool) fate {
	e, ok := errors.AsType[*AuthError](err)
	switch {
	case err == nil:
		return answered
	case !sent, ok && e.StatusCode == 429:
		return notSpent
	case !ok, e.stranger, e.StatusCode == 0, e.StatusCode >= 500:
		return unanswered
	}
	return answered
}
