package telemetry

import (
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/mana/session"
)

// Up remembers whether store and auth server answered last, as far as operations
// tell. It asks nobody. The zero Up takes both to be up. Safe for concurrent use.
type Up struct {
	readsFail, writesFail, authFails atomic.Bool
}

// Observe takes note of how an operation ended. What a caller cancelled tells
// nothing.
func (u *Up) Observe(op session.Operation, err error) {
	outcome := Outcome(err)
	switch Split(op).Kind {
	case Service:
	case Store:
		if outcome == Cancelled || outcome == Closed {
			return
		}
		failed := outcome != OK && outcome != Conflict && outcome != NotLoggedIn
		if op == session.OpStoreWrite || op == session.OpStoreDelete || op == session.OpStoreLease {
			u.writesFail.Store(failed)
		} else {
			u.readsFail.Store(failed)
		}
	case Auth:
		u.observeAuth(op, outcome, err)
	}
}

func (u *Up) observeAuth(op session.Operation, outcome string, err error) {
	switch outcome {
	case Cancelled, Closed, Other:
	case AuthUnavailable, Timeout:
		e, ok := errors.AsType[*session.AuthError](err)
		if ok && op == session.OpAuthLogin && e.StatusCode >= http.StatusInternalServerError {
			return // what was typed may have made the server fail
		}
		u.authFails.Store(true)
	default:
		if op != session.OpAuthKeys || outcome != OK { // its keys may be all that a server still has
			u.authFails.Store(false)
		}
	}
}

// Store reports whether the last read and the last write of the store were
// answered.
func (u *Up) Store() bool { return !u.readsFail.Load() && !u.writesFail.Load() }

// Auth reports whether the auth server answered last.
func (u *Up) Auth() bool { return !u.authFails.Load() }
