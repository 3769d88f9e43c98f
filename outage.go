package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// While the store is away, a login, a log-out and a refresh of a user who is
// known hold in this process and wait in a queue. When the store is back they
// are stored by compare-and-swap, unless it holds something newer.

const (
	maxQueued = 100_000 // writes

	// The store is tried again after drainPause, by drainWidth writes at a time
	// until drainFailures of them have failed.
	drainPause    = 100 * time.Millisecond
	drainWidth    = 16
	drainFailures = 8

	writeBackTimeout = 2 * storeTimeout
	closeGrace       = 100 * time.Millisecond
)

// installLater is install for while the store is away.
func (s *Service) installLater(next *login, cause error) (*login, error) {
	merged := next
	if base := s.lastKnown(next.userID); base != nil {
		merged, _ = base.succeed(next)
	}
	p := newQueuedWrite(next.userID, merged, next.since)
	p.began = true
	if !s.queue.put(p) {
		return nil, cause
	}
	s.forget(next.userID)
	s.writeLater()
	return merged, nil
}

// commitLater is commit for while the store is away, and reports whether merged
// will be stored. Nobody is made a session of that had none in the store: a
// log-out could not be seen.
func (s *Service) commitLater(owner string, base, merged, next *login) bool {
	p := newQueuedWrite(merged.userID, merged, merged.began())
	p.base, p.owner, p.spent = base, owner, !next.refresh.empty()
	if !s.queue.putOver(nil, p) {
		return false
	}
	s.near.suspect(p.userID)
	s.writeLater()
	return true
}

// replaceWithoutStore is the rest of a flight that found the store away: it
// replaces the token of a user who is known by the SSO-Link. The refresh token
// is not spent, which takes the lease in the store.
func (s *Service) replaceWithoutStore(ctx context.Context, userID string, r replacement, cause error) (*login, error) {
	waiting := s.queue.of(userID)
	base := s.lastKnown(userID)
	switch {
	case waiting.isLogout():
		return nil, fmt.Errorf("%w: logged out, and %w", ErrNotLoggedIn, cause)
	case base == nil:
		return nil, cause
	case r.wanted(base):
		return base, nil
	case !s.linkEnabled || !linkable(userID) || s.isUnlinked(userID):
		return nil, cause
	}
	g, err := s.fetchLink(ctx, userID, nil)
	if errors.Is(err, errNotLinked) {
		s.unlinked.store(userID, time.Now().Add(noLinkFor))
	}
	if err != nil {
		s.count.failed(err)
		s.logger.Warn("session: token not replaced, and the store is away", "user", userID, "error", err)
		return nil, fmt.Errorf("%w; %w", cause, err)
	}
	s.count.byLink.Add(1)
	merged, same := base.succeed(s.granted(userID, g))
	if !same {
		s.logger.Warn("session: the link is to another account, and the store is away", "user", userID)
		return nil, cause
	}
	if base.email != "" {
		merged.email = base.email
	}
	next := newQueuedWrite(userID, merged, merged.began())
	next.base = base
	if waiting != nil { // the same write, with a better token
		next.since, next.began, next.clean = waiting.since, waiting.began, waiting.clean
		next.base, next.spent, next.owner = waiting.base, waiting.spent, waiting.owner
	}
	if !s.queue.putOver(waiting, next) {
		return nil, cause
	}
	s.near.suspect(userID)
	s.writeLater()
	return merged, nil
}

// lastKnown is the user's session as this process last knew it, or nil.
func (s *Service) lastKnown(userID string) *login {
	if waiting := s.queue.of(userID); waiting != nil {
		return waiting.session(time.Now())
	}
	if e, _, ok := s.near.get(userID, time.Now()); ok {
		return e.login
	}
	return nil
}

