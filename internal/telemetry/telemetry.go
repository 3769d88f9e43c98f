// Package telemetry is what the modules prom and otel have in common: which
// counters there are, how an operation came out, and whether store and auth server
// are up. It makes no metrics itself.
package telemetry

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/mana/session"
)

// Kind is whose operation it is.
type Kind int

// The kinds.
const (
	Service Kind = iota
	Store
	Auth
)

// Operation is a session.Operation in two parts.
type Operation struct {
	Kind Kind
	Name string // without the kind: "login", "write", "link_fetch"
}

// Operations are all that there are.
func Operations() []session.Operation {
	return []session.Operation{
		session.OpLogin, session.OpLogout, session.OpRefresh,
		session.OpStoreRead, session.OpStoreWrite, session.OpStoreDelete,
		session.OpStoreLease, session.OpStoreRelease, session.OpStoreList,
		session.OpAuthLogin, session.OpAuthRefresh, session.OpAuthLinkFetch, session.OpAuthLinkCheck,
		session.OpAuthLinkCreate, session.OpAuthLinkRemove, session.OpAuthKeys,
	}
}

// Split takes an operation apart.
func Split(op session.Operation) Operation {
	if name, ok := strings.CutPrefix(string(op), "store."); ok {
		return Operation{Store, name}
	}
	if name, ok := strings.CutPrefix(string(op), "auth."); ok {
		return Operation{Auth, name}
	}
	return Operation{Service, string(op)}
}

// The outcomes of operations. There are no others, whatever an error says.
const (
	OK                 = "ok"
	Conflict           = "conflict"      // somebody else was first
	NotLoggedIn        = "not_logged_in" // also: no link, a refused refresh token
	InvalidCredentials = "invalid_credentials"
	EmailNotVerified   = "email_not_verified"
	RateLimited        = "rate_limited"
	LoginExpired       = "login_expired"
	ServiceKeyRejected = "service_key_rejected"
	AuthUnavailable    = "auth_unavailable"
	StoreUnavailable   = "store_unavailable"
	TooLarge           = "too_large"
	Closed             = "closed"
	Cancelled          = "cancelled" // by the caller
	Timeout            = "timeout"   // the caller's own deadline
	Other              = "other"
)

// outcomes are the errors behind them, the most telling ones first.
var outcomes = [...]struct {
	err  error
	name string
}{
	{session.ErrServiceKeyRejected, ServiceKeyRejected},
	{session.ErrRateLimited, RateLimited},
	{session.ErrStoreUnavailable, StoreUnavailable},
	{session.ErrAuthUnavailable, AuthUnavailable},
	{session.ErrInvalidCredentials, InvalidCredentials},
	{session.ErrEmailNotVerified, EmailNotVerified},
	{session.ErrLoginExpired, LoginExpired},
	{session.ErrTooLarge, TooLarge},
	{session.ErrNotLoggedIn, NotLoggedIn},
	{session.ErrConflict, Conflict},
	{session.ErrClosed, Closed},
	{context.Canceled, Cancelled},
	{context.DeadlineExceeded, Timeout},
}

// Outcomes are the names of all outcomes.
func Outcomes() []string {
	names := []string{OK, Other}
	for _, o := range outcomes {
		names = append(names, o.name)
	}
	return names
}

// Outcome classifies what an operation ended with. Nothing of the error's text is
// in it.
func Outcome(err error) string {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*session.AuthError](err); ok && e.StatusCode == http.StatusTooManyRequests {
		return RateLimited
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.name
		}
	}
	return Other
}

// Failed reports whether an outcome is an operator's matter, rather than a user's
// or the ordinary course of things.
func Failed(outcome string) bool {
	switch outcome {
	case ServiceKeyRejected, AuthUnavailable, StoreUnavailable, Timeout, Other:
		return true
	}
	return false
}
