package session

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// What is served while the store is away, from what this process knows, and how
// a dead token is replaced then. outbox.go has how that is stored later.

// knownOrStored is for a user whose session is pending or in the near cache. It
// returns what the store holds, or the known session if the store does not
// answer. A store that is known to be away is not waited for.
func (s *Service) knownOrStored(ctx context.Context, userID string, waiting *pending, cached *login) (l *login, believed bool, err error) {
	known := waiting.session(time.Now())
	if waiting == nil {
		known = cached
	}
	if known == nil { // it has expired
		return nil, false, nil
	}
	if s.records.away(ctx, userID) {
		return known, false, nil
	}
	read := ctx
	if known.token.state(time.Now(), 0) != dead {
		var cancel context.CancelFunc
		read, cancel = s.records.patient(ctx)
		defer cancel()
	}
	stored, err := s.storedOver(read, userID, waiting)
	switch {
	case gaveUp(ctx):
		return nil, false, ctx.Err()
	case errors.Is(err, ErrStoreUnavailable), gaveUp(read) || read.Err() != nil:
		s.records.unreadable(userID)
		return known, false, nil
	}
	return stored, false, err
}

// storedOver reads the store and merges the user's pending write into the result.
// If the store holds something newer, the pending write is dropped.
func (s *Service) storedOver(ctx context.Context, userID string, waiting *pending) (*login, error) {
	if waiting == nil {
		snap, err := s.records.read(ctx, userID)
		return snap.login, err
	}
	snap, err := s.records.readLogout(ctx, userID)
	if err != nil {
		return nil, err
	}
	if merged := waiting.over(snap.login, snap.loggedOut); merged != nil {
		return merged, nil
	}
	s.outbox.overtaken(waiting)
	if snap.login == nil {
		return nil, nil
	}
	if err := s.records.check(ctx, snap.login); errors.Is(err, errBadToken) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return snap.login, nil
}

// withoutStore is the rest of a flight that found the store away: it replaces
// the token of a user who is known by the SSO-Link. The refresh token is not
// spent, which takes the lease in the store.
func (r *refresher) withoutStore(ctx context.Context, f *flight, cause error) (landing, error) {
	userID := f.event.userID
	waiting := r.outbox.of(userID)
	asOf := r.order.now()
	base := r.lastKnown(userID)
	switch {
	case waiting.isLogout():
		return landing{}, fmt.Errorf("%w: logged out, and %w", ErrNotLoggedIn, cause)
	case base == nil:
		return landing{}, cause
	case f.satisfied(base):
		return landing{base, asOf}, nil
	case !r.linkEnabled || !linkable(userID) || r.isUnlinked(userID):
		return landing{}, cause
	}
	g, err := r.fetchLink(ctx, userID, nil)
	if errors.Is(err, errNotLinked) {
		r.unlinked.Store(userID, time.Now().Add(noLinkFor))
	}
	if err != nil {
		r.count.failed(err)
		r.logger.Warn("session: token not replaced, and the store is away", "user", userID, "error", err)
		return landing{}, fmt.Errorf("%w; %w", cause, err)
	}
	r.count.byLink.Add(1)
	got := refreshed{base: base, next: r.granted(userID, g)}
	merged, same := got.replaces(f.asked)
	if !same {
		r.logger.Warn("session: the link is to another account, and the store is away", "user", userID)
		return landing{}, cause
	}
	p := &pending{userID: userID, login: merged, since: merged.began(), base: base, what: got.trailEvent(true)}
	if waiting != nil { // the same write, with a better token
		p.what = waiting.what
		p.since, p.began, p.clean = waiting.since, waiting.began, waiting.clean
		p.base, p.spent, p.owner = waiting.base, waiting.spent, waiting.owner
	}
	if !r.outbox.put(f.event, p, waiting) {
		if f.event.overtaken() {
			return landing{}, errOvertaken
		}
		return landing{}, cause
	}
	r.outbox.start()
	return landing{merged, asOf}, nil
}

// lastKnown is the user's session as this process last knew it, or nil.
func (r *refresher) lastKnown(userID string) *login {
	if waiting := r.outbox.of(userID); waiting != nil {
		return waiting.session(time.Now())
	}
	item, _, _ := r.records.near.Get(userID, time.Now())
	return item.Value.login
}

// commitLater is commit while the store is away: the result becomes pending. It
// never creates a session for a user who had none in the store, because a
// concurrent logout would be invisible.
func (r *refresher) commitLater(f *flight, got refreshed, merged *login, cause error) (landing, error) {
	if got.base == nil {
		return landing{}, cause
	}
	p := &pending{
		userID: f.event.userID, login: merged, since: merged.began(),
		base: got.base, spent: got.spent, owner: f.owner, what: got.trailEvent(true),
	}
	asOf := r.order.now()
	if r.outbox.put(f.event, p, nil) {
		f.keepsLease = true
		r.outbox.start()
		return landing{merged, asOf}, nil
	}
	switch waiting := r.outbox.of(f.event.userID); {
	case f.event.overtaken():
		return landing{}, errOvertaken
	case waiting.isLogout():
		return landing{}, fmt.Errorf("%w: logged out meanwhile", ErrNotLoggedIn)
	case waiting != nil && waiting.began && f.satisfied(waiting.login): // logged in meanwhile
		return landing{waiting.login, asOf}, nil
	}
	return landing{}, cause
}
