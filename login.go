package session

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limits, in bytes, beyond any real email address or password.
const (
	maxEmail    = 254
	maxPassword = 1024
)

// Login exchanges email and password for a session, which replaces the user's
// present one. A login of the same account keeps the session's data; one of
// another account starts clean. With the SSO-Link enabled it also tries to
// link the Matrix user to the account; that may fail without consequence and
// takes 3 s at most.
//
// It returns [ErrInvalidCredentials], [ErrEmailNotVerified], [ErrRateLimited]
// or [ErrAuthUnavailable], each but for empty input with an [AuthError], and
// [ErrStoreUnavailable] when the login could not be kept: while the store is
// away a login holds in this process, and is stored when the store is back.
//
// The auth server allows 10 logins a minute for all users of a bot together,
// failed ones included. So that one user cannot use them up, each user has 3
// and then one every 30 s (see [WithLoginLimit]), right or wrong; and once the
// server says that there were too many it is left alone for as long as it asks,
// up to a minute. A login that is refused here is [ErrRateLimited] as well, and
// the AuthError says how long to wait, with no StatusCode.
func (s *Service) Login(ctx context.Context, userID, email, password string) (_ *Session, err error) {
	if err := s.enter(ctx, userID); err != nil {
		return nil, err
	}
	defer s.life.end()
	ctx, told := observed(ctx, s.records.observer, OpLogin)
	defer func() { told(err) }()
	if err := s.checkLogin(userID, email, password); err != nil {
		return nil, err
	}
	e, begun := s.order.begin(userID, true), s.refresher.clock.now()
	g, err := s.askLogin(ctx, email, password)
	if err != nil {
		e.end()
		return nil, err
	}
	return s.commitLogin(ctx, e, begun, g)
}

// checkLogin refuses a login that is not worth a call, or too many.
func (s *Service) checkLogin(userID, email, password string) error {
	switch {
	case email == "" || password == "":
		return fmt.Errorf("%w: empty", ErrInvalidCredentials)
	case len(email) > maxEmail || len(password) > maxPassword:
		// The auth server fails over a large body, which would look like an outage.
		return fmt.Errorf("%w: too long", ErrInvalidCredentials)
	}
	err := s.admitLogin(userID)
	if err != nil {
		s.count.loginFailures.Add(1)
	}
	return err
}

// askLogin asks the auth server about email and password.
func (s *Service) askLogin(ctx context.Context, email, password string) (grant, error) {
	g, err := s.auth.login(ctx, email, password)
	if err != nil {
		s.count.loginFailures.Add(1)
	}
	return g, err
}

// commitLogin makes what the auth server has granted the user's session, and
// ends the event.
func (s *Service) commitLogin(ctx context.Context, e *event, begun time.Time, g grant) (*Session, error) {
	// The auth server has logged the user in: from here on the login must not be
	// lost, even if the caller gives up.
	var installed *login
	err := s.detached(ctx, e, authTimeout, func(ctx context.Context) (err error) {
		if err := s.records.verify.granted(ctx, g.token); err != nil {
			s.count.loginFailures.Add(1)
			return err
		}
		if installed, err = s.install(ctx, e, begun, s.granted(e.userID, g)); err != nil {
			return err
		}
		s.count.logins.Add(1)
		s.makeLink(ctx, e, installed, g.token)
		installed, err = s.stillInstalled(ctx, e, installed)
		return err
	})
	if err != nil {
		return nil, err
	}
	return installed.session(), nil
}

// detached runs do to its end, within a limit, even if the caller gives up; Close
// waits for it. The caller waits under their own context. It ends the event.
func (s *Service) detached(ctx context.Context, e *event, limit time.Duration, do func(context.Context) error) error {
	if err := s.life.begin(); err != nil {
		e.end()
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer s.life.end()
		defer e.end()
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), limit, errTimeout)
		defer cancel()
		defer context.AfterFunc(s.life.late, cancel)()
		done <- apart(func() error { return do(ctx) })
	}()
	select {
	case err := <-done:
		if err != nil && s.life.late.Err() != nil {
			return ErrClosed
		}
		return err
	case <-ctx.Done():
		e.answer()
		return ctx.Err()
	}
}

