package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// authAnswer is an answer of the auth server, read whole.
type authAnswer struct {
	call   authCall
	status int
	header http.Header
	body   []byte

	serviceKey secret // never to be echoed into an error, like what call hides
}

// errTokenSpent is the kind of a refused refresh token, errNotLinked of a user
// without a link: the auth server's clear "no", as opposed to its failures.
var (
	errTokenSpent = errors.New("refresh token not accepted")
	errNotLinked  = errors.New("no link for this user")
)

// verdict returns nil for an answer that may hold what was asked for, or what
// the status and the message mean. The cases are recorded from the server.
func (r *authAnswer) verdict() error {
	if r.status >= 200 && r.status < 300 {
		return nil
	}
	message, ours := r.message()
	e := &AuthError{Op: r.call.op, StatusCode: r.status, Message: r.redact(message), RetryAfter: r.retryAfter(), kind: ErrAuthUnavailable}
	link := strings.HasPrefix(r.call.op, "link ")
	is := func(text string) bool { return ours && strings.Contains(strings.ToLower(message), text) }
	login := r.call.op == "login"
	switch {
	case r.status >= 300 && r.status < 400:
		e.Message = "redirect not followed"
	case login && r.status == http.StatusTooManyRequests:
		e.kind = ErrRateLimited
	// Not verified and wrong password arrive as 500 from the recorded
	// deployment, as 403 and 401 from others.
	case login && is("not verified"), login && r.status == http.StatusForbidden:
		e.kind = ErrEmailNotVerified
	case login && is("invalid email or password"), login && r.status == http.StatusUnauthorized,
		login && r.status == http.StatusBadRequest:
		e.kind = ErrInvalidCredentials
	case r.call.op == "refresh" && r.status == http.StatusUnauthorized && ours:
		e.kind = errTokenSpent
	case r.call.key && (r.status == http.StatusUnauthorized || r.status == http.StatusForbidden):
		e.kind = ErrServiceKeyRejected
	// A missing route is a 404 as well ("Cannot GET …").
	case link && r.status == http.StatusNotFound && ours && !is("cannot "):
		e.kind = errNotLinked
	}
	return e
}

// message returns the server's message, and whether the body has the shape of
// the server's errors at all, as opposed to a proxy's.
func (r *authAnswer) message() (string, bool) {
	var body struct {
		Message json.RawMessage `json:"message"`
	}
	if json.Unmarshal(r.body, &body) != nil {
		return r.notJSON(), false
	}
	var text string
	var list []string
	if json.Unmarshal(body.Message, &text) != nil && json.Unmarshal(body.Message, &list) == nil {
		text = strings.Join(list, "; ")
	}
	return text, text != ""
}

// redact makes a message of the server's fit for an error: it may quote what it
// was sent, as it is or in JSON.
func (r *authAnswer) redact(message string) string {
	for _, secret := range []string{r.call.hide, r.call.bearer, r.serviceKey.reveal()} {
		if secret == "" {
			continue
		}
		quoted, _ := json.Marshal(secret) // a string always has a JSON form
		for _, form := range []string{secret, strings.Trim(string(quoted), `"`)} {
			message = strings.ReplaceAll(message, form, redacted)
		}
	}
	return printable(message)
}

func (r *authAnswer) retryAfter() time.Duration {
	value := r.header.Get("Retry-After")
	var wait time.Duration
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		wait = time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = time.Until(at)
	}
	return max(0, min(wait, maxRetryAfter))
}

func (r *authAnswer) unusable(why string) *AuthError {
	return &AuthError{Op: r.call.op, StatusCode: r.status, Message: why, kind: ErrAuthUnavailable}
}

func (r *authAnswer) decode(into any) error {
	if json.Unmarshal(r.body, into) != nil {
		return r.unusable(r.notJSON())
	}
	return nil
}

// notJSON says what the body is instead, without quoting it.
func (r *authAnswer) notJSON() string {
	body := bytes.TrimSpace(r.body)
	switch {
	case len(body) == 0:
		return "the answer is empty"
	case body[0] == '<':
		return "the answer is HTML"
	case body[0] == '{':
		return "the answer is truncated JSON"
	}
	return "the answer is not JSON"
}

// grant reads the tokens of a successful login, refresh or link fetch. An
// older deployment calls the access token "token".
func (r *authAnswer) grant() (grant, error) {
	var body struct {
		AccessToken  string `json:"accessToken"`
		Token        string `json:"token"`
		RefreshToken string `json:"refreshToken"`
		Email        string `json:"email"`
		User         struct {
			Email string `json:"email"`
		} `json:"user"`
	}
	if err := r.decode(&body); err != nil {
		return grant{}, err
	}
	g := grant{token: body.AccessToken, email: body.Email, refresh: body.RefreshToken}
	if g.token == "" {
		g.token = body.Token
	}
	if g.token == "" {
		return grant{}, r.unusable("no token in the answer")
	}
	if body.User.Email != "" {
		g.email = body.User.Email
	}
	return g, nil
}
