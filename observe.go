package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Operation is something that takes time, as an [Observer] is told of it.
type Operation string

// The operations. Those of the Service last from its call to its end; a refresh is one
// however many callers wait for it, and may be nobody's but the Service's own. Those of
// the store and the auth server are single round trips.
const (
	OpLogin   Operation = "login"   // Login and CompleteLogin
	OpLogout  Operation = "logout"  // also of users who were not logged in
	OpRefresh Operation = "refresh" // of a token, or a first session by the SSO-Link

	OpStoreRead    Operation = "store.read"
	OpStoreWrite   Operation = "store.write"
	OpStoreDelete  Operation = "store.delete"
	OpStoreLease   Operation = "store.lease" // reads the record, too
	OpStoreRelease Operation = "store.release"
	OpStoreList    Operation = "store.list" // from the first page to the last

	OpAuthLogin      Operation = "auth.login"
	OpAuthRefresh    Operation = "auth.refresh"
	OpAuthLinkFetch  Operation = "auth.link_fetch"
	OpAuthLinkCheck  Operation = "auth.link_check"
	OpAuthLinkCreate Operation = "auth.link_create"
	OpAuthLinkRemove Operation = "auth.link_remove"
	OpAuthKeys       Operation = "auth.keys"
)

// Observer is told of all that takes time, for histograms and traces: modules prom and
// otel are such. A Token that is served from memory is no operation, and costs no more
// for being observed.
type Observer interface {
	// Begin is called when an operation begins. The operation runs under the context
	// that it returns, which must be ctx or derived from it, and end is called once
	// when it is over: with nil, with [ErrConflict] for a write that somebody else
	// overtook, with [ErrNotLoggedIn] for a "no" of the auth server about a user's
	// link or refresh token, or with why else it came to nothing. Begin and end are
	// called by many goroutines at a time and hold up what they observe. They must
	// not panic.
	Begin(ctx context.Context, op Operation) (_ context.Context, end func(error))
}

// WithObserver has observer told of what takes time. Given several times, each
// observer is told.
func WithObserver(observer Observer) Option {
	return func(c *config) error {
		if isNil(observer) {
			return errors.New("session: WithObserver: no observer")
		}
		observer = named{observer}
		if c.observer != nil {
			observer = observers{c.observer, observer}
		}
		c.observer = observer
		return nil
	}
}

// observers are two observers.
type observers [2]Observer

func (o observers) Begin(ctx context.Context, op Operation) (context.Context, func(error)) {
	ctx, endFirst := o[0].Begin(ctx, op)
	ctx, endSecond := o[1].Begin(ctx, op)
	return ctx, func(err error) { endSecond(err); endFirst(err) }
}

// named is an observer that hears of errors by the names that it can test for.
type named struct{ Observer }

func (n named) Begin(ctx context.Context, op Operation) (context.Context, func(error)) {
	ctx, end := n.Observer.Begin(ctx, op)
	return ctx, func(err error) { end(byName(err)) }
}

// byName adds to an error of ours that has no exported name the nearest that has.
func byName(err error) error {
	switch {
	case errors.Is(err, ErrNotLoggedIn):
		return err
	case errors.Is(err, errOvertaken):
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case errors.Is(err, errNotLinked), errors.Is(err, errTokenSpent), errors.Is(err, errStillValid):
		return fmt.Errorf("%w: %w", ErrNotLoggedIn, err)
	}
	return err
}

// observed begins an operation, whether or not there is an observer.
func observed(ctx context.Context, o Observer, op Operation) (context.Context, func(error)) {
	if o == nil {
		return ctx, func(error) {}
	}
	return o.Begin(ctx, op)
}

// authOperation is the operation of a call by the name that it has in an AuthError.
func authOperation(name string) Operation {
	return Operation("auth." + strings.ReplaceAll(name, " ", "_"))
}

// storeOp is an operation of the store on its way.
type storeOp struct {
	records *records
	ctx     context.Context
	op      Operation
	started time.Time
	told    func(error) // the observer's; or nil
	aside   bool        // see records.observe
}

// begin begins an operation of the store, which runs under the ctx of the result.
func (r *records) begin(ctx context.Context, op Operation) storeOp {
	o := storeOp{records: r, ctx: ctx, op: op, started: time.Now()}
	if r.observer != nil {
		o.ctx, o.told = r.observer.Begin(ctx, op)
	}
	return o
}

// end records the result: see records.observe.
func (o storeOp) end(err error) error {
	err = o.records.observe(o.ctx, o.op, o.aside, o.started, err)
	if o.told != nil {
		o.told(err)
	}
	return err
}
