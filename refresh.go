package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/mana/session/internal/bounded"
	"golang.org/x/sync/singleflight"
)

// refresher replaces tokens that are dead or near their end. It alone asks the
// auth server for them.
type refresher struct {
	settings
	records *records
	outbox  *outbox
	order   *order
	auth    *authClient
	clock   *clock
	count   *counters
	logger  *slog.Logger
	life    *lifetime

	flights  singleflight.Group      // one per user
	unlinked *bounded.Map[time.Time] // users without a link, until when
	attempts *attempts               // refreshes that failed
	replaced *replaceLimit           // tokens that backends refused
	ends     *ends
	aheads   chan struct{} // a slot per refresh ahead that runs

	late      chan lateRelease // leases to be released when the store answers
	releasing atomic.Bool      // a goroutine is working through late
}

// need says what a refresh is for.
type need struct {
	satisfied func(*login) bool // whether a stored session already meets it
	ahead     bool              // the present token is still valid: a "no" does not end the session yet
}

// landing is the result of a flight.
type landing struct {
	login *login
	asOf  uint64 // the place in the user's order as of which it is current, or newer
}

// flight is one refresh of one user.
type flight struct {
	need
	event *event
	asked time.Time // the start of a session that the flight creates
	owner string    // of the lease

	base         snapshot // what is to be replaced
	leased       bool
	stopRenewing func()
	spentDone    func() // called when the successor of a spent refresh token is stored
	keepsLease   bool   // the stored refresh token is spent: nobody else may try it
}

// outcome is the auth server's answer. Nothing of it is stored yet.
type outcome struct {
	next    *login // to be stored, even if err is not nil
	spent   bool   // next was obtained with the session's refresh token
	refused error  // why the refresh token was refused, if it was
	ended   bool   // the clear no
	err     error
}

var (
	// errStillValid ends a refresh ahead that the auth server declined: the
	// present token is still valid.
	errStillValid = errors.New("session: no successor for a token that is still valid")

	// errEnded is the clear no: the account has neither a link nor a way to
	// renew the login.
	errEnded = fmt.Errorf("%w: the auth server ended the session", ErrNotLoggedIn)
)

// maxFlights is how many overtaken flights in a row one call waits for.
const maxFlights = 8

// refresh returns a session that satisfies the need: from the store if another
// process has put it there meanwhile, else from the auth server. All callers for
// a user share one flight, which runs on the Service's context: a caller who gives
// up leaves it to the others. begun is the caller's place in the user's order: a
// result from before it is not good enough.
func (r *refresher) refresh(ctx context.Context, userID string, begun uint64, n need) (*login, error) {
	for flights := 1; ; flights++ {
		led := false
		landed := r.flights.DoChan(userID, func() (any, error) {
			led = true
			return r.doRefresh(ctx, userID, n)
		})
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case result := <-landed:
			l, _ := result.Val.(landing)
			again := errors.Is(result.Err, errOvertaken)
			if !led {
				r.count.waits.Add(1)
				// The shared flight may have been for another need, or may have
				// begun too early.
				again = again || result.Err == nil && (l.asOf < begun || !n.satisfied(l.login)) ||
					errors.Is(result.Err, errStillValid) || flights == 1 && errors.Is(result.Err, ErrNotLoggedIn)
			}
			switch {
			case !again:
				return l.login, result.Err
			case flights == maxFlights:
				return nil, &AuthError{Op: "refresh", Message: "the session keeps changing", kind: ErrAuthUnavailable, cause: result.Err}
			}
		}
	}
}

// doRefresh runs a flight on the Service's own context.
func (r *refresher) doRefresh(ctx context.Context, userID string, n need) (landed landing, err error) {
	if err := r.life.begin(); err != nil {
		return landing{}, err
	}
	defer r.life.end()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), flightTimeout, errTimeout)
	defer cancel()
	defer context.AfterFunc(r.life.ctx, cancel)()
	ctx, told := observed(ctx, r.records.observer, OpRefresh)
	defer func() { told(err) }()
	err = apart(func() (err error) {
		landed, err = r.do(ctx, userID, n)
		return err
	})
	if err != nil && r.life.ctx.Err() != nil {
		err = ErrClosed
	}
	return landed, err
}

