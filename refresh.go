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
	aheads   chan struct{}           // a slot per refresh ahead that runs

	late      chan lateRelease // leases to be released when the store answers
	releasing atomic.Bool      // somebody does
}

// need says what a refresh is for.
type need struct {
	satisfied func(*login) bool // whether a stored session already meets it
	ahead     bool              // the token still serves: a "no" does not end the session yet
}

// landing is what a flight came back with.
type landing struct {
	login *login
	asOf  uint64 // its place in the user's order: it shows what was stored then, or later
}

// flight is one refresh of one user.
type flight struct {
	need
	event *event
	asked time.Time // when a session begins that the flight makes
	owner string    // of the lease

	base         snapshot // what is to be replaced
	leased       bool
	stopRenewing func()
	spentDone    func() // called when what a refresh token brought is stored
	keepsLease   bool   // until what is stored has no spent refresh token any more
}

// outcome is what came of asking the auth server. Nothing of it is stored yet.
type outcome struct {
	next    *login // to be stored, even beside an error
	spent   bool   // next was bought with the session's refresh token
	refused error  // why the refresh token was refused, if it was
	ended   bool   // the clear no
	err     error
}

var (
	// errStillValid is how a refresh ahead ends that the auth server declined.
	errStillValid = errors.New("session: no successor for a token that is still valid")

	// errEnded is the clear no: the account has neither a link nor a way to
	// renew the login.
	errEnded = fmt.Errorf("%w: the auth server ended the session", ErrNotLoggedIn)
)

// maxFlights is how many flights one call waits for that others overtake.
const maxFlights = 8

// refresh returns a session as needed, from the store if another process put it
// there meanwhile, from the auth server otherwise. All callers for a user share
// one flight, which belongs to the Service: a caller who gives up leaves it to
// the others. begun is the caller's place in the order: what a flight saw before
// that is not good enough.
func (r *refresher) refresh(ctx context.Context, userID string, begun uint64, n need) (*login, error) {
	for flights := 1; ; flights++ {
		led := false
		landed := r.flights.DoChan(userID, func() (any, error) {
			led = true
			return r.fly(ctx, userID, n)
		})
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case result := <-landed:
			l, _ := result.Val.(landing)
			again := errors.Is(result.Err, errOvertaken)
			if !led {
				r.count.waits.Add(1)
				// A flight for another purpose may have ended with less than
				// this caller needs, and one that began earlier with older news.
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

// fly runs a flight under the Service's own context.
func (r *refresher) fly(ctx context.Context, userID string, n need) (landed landing, err error) {
	if err := r.life.begin(); err != nil {
		return landing{}, err
	}
	defer r.life.end()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), flightTimeout, errTimeout)
	defer cancel()
	defer context.AfterFunc(r.life.ctx, cancel)()
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

// conclude stores what came of asking, ends the session, or keeps it.
func (r *refresher) conclude(ctx context.Context, f *flight, out outcome) (landed landing, err error) {
	if out.next != nil || out.refused != nil {
		// What the auth server gave is stored though the Service is closed
		// meanwhile: a spent refresh token leaves nothing to go back to.
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
		return r.end(ctx, f)
	}
	if !errors.Is(err, ErrNotLoggedIn) {
		r.attempts.failed(f.base, err)
		r.logger.Warn("session: token not replaced, session kept", "user", f.event.userID, "error", err)
	}
	return landing{}, err
}

// lasting returns a context that Close does not end before it must.
func (r *refresher) lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	last, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), commitTime, errTimeout)
	stop := context.AfterFunc(r.life.late, cancel)
	return last, func() { stop(); cancel() }
}

// commit puts what was got in the place of the flight's base, and releases the
// lease with it. If the record changed meanwhile it obeys: a logout stays one, a
// login or another's refresh is returned instead, and a data write is merged
// with.
func (r *refresher) commit(ctx context.Context, f *flight, got refreshed) (landing, error) {
	writing, done, err := f.event.write(ctx)
	if err != nil {
		return landing{}, overtakenOr(err, storeError("write", err))
	}
	defer done()
	old, owner := f.base.stored, f.owner
	merged, same := got.replaces(f.asked)
	if !same {
		r.logger.Warn("session: the token is of another account, starting a new session", "user", f.event.userID)
	}
	for {
		asOf := r.order.now()
		saved, err := r.records.save(writing, owner, old, merged)
		var now snapshot
		if errors.Is(err, ErrConflict) {
			asOf = r.order.now()
			now, err = r.records.readLogout(writing, f.event.userID)
			if err == nil && owner != "" && sameAbsence(old, now.stored) {
				owner = "" // only the lease was lost: nobody logged out since
				continue
			}
			if err == nil {
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

// obey returns what is stored by somebody else, if it is as needed.
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

// end removes the session that the auth server said no to, if it still is the
// one that was asked about.
func (r *refresher) end(ctx context.Context, f *flight) (landing, error) {
	writing, done, err := f.event.write(ctx)
	if err != nil {
		return landing{}, overtakenOr(err, storeError("delete", err))
	}
	defer done()
	err = r.records.remove(writing, f.base.stored)
	switch {
	case err == nil:
		r.count.ended.Add(1)
		r.logger.Info("session: ended by the auth server", "user", f.event.userID)
		return landing{}, errEnded
	case !errors.Is(err, ErrConflict):
		return landing{}, err
	}
	asOf := r.order.now()
	now, err := r.records.read(writing, f.event.userID)
	if err == nil && now.login != nil && f.satisfied(now.login) {
		return landing{now.login, asOf}, nil
	}
	return landing{}, cmp.Or(err, errEnded)
}

// dropRefreshToken takes a refused refresh token out of a session that stays, so
// that it is not tried again. Losing to another write is as good.
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
	if saved, err := r.records.save(writing, "", f.base.stored, &next); err == nil {
		f.base = snapshot{stored: saved.stored, login: saved}
	}
}

// overtakenOr returns errOvertaken if that is what err is, and else otherwise.
func overtakenOr(err, otherwise error) error {
	if errors.Is(err, errOvertaken) {
		return errOvertaken
	}
	return otherwise
}
