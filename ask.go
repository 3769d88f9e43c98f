package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// ask asks the auth server for a token: by the SSO-Link when it is enabled,
// else, or when there is no link, with the refresh token. It stores nothing. The
// errors of an outcome are errEnded for the clear no; ErrNotLoggedIn for no
// session, or none that this Service can ask about; ErrAuthUnavailable and
// ErrServiceKeyRejected.
func (r *refresher) ask(ctx context.Context, f *flight) outcome {
	userID, l := f.event.userID, f.base.login
	if l == nil && r.isUnlinked(userID) {
		return outcome{err: fmt.Errorf("%w: no link", ErrNotLoggedIn)}
	}
	var byLink *login
	var linkErr error // why the link gave no token; nil: it was not asked
	if r.linkEnabled && linkable(userID) {
		byLink, linkErr = r.askLink(ctx, userID, l)
	}
	canSpend := l != nil && !l.refresh.empty() && r.records.canSpend
	switch {
	case byLink != nil && (!canSpend || l.sameAccount(byLink)):
		return outcome{next: byLink}
	case linkErr != nil && (l == nil || !passable(linkErr)):
		return outcome{err: linkErr}
	case l == nil:
		return outcome{err: fmt.Errorf("%w: no session", ErrNotLoggedIn)}
	}

	var out outcome
	if canSpend {
		if out = r.spend(ctx, f); out.refused == nil {
			return out
		}
	}
	switch {
	case byLink != nil:
		// A session that a password began stays with its account for as long as
		// its own refresh token is good.
		r.logger.Warn("session: the refresh token was refused, following the link to another account", "user", userID)
		out.next = byLink
	case errors.Is(linkErr, errNotLinked):
		out.ended, out.err = r.confirmUnlinked(ctx, userID, cmp.Or(out.refused, linkErr))
	case linkErr != nil:
		out.err = linkErr
	case out.refused != nil && r.linkEnabled: // an ID that cannot have a link
		out.ended, out.err = true, endedOver(out.refused)
	default: // another bot may have the key that this one lacks
		out.err = fmt.Errorf("%w: this service cannot refresh the session", ErrNotLoggedIn)
	}
	return out
}

// canAsk reports whether this Service has any way to replace l's token.
func (r *refresher) canAsk(l *login) bool {
	return r.linkEnabled && linkable(l.userID) || !l.refresh.empty() && r.records.canSpend
}

// passable reports whether to try the refresh token after the link failed.
func passable(linkErr error) bool {
	return errors.Is(linkErr, errNotLinked) || errors.Is(linkErr, ErrServiceKeyRejected) || isRefused(linkErr) || errors.Is(linkErr, errPaused)
}

// isRefused reports whether a call failed for a lasting reason, such as a route
// that does not exist.
func isRefused(err error) bool {
	e, ok := errors.AsType[*AuthError](err)
	return ok && e.StatusCode >= 300 && e.StatusCode < 500 && e.StatusCode != 429
}

// askLink returns a session of the link's, or why there is none.
func (r *refresher) askLink(ctx context.Context, userID string, l *login) (*login, error) {
	g, err := r.fetchLink(ctx, userID, l)
	switch {
	case err == nil:
		r.count.byLink.Add(1)
		return r.granted(userID, g), nil
	case errors.Is(err, errNotLinked) && l == nil:
		r.unlinked.Store(userID, time.Now().Add(noLinkFor))
		return nil, fmt.Errorf("%w: %w", ErrNotLoggedIn, err)
	}
	return nil, err
}

// fetchLink asks for the link, for a shorter time if there is another way.
func (r *refresher) fetchLink(ctx context.Context, userID string, l *login) (grant, error) {
	if l != nil && !l.refresh.empty() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, linkPatience, errTimeout)
		defer cancel()
	}
	return r.auth.fetchLink(ctx, userID)
}

// confirmUnlinked asks once more whether there is no link: a server that cannot
// sign gives the same answer as for no link. why is what the session would end over.
func (r *refresher) confirmUnlinked(ctx context.Context, userID string, why error) (ended bool, err error) {
	linked, err := r.auth.linked(ctx, userID)
	switch {
	case err != nil:
		return false, err
	case linked:
		return false, &AuthError{Op: opLinkFetch, StatusCode: 404, Message: "no token for a user who is linked", kind: ErrAuthUnavailable}
	}
	return true, endedOver(why)
}

// endedOver is errEnded with what the auth server said.
func endedOver(why error) error { return fmt.Errorf("%w: %w", errEnded, why) }

// spend exchanges the session's refresh token for new tokens. The token is
// single-use: it is spent only under the lease and only if enough time is left to
// receive and store the result, which Close waits for.
func (r *refresher) spend(ctx context.Context, f *flight) outcome {
	deadline, _ := ctx.Deadline()
	if time.Until(deadline) < spendPatience+authTimeout+commitTime-time.Second {
		return outcome{err: r.tookTooLong(ctx, opRefresh)}
	}
	f.stopRenewing() // which would shorten the lease again
	held, err := r.records.renew(ctx, f.event.userID, f.owner, spendingTTL)
	switch {
	case err != nil:
		return outcome{err: err}
	case !held:
		return outcome{err: &AuthError{Op: opLease, Message: "another process has taken over", kind: ErrAuthUnavailable}}
	case f.event.overtaken():
		return outcome{err: errOvertaken}
	}
	if f.spentDone, err = r.life.beginSpending(); err != nil {
		return outcome{err: err}
	}
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(r.life.late, cancel)()
	l := f.base.login
	g, err := r.auth.refresh(asking, l.refresh, spendPatience)
	switch {
	case errors.Is(err, errTokenSpent):
		return outcome{refused: err}
	case err != nil:
		return outcome{err: err}
	}
	r.count.byToken.Add(1)
	out := outcome{next: r.granted(f.event.userID, g), spent: true}
	if out.err = g.usable(); out.err == nil {
		out.err = r.records.verify.granted(asking, g.token)
	}
	if out.err != nil {
		out.next.token = l.token // and the successor of the refresh token
	}
	return out
}

// granted makes a session of what the auth server gave.
func (r *refresher) granted(userID string, g grant) *login {
	return r.settings.granted(userID, g)
}

func (c settings) granted(userID string, g grant) *login {
	return &login{
		userID:  userID,
		token:   parseToken(g.token),
		email:   g.email,
		refresh: newSecret(g.refresh),
		expires: c.sessionEnd(),
	}
}

// sessionEnd is when a session ends that is used now: by the wall clock, and to
// the millisecond that a record keeps.
func (c settings) sessionEnd() time.Time {
	return time.Now().Add(c.sessionTTL).Truncate(time.Millisecond)
}

func (r *refresher) isUnlinked(userID string) bool {
	until, ok := r.unlinked.Load(userID)
	return ok && time.Now().Before(until)
}
