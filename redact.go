package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	maxForeignText = 4 << 10 // bytes of a foreign text that are looked at
	quotedPart     = 12      // so many bytes of a secret in a row give it away
	shortSecret    = 8       // of a secret shorter than quotedPart; below, all of it
)

// redactor makes texts from outside fit to be shown: what the auth server, a
// transport, a store or another process wrote. Every such text passes clean,
// and every such error wrap.
//
// A text that quotes a secret of the call, whole or in part, is withheld as a
// whole. What is left around a redacted secret could give it away: a password
// is whatever somebody typed, and "ThrottlerE[redacted]ception" says that it
// was "x". For the same reason texts that are always the same are shown even if
// they contain the password by chance: see isStockText.
type redactor struct{ secrets []secret }

// secretShapes is what tokens look like that nobody told the redactor about,
// such as those in an answer that could not be read.
var secretShapes = regexp.MustCompile(`eyJ[\w-]{8,}(\.[\w-]*){0,2}|[\w+=-]{40,}`)

// clean returns text as it may be shown, in at most maxMessage bytes.
func (r redactor) clean(text string) string {
	if len(text) > maxForeignText {
		text = text[:maxForeignText]
	}
	if isStockText(text) {
		return printable(text)
	}
	if r.quotedIn(text) {
		return redacted
	}
	return printable(secretShapes.ReplaceAllString(text, redacted))
}

func (r redactor) quotedIn(text string) bool {
	return slices.ContainsFunc(r.secrets, func(s secret) bool {
		return slices.ContainsFunc(writtenForms(s.reveal()), func(form string) bool { return quotes(text, form) })
	})
}

// quotes reports whether text contains form, or enough of it to be told.
func quotes(text, form string) bool {
	part := quotedPart
	switch {
	case form == "":
		return false
	case len(form) < shortSecret:
		return strings.Contains(text, form)
	case len(form) < quotedPart:
		part = shortSecret
	}
	parts := make(map[string]struct{}, len(text))
	for i := 0; i+part <= len(text); i++ {
		parts[text[i:i+part]] = struct{}{}
	}
	for i := 0; i+part <= len(form); i++ {
		if _, ok := parts[form[i:i+part]]; ok {
			return true
		}
	}
	return false
}

// writtenForms are the ways in which a text may quote a secret: as it is, in
// JSON as Go, JavaScript and ASCII-only encoders write it, in a URL, in HTML,
// and each of them in a quoted string once more.
func writtenForms(s string) []string {
	if s == "" {
		return nil
	}
	forms := []string{s, jsonForm(s, true), jsonForm(s, false), url.QueryEscape(s), url.PathEscape(s), html.EscapeString(s)}
	for _, form := range slices.Clone(forms) {
		forms = append(forms, inner(strconv.Quote(form)), inner(strconv.QuoteToASCII(form)), jsonForm(form, false))
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}

func jsonForm(s string, escapeHTML bool) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(escapeHTML)
	_ = e.Encode(s) // a string always has a JSON form
	return inner(strings.TrimSuffix(b.String(), "\n"))
}

// inner is a quoted string without its quotes.
func inner(quoted string) string { return quoted[1 : len(quoted)-1] }

// stockTexts are messages that the auth server and net/http always word alike.
var stockTexts = regexp.MustCompile(`(?i)^(` + strings.Join([]string{
	`invalid email( or password)?`, `invalid (password|credentials)`, `email not verified`, `user not found`,
	`invalid refresh token`, `refresh token expired`, `failed to generate access token`,
	`no link found for this matrix user`, `valid service key required`,
	`throttlerexception: too many requests`, `internal server error`, `request entity too large`,
	`(email|password) (must be (an email|a string)|should not be empty)`,
	`(connect|read|write|getaddrinfo) E[A-Z_]+( [\w.:-]+)?`,
}, "|") + `)$`)