// do is one flight, from taking the lease to releasing it.
func (r *refresher) do(ctx context.Context, userID string, n need) (landing, error) {
	f := &flight{need: n, event: r.order.begin(userID, false), owner: rand.Text(), asked: r.clock.now()}
	defer f.event.end()
	landed, err := r.lease(ctx, f)
	switch {
	case errors.Is(err, ErrStoreUnavailable):
		return r.withoutStore(ctx, f, err)
	case err != nil || landed.login != nil:
		return landed, err
	}
	if err := r.attempts.heldBack(f.base); err != nil {
		r.release(ctx, f, "")
		return landing{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errTimeout)
	defer cancel()
	r.keepLease(ctx, f)
	out := r.ask(ctx, f)
	f.stopRenewing()
	if f.spentDone != nil {
		defer f.spentDone()
	}
	landed, err = r.conclude(ctx, f, out)
	if f.leased && !f.keepsLease {
		r.release(ctx, f, r.noteOf(err))
	}
	return landed, err
}

// conclude acts on an outcome: it stores the new session, ends the session, or
// leaves it as it is.
func (r *refresher) conclude(ctx context.Context, f *flight, out outcome) (landed landing, err error) {
	if out.next != nil || out.refused != nil {
		// Stored even if Close has been called meanwhile: the refresh token in
		// the store is spent.
		stored, cancel := r.lasting(ctx)
		defer cancel()
		ctx = stored
	}
	err = out.err
	if out.next != nil {
		var commitErr error
		landed, commitErr = r.commit(ctx, f, refreshed{f.base.login, out.next, out.spent})
		err = cmp.Or(err, commitErr)
	}
	if out.refused != nil && out.next == nil && (!out.ended || f.ahead) {
		r.dropRefreshToken(ctx, f, out.refused)
	}
	switch {
	case err == nil:
		r.attempts.worked(f.event.userID)
		if f.ahead {
			r.count.ahead.Add(1)
		}
		return landed, nil
	case errors.Is(err, errOvertaken):
		return landing{}, err
	case f.ahead && errors.Is(err, ErrNotLoggedIn):
		return landing{}, errStillValid
	}
	r.count.failed(err)
	if out.ended {
		return r.end(ctx, f, err)
	}
	if !errors.Is(err, ErrNotLoggedIn) {
		r.attempts.failed(f.base, err)
		r.logger.Warn("session: token not replaced, session kept", "user", f.event.userID, "error", err)
	}
	return landing{}, err
}

// lasting returns a context that Close cancels only at the end of its own limit.
func (r *refresher) lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	last, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), commitTime, errTimeout)
	stop := context.AfterFunc(r.life.late, cancel)
	return last, func() { stop(); cancel() }
}

// commit replaces the flight's base by the result and releases the lease in the
// same step. If the record has changed meanwhile, the change wins: after a logout
// the user stays logged out, a login or another process's refresh is returned
// instead, and a data write is merged.
func (r *refresher) commit(ctx context.Context, f *flight, got refreshed) (landing, error) {
	writing, done, err := f.event.write(ctx)
	if err != nil {
		return landing{}, overtakenOr(err, storeError("write", err))
	}
	defer done()
	old, owner := f.base.stored, f.owner
	merged, same := got.replaces(f.asked)
	what := got.trailEvent(same)
	for {
		asOf := r.order.now()
		saved, err := r.records.save(writing, owner, old, merged, what)
		var now snapshot
		if errors.Is(err, ErrConflict) {
			asOf = r.order.now()
			now, err = r.records.readLogout(writing, f.event.userID)
			if err == nil && owner != "" && sameAbsence(old, now.stored) {
				owner = "" // only the lease was lost: nobody logged out since
				continue
			}
			if err == nil {
				what = got.trailEvent(true) // over takes no other account's
				if merged = got.over(now.login); merged == nil {
					return r.obey(ctx, f, now, asOf)
				}
				old = now.stored
				continue
			}
		}
		switch {
		case err == nil:
			f.leased = false // it was released with it
			switch what.Kind {
			case TrailBegan:
				r.logger.Info("session: begun by the link", "user", f.event.userID)
			case TrailReplaced:
				r.logger.Warn("session: the token is of another account, a new session has begun", "user", f.event.userID, "by", what.By)
				r.ends.add(SessionEnd{UserID: f.event.userID, Reason: EndReplaced})
			}
			return landing{saved, asOf}, nil
		case !errors.Is(err, ErrStoreUnavailable):
			return landing{}, err
		}
		landed, err := r.commitLater(f, got, merged, err)
		if landed.login != nil || !got.spent || !errors.Is(err, ErrStoreUnavailable) {
			return landed, err
		}
		// The old refresh token is spent: only the new one keeps the login.
		if !pause(writing, drainPause) {
			return landing{}, err
		}
	}
}

