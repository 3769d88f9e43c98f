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
// or else by the refresh token from the login; e-mail and data stay.
//
// # What ends a session
//
// A log-out, the auth server's own clear "no", or seven days without use.
// Nothing else: an auth server that fails, an answer that makes no sense, a
// rejected service key or a store that is away cost nobody their session.
//
// # Many bots
//
// Bots that share a store share the sessions. Whoever finds a dead token takes
// a lease on the user, so that one call is made however many ask; every write
// is a compare-and-swap, so that a refresh that comes late loses to a log-out.
package session

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// askTimeout bounds what the holder of a lease may take: asking for the
	// link, spending the refresh token, and writing what came of it. The lease
	// outlives it, so that only a process that was stopped meanwhile can overrun
	// its lease; and who waits outlives the lease, to take it over from a
	// process that died.
	askTimeout    = linkPatience + spendingTime + 1*time.Second
	leaseTTL      = askTimeout + 1*time.Second
	flightTimeout = leaseTTL + 1*time.Second + askTimeout

	// closeTimeout bounds how long Close waits for calls that do not end.
	closeTimeout = 5 * time.Second
	lastReleases = 500 * time.Millisecond
)

// Service hands out the tokens of many users. Make one with [New] and share
// it: all methods are safe for concurrent use. Unless they say otherwise they
// return [ErrClosed] after Close, [ErrInvalidUserID] for what is not a Matrix
// user ID, and the context's error when it ends first.
type Service struct {
	store        Store
	locker       Locker // nil if the store has no leases
	codec        codec
	verify       tokenCheck
	near         *nearCache
	auth         *authClient
	loginLimit   *loginLimit
	replaceLimit *replaceLimit
	logger       *slog.Logger
	linkEnabled  bool
	sessionTTL   time.Duration
	ahead        time.Duration
	storageMode  string
	count        counters
	storeHealth  *component
	lastEvent    atomic.Int64 // see eventTime, in Unix microseconds

	flights      singleflight.Group       // one per user, see token.go
	queue        *writeQueue              // what waits for the store, see outage.go
	unlinked     *bounded[time.Time]      // users without a link, until when
	backoffs     *bounded[refreshBackoff] // refreshes ahead that failed
	unread       *bounded[time.Time]      // users whose record could not be read, since when
	lateReleases lateReleases
	aheads       chan struct{} // a slot per refresh ahead that runs

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	closers []func(limit time.Duration) error // what Close closes, in order

	life lifetime // what Close waits for
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
	if err := c.settle(opts); err != nil {
		return nil, err
	}
	s := &Service{
		store:        c.store,
		codec:        c.codec,
		verify:       c.verify,
		near:         newNearCache(c.nearCache, c.ahead),
		logger:       c.logger,
		linkEnabled:  c.linkEnabled,
		sessionTTL:   c.sessionTTL,
		ahead:        c.ahead,
		storageMode:  c.storageMode,
		closers:      c.closers,
		storeHealth:  newComponent(),
		queue:        newWriteQueue(maxQueued),
		unlinked:     newBounded[time.Time](maxRemembered),
		backoffs:     newBounded[refreshBackoff](maxRemembered),
		unread:       newBounded[time.Time](maxRemembered),
		aheads:       make(chan struct{}, maxAheads),
		loginLimit:   newLoginLimit(c.loginBurst, c.loginEvery, maxRemembered),
		replaceLimit: newReplaceLimit(maxRemembered),
	}
	if len(c.codec.keys) > 0 && !c.codec.seals {
		s.logger.Warn("session: records are written in plain text: WithEncryption has no current key")
	}
	s.auth = newAuthClient(c, newComponent(), c.logger)
	s.locker, _ = c.store.(Locker)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if watcher, ok := c.store.(Watcher); ok && c.nearCache > 0 {
		s.life.running.Go(func() { s.watch(watcher) })
	}
	return s, nil
}

// Close stops everything the Service started: flights end, refreshes ahead
// end, the change feed ends, and every later call returns ErrClosed. It waits
// for them and for what is still to be written to a store that was away, 5 s at
// most together, and closes the store and the Redis client if New made them.
// It returns ErrStoreUnavailable if something was not stored. Calling it again
// does nothing.
func (s *Service) Close() error {
	if !s.life.close() {
		return nil
	}
	s.cancel()
	s.near.close()
	var errs []error
	limit := time.Now().Add(closeTimeout)
	if !s.life.wait(closeTimeout) {
		errs = append(errs, fmt.Errorf("session: Close: calls still running after %s", closeTimeout))
	}
	// Others, and what waits, need not wait for leases that are left over.
	ctx, cancel := context.WithTimeout(context.Background(), lastReleases)
	s.releaseLate(ctx)
	cancel()
	if left := s.queue.close(time.Until(limit)); left > 0 {
		errs = append(errs, fmt.Errorf("%w: Close: %d logins, log-outs and refreshes were not stored", ErrStoreUnavailable, left))
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

// enter begins an exported method about a user, which calls s.life.end when it
// is over, with what is checked before anything is read, written or sent.
func (s *Service) enter(ctx context.Context, userID string) error {
	if err := checkUserID(userID); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.life.begin()
}

// watch keeps the store's change feed running, until Close.
func (s *Service) watch(watcher Watcher) {
	for attempt := 0; s.ctx.Err() == nil; attempt++ {
		started := time.Now()
		err := s.watchOnce(watcher)
		s.near.doubt()
		if s.ctx.Err() != nil {
			return
		}
		if time.Since(started) > time.Minute {
			attempt = 0
		}
		level := slog.LevelDebug
		if attempt == 0 {
			level = slog.LevelWarn
		}
		s.logger.Log(s.ctx, level, "session: change feed of the store broke off", "error", err)
		pause(s.ctx, min(time.Duration(attempt+1)*100*time.Millisecond, time.Second))
	}
}

// watchOnce survives a panic in a caller's store.
func (s *Service) watchOnce(watcher Watcher) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("session: panic in Watch: %T", p)
		}
	}()
	return watcher.Watch(s.ctx, s.near)
}

