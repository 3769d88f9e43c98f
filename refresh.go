package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

const (
	// A refresh token is single-use, so it is not spent without the time to
	// hear what came of it, and its successor is written again and again. A
	// link call that would use up that time is not waited for.
	spendingTime = authTimeout + 1*time.Second
	linkPatience = 3 * time.Second
	commitPause  = 100 * time.Millisecond
)

// replacement says what a flight is for.
type replacement struct {
	wanted func(*login) bool // what in the store makes asking unnecessary
	ahead  bool              // the token still serves: a "no" does not end the session yet
}

// replace returns a session as wanted, from the store if another process put
// it there meanwhile, from the auth server otherwise. All callers for a user
// share one flight, which belongs to the Service: a caller who gives up leaves
// it to the others.
func (s *Service) replace(ctx context.Context, userID string, r replacement) (*login, error) {
	for first := true; ; first = false {
		led := false
		landed := s.flights.DoChan(userID, func() (any, error) {
			led = true
			return s.fly(ctx, userID, r)
		})
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case result := <-landed:
			l, _ := result.Val.(*login)
			if led {
				return l, result.Err
			}
			s.count.waits.Add(1)
			// A flight for another purpose may have ended with less than this
			// caller needs; one that a log-out overtook, before this caller
			// came, says no to a user who is linked.
			if first && (result.Err == nil && !r.wanted(l) || errors.Is(result.Err, errStillServes) || errors.Is(result.Err, ErrNotLoggedIn)) {
				continue
			}
			return l, result.Err
		}
	}
}

// errStillServes is how a refresh ahead ends that the auth server said no to.
var errStillServes = errors.New("session: no successor for a token that still serves")

// fly is one flight, from taking the lease to giving it back.
func (s *Service) fly(ctx context.Context, userID string, r replacement) (l *login, err error) {
	if err := s.life.begin(); err != nil {
		return nil, err
	}
	defer s.life.end()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), flightTimeout, errTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	defer func() {
		if p := recover(); p != nil {
			// The flight is a goroutine of ours: a panic in a caller's store
			// or transport would end the bot.
			s.logger.Error("session: panic in a flight", "user", userID, "panic", fmt.Sprintf("%T", p))
			l, err = nil, fmt.Errorf("%w: panic in the store or the HTTP transport", ErrStoreUnavailable)
		}
		if err != nil && s.ctx.Err() != nil {
			err = ErrClosed
		}
	}()

	owner := rand.Text()
	var base snapshot
	if err = s.settle(ctx, userID); err == nil {
		base, err = s.takeLease(ctx, userID, owner, r)
	}
	if errors.Is(err, ErrStoreUnavailable) {
		return s.replaceWithoutStore(ctx, userID, r, err)
	}
	if err != nil {
		return nil, err
	}
	if base.login != nil && r.wanted(base.login) {
		return base.login, nil
	}
	verdict := ""
	defer func() {
		// A successor that waits for the store keeps the lease: what is stored
		// until then holds a refresh token that is spent.
		if waiting := s.queue.of(userID); waiting == nil || waiting.owner != owner {
			s.giveBack(ctx, userID, owner, verdict)
		}
	}()
	ctx, ended := context.WithTimeoutCause(ctx, askTimeout, errTimeout)
	defer ended()

	asked := s.eventTime()
	next, err := s.mint(ctx, userID, base)
	if next != nil {
		// What the auth server gave is kept though the Service is closed
		// meanwhile: a spent refresh token leaves nothing to go back to.
		deadline, _ := ctx.Deadline()
		ctx, stop := context.WithDeadlineCause(context.WithoutCancel(ctx), deadline, errTimeout)
		defer stop()
		l, commitErr := s.commit(ctx, owner, base, next, asked, r)
		if err = cmp.Or(err, commitErr); err == nil {
			if r.ahead {
				s.count.ahead.Add(1)
			}
			return l, nil
		}
	}
	switch {
	case r.ahead && errors.Is(err, ErrNotLoggedIn):
		return nil, errStillServes
	case errors.Is(err, errEnded):
		s.count.failed(err)
		return s.end(ctx, base, r)
	default:
		s.count.failed(err)
		if !errors.Is(err, ErrNotLoggedIn) {
			verdict = s.noteOf(err)
			s.logger.Warn("session: token not replaced, session kept", "user", userID, "error", err)
		}
		return nil, err
	}
}

// errEnded is the clear no: the account has neither a link nor a way to renew
// the login.
var errEnded = fmt.Errorf("%w: the auth server ended the session", ErrNotLoggedIn)

// canAsk reports whether this Service has any way to replace l's token.
func (s *Service) canAsk(l *login) bool {
	return s.linkEnabled && linkable(l.userID) || !l.refresh.empty() && s.locker != nil
}