// settle stores what waits for the store about a user, before anything that
// goes by what is stored. It returns ErrStoreUnavailable if that cannot be done
// now.
func (s *Service) settle(ctx context.Context, userID string) error {
	for {
		waiting := s.queue.of(userID)
		if waiting == nil {
			return nil
		}
		select {
		case waiting.turn <- struct{}{}:
		case <-ctx.Done():
			if gaveUp(ctx) {
				return ctx.Err()
			}
			return storeError("write back", context.Cause(ctx))
		}
		err := s.writeBack(ctx, waiting)
		<-waiting.turn
		switch {
		case err != nil && gaveUp(ctx):
			return ctx.Err()
		case err != nil && !errors.Is(err, ErrStoreUnavailable):
			return storeError("write back", err)
		case err != nil:
			return err
		}
	}
}

// writeLater has the queue stored when the store is back.
func (s *Service) writeLater() {
	s.queue.start(func(ctx context.Context) {
		s.logger.Warn("session: writes wait for the store")
		began := time.Now()
		for !s.queue.drained() {
			s.writeBackSome(ctx)
			if s.queue.len() > 0 && !pause(ctx, drainPause) {
				return
			}
		}
		s.logger.Info("session: no write waits for the store any more", "after", time.Since(began).Round(time.Millisecond))
	})
}

// writeBackSome stores what waits, in no order, until the store fails.
func (s *Service) writeBackSome(ctx context.Context) {
	var failures atomic.Int32
	var workers errgroup.Group
	workers.SetLimit(drainWidth)
	for _, waiting := range s.queue.all() {
		if failures.Load() >= drainFailures || ctx.Err() != nil {
			break
		}
		workers.Go(func() error {
			select {
			case waiting.turn <- struct{}{}:
				defer func() { <-waiting.turn }()
			default: // somebody is at it
				return nil
			}
			if s.writeBack(ctx, waiting) != nil {
				failures.Add(1)
			}
			return nil
		})
	}
	_ = workers.Wait()
}

// errLeaseElsewhere says that another process is asking for the user.
var errLeaseElsewhere = errors.New("session: lease held by another process")

// writeBack stores what waits about a user, for who has its turn. After an
// error it still waits.
func (s *Service) writeBack(ctx context.Context, p *queuedWrite) (err error) {
	if s.queue.of(p.userID) != p {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, writeBackTimeout, errTimeout)
	defer cancel()
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("%w: panic in the store: %T", ErrStoreUnavailable, panicked)
		}
	}()
	stored := false
	if p.login == nil {
		stored, err = s.writeBackLogout(ctx, p)
	} else {
		stored, err = s.writeBackLogin(ctx, p)
	}
	switch {
	case err == nil && stored:
		s.count.writtenBack.Add(1)
	case err == nil:
		s.count.overtaken.Add(1)
		s.logger.Info("session: the store holds something newer than what waited for it", "user", p.userID)
	case errors.Is(err, ErrStoreUnavailable), errors.Is(err, errLeaseElsewhere), ctx.Err() != nil:
		return err
	default: // it never will be
		s.count.dropped.Add(1)
		s.logger.Error("session: login lost, it cannot be stored", "user", p.userID, "error", err)
	}
	s.forget(p.userID)
	s.queue.done(p)
	return nil
}

// writeBackLogout removes the session that the log-out was about, and reports
// whether it is gone, as opposed to replaced by a newer one.
func (s *Service) writeBackLogout(ctx context.Context, p *queuedWrite) (bool, error) {
	noted := s.entomb(ctx, p)
	for {
		now, err := s.peek(ctx, p.userID)
		if err != nil {
			return false, err
		}
		if now.login != nil && now.login.began().After(p.since) {
			s.giveBack(ctx, p.userID, p.owner, "")
			return false, nil
		}
		if now.stored.Exists() {
			started := time.Now()
			err = s.store.Delete(ctx, now.stored)
			if err = s.storeAnswered(ctx, "delete", started, err); err != nil && !errors.Is(err, ErrConflict) {
				return false, err
			}
		}
		// Whoever has the lease may be about to create what they began to ask
		// for before the log-out.
		now, err = s.leaseNow(ctx, p.userID, p.owner)
		if err != nil {
			return false, err
		}
		if !now.stored.Exists() {
			s.giveBack(ctx, p.userID, p.owner, "")
			s.buried(p, noted)
			return true, nil
		}
	}
}