// install makes next the user's session, whatever is stored: in the store or,
// while the store is away, in this process until it is back.
func (s *Service) install(ctx context.Context, e *event, begun time.Time, next *login) (*login, error) {
	writing, done, err := e.write(ctx)
	if err != nil {
		return nil, s.overtakenBy(err)
	}
	defer done()
	s.forget(e.userID)
	next.since = s.refresher.clock.now()
	for {
		brief, cancel := s.records.brief(writing)
		installed, err := s.installOnce(brief, e, begun, next)
		cancel()
		switch {
		case err == nil:
			s.outbox.doneBefore(e)
			s.forget(e.userID)
			return installed, nil
		case errors.Is(err, ErrConflict):
			if pauseForOthers(writing) {
				continue
			}
			return nil, s.overtakenBy(overtakenOr(context.Cause(writing), storeError("write", err)))
		case errors.Is(err, ErrStoreUnavailable):
			return s.installLater(e, next, err)
		}
		return nil, s.overtakenBy(err)
	}
}

// installOnce is one attempt: a read and a write.
func (s *Service) installOnce(ctx context.Context, e *event, begun time.Time, next *login) (*login, error) {
	base, err := s.records.readLogout(ctx, e.userID)
	if err != nil {
		return nil, err
	}
	if e.isAnswered() && (base.loggedOut.After(begun) || base.login.sinceOrZero().After(begun)) {
		return nil, errOvertaken // by another process
	}
	next.since = s.refresher.clock.after(next.since, base.login.sinceOrZero(), base.loggedOut)
	merged, same := mergeLogin(base.login, next, s.outbox.of(e.userID).startsClean())
	what := base.loginEvent(same)
	saved, err := s.records.save(ctx, "", base.stored, merged, what)
	if err == nil {
		s.logger.Info("session: logged in", "user", e.userID, "session", what.Kind, "reason", what.Reason)
	}
	return saved, err
}

// installLater is install while the store is away.
func (s *Service) installLater(e *event, next *login, cause error) (*login, error) {
	merged := next
	if base := s.refresher.lastKnown(e.userID); base != nil {
		merged, _ = mergeLogin(base, next, false)
	}
	p := &pending{userID: e.userID, login: merged, since: merged.since, began: true, what: TrailEvent{Kind: TrailBegan, By: byLogin}}
	if !s.outbox.put(e, p, nil) {
		return nil, s.overtakenBy(cause)
	}
	s.outbox.start()
	s.forget(e.userID)
	s.logger.Info("session: logged in here, and elsewhere when the store is back", "user", e.userID)
	return merged, nil
}

// overtakenBy turns errOvertaken into what Login returns for it. Its caller has
// mostly given up by then.
func (s *Service) overtakenBy(err error) error {
	if errors.Is(err, errOvertaken) {
		return fmt.Errorf("%w: %w", ErrNotLoggedIn, errOvertaken)
	}
	return err
}

// makeLink tries to link the Matrix user to the account.
func (s *Service) makeLink(ctx context.Context, e *event, l *login, bearer string) {
	if !s.makeLinks || !linkable(e.userID) {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, linkTimeout, errTimeout)
	defer cancel()
	done, err := e.link(ctx)
	if err == nil {
		err = s.auth.createLink(ctx, e.userID, l.email, bearer)
		done()
	}
	if err != nil {
		s.logger.Debug("session: no link made at login", "user", e.userID, "error", err)
	}
}

// stillInstalled returns the session that a login made, unless another login or
// logout came while the link was made.
func (s *Service) stillInstalled(ctx context.Context, e *event, l *login) (*login, error) {
	if !e.superseded() {
		return l, nil
	}
	now, err := s.known(ctx, e.userID)
	if err != nil {
		return nil, err
	}
	if now == nil || !now.sameAccount(l) {
		return nil, fmt.Errorf("%w: %w", ErrNotLoggedIn, errOvertaken)
	}
	return now, nil
}

