package main

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/mana/session"
)

// The exit codes, as docs/cli.md has them.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitNothing = 3 // no session, nothing found
	exitStore   = 4
	exitAuth    = 5
)

// hints follow an error that ended a command.
var hints = map[int]string{
	exitUsage: "mana-session --help, or help COMMAND, says how it goes.",
	exitStore: "mana-session doctor says more about it.",
	exitAuth:  "mana-session doctor says more about it.",
}

// exit is an error with an exit code of its own. One without a cause has been said.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return "failed"
	}
	return e.err.Error()
}
func (e *exit) Unwrap() error { return e.err }

func usage(err error) error { return &exit{exitUsage, err} }

func exitCode(err error) int {
	var e *exit
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, session.ErrInvalidUserID):
		return exitUsage
	case errors.Is(err, session.ErrNotLoggedIn):
		return exitNothing
	case errors.Is(err, session.ErrStoreUnavailable):
		return exitStore
	case errors.Is(err, session.ErrAuthUnavailable), errors.Is(err, session.ErrServiceKeyRejected):
		return exitAuth
	}
	return exitFailed
}

// packagePrefix is what the package's errors begin with.
var packagePrefix = regexp.MustCompile(`(^|: |\n)session: `)

// plain is what an error says to an operator.
func plain(err error) string {
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	text := packagePrefix.ReplaceAllString(err.Error(), "$1")
	return strings.NewReplacer("\n", "; ", context.DeadlineExceeded.Error(), "no answer in time").Replace(text)
}

// storeError is what the store said, when it was not a Service that asked it.
func storeError(err error) error {
	var e *exit
	if err == nil || errors.As(err, &e) || errors.Is(err, context.Canceled) || errors.Is(err, session.ErrStoreUnavailable) {
		return err
	}
	return &exit{exitStore, err}
}
