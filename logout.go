package session

import (
	"context"
	"errors"
	"fmt"
	"time"
)

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
func (s *Service) Logout(ctx context.Context, userID string, opts ...LogoutOption) (err error) {
	if err := s.enter(ctx, userID); err != nil {
		return err
	}
	defer s.life.end()
	ctx, told := observed(ctx, s.records.observer, OpLogout)
	defer func() { told(err) }()
	var c logoutConfig
	for _, opt := range opts {
		opt(&c)
	}
	e := s.order.begin(userID, true)
	e.claim()
	s.forget(userID)
	limit := storeTimeout
	if c.unlink {
		limit += linkTimeout + authTimeout
	}
	var unlinkErr error
	caller := ctx // bounds the call of the auth server, but not that of the store
	return s.detached(ctx, e, limit, func(ctx context.Context) error {
		if c.unlink { // first, or the link could begin a new session in between
			unlinkErr = s.unlink(caller, e)
		}
		err := s.remove(ctx, e)
		return errors.Join(err, unlinkErr)
	})
}

// remove ends the user's session: in this process at once, and in the store now
// or when it is back.
func (s *Service) remove(ctx context.Context, e *event) (err error) {
	if !e.claim() {
		return errOvertaken
	}
	p := &pending{userID: e.userID, since: s.refresher.clock.after(s.refresher.lastKnown(e.userID).sinceOrZero())}
	kept := s.outbox.put(e, p, nil)
	s.near.Remove(e.userID)
	s.forget(e.userID)
	defer func() {
		if kept && err == nil {
			s.outbox.done(p)
		} else if kept && !errors.Is(err, errOvertaken) {
			s.outbox.start()
			s.logger.Info("session: logged out here, and elsewhere when the store is back", "user", e.userID)
		}
	}()
	writing, done, err := e.write(ctx)
	if err != nil {
		return overtakenOr(err, storeError("delete", err))
	}
	defer done()
	for {
		brief, cancel := s.records.brief(writing)
		var now snapshot
		if now, err = s.records.readLogout(brief, e.userID); err == nil {
			if e.isAnswered() && !p.ends(now.login, time.Now()) { // a login elsewhere since
				cancel()
				return nil
			}
			// Later than the session that it ends, even if a faster clock dated
			// that, and even if the logout is stored later.
			if since := now.login.sinceOrZero(); !since.Before(p.since) {
				at := s.refresher.clock.after(since)
				p = &pending{userID: e.userID, since: at}
				kept = s.outbox.put(e, p, nil)
			}
			err = s.records.removeLoggedOut(brief, now.stored, p.since)
		}
		cancel()
		switch {
		case err == nil:
			s.forget(e.userID)
			s.count.logouts.Add(1)
			s.logger.Info("session: logged out", "user", e.userID, "session", now.stored.Exists())
			return nil
		case errors.Is(err, ErrConflict) && pauseForOthers(writing):
			continue
		case writing.Err() != nil && !errors.Is(err, errOvertaken):
			return storeError("delete", context.Cause(writing))
		}
		return err
	}
}

// unlink removes the user's link. It waits for a login that is making one.
func (s *Service) unlink(ctx context.Context, e *event) error {
	if !linkable(e.userID) {
		return nil
	}
	done, err := e.link(ctx)
	if err != nil {
		return overtakenOr(err, &AuthError{Op: "link remove", Message: "the link is being made", kind: ErrAuthUnavailable, cause: err})
	}
	defer done()
	bearer := ""
	if s.auth.serviceKey.empty() {
		l, err := s.usable(ctx, e.userID) // a dead token would not do
		if errors.Is(err, ErrNotLoggedIn) {
			return fmt.Errorf("%w: neither a service key nor a live token to remove the link with", ErrServiceKeyRejected)
		}
		if err != nil {
			return err
		}
		bearer = l.token.raw.reveal()
	}
	return s.auth.removeLink(ctx, e.userID, bearer)
}
