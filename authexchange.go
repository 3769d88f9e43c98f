package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// exchange sends the request and reads the answer within the limits. It runs the
// caller's transport in a goroutine of its own and waits for it: a transport
// that panics, or ends its goroutine as a failing test does, is one that does
// not answer.
func (a *authClient) exchange(ctx context.Context, c authCall) (answer *authAnswer, err error) {
	err = &AuthError{Op: c.op, Message: "the HTTP client's transport ended its goroutine", kind: ErrAuthUnavailable}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				answer, err = nil, &AuthError{Op: c.op, Message: fmt.Sprintf("panic in the HTTP client's transport: %T", p), kind: ErrAuthUnavailable}
			}
		}()
		answer, err = a.send(ctx, c)
	}()
	<-done
	return answer, err
}

func (a *authClient) send(ctx context.Context, c authCall) (*authAnswer, error) {
	watched, watch := watchRequest(ctx, c.body != nil)
	defer watch.stop(nil)
	req, body, err := a.request(watched, c)
	if err != nil {
		return nil, err
	}
	if c.sent != nil {
		defer func() { c.sent.Store(body.isSent()) }()
	}
	resp, err := a.http.Do(req)
	if resp != nil {
		defer resp.Body.Close()
	}
	switch {
	case watch.isReplayed(), body != nil && body.isReadAgain(), err == nil && answersAnother(req, resp):
		a.logger.Error("session: a call to the auth server was refused", "op", c.op, "error", errReplayed)
		return nil, &AuthError{Op: c.op, Message: errReplayed.Error(), kind: ErrAuthUnavailable, cause: errReplayed, stranger: true}
	case err != nil:
		return nil, a.unreachable(ctx, c, err, body != nil && !body.isSent())
	}
	read, err := io.ReadAll(io.LimitReader(resp.Body, maxAuthBody+1))
	answer := &authAnswer{call: c, status: resp.StatusCode, header: resp.Header, body: read, serviceKey: a.serviceKey}
	switch {
	case err != nil && gaveUp(ctx):
		return nil, ctx.Err()
	case err != nil:
		e := answer.unusable("the answer broke off")
		e.StatusCode, e.cause = 0, answer.redactor().wrap(err)
		return nil, e
	case len(read) > maxAuthBody:
		return nil, answer.unusable(fmt.Sprintf("the answer is larger than %d bytes", maxAuthBody))
	}
	return answer, nil
}

// request makes the request of a call, and its body, which may be nil.
func (a *authClient) request(ctx context.Context, c authCall) (*http.Request, *singleBody, error) {
	req, err := http.NewRequestWithContext(ctx, c.method, a.base+c.path, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("session: %s: %w", c.op, c.redactor(a.serviceKey).wrap(err))
	}
	var body *singleBody
	if c.body != nil {
		b, err := json.Marshal(c.body)
		if err != nil {
			return nil, nil, fmt.Errorf("session: %s: %w", c.op, err)
		}
		body = newSingleBody(b)
		// Without a GetBody, so that nothing can send it again.
		req.Body, req.ContentLength = body, int64(len(b))
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	if c.fresh {
		req.Header.Set("Cache-Control", "no-store")
	}
	if c.key {
		req.Header.Set("X-Service-Key", a.serviceKey.reveal())
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	return req, body, nil
}

// unreachable wraps what net/http says, less the URL, which names the user.
func (a *authClient) unreachable(ctx context.Context, c authCall, err error, unsent bool) error {
	if gaveUp(ctx) {
		return ctx.Err()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	hides := c.redactor(a.serviceKey)
	if unsent { // then nothing can have been quoted, and "connection refused" may be a password
		hides = redactor{}
	}
	return &AuthError{Op: c.op, Message: "no answer", kind: ErrAuthUnavailable, cause: hides.wrap(err), unsent: unsent}
}