// snapshot is what the store held at a moment. login is nil when there is no
// session: nothing stored, something expired, or something unreadable.
type snapshot struct {
	stored Record
	login  *login
}

// readStore reads the user's record and keeps it in the near cache.
func (s *Service) readStore(ctx context.Context, userID string) (snapshot, error) {
	ticket := s.near.ticket(userID)
	started := time.Now()
	rec, err := s.store.Get(ctx, userID)
	if errors.Is(err, ErrNotFound) {
		rec, err = Record{UserID: userID}, nil
	}
	if err = s.storeAnswered(ctx, "read", started, err); err != nil {
		return snapshot{}, err
	}
	return s.decode(ctx, rec, ticket, started)
}

// decode turns a record into a snapshot and fills the near cache with it. It
// fails when it cannot be told whether the token in the record is a good one.
func (s *Service) decode(ctx context.Context, rec Record, t ticket, readAt time.Time) (snapshot, error) {
	snap := snapshot{stored: rec}
	if !rec.Exists() {
		s.near.drop(rec.UserID, t)
		return snap, nil
	}
	l, err := s.codec.decode(rec)
	if err == nil && s.verify != nil && l.live(readAt) && !s.near.holds(rec.UserID, l.token.raw) {
		if err = s.verify.run(ctx, l.token.raw); err != nil && !errors.Is(err, errBadToken) {
			return snapshot{}, err
		}
	}
	if err != nil {
		s.count.unreadable.Add(1)
		s.logger.Warn("session: record is not a session", "user", rec.UserID, "reason", err)
		s.near.drop(rec.UserID, t)
		return snap, nil
	}
	if !l.live(readAt) {
		s.near.drop(rec.UserID, t)
		return snap, nil
	}
	snap.login = l
	if s.queue.of(rec.UserID) == nil { // which is newer
		s.near.fill(t, l, readAt)
	}
	return snap, nil
}

// wrote has what is known of a user read again: a write has changed it, or may
// have, and then it still stands in for a store that is away.
func (s *Service) wrote(userID string, err error) {
	if errors.Is(err, ErrStoreUnavailable) {
		s.near.suspect(userID)
		return
	}
	s.near.forget(userID)
}

// storeAnswered keeps the books on a store operation and wraps its failure. The
// answers that are part of the contract, and the caller's own giving up, are
// not failures.
func (s *Service) storeAnswered(ctx context.Context, op string, started time.Time, err error) error {
	switch {
	case err == nil, errors.Is(err, ErrConflict):
		if s.storeHealth.worked(time.Since(started)) {
			s.logger.Info("session: store answers again")
		}
		return err
	case gaveUp(ctx):
		return ctx.Err()
	}
	s.count.storeErrors.Add(1)
	if s.storeHealth.failed(err, time.Since(started)) {
		s.logger.Error("session: store does not answer", "op", op, "error", err)
	}
	return storeError(op, err)
}

// all walks over the sessions in the store, expired ones included.
func (s *Service) all(ctx context.Context) iter.Seq2[*login, error] {
	return func(yield func(*login, error) bool) {
		if err := s.life.begin(); err != nil {
			yield(nil, err)
			return
		}
		defer s.life.end()
		started := time.Now()
		for rec, err := range s.store.All(ctx) {
			if err = s.storeAnswered(ctx, "list", started, err); err != nil {
				yield(nil, err)
				return
			}
			if checkUserID(rec.UserID) != nil {
				continue
			}
			l := &login{userID: rec.UserID, expires: rec.Expires, stored: rec}
			if rec.Expires.IsZero() || !s.codec.believed(rec) { // only the record itself tells
				if l, err = s.codec.decode(rec); err != nil {
					continue
				}
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

// Users yields the Matrix IDs of the users with a live session, from the
// store, in no order. It yields an error, last, when the store cannot be read
// (ErrStoreUnavailable) or the Service is closed (ErrClosed). It does not block
// the store for others.
func (s *Service) Users(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for l, err := range s.all(ctx) {
			if err != nil {
				yield("", err)
				return
			}
			if l.live(time.Now()) && !yield(l.userID, nil) {
				return
			}
		}
	}
}

// Cleanup drops expired sessions now and returns how many it dropped. It is
// never necessary: the memory store drops them by itself and Redis by TTL; on
// Redis it finds records whose TTL was extended past the session's end by the
// TypeScript service. It returns ErrStoreUnavailable when the store fails.
func (s *Service) Cleanup(ctx context.Context) (int, error) {
	dropped := 0
	for l, err := range s.all(ctx) {
		if err != nil {
			return dropped, err
		}
		if l.live(time.Now()) {
			continue
		}
		started := time.Now()
		err := s.store.Delete(ctx, l.stored)
		if err = s.storeAnswered(ctx, "delete", started, err); errors.Is(err, ErrConflict) {
			continue // somebody has just logged in again
		} else if err != nil {
			return dropped, err
		}
		dropped++
	}
	return dropped, nil
}
