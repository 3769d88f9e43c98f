package session

import (
	"context"
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"
)

// State is what [Service.State] returns.
type State struct {
	Closed bool

	StorageMode    string // "memory", "redis", or "custom"
	SSOLinkEnabled bool

	// Watches says that the store has a change feed and the Service listens to it, and
	// FeedTrusted that the feed is alive, so that tokens are served from memory.
	Watches, FeedTrusted bool

	// BreakerOpen says that the auth server is not asked just now, after failures in a
	// row, and LoginsStopped that no login is passed on to it.
	BreakerOpen, LoginsStopped bool
}

// State returns what the Service knows of itself, without asking the store or the auth
// server, in less than a microsecond. It goes on to work when the Service is closed.
// Safe for concurrent use.
func (s *Service) State() State {
	return State{
		Closed:         s.life.isClosed(),
		StorageMode:    s.storageMode,
		SSOLinkEnabled: s.linkEnabled,
		Watches:        s.watches,
		FeedTrusted:    s.watches && s.near.Believing(time.Now()),
		BreakerOpen:    s.auth.breaker.State() == gobreaker.StateOpen,
		LoginsStopped:  s.auth.loginsStopped(),
	}
}

func (l *lifetime) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// Peek is [Service.Session] for those who look at a user from outside: it begins no
// session for a linked user who has none, but returns [ErrNotLoggedIn]. Nor does it
// extend the session. While the store is away it returns what this process last knew,
// or [ErrStoreUnavailable]. Safe for concurrent use.
func (s *Service) Peek(ctx context.Context, userID string) (*Session, error) {
	if err := s.enter(ctx, userID); err != nil {
		return nil, err
	}
	defer s.life.end()
	switch l, err := s.known(ctx, userID); {
	case err != nil:
		return nil, err
	case l == nil:
		return nil, fmt.Errorf("%w: no session is stored", ErrNotLoggedIn)
	default:
		return l.session(), nil
	}
}
