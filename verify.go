package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// checkTimeout bounds one call of a token verifier. It is short of what a lease
// has to spare, and of what has to be left for writing the successor of a
// refresh token.
const checkTimeout = 500 * time.Millisecond

// maxChecks is how many calls of a token verifier run at a time, those that
// nobody waits for any more included.
const maxChecks = 256

// opCheck is the Op of what a token verifier has to say.
const opCheck = "token check"

// WithTokenVerifier has verify called on every token that the auth server hands
// out and on every token that is read from the store, before anything is served
// from either. A hit of the near cache costs no call. The default is no check;
// package github.com/mana/session/jwks has one against the keys of the auth
// server.
//
// verify checks the signature and, if it likes, who issued the token and for
// whom. It must not check the times in it ("exp", "nbf", "iat"): a session whose
// token has run out is in good order, its token is replaced, and this package
// sees to that. A verifier that refuses such tokens logs users out. With
// golang-jwt that means jwt.WithoutClaimsValidation.
//
// It returns nil for a good token; an error that wraps [ErrAuthUnavailable] when
// it cannot tell, for want of keys; any other error for a token that is not to
// be served. It is called by many goroutines at once, has half a second, and
// counts as unable to tell when that, or the caller's context, ends first, or
// when it panics. Its errors are logged and returned, so they should not quote
// the token.
//
// A token from the auth server that fails, or about which verify cannot tell, is
// not served: the caller gets ErrAuthUnavailable and the session stays. A record
// whose token fails reads as no session, with a line in the log. One about which
// verify cannot tell stays as it is, and whatever needs it, data and a login over
// it included, returns ErrAuthUnavailable. [Service.Users],
// [Service.Stats] and [Service.Cleanup] do not check tokens.
func WithTokenVerifier(verify func(ctx context.Context, token string) error) Option {
	return func(c *config) error {
		if verify == nil {
			return errors.New("session: WithTokenVerifier: no verifier")
		}
		running := make(chan struct{}, maxChecks)
		c.verify = func(ctx context.Context, token string) error {
			select {
			case running <- struct{}{}:
				defer func() { <-running }()
				return verify(ctx, token)
			case <-ctx.Done():
				return fmt.Errorf("%w: too many token checks do not end", ErrAuthUnavailable)
			}
		}
		return nil
	}
}

// tokenCheck is a token verifier, or none, which everything passes.
type tokenCheck func(ctx context.Context, token string) error

// errBadToken is the kind of a token that was checked and failed.
var errBadToken = errors.New("token failed its check")

// run returns nil for a good token, errBadToken with the reason for a bad one,
// and an AuthError that wraps ErrAuthUnavailable when it cannot be told; or the
// context's error when the caller gave up.
func (verify tokenCheck) run(ctx context.Context, token secret) error {
	if verify == nil {
		return nil
	}
	limited, cancel := context.WithTimeoutCause(ctx, checkTimeout, errTimeout)
	defer cancel()
	err := verify.beside(limited, token.reveal())
	switch {
	case err == nil:
		return nil
	case gaveUp(ctx):
		return ctx.Err()
	case limited.Err() != nil, errors.Is(err, ErrAuthUnavailable),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &AuthError{Op: opCheck, Message: withoutToken(err, token), kind: ErrAuthUnavailable}
	}
	return fmt.Errorf("%w: %s", errBadToken, withoutToken(err, token))
}

// beside runs the embedder's verifier in a goroutine of its own, so that one that
// ignores its context blocks nobody. A panic, or runtime.Goexit, counts as "cannot
// tell".
func (verify tokenCheck) beside(ctx context.Context, token string) error {
	done := make(chan error, 1)
	go func() {
		err := fmt.Errorf("%w: the token verifier ended its goroutine", ErrAuthUnavailable)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: panic in the token verifier: %T", ErrAuthUnavailable, p)
			}
			done <- err
		}()
		if err = verify(ctx, token); err != nil {
			_ = err.Error() // one that cannot be printed panics here
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// granted checks a token that the auth server has just handed out: a bad one is
// the server's failure, and is not served.
func (verify tokenCheck) granted(ctx context.Context, token string) error {
	err := verify.run(ctx, newSecret(token))
	if errors.Is(err, errBadToken) {
		return &AuthError{Op: opCheck, Message: printable(err.Error()), kind: ErrAuthUnavailable}
	}
	return err
}

// isTokenCheck reports whether err is a verifier's. It is this process's own
// finding: others may have other keys.
func isTokenCheck(err error) bool {
	e, ok := errors.AsType[*AuthError](err)
	return ok && e.Op == opCheck
}

// withoutToken is what err says, less the token and the parts of it.
func withoutToken(err error, token secret) string {
	message := strings.ReplaceAll(err.Error(), token.reveal(), redacted)
	for part := range strings.SplitSeq(token.reveal(), ".") {
		if len(part) > 8 { // shorter ones are words of a sentence
			message = strings.ReplaceAll(message, part, redacted)
		}
	}
	return printable(message)
}
