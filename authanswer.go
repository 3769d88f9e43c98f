package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// authAnswer is an answer of the auth server, or of what stands in its place,
// read whole.
type authAnswer struct {
	call   authCall
	status int
	header http.Header
	body   []byte

	serviceKey secret // never to be echoed into an error, like what call hides
}

// errTokenSpent is the kind of a refused refresh token, errNotLinked of a user
// without a link: the auth server's clear "no", as opposed to its failures. The
// caller returns ErrNotLoggedIn, or asks in another way.
var (
	errTokenSpent = errors.New("refresh token not accepted")
	errNotLinked  = errors.New("no link for this user")
)

// refusal is an error answer in the auth server's own form:
//
//	{"statusCode":404,"message":"…","timestamp":"…","path":"/…"}
//
// Gateways in front of the server answer with other bodies, which say nothing
// about a user.
type refusal struct {
	messages []string
}

// refusal reads an error answer, and reports whether it is in the server's own
// form and about this call.
func (r *authAnswer) refusal() (refusal, bool) {
	fields, ok := r.fields()
	if !ok {
		return refusal{}, false
	}
	var status int
	messages := stringsOf(fields["message"])
	own := json.Unmarshal(fields["statusCode"], &status) == nil && status == r.status &&
		len(messages) > 0 && stringOf(fields["timestamp"]) != "" && r.call.isAbout(stringOf(fields["path"]))
	return refusal{messages}, own
}

// isAbout reports whether path, from an error answer, names the route of the
// call. A gateway may have put something before it or taken something away.
func (c authCall) isAbout(path string) bool {
	route := c.path[strings.LastIndexByte(c.path, '/')+1:]
	bare, _, _ := strings.Cut(path, "?")
	return slices.ContainsFunc([]string{path, bare}, func(path string) bool {
		return strings.HasPrefix(path, "/") && strings.HasSuffix(unescaped(strings.TrimRight(path, "/")), "/"+unescaped(route))
	})
}

func unescaped(path string) string {
	if plain, err := url.PathUnescape(path); err == nil {
		return plain
	}
	return path
}

// says reports whether a message of the server's is one of texts.
func (no refusal) says(texts ...string) bool {
	return slices.ContainsFunc(no.messages, func(message string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.EqualFold(strings.TrimSpace(message), text) })
	})
}

// mentions reports whether a message of the server's contains one of words,
// which are in lower case.
func (no refusal) mentions(words ...string) bool {
	return slices.ContainsFunc(no.messages, func(message string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(strings.ToLower(message), word) })
	})
}

// verdict returns nil for an answer that may hold what was asked for, or what
// the status and the message mean. A "no" is believed only in the server's own
// form and words; anything else is ErrAuthUnavailable.
func (r *authAnswer) verdict() error {
	if r.status >= 200 && r.status < 300 {
		return nil
	}
	no, own := r.refusal()
	e := &AuthError{Op: r.call.op, StatusCode: r.status, RetryAfter: r.retryAfter(), kind: ErrAuthUnavailable, stranger: !own}
	switch {
	case r.status >= 300 && r.status < 400:
		e.Message = "redirect not followed"
		return e
	case len(no.messages) > 0:
		e.Message = r.redactor().clean(strings.Join(no.messages, "; "))
	default:
		e.Message = r.notJSON()
	}
	switch {
	case r.call.op == opLogin && r.status == http.StatusTooManyRequests:
		e.kind = ErrRateLimited // whoever counts
	case !own:
	case r.call.op == opLogin:
		e.kind = r.loginVerdict(no)
	case r.call.op == opRefresh && r.isClientError() && no.says("invalid refresh token", "refresh token expired", "user not found"):
		e.kind = errTokenSpent
	case r.call.key && (r.status == http.StatusUnauthorized || r.status == http.StatusForbidden) && no.mentions("service key"):
		e.kind = ErrServiceKeyRejected
	case r.call.op == opLinkFetch && r.status == http.StatusNotFound && no.says("no link found for this matrix user"):
		e.kind = errNotLinked
	case r.call.op == opLinkRemove && r.status == http.StatusNotFound && no.mentions("link") && no.mentions("no link", "not found", "not linked"):
		e.kind = errNotLinked
	}
	return e
}

