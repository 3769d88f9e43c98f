package session

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	mathrand "math/rand/v2"
	"time"
)

const (
	// noLinkFor is how long a user without a session and without a link is
	// answered from memory. A login or a session in the store overrides it.
	noLinkFor = 30 * time.Second

	maxRemembered = 100_000 // users, in either of the memories above and below
	maxAheads     = 32      // refreshes ahead at a time

	// A refresh ahead that failed is tried again after this, doubled each
	// time, up to the limit, give or take a quarter.
	aheadBackoff    = time.Second
	aheadBackoffMax = 30 * time.Second

	// How long a store that may be away is waited for when there is something
	// to serve in its place, and for how long after that it is not.
	knownWait  = 500 * time.Millisecond
	knownAgain = time.Second
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
	if raw, ok := s.near.fresh(userID, time.Now()); ok && ctx.Err() == nil {
		s.count.hits.inc()
		return raw, nil
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
	l, err := s.known(ctx, userID)
	if err != nil {
		return nil, err
	}
	if l != nil {
		switch l.token.state(time.Now(), s.ahead) {
		case fresh:
			return l, nil
		case aging:
			s.refreshAhead(ctx, l)
			return l, nil
		}
	}
	if l == nil && s.isUnlinked(userID) {
		return nil, fmt.Errorf("%w: no link", ErrNotLoggedIn)
	}
	return s.replace(ctx, userID, replacement{wanted: func(l *login) bool {
		return l.token.state(time.Now(), 0) != dead
	}})
}

// known returns the user's live session from the near cache or else from the
// store, or nil when there is none. While the store is away, what was last
// known stands in for it.
func (s *Service) known(ctx context.Context, userID string) (*login, error) {
	if waiting := s.queue.of(userID); waiting != nil {
		s.count.hits.inc()
		return waiting.session(time.Now()), nil
	}
	e, believed, ok := s.near.get(userID, time.Now())
	if believed {
		s.count.hits.inc()
		return e.login, nil
	}
	s.count.misses.Add(1)
	if !ok {
		snap, err := s.readStore(ctx, userID)
		return snap.login, err
	}
	// Of this user: a Cluster may be away in part.
	if failed, ok := s.unread.load(userID); ok && time.Since(failed) < knownAgain {
		return e.login, nil
	}
	read := ctx
	if e.login.token.state(time.Now(), 0) != dead {
		var cancel context.CancelFunc
		read, cancel = context.WithTimeout(ctx, knownWait) // no failure of the store, which may be slow
		defer cancel()
	}
	snap, err := s.readStore(read, userID)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, ErrStoreUnavailable), read.Err() != nil:
		s.unread.store(userID, time.Now())
		return e.login, nil
	case err != nil:
		return nil, err
	}
	s.unread.remove(userID)
	return snap.login, nil
}

// refreshBackoff says when a refresh ahead of a user may be tried again.
type refreshBackoff struct {
	until  time.Time
	failed int // in a row
}

// refreshAhead replaces an aging token behind its callers, unless that is
// under way, was tried just now, or enough of them run already.
func (s *Service) refreshAhead(ctx context.Context, l *login) {
	if !s.canAsk(l) {
		return
	}
	last, _ := s.backoffs.load(l.userID)
	if time.Now().Before(last.until) {
		return
	}
	select {
	case s.aheads <- struct{}{}:
	default:
		return
	}
	if s.life.begin() != nil {
		<-s.aheads
		return
	}
	// Held off at once, so that one refresh runs however many callers come.
	s.backoffs.store(l.userID, refreshBackoff{time.Now().Add(flightTimeout), last.failed})
	go func() {
		defer s.life.end()
		defer func() { <-s.aheads }()
		next, err := s.replace(context.WithoutCancel(ctx), l.userID, replacement{ahead: true, wanted: func(now *login) bool {
			return !now.token.raw.equal(l.token.raw) && now.token.state(time.Now(), 0) != dead
		}})
		if err == nil {
			// Tokens that live shorter than the window are never fresh: then
			// this is not the reason for another call at once.
			left := time.Until(next.token.expires) - minLife
			s.backoffs.store(l.userID, refreshBackoff{until: time.Now().Add(min(left/2, aheadBackoffMax))})
			return
		}
		wait := min(aheadBackoff<<min(last.failed, bits.Len(uint(aheadBackoffMax/aheadBackoff))), aheadBackoffMax)
		wait += time.Duration(mathrand.Int64N(int64(wait)/2)) - wait/4
		s.backoffs.store(l.userID, refreshBackoff{time.Now().Add(wait), last.failed + 1})
	}()
}

func (s *Service) isUnlinked(userID string) bool {
	until, ok := s.unlinked.load(userID)
	return ok && time.Now().Before(until)
}
