package weblogin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/mana/session"
)

// storeError wraps what a store says, which may quote a record.
func storeError(ctx context.Context, op string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%w: %s a link: %w", session.ErrStoreUnavailable, op, unquoted{&err})
}

// unquoted is an error of which only the type is shown, and what the operating
// system says about a connection. It is what the error is for [errors.Is].
type unquoted struct{ cause *error } // a pointer, which fmt does not follow

func (u unquoted) Error() string {
	if connection, ok := errors.AsType[*net.OpError](*u.cause); ok {
		return connection.Error()
	}
	return fmt.Sprintf("an error of type %T", *u.cause)
}

func (u unquoted) Is(target error) bool { return errors.Is(*u.cause, target) }

// Format implements [fmt.Formatter]: no verb shows more than Error does.
func (u unquoted) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.Error()) }
