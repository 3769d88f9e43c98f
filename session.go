// Package session keeps the users of Matrix bots logged in.
//
// A bot asks a [Service] for a user's token at every command, and gets one
// that is good for more than 60 seconds, or an error to reply with:
//
//	svc, err := session.New(
//		session.WithAuthURL("https://auth.example.com"),
//		session.WithServiceKey(os.Getenv("MANA_CORE_SERVICE_KEY")),
//		session.WithRedis(client), // sessions shared by all bots
//	)
//	if err != nil { … }
//	defer svc.Close()
//
//	token, err := svc.Token(ctx, "@alice:matrix.example")
//	switch {
//	case errors.Is(err, session.ErrNotLoggedIn):     // reply: please log in
//	case errors.Is(err, session.ErrAuthUnavailable): // reply: try again in a minute
//	case err != nil:                                 // the operator's problem
//	}
//
// # Where tokens come from
//
// A session begins with [Service.Login], or without one when the user signed
// in to Matrix through the same identity provider: the auth server then knows
// which account is linked to the Matrix user (the SSO-Link) and hands out its
// tokens to the bot's service key. Tokens live for minutes, sessions for days.
// A token that nears its end is replaced behind the callers, by the SSO-Link
// or else by the refresh token from the login; email and data stay.
//
// # What ends a session
//
// A logout, the auth server's own clear "no", or seven days without use.
// Nothing else: an auth server that fails, a gateway in front of it, an answer
// that makes no sense, a rejected service key or a store that is away cost
// nobody their session.
//
// # Many bots
//
// Bots that share a store share the sessions. Whoever finds a dead token takes
// a lease on the user, so that one call is made however many ask.
//
// # One order per user
//
// Every login, logout and refresh of a user has a place in one order, and what
// was overtaken does not land, whether it hung on a dead connection, was given
// up by its caller, or was pending while the store was away. On the store every
// write is a compare-and-swap on what was read, an absence included.
package session

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/mana/session/internal/bounded"
)

// Service hands out the tokens of many users. Make one with [New] and share
// it: all methods are safe for concurrent use. Unless they say otherwise they
// return [ErrClosed] after Close, [ErrInvalidUserID] for what is not a Matrix
// user ID, and the context's error when it ends first.
type Service struct {
	near  *nearCache // for the hit; everything else goes through records
	count counters
	settings
	records    *records
	outbox     *outbox
	order      *order
	refresher  *refresher
	auth       *authClient
	loginLimit *loginLimit
	logger     *slog.Logger
	life       *lifetime
	probes     probes
}

// settings are what the options said.
type settings struct {
	linkEnabled bool // tokens are asked for by the SSO-Link
	makeLinks   bool // a login tries to make one
	sessionTTL  time.Duration
	ahead       time.Duration
	storageMode string
	watches     bool                              // it listens to the store's change feed
	closers     []func(limit time.Duration) error // for Close, in order
}

// Session describes a user's session. It is a copy: changing it changes
// nothing, and it does not print its token.
type Session struct {
	MatrixUserID   string
	Email          string
	Subject        string    // the account, by the token's "sub"
	ExpiresAt      time.Time // when the session ends without further use
	TokenExpiresAt time.Time // zero if the token does not say

	token secret
}

// Token returns the access token as it was when the Session was read. It may
// have run out: [Service.Token] is the way to a good one.
func (s *Session) Token() string { return s.token.reveal() }

// New makes a Service. Without options it keeps sessions in memory and expects
// the auth server at http://localhost:3001. It contacts neither store nor auth
// server before it returns, so it works while they are away. Options that make
// no sense are errors.
func New(opts ...Option) (*Service, error) {
	c := newConfig()
	if err := c.apply(opts); err != nil {
		return nil, err
	}
	if len(c.codec.keys) > 0 && !c.codec.seals {
		c.logger.Warn("session: records are written in plain text: WithEncryption has no current key")
	}
	s := new(Service)
	count, life, order, clock := &s.count, newLifetime(), newOrder(), new(clock)
	near := newNearCache(c.nearCache, c.ahead, c.sessionTTL)
	auth := newAuthClient(c, newComponent(), c.logger, life)
	records := newRecords(c, near, count, life)
	outbox := newOutbox(records, count, c.logger)
	records.pending = outbox.of
	set := settings{
		linkEnabled: c.linkEnabled,
		makeLinks:   c.makeLinks,
		sessionTTL:  c.sessionTTL,
		ahead:       c.ahead,
		storageMode: c.storageMode,
		closers:     c.closers,
	}
	s.settings, s.near, s.records, s.outbox, s.order, s.auth = set, near, records, outbox, order, auth
	s.logger, s.life = c.logger, life
	s.loginLimit = newLoginLimit(c.loginBurst, c.loginEvery, maxRemembered)
	s.refresher = &refresher{
		settings: set, records: records, outbox: outbox, order: order, auth: auth,
		clock: clock, count: count, logger: c.logger, life: life,
		unlinked: bounded.New[time.Time](maxRemembered),
		attempts: newAttempts(maxRemembered),
		replaced: newReplaceLimit(maxRemembered),
		ends:     newEnds(c, records, count, life),
		aheads:   make(chan struct{}, maxAheads),

		late: make(chan lateRelease, maxReleases),
	}
	outbox.forget = s.forget
	if watcher, ok := c.store.(Watcher); ok && c.nearCache > 0 {
		s.watches = true
		life.running.Go(func() { records.watch(watcher) })
	}
	s.refresher.ends.start()
	return s, nil
}

