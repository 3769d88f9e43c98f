package session

import (
	"context"
	"fmt"
	"time"
)

const (
	maxRemembered = 100_000 // users, in each of the memories about users
	maxAheads     = 32      // refreshes ahead at a time
	maxReleases   = 1000    // leases to be released when the store is back
)

// Token returns the user's access token, good for more than 60 more seconds
// unless it comes straight from the auth server. It costs a look-up when the
// token is at hand, a read of the store when it is not, and a call to the auth
// server, shared by all who ask in any process, when the token is dead.
//
// It returns [ErrNotLoggedIn] when the user has to log in; [ErrAuthUnavailable]
// or [ErrServiceKeyRejected], both with an [AuthError], when the token is dead
// and the auth server cannot replace it just now; [ErrStoreUnavailable] when
// the store is away and the user is not known to this process.
//
//	near cache  store         auth server       result
//	fresh       –             –                 the token
//	aging       –             –                 the token; one refresh behind it
//	miss, dead  fresh, aging  –                 the token (another process refreshed it)
//	miss, dead  dead          a token           swapped in; that token
//	miss        nothing       linked            a new session; its token
//	miss        nothing       not linked        ErrNotLoggedIn, remembered for 30 s
//	–           dead          a clear no        the session ends; ErrNotLoggedIn
//	–           dead          cannot be asked   ErrNotLoggedIn; the session stays
//	–           dead          anything else     ErrAuthUnavailable, …; the session stays
//	known       down          –                 the known token while it lives
//	known       down          linked            a token; stored when the store is back
//	unknown     down          –                 ErrStoreUnavailable
func (s *Service) Token(ctx context.Context, userID string) (string, error) {
	if hit, ok := s.near.Fresh(userID, time.Now()); ok && ctx.Err() == nil {
		s.count.hits.inc()
		return hit.raw, nil
	}
	if err := s.enter(ctx, userID); err != nil {
		return "", err
	}
	defer s.life.end()
	l, err := s.usable(ctx, userID)
	if err != nil {
		return "", err
	}
	return l.token.raw.reveal(), nil
}

// usable returns the user's session with a token that may be handed out: the
// hit, the refresh ahead, the miss and the outage, in that order.
func (s *Service) usable(ctx context.Context, userID string) (*login, error) {
	begun := s.order.now()
	l, believed, err := s.find(ctx, userID)
	if err != nil {
		return nil, err
	}
	if l != nil {
		s.extend(ctx, l)
		state := l.token.state(time.Now(), s.ahead)
		switch {
		case state == dead:
		case believed:
			s.count.hits.inc()
		default:
			s.count.misses.Add(1)
		}
		switch state {
		case fresh:
			return l, nil
		case aging:
			s.refresher.refreshAhead(ctx, l)
			return l, nil
		}
	}
	s.count.misses.Add(1)
	if l == nil && s.refresher.isUnlinked(userID) {
		return nil, fmt.Errorf("%w: no link", ErrNotLoggedIn)
	}
	return s.refresher.refresh(ctx, userID, begun, need{satisfied: func(l *login) bool {
		return l.token.state(time.Now(), 0) != dead
	}})
}

// known returns the user's live session, or nil when there is none.
func (s *Service) known(ctx context.Context, userID string) (*login, error) {
	l, _, err := s.find(ctx, userID)
	return l, err
}

// find returns the user's live session from the near cache or else from the
// store, or nil when there is none. While the store is away, what was last
// known stands in for it: see outage.go.
func (s *Service) find(ctx context.Context, userID string) (l *login, believed bool, err error) {
	waiting := s.outbox.of(userID)
	if waiting.isLogout() {
		return nil, true, nil
	}
	item, believed, ok := s.near.Get(userID, time.Now())
	if believed && waiting == nil {
		return item.Value.login, true, nil
	}
	if ok || waiting != nil {
		return s.knownOrStored(ctx, userID, waiting, item.Value.login)
	}
	ctx, cancel := s.records.brief(ctx)
	defer cancel()
	snap, err := s.records.read(ctx, userID)
	return snap.login, false, err
}

// refreshAhead replaces an aging token behind its callers, unless that is
// under way, was tried just now, or enough of them run already.
func (r *refresher) refreshAhead(ctx context.Context, l *login) {
	if !r.canAsk(l) || !r.attempts.mayStartAhead(l.userID) {
		return
	}
	if byLink := r.linkEnabled && linkable(l.userID); !byLink && r.auth.refreshPause(time.Now()) > 0 {
		return // it can wait
	}
	select {
	case r.aheads <- struct{}{}:
	default:
		return
	}
	if r.life.begin() != nil {
		<-r.aheads
		return
	}
	if !r.attempts.startAhead(l.userID) { // somebody else has
		<-r.aheads
		r.life.end()
		return
	}
	go func() {
		defer r.life.end()
		defer func() { <-r.aheads }()
		next, err := r.refresh(context.WithoutCancel(ctx), l.userID, r.order.now(), need{ahead: true, satisfied: func(now *login) bool {
			return !now.token.raw.equal(l.token.raw) && now.token.state(time.Now(), 0) != dead
		}})
		if err != nil {
			next = nil
		}
		r.attempts.endAhead(l.userID, next)
	}()
}

// extend gives a session that is in use its whole life again, behind its
// callers, when half of it is gone.
func (s *Service) extend(ctx context.Context, l *login) {
	if l.expires.IsZero() || time.Now().Before(l.halfSpent(s.sessionTTL)) || !s.refresher.attempts.startExtending(l.userID) {
		return
	}
	if s.life.begin() != nil {
		return
	}
	go func() {
		defer s.life.end()
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), commitTime, errTimeout)
		defer cancel()
		defer context.AfterFunc(s.life.ctx, cancel)()
		_ = apart(func() error {
			return s.edit(ctx, l.userID, func(next *login) (bool, error) {
				end := s.sessionEnd()
				longer := !next.expires.IsZero() && end.After(next.expires)
				if longer {
					next.expires = end
				}
				return longer, nil
			}, TrailEvent{Kind: TrailExtended, By: byUse})
		})
	}()
}
