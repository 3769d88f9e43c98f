package session

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// book records in health how a call went. A call whose caller's deadline passed
// got no answer; one that was cancelled tells nothing. Nor does a login that the
// server itself failed over, which may be for what was typed.
func (a *authClient) book(ctx context.Context, c authCall, err error, took time.Duration) {
	e, _ := errors.AsType[*AuthError](err)
	switch {
	case e == nil && errors.Is(err, context.DeadlineExceeded) && gaveUp(ctx):
		err = &AuthError{Op: c.op, Message: "no answer", kind: ErrAuthUnavailable, cause: context.DeadlineExceeded}
	case err != nil && e == nil:
		return
	case e != nil && c.op == opLogin && !e.stranger && e.StatusCode >= 500:
		return
	case e == nil || !e.stranger && !isOutage(err):
		if c.op != opKeys {
			a.health.worked(took)
		}
		return
	}
	if c.op != opKeys { // the probe's own, which has the last word on it
		a.failedAt.Store(time.Now().UnixNano())
	}
	a.health.failed(err, took)
}

// probe asks for a sign of life; its result is in health. A refusal is no
// outage, but it is not health either, and nor is an answer that did not come
// before ctx ended.
func (a *authClient) probe(ctx context.Context, link bool) {
	started := time.Now()
	var err error
	if link {
		_, err = a.linked(ctx, probeUser)
	} else {
		err = a.probeKeys(ctx)
	}
	switch took := time.Since(started); {
	case errors.Is(err, errNoTurn): // of which the calls that run know more
	case errors.Is(err, context.Canceled) && !isAuthError(err):
		a.health.failed(&AuthError{Op: "health", Message: "no answer", kind: ErrAuthUnavailable, cause: context.Canceled}, took)
	case wasNotAsked(err) && a.health.report().LastError != "": // which says why
	case isAuthError(err):
		a.health.failed(err, took)
	}
}

// probeKeys asks for the server's public keys. Without its database the server
// has none, and says so with a 200: that is no sign of life. Keys are a weak one:
// a call that failed a moment ago counts for more.
func (a *authClient) probeKeys(ctx context.Context) error {
	started := time.Now()
	err := a.repeat(ctx, authCall{
		op: opKeys, method: http.MethodGet, path: "/api/v1/auth/jwks",
		read: func(r *authAnswer) error {
			fields, err := r.object()
			var keys []json.RawMessage
			if err == nil && (json.Unmarshal(fields["keys"], &keys) != nil || len(keys) == 0) {
				err = r.unusable("no keys in the answer")
			}
			return err
		},
	})
	if err == nil && time.Since(time.Unix(0, a.failedAt.Load())) > keysProbeBows {
		a.health.worked(time.Since(started))
	}
	return err
}