// Close stops everything the Service started (refreshes, the change feed, writes
// to a store that was away), and every later call returns ErrClosed. It waits up
// to 5 s for running calls, up to 13 s for those that have spent a single-use
// refresh token, whose successor must not be lost, and then up to 5 s for writes
// that are still pending. What ended is told to the function of [WithOnSessionEnd]
// before. It closes the store and the Redis client if New made them. It returns
// ErrStoreUnavailable if something was not stored. Calling it again does nothing.
func (s *Service) Close() error {
	if !s.life.close() {
		return nil
	}
	s.life.cancel()
	s.near.Close()
	var errs []error
	began := time.Now()
	limit := began.Add(closeTimeout)
	spent := s.life.waitSpent(spentTimeout)
	if time.Since(began) > closeGrace { // what it brought may have to be written
		limit = later(limit, time.Now().Add(storeTimeout))
	}
	if !s.life.wait(time.Until(limit)-closeGrace) || !spent {
		errs = append(errs, fmt.Errorf("session: Close: calls still running after %s", time.Since(began).Round(time.Millisecond)))
	}
	if !s.refresher.ends.finish(max(time.Until(limit)-closeGrace, closeGrace)) {
		errs = append(errs, errors.New("session: Close: WithOnSessionEnd's function still runs"))
	}
	s.life.cancelAll()
	s.life.wait(time.Until(limit))
	if left := s.outbox.close(time.Until(limit)); left > 0 {
		errs = append(errs, fmt.Errorf("%w: Close: %d logins, logouts and refreshes were not stored", ErrStoreUnavailable, left))
	}
	for _, closer := range s.closers {
		errs = append(errs, closer(max(time.Until(limit), closeGrace)))
	}
	return errors.Join(errs...)
}

// Format implements [fmt.Formatter]: whatever the verb, a Service prints nothing
// that it holds.
func (s *Service) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "session.Service(%s)", s.storageMode)
}

// enter begins an exported method about a user: it makes the checks that come
// before anything is read, written or sent. The method calls s.life.end when it
// returns.
func (s *Service) enter(ctx context.Context, userID string) error {
	if err := checkUserID(userID); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.life.begin()
}

// Users yields the Matrix IDs of the users with a live session, from the
// store, in no order. It yields an error, last, when the store cannot be read
// (ErrStoreUnavailable) or the Service is closed (ErrClosed). It does not block
// the store for others. On Redis it goes by keys and TTLs, as [Service.Stats] does:
// it may yield a user whose record Token would not take for a session.
func (s *Service) Users(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for l, err := range s.records.list(ctx, false) {
			if err != nil {
				yield("", err)
				return
			}
			if l.live(time.Now()) && !yield(l.UserID, nil) {
				return
			}
		}
	}
}

// Listed is a session that [Service.Sessions] yields.
type Listed struct {
	UserID    string
	ExpiresAt time.Time // when the session ends without further use; zero: never by itself
}

// Sessions is [Service.Users] with the time at which each session ends. On Redis it
// asks for the TTL of every key, which makes it take twice as long.
func (s *Service) Sessions(ctx context.Context) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		for l, err := range s.records.list(ctx, true) {
			if err != nil {
				yield(Listed{}, err)
				return
			}
			if l.live(time.Now()) && !yield(Listed{l.UserID, l.ends}, nil) {
				return
			}
		}
	}
}

// Cleanup drops expired sessions now and returns how many it dropped. It is
// never necessary: the memory store drops them by itself and Redis by TTL; on
// Redis it finds records whose TTL was extended past the session's end by the
// TypeScript service. To find them it reads every record, a few MiB at a time. It
// returns ErrStoreUnavailable when the store fails.
func (s *Service) Cleanup(ctx context.Context) (int, error) {
	dropped := 0
	for l, err := range s.records.all(ctx) {
		if err != nil {
			return dropped, err
		}
		if l.live(time.Now()) {
			continue
		}
		// It is for those who tell of it to note it, of whom the first does.
		held, err := s.records.removeExpired(ctx, l.Record, TrailEvent{})
		switch {
		case errors.Is(err, ErrConflict), err == nil && !held:
			continue // somebody has just logged in again, or is about to
		case err != nil:
			return dropped, err
		}
		dropped++
		s.refresher.ends.cleanedUp(l.UserID)
	}
	return dropped, nil
}