// isStockText reports whether text, or each part of a joined list, is a stock
// text, which says the same whatever was sent.
func isStockText(text string) bool {
	for part := range strings.SplitSeq(text, "; ") {
		if !stockTexts.MatchString(part) && !isStatusText(part) {
			return false
		}
	}
	return true
}

func isStatusText(text string) bool {
	for status := 400; status < 512; status++ {
		if known := http.StatusText(status); known != "" && strings.EqualFold(known, text) {
			return true
		}
	}
	return false
}

// wrap returns err as a cause that can be shown. It is what err is for
// [errors.Is], and for [errors.As] as far as what that finds can be shown; it
// shows nothing of err by any verb, and has no Unwrap.
func (r redactor) wrap(err error) error {
	if err == nil {
		return nil
	}
	e := &foreignError{text: r.clean(errorText(err)), cause: &err, redactor: &r}
	if timeout, ok := asNetError(err); ok {
		return &foreignNetError{e, timeout}
	}
	return e
}

// foreignError is an error from outside whose text is not shown as it is.
type foreignError struct {
	text     string
	cause    *error    // a pointer, which fmt does not follow
	redactor *redactor // likewise
}

// Error implements error.
func (e *foreignError) Error() string { return e.text }

// Format implements [fmt.Formatter]: no verb shows more than Error does.
func (e *foreignError) Format(f fmt.State, verb rune) {
	if verb == 'q' {
		fmt.Fprintf(f, "%q", e.text)
		return
	}
	fmt.Fprint(f, e.text)
}

// decisions are the errors that a bot decides by. Only this package says them:
// a transport's error that wraps one logs nobody out.
func decisions() []error {
	return []error{
		ErrNotLoggedIn, ErrInvalidCredentials, ErrEmailNotVerified, ErrRateLimited,
		ErrServiceKeyRejected, errTokenSpent, errNotLinked,
	}
}

// Is implements what [errors.Is] asks.
func (e *foreignError) Is(target error) (is bool) {
	defer func() {
		if recover() != nil { // in an Is of the cause's own
			is = false
		}
	}()
	return !slices.Contains(decisions(), target) && errors.Is(*e.cause, target)
}

// As implements what [errors.As] asks. It finds nothing that would show more of
// the cause than Error does.
func (e *foreignError) As(target any) (as bool) {
	defer func() {
		if recover() != nil {
			as = false
		}
	}()
	into := reflect.ValueOf(target).Elem()
	found := reflect.New(into.Type())
	if !errors.As(*e.cause, found.Interface()) {
		return false
	}
	err, ok := reflect.TypeAssert[error](found.Elem())
	if !ok || !e.redactor.harmless(err) {
		return false
	}
	into.Set(found.Elem())
	return true
}

// harmless reports whether err and all that it wraps may be shown as they are.
func (r redactor) harmless(err error) bool {
	if _, ok := err.(*AuthError); ok { //nolint:errorlint // one link of the chain at a time
		return false
	}
	text := errorText(err)
	if r.clean(text) != text || r.quotedIn(fmt.Sprintf("%+v %#v", err, err)) {
		return false
	}
	switch e := err.(type) { //nolint:errorlint // likewise
	case interface{ Unwrap() error }:
		wrapped := e.Unwrap()
		return wrapped == nil || r.harmless(wrapped)
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !r.harmless(err) })
	}
	return true
}

// foreignNetError is a foreignError that is a [net.Error].
type foreignNetError struct {
	*foreignError
	timeout bool
}

func (e *foreignNetError) Timeout() bool   { return e.timeout }
func (e *foreignNetError) Temporary() bool { return e.timeout }

func asNetError(err error) (timeout, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	var e net.Error
	if !errors.As(err, &e) {
		return false, false
	}
	return e.Timeout(), true
}

// errorText is what err says, or that it cannot say it: a typed nil may panic.
func errorText(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("an error of type %T that panics", err)
		}
	}()
	return err.Error()
}