// loginVerdict is what a refused login means. The recorded deployment answers
// 500 to a wrong password and to an email that is not verified, and lists what
// is malformed under a 400; others answer 401 and 403, whatever they word it.
func (r *authAnswer) loginVerdict(no refusal) error {
	switch {
	case no.mentions("not verified"):
		return ErrEmailNotVerified
	case no.says("invalid email or password", "invalid email", "invalid password", "invalid credentials"),
		r.status == http.StatusUnauthorized,
		r.status == http.StatusBadRequest && no.mentions("email", "password"):
		return ErrInvalidCredentials
	case r.status == http.StatusForbidden && (no.says("forbidden") || no.mentions("verif")):
		return ErrEmailNotVerified
	case r.status == http.StatusForbidden: // "account locked", and the like
		return ErrInvalidCredentials
	}
	return ErrAuthUnavailable
}

// isClientError reports whether the server refused the request, rather than
// failed over it or put it off.
func (r *authAnswer) isClientError() bool {
	return r.status >= 400 && r.status < 500 && r.status != http.StatusTooManyRequests && r.status != http.StatusRequestTimeout
}

// redactor is for the texts that this call may bring back.
func (r *authAnswer) redactor() redactor { return r.call.redactor(r.serviceKey) }

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
	return &AuthError{Op: r.call.op, StatusCode: r.status, Message: why, kind: ErrAuthUnavailable, stranger: true}
}

// fields returns the fields of the JSON object that the body is, of two of a
// name the last.
func (r *authAnswer) fields() (map[string]json.RawMessage, bool) {
	if tooDeep(string(r.body)) {
		return nil, false
	}
	var fields map[string]json.RawMessage
	err := json.Unmarshal(bytes.TrimPrefix(r.body, []byte("\ufeff")), &fields)
	return fields, err == nil && fields != nil
}

// object is fields of an answer that is to be used.
func (r *authAnswer) object() (map[string]json.RawMessage, error) {
	fields, ok := r.fields()
	if !ok {
		return nil, r.unusable(r.notJSON())
	}
	return fields, nil
}

// notJSON says what the body is instead of the JSON that is expected, without
// quoting it.
func (r *authAnswer) notJSON() string {
	body := bytes.TrimSpace(bytes.TrimPrefix(r.body, []byte("\ufeff")))
	if len(body) == 0 {
		return "the answer is empty"
	}
	if body[0] == '<' {
		return "the answer is HTML"
	}
	if tooDeep(string(body)) {
		return "the answer is nested too deep"
	}
	var raw json.RawMessage
	err := json.Unmarshal(body, &raw)
	syntax, _ := errors.AsType[*json.SyntaxError](err)
	switch {
	case err == nil && body[0] == '{':
		return "the answer is not in the auth server's form"
	case err == nil:
		return "the answer is not a JSON object"
	case (body[0] == '{' || body[0] == '[') && syntax != nil && syntax.Offset >= int64(len(body)):
		return "the answer is truncated JSON"
	}
	return "the answer is not JSON"
}

// stringOf is a JSON string, or "" for anything else.
func stringOf(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return ""
	}
	return text
}

// stringsOf is a JSON string that is not empty, or a list of such.
func stringsOf(raw json.RawMessage) []string {
	if text := stringOf(raw); text != "" {
		return []string{text}
	}
	var list []string
	if json.Unmarshal(raw, &list) != nil || slices.Contains(list, "") {
		return nil
	}
	return list
}

// isTrue reports whether raw is the JSON true, and isBool whether it is true or
// false at all.
func isTrue(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "true" }

func isBool(raw json.RawMessage) bool { return isTrue(raw) || string(bytes.TrimSpace(raw)) == "false" }
