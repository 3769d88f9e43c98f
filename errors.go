package session

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What a bot decides by. Test with [errors.Is]; every error of this package
// that concerns one of these wraps it, together with the cause.
var (
	// ErrNotLoggedIn means that the user has no session and no way to get
	// one behind their back. Reply: please log in.
	ErrNotLoggedIn = errors.New("session: not logged in")

	// ErrInvalidCredentials means that the auth server refused the email or
	// the password, or that one of them was empty.
	ErrInvalidCredentials = errors.New("session: invalid email or password")

	// ErrEmailNotVerified means that the password was right but the email
	// address still has to be confirmed.
	ErrEmailNotVerified = errors.New("session: email not verified")

	// ErrRateLimited means that a login was refused because there were too
	// many, by this user or by all; the [AuthError] beside it says how long to
	// wait. Its StatusCode is 0 when the auth server was not even asked.
	ErrRateLimited = errors.New("session: too many logins")

	// ErrAuthUnavailable means that the auth server could not be asked or did
	// not answer sensibly. No session was ended over it; try again later.
	ErrAuthUnavailable = errors.New("session: auth server unavailable")

	// ErrLoginExpired means that a [PendingLogin] cannot be completed any more:
	// it is older than 10 minutes, or is not to be read for this user. Reply:
	// please log in again.
	ErrLoginExpired = errors.New("session: the prepared login has expired")

	// ErrServiceKeyRejected means that the auth server does not accept the
	// service key. It is a matter for the operator and costs no user their
	// session.
	ErrServiceKeyRejected = errors.New("session: service key rejected")

	// ErrStoreUnavailable means that the store could not be reached and that
	// nothing this process knows could stand in for it. From Logout it means
	// that the session has ended in this process and ends everywhere when the
	// store is back; from Close, that something was never stored.
	ErrStoreUnavailable = errors.New("session: store unavailable")

	// ErrTooLarge means that data do not fit into the user's record.
	ErrTooLarge = errors.New("session: too large")

	// ErrInvalidUserID means that the Matrix user ID does not follow the
	// Matrix grammar. Nothing was read, written or sent.
	ErrInvalidUserID = errors.New("session: invalid Matrix user ID")

	// ErrClosed means that the Service was closed.
	ErrClosed = errors.New("session: service closed")
)

// The contract between a [Store] and the Service.
var (
	// ErrNotFound is what Store.Get returns for a user without a record.
	ErrNotFound = errors.New("session: no record")

	// ErrConflict is what a conditional write returns when the record is no
	// longer the one that was read.
	ErrConflict = errors.New("session: record changed meanwhile")
)

// AuthError is what the auth server said, or that it said nothing usable.
// It wraps the sentinel that a bot decides by and the cause an operator wants
// to see. It never holds a body, a token, a password or a key.
type AuthError struct {
	// Op is the call that failed: "login", "refresh", "link fetch",
	// "link create", "link check", "link remove", "keys", "lease", or
	// "token check".
	Op string
	// StatusCode is the HTTP status, or 0 when there was no answer.
	StatusCode int
	// Message is the server's own message, shortened to 200 bytes, or what
	// was wrong with its answer.
	Message string
	// RetryAfter is how long the server asked to be left alone, or 0.
	RetryAfter time.Duration

	kind     error
	cause    error // of this package, or wrapped by a redactor
	stranger bool  // the answer is not in the auth server's own form
	unsent   bool  // nothing that the call carries has left this process
}

// Error implements error.
func (e *AuthError) Error() string {
	var b strings.Builder
	b.WriteString("session: " + e.Op)
	if e.StatusCode != 0 {
		fmt.Fprintf(&b, ": auth server answered %d", e.StatusCode)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, " (retry after %s)", e.RetryAfter)
	}
	return b.String()
}

// Unwrap gives [errors.Is] and [errors.As] the sentinel and the cause. A cause
// from outside is wrapped so that it shows no secret by any verb, and no more
// than 200 bytes; it still is what it is for errors.Is, and for errors.As as far
// as what that finds can be shown.
func (e *AuthError) Unwrap() []error {
	errs := make([]error, 0, 2)
	for _, err := range []error{e.kind, e.cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

const maxMessage = 200

// printable shortens a text to what may stand in an error or a log line:
// bounded, valid UTF-8, on one line. A text from outside passes redactor.clean,
// which ends here.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) <= maxMessage {
		return s
	}
	cut := maxMessage - len("…")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// storeError wraps what a store says, which may quote a record.
func storeError(op string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrStoreUnavailable, op, redactor{}.wrap(err))
}