// sameAbsence reports whether there was no record and has been none since, if
// the store can tell.
func sameAbsence(then, now Record) bool {
	return !then.Exists() && !now.Exists() && then.Version != 0 && then.Version == now.Version
}

// obey returns what another process has stored, if it satisfies the flight.
func (r *refresher) obey(ctx context.Context, f *flight, now snapshot, asOf uint64) (landing, error) {
	if now.login == nil {
		return landing{}, fmt.Errorf("%w: logged out meanwhile", ErrNotLoggedIn)
	}
	err := r.records.check(ctx, now.login)
	switch {
	case err != nil && !errors.Is(err, errBadToken):
		return landing{}, err
	case err == nil && f.satisfied(now.login):
		return landing{now.login, asOf}, nil
	}
	return landing{}, errOvertaken
}

// end removes the session after the auth server's clear no, if it is still the
// one that was asked about. why holds what the server said.
func (r *refresher) end(ctx context.Context, f *flight, why error) (landing, error) {
	writing, done, err := f.event.write(ctx)
	if err != nil {
		return landing{}, overtakenOr(err, storeError("delete", err))
	}
	defer done()
	before, err := r.stillStored(writing, f)
	if err == nil {
		err = r.records.remove(writing, f.base.stored, TrailEvent{Kind: TrailEnded, By: byServer, Reason: reasonOf(why)})
	}
	switch {
	case err == nil:
		r.count.ended.Add(1)
		r.logger.Info("session: ended by the auth server", "user", f.event.userID, "reason", reasonOf(why))
		after, err := r.records.readLogout(writing, f.event.userID)
		loggedOut := errors.Is(err, errOvertaken) || err == nil && after.loggedOut.After(before.loggedOut)
		if !loggedOut { // by themselves, meanwhile
			r.ends.add(SessionEnd{UserID: f.event.userID, Reason: EndRefused, Err: why})
		}
		return landing{}, why
	case !errors.Is(err, ErrConflict):
		return landing{}, err
	}
	asOf := r.order.now()
	now, err := r.records.read(writing, f.event.userID)
	if err == nil && now.login != nil && f.satisfied(now.login) {
		return landing{now.login, asOf}, nil
	}
	return landing{}, cmp.Or(err, why)
}

// stillStored returns ErrConflict unless the flight's base is stored still. Delete
// does not tell whether there was something to delete, and a process that was paused
// must not tell the end of what another has ended.
func (r *refresher) stillStored(ctx context.Context, f *flight) (snapshot, error) {
	now, err := r.records.readLogout(ctx, f.event.userID)
	if err == nil && now.stored.Value != f.base.stored.Value {
		err = ErrConflict
	}
	return now, err
}

// dropRefreshToken removes a refused refresh token from a session that stays, so
// that it is not tried again. A conflict is ignored: the other write has replaced
// the token, or the next flight tries again.
func (r *refresher) dropRefreshToken(ctx context.Context, f *flight, why error) {
	if f.base.login.expires.IsZero() {
		return
	}
	writing, done, err := f.event.write(ctx)
	if err != nil {
		return
	}
	defer done()
	r.logger.Warn("session: refresh token refused, dropped from the session", "user", f.event.userID, "reason", why)
	next := *f.base.login
	next.refresh = secret{}
	what := TrailEvent{Kind: TrailWeakened, By: byServer, Reason: reasonOf(why)}
	if saved, err := r.records.save(writing, "", f.base.stored, &next, what); err == nil {
		f.base = snapshot{stored: saved.stored, login: saved}
	}
}

// overtakenOr returns errOvertaken if err is that, and otherwise the other error.
func overtakenOr(err, otherwise error) error {
	if errors.Is(err, errOvertaken) {
		return errOvertaken
	}
	return otherwise
}