// mint asks the auth server for a token: by the SSO-Link when it is enabled,
// else, or when there is no link, with the refresh token. Its errors are
// errEnded for the clear no; ErrNotLoggedIn for no session, or none that this
// Service can ask about; ErrAuthUnavailable and ErrServiceKeyRejected. What it
// returns is to be kept, also beside an error.
func (s *Service) mint(ctx context.Context, userID string, base snapshot) (*login, error) {
	l := base.login
	if l == nil && s.isUnlinked(userID) {
		return nil, fmt.Errorf("%w: no link", ErrNotLoggedIn)
	}
	var linkErr error // why the link gave no token; nil: it was not asked
	if s.linkEnabled && linkable(userID) {
		g, err := s.fetchLink(ctx, userID, l)
		switch {
		case err == nil:
			s.count.byLink.Add(1)
			return s.granted(userID, g), nil
		case errors.Is(err, errNotLinked) && l == nil:
			s.unlinked.store(userID, time.Now().Add(noLinkFor))
			return nil, fmt.Errorf("%w: %w", ErrNotLoggedIn, err)
		case errors.Is(err, errNotLinked), errors.Is(err, ErrServiceKeyRejected), isRefused(err), errors.Is(err, errPaused):
			linkErr = err // the refresh token may still do
		default:
			return nil, err
		}
	}
	if l == nil && linkErr != nil {
		return nil, linkErr
	}
	if l == nil {
		return nil, fmt.Errorf("%w: no session", ErrNotLoggedIn)
	}

	spent := false
	if !l.refresh.empty() && s.locker != nil {
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < spendingTime {
			return nil, s.tookTooLong(ctx, "refresh")
		}
		// Not cut by Close, which waits: the answer must not be lost.
		if s.ctx.Err() != nil {
			return nil, ErrClosed
		}
		g, err := s.auth.refresh(context.WithoutCancel(ctx), l.refresh, turnPatience)
		switch {
		case err == nil:
			s.count.byToken.Add(1)
			next := s.granted(userID, g)
			if err := g.usable(); err != nil {
				next.token = l.token // and the successor of the refresh token
				return next, err
			}
			if err := s.verify.granted(ctx, g.token); err != nil {
				next.token = l.token
				return next, err
			}
			return next, nil
		case errors.Is(err, errTokenSpent):
			spent = true
		default:
			return nil, err
		}
	}

	switch {
	case errors.Is(linkErr, errNotLinked):
		// A server that cannot sign gives the same answer as for no link.
		linked, err := s.auth.linked(ctx, userID)
		switch {
		case err != nil:
			return nil, err
		case linked:
			return nil, &AuthError{Op: "link fetch", StatusCode: 404, Message: "no token for a user who is linked", kind: ErrAuthUnavailable, cause: linkErr}
		}
		return nil, errEnded
	case spent && s.linkEnabled && linkErr == nil: // an ID that cannot have a link
		return nil, errEnded
	}
	if spent {
		s.dropRefreshToken(ctx, base)
	}
	if linkErr != nil {
		return nil, linkErr
	}
	// Another bot may have the key that this one lacks.
	return nil, fmt.Errorf("%w: this service cannot refresh the session", ErrNotLoggedIn)
}

// fetchLink asks for the link, for a shorter time if there is another way.
func (s *Service) fetchLink(ctx context.Context, userID string, l *login) (grant, error) {
	if l != nil && !l.refresh.empty() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, linkPatience, errTimeout)
		defer cancel()
	}
	return s.auth.fetchLink(ctx, userID)
}

// dropRefreshToken takes a spent refresh token out of a session that stays, so
// that it is not tried again. Losing to another write is as good.
func (s *Service) dropRefreshToken(ctx context.Context, base snapshot) {
	next := *base.login
	next.refresh = secret{}
	if value, err := s.codec.encode(&next); err == nil && !next.expires.IsZero() {
		started := time.Now()
		_, err = s.store.Swap(ctx, base.stored, Record{UserID: next.userID, Value: value, Expires: next.expires})
		s.wrote(next.userID, s.storeAnswered(ctx, "write", started, err))
	}
}

// isRefused reports whether the link call failed for a reason that will not
// pass, such as a route that does not exist.
func isRefused(err error) bool {
	e, ok := errors.AsType[*AuthError](err)
	return ok && e.StatusCode >= 300 && e.StatusCode < 500 && e.StatusCode != 429
}

// granted makes a session of what the auth server gave.
func (s *Service) granted(userID string, g grant) *login {
	return &login{
		userID:  userID,
		token:   parseToken(g.token),
		email:   g.email,
		refresh: newSecret(g.refresh),
		expires: s.sessionEnd(),
	}
}

// sessionEnd is when a session ends that was used now: by the wall clock, and
// to the millisecond that a record keeps.
func (s *Service) sessionEnd() time.Time {
	return time.Now().Add(s.sessionTTL).Truncate(time.Millisecond)
}