// entomb leaves word of a log-out for logins that wait in other processes.
func (s *Service) entomb(ctx context.Context, p *queuedWrite) error {
	tombs, ok := s.store.(Tombstoner)
	if !ok {
		return nil
	}
	started := time.Now()
	return s.storeAnswered(ctx, "entomb", started, tombs.Entomb(ctx, p.userID, p.since))
}

// buried is for a log-out that has removed the session: a store without room for
// the tombstone can do that.
func (s *Service) buried(p *queuedWrite, noted error) {
	if noted != nil {
		s.logger.Warn("session: a log-out has left no tombstone", "user", p.userID, "error", noted)
	}
}

// writeBackLogin stores a login or a refresh unless it is overtaken, and
// reports whether it did. The lease keeps refreshes of other processes off; a
// log-out breaks it, and so cannot pass between looking for its tombstone and
// creating a record. Replacing one does not wait for a lease that another process
// holds, and may have died with: whoever asks for the user under it obeys what
// was written meanwhile.
func (s *Service) writeBackLogin(ctx context.Context, p *queuedWrite) (bool, error) {
	for {
		base, err := s.leaseNow(ctx, p.userID, p.owner)
		if err != nil {
			return false, err
		}
		loggedOut, err := s.tombstone(ctx, p.userID)
		if err != nil { // it still waits, and with it the lease: see fly
			return false, err
		}
		next := p.reconcile(base.login, loggedOut)
		if next == nil || !next.live(time.Now()) {
			s.giveBack(ctx, p.userID, p.owner, "")
			return false, nil
		}
		value, err := s.codec.encode(next)
		if err != nil {
			s.giveBack(ctx, p.userID, p.owner, "")
			return false, err
		}
		rec := Record{UserID: p.userID, Value: value, Expires: next.expires}
		started := time.Now()
		if s.locker != nil {
			_, err = s.locker.SwapLeased(ctx, p.owner, base.stored, rec)
		} else {
			_, err = s.store.Swap(ctx, base.stored, rec)
		}
		if err = s.storeAnswered(ctx, "write", started, err); !errors.Is(err, ErrConflict) {
			return err == nil, err
		}
	}
}

// peek returns what is stored, to be compared with what waits and not to be
// served: it is not checked, and not kept.
func (s *Service) peek(ctx context.Context, userID string) (snapshot, error) {
	started := time.Now()
	rec, err := s.store.Get(ctx, userID)
	if errors.Is(err, ErrNotFound) {
		rec, err = Record{}, nil
	}
	return s.peeked(userID, rec), s.storeAnswered(ctx, "read", started, err)
}

func (s *Service) peeked(userID string, rec Record) snapshot {
	rec.UserID = userID
	snap := snapshot{stored: rec}
	if l, err := s.codec.decode(rec); err == nil && l.live(time.Now()) {
		snap.login = l
	}
	return snap
}

// leaseNow is peek with the lease, if it is to be had. It fails if there is
// neither a lease nor a record: see [Locker.SwapLeased].
func (s *Service) leaseNow(ctx context.Context, userID, owner string) (snapshot, error) {
	if s.locker == nil {
		return s.peek(ctx, userID)
	}
	started := time.Now()
	lease, rec, err := s.locker.Acquire(ctx, userID, owner, leaseTTL)
	err = s.storeAnswered(ctx, "lease", started, err)
	if err == nil && !lease.Held && !rec.Exists() {
		err = errLeaseElsewhere
	}
	return s.peeked(userID, rec), err
}

func (s *Service) tombstone(ctx context.Context, userID string) (time.Time, error) {
	tombs, ok := s.store.(Tombstoner)
	if !ok {
		return time.Time{}, nil
	}
	started := time.Now()
	at, err := tombs.Tombstone(ctx, userID)
	return at, s.storeAnswered(ctx, "tombstone", started, err)
}