// forget drops what this process remembers of a user, after a login or logout.
// Later callers do not join a flight that began before it, either.
func (s *Service) forget(userID string) {
	s.refresher.flights.Forget(userID)
	s.near.MarkStale(userID)
	s.refresher.unlinked.Remove(userID)
	s.refresher.attempts.forget(userID)
}

// LoggedIn reports whether the user is logged in: whether Token would return a
// token, or would if only the auth server could be reached. A user who is
// linked is logged in. It returns false with an error when that cannot be told:
// [ErrStoreUnavailable], [ErrAuthUnavailable] or [ErrServiceKeyRejected].
func (s *Service) LoggedIn(ctx context.Context, userID string) (bool, error) {
	if err := s.enter(ctx, userID); err != nil {
		return false, err
	}
	defer s.life.end()
	_, err := s.usable(ctx, userID)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrNotLoggedIn):
		return false, nil
	case errors.Is(err, ErrAuthUnavailable), errors.Is(err, ErrServiceKeyRejected):
		if l, knownErr := s.known(ctx, userID); knownErr == nil && l != nil {
			return true, nil
		}
	}
	return false, err
}

// Session returns a copy of the user's session, or [ErrNotLoggedIn]. Its token
// may have run out; everything else is as the store has it. A linked user
// without a session gets one, as with Token, and so Session can return Token's
// errors.
func (s *Service) Session(ctx context.Context, userID string) (*Session, error) {
	l, err := s.session(ctx, userID)
	if err != nil {
		return nil, err
	}
	return l.session(), nil
}

// session returns the user's session, with a token that may have run out.
func (s *Service) session(ctx context.Context, userID string) (*login, error) {
	if err := s.enter(ctx, userID); err != nil {
		return nil, err
	}
	defer s.life.end()
	l, err := s.known(ctx, userID)
	if err == nil && l == nil {
		l, err = s.usable(ctx, userID)
	}
	return l, err
}

// Email returns the email address of the user's account as it was at login,
// or "" if neither the login nor the SSO-Link told it. Errors are those of
// [Service.Session].
func (s *Service) Email(ctx context.Context, userID string) (string, error) {
	session, err := s.Session(ctx, userID)
	if err != nil {
		return "", err
	}
	return session.Email, nil
}

// Refresh is for a token that a backend refused though it should be good: it
// replaces the token, unless that has happened already, and returns the new
// one. rejected is the token that was refused; if it is not the user's current
// one, the current one is returned.
//
// rejected itself is returned, without an error, when it may not be replaced
// again so soon: it is the result of a Refresh less than a minute ago, or the
// user has used up 3 replacements and then one every two minutes. Then a new
// token would not help either, and the backend's refusal stands.
//
// Errors are those of [Service.Token].
func (s *Service) Refresh(ctx context.Context, userID, rejected string) (string, error) {
	if err := s.enter(ctx, userID); err != nil {
		return "", err
	}
	defer s.life.end()
	begun := s.order.now()
	done := func(string) {}
	if l, err := s.known(ctx, userID); err == nil && l != nil && l.token.state(time.Now(), 0) != dead {
		if l.token.raw.reveal() != rejected {
			return l.token.raw.reveal(), nil
		}
		var ok bool
		if done, ok = s.refresher.replaced.begin(userID, rejected, time.Now()); !ok {
			return rejected, nil
		}
	}
	l, err := s.refresher.refresh(ctx, userID, begun, need{satisfied: func(l *login) bool {
		return l.token.raw.reveal() != rejected && l.token.state(time.Now(), 0) != dead
	}})
	if err != nil {
		done("")
		return "", err
	}
	done(l.token.raw.reveal())
	return l.token.raw.reveal(), nil
}

// session is the copy that callers get.
func (l *login) session() *Session {
	return &Session{
		MatrixUserID:   l.userID,
		Email:          l.email,
		Subject:        l.token.subject,
		ExpiresAt:      l.expires,
		TokenExpiresAt: l.token.expires,
		token:          l.token.raw,
	}
}
