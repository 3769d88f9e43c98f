package session

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// What no e-mail address and no password exceeds, in bytes.
const (
	maxEmail    = 254
	maxPassword = 1024
)

// linkTimeout is how long a login may be held up by making the link.
const linkTimeout = 3 * time.Second

// Login exchanges e-mail and password for a session, which replaces the user's
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
func (s *Service) Login(ctx context.Context, userID, email, password string) (*Session, error) {
	if err := s.enter(ctx, userID); err != nil {
		return nil, err
	}
	defer s.life.end()
	switch {
	case email == "" || password == "":
		return nil, fmt.Errorf("%w: empty", ErrInvalidCredentials)
	case len(email) > maxEmail || len(password) > maxPassword:
		// The auth server fails over a large body, which would look like an outage.
		return nil, fmt.Errorf("%w: too long", ErrInvalidCredentials)
	}
	if err := s.admitLogin(userID); err != nil {
		s.count.loginFailures.Add(1)
		return nil, err
	}
	g, err := s.auth.login(ctx, email, password)
	if err != nil {
		s.count.loginFailures.Add(1)
		return nil, err
	}
	// From here on the login has happened: a caller who gives up must not
	// lose it.
	var installed *login
	next := s.granted(userID, g)
	err = s.detached(ctx, authTimeout, func(ctx context.Context) (err error) {
		if err := s.verify.granted(ctx, g.token); err != nil {
			s.count.loginFailures.Add(1)
			return err
		}
		installed, err = s.install(ctx, next)
		if errors.Is(err, ErrStoreUnavailable) {
			installed, err = s.installLater(next, err)
		}
		if err != nil {
			return err
		}
		s.count.logins.Add(1)
		if s.linkEnabled && linkable(userID) {
			ctx, cancel := context.WithTimeoutCause(ctx, linkTimeout, errTimeout)
			defer cancel()
			if err := s.auth.createLink(ctx, userID, installed.email, g.token); err != nil {
				s.logger.Debug("session: no link made at login", "user", userID, "error", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return installed.session(), nil
}

// detached runs what has to be done although the caller gives up, within a
// limit; Close waits for it. The caller waits under their own context.
func (s *Service) detached(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	if err := s.life.begin(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer s.life.end()
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("%w: panic in the store or the HTTP transport: %T", ErrStoreUnavailable, p)
			}
		}()
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), limit, errTimeout)
		defer cancel()
		done <- do(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// install makes next the user's session, whatever is stored. A log-out or an
// older login that waits for the store is overtaken.
func (s *Service) install(ctx context.Context, next *login) (*login, error) {
	for {
		next.since = s.eventTime()
		base, err := s.readStore(ctx, next.userID)
		if err != nil {
			return nil, err
		}
		merged := next
		if base.login != nil && !s.queue.of(next.userID).startsClean() {
			var same bool
			if merged, same = base.login.succeed(next); !same {
				s.logger.Info("session: login as another account, starting a new session", "user", next.userID)
			}
		}
		value, err := s.codec.encode(merged)
		if err != nil {
			return nil, err
		}
		started := time.Now()
		_, err = s.store.Swap(ctx, base.stored, Record{UserID: next.userID, Value: value, Expires: merged.expires})
		err = s.storeAnswered(ctx, "write", started, err)
		s.wrote(next.userID, err)
		switch {
		case err == nil:
			s.queue.overtake(next.userID, next.since)
			s.forget(next.userID)
			return merged, nil
		case !errors.Is(err, ErrConflict):
			return nil, err
		}
	}
}

// forget drops what this process remembers of a user, after a login or log-out:
// who asks from now on does not join a flight that began before it, either.
func (s *Service) forget(userID string) {
	s.flights.Forget(userID)
	s.near.forget(userID)
	s.unlinked.remove(userID)
	s.backoffs.remove(userID)
}

// LogoutOption changes what [Service.Logout] does.
type LogoutOption func(*logoutConfig)

type logoutConfig struct{ unlink bool }

// AndUnlink makes Logout remove the user's link at the auth server as well.
// Without it, a user who is linked is logged in again by the next Token.
func AndUnlink() LogoutOption {
	return func(c *logoutConfig) { c.unlink = true }
}

// Logout ends the user's session in every process that shares the store. It is
// not an error if there is none. A refresh or anything else that is under way
// does not bring the session back. For a user with a link the next Token begins
// a new session, unless the link goes too: see [AndUnlink].
//
// It returns [ErrStoreUnavailable] when the session could not be removed from
// the store: it has ended in this process then, and ends everywhere when the
// store is back, unless the user logs in again before. With AndUnlink it also
// returns the errors of the auth server as in [Service.Token]; the session is
// removed even if the link is not.
func (s *Service) Logout(ctx context.Context, userID string, opts ...LogoutOption) error {
	if err := s.enter(ctx, userID); err != nil {
		return err
	}
	defer s.life.end()
	var c logoutConfig
	for _, opt := range opts {
		opt(&c)
	}
	// The link goes first: removed last, it could be used once more between.
	var unlinkErr error
	if c.unlink {
		unlinkErr = s.unlink(ctx, userID)
	}
	// The session goes even if the auth server has used up the caller's time.
	err := s.detached(ctx, storeTimeout, func(ctx context.Context) error {
		return s.remove(ctx, userID)
	})
	return errors.Join(err, unlinkErr)
}

// remove ends the user's session: in this process at once, and in the store now
// or when it is back.
func (s *Service) remove(ctx context.Context, userID string) (err error) {
	p := newQueuedWrite(userID, nil, s.eventTime())
	queued := s.queue.put(p)
	defer func() {
		if queued && err == nil {
			s.queue.done(p)
		} else if queued {
			s.writeLater()
		}
	}()
	err = ErrStoreUnavailable // should the store panic
	s.forget(userID)
	select { // what waited before may be about to be stored
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return storeError("delete", context.Cause(ctx))
	}
	noted := s.entomb(ctx, p)
	started := time.Now()
	err = s.store.Delete(ctx, Record{UserID: userID})
	err = s.storeAnswered(ctx, "delete", started, err)
	s.forget(userID)
	if err == nil {
		s.count.logouts.Add(1)
		s.buried(p, noted)
	}
	return err
}

func (s *Service) unlink(ctx context.Context, userID string) error {
	if !linkable(userID) {
		return nil
	}
	bearer := ""
	if s.auth.serviceKey.empty() {
		l, err := s.known(ctx, userID)
		if err != nil {
			return err
		}
		if l == nil || l.token.state(time.Now(), 0) == dead {
			return fmt.Errorf("%w: neither a service key nor a live token to remove the link with", ErrServiceKeyRejected)
		}
		bearer = l.token.raw.reveal()
	}
	return s.auth.removeLink(ctx, userID, bearer)
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
	if err := s.enter(ctx, userID); err != nil {
		return nil, err
	}
	defer s.life.end()
	l, err := s.known(ctx, userID)
	if err == nil && l == nil {
		l, err = s.usable(ctx, userID)
	}
	if err != nil {
		return nil, err
	}
	return l.session(), nil
}

// Email returns the e-mail address of the user's account as it was at login,
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
	done := func(string) {}
	if l, err := s.known(ctx, userID); err == nil && l != nil && l.token.state(time.Now(), 0) != dead {
		if l.token.raw.reveal() != rejected {
			return l.token.raw.reveal(), nil
		}
		var ok bool
		if done, ok = s.replaceLimit.begin(userID, rejected, time.Now()); !ok {
			return rejected, nil
		}
	}
	l, err := s.replace(ctx, userID, replacement{wanted: func(l *login) bool {
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