// eventTime is when a login or log-out happens, by the wall clock, as fine as
// processes keep it. It does not go back when the clock does: in which order
// things happened here is known without it.
func (s *Service) eventTime() time.Time {
	for {
		last := s.lastEvent.Load()
		now := max(time.Now().UnixMicro(), last+1)
		if s.lastEvent.CompareAndSwap(last, now) {
			return time.UnixMicro(now)
		}
	}
}

// commit puts next in the place of base and gives the lease back. If the
// record changed meanwhile it obeys: a log-out stays one, a login or another's
// refresh is returned instead, and a data write is merged with.
func (s *Service) commit(ctx context.Context, owner string, base snapshot, next *login, asked time.Time, r replacement) (*login, error) {
	for {
		merged := s.merge(base, next, asked)
		value, err := s.codec.encode(merged)
		if err != nil {
			return nil, err
		}
		rec := Record{UserID: next.userID, Value: value, Expires: merged.expires}
		started := time.Now()
		if s.locker != nil {
			merged.stored, err = s.locker.SwapLeased(ctx, owner, base.stored, rec)
		} else {
			merged.stored, err = s.store.Swap(ctx, base.stored, rec)
		}
		err = s.storeAnswered(ctx, "write", started, err)
		s.wrote(next.userID, err)
		var now snapshot
		changed := errors.Is(err, ErrConflict)
		if changed {
			now, err = s.reread(ctx, base)
		}
		if errors.Is(err, ErrStoreUnavailable) && base.login != nil {
			if s.commitLater(owner, base.login, merged, next) {
				return merged, nil
			}
			waiting := s.queue.of(next.userID)
			if waiting.isLogout() {
				return nil, fmt.Errorf("%w: logged out meanwhile", ErrNotLoggedIn)
			}
			if waiting != nil && waiting.began && r.wanted(waiting.login) { // logged in meanwhile
				return waiting.login, nil
			}
			if !next.refresh.empty() && pause(ctx, commitPause) {
				continue // the old refresh token is spent: only the new one keeps the login
			}
		}
		switch {
		case err != nil:
			return nil, err
		case !changed:
			return merged, nil
		case now.login == nil && !now.stored.Exists():
			return nil, fmt.Errorf("%w: logged out meanwhile", ErrNotLoggedIn)
		case now.login != nil && (base.login == nil || !now.login.token.raw.equal(base.login.token.raw)):
			if !r.wanted(now.login) {
				return nil, fmt.Errorf("%w: the session was replaced meanwhile", ErrAuthUnavailable)
			}
			if base.login == nil || next.refresh.empty() || !now.login.refresh.equal(base.login.refresh) {
				return now.login, nil
			}
			// What is stored still has the refresh token that is spent.
			newer := *next
			newer.token = now.login.token
			next = &newer
		}
		base = now
	}
}

// reread is readStore for who has something to store: the token that base has is
// not checked again, so that a verifier which cannot tell loses no successor of
// a refresh token that is spent.
func (s *Service) reread(ctx context.Context, base snapshot) (snapshot, error) {
	now, err := s.peek(ctx, base.stored.UserID)
	if err != nil || now.login == nil || base.login != nil && now.login.token.raw.equal(base.login.token.raw) {
		return now, err
	}
	if err = s.verify.run(ctx, now.login.token.raw); errors.Is(err, errBadToken) {
		now.login, err = nil, nil
	}
	return now, err
}

// pause waits, or returns false because ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// merge carries over what base has, unless next is another account. A session
// that begins has begun when it was asked for, so that a log-out which came in
// between is about it.
func (s *Service) merge(base snapshot, next *login, asked time.Time) *login {
	if base.login == nil {
		merged := *next
		merged.since = asked
		return &merged
	}
	merged, same := base.login.succeed(next)
	if !same {
		merged.since = asked
		s.logger.Warn("session: the token is of another account, starting a new session", "user", next.userID)
	} else if base.login.email != "" {
		merged.email = base.login.email
	}
	return merged
}

// end removes the session that the auth server said no to, if it still is the
// one that was asked about.
func (s *Service) end(ctx context.Context, base snapshot, r replacement) (*login, error) {
	started := time.Now()
	err := s.store.Delete(ctx, base.stored)
	err = s.storeAnswered(ctx, "delete", started, err)
	s.wrote(base.stored.UserID, err)
	switch {
	case err == nil:
		s.count.ended.Add(1)
		s.logger.Info("session: ended by the auth server", "user", base.stored.UserID)
		return nil, errEnded
	case !errors.Is(err, ErrConflict):
		return nil, err
	}
	now, err := s.readStore(ctx, base.stored.UserID)
	if err == nil && now.login != nil && r.wanted(now.login) {
		return now.login, nil
	}
	if err == nil {
		err = errEnded
	}
	return nil, err
}
