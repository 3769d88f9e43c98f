package session

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/mana/session/internal/bounded"
	"github.com/mana/session/internal/nearcache"
)

// records is the Service's only way to the store. Health, counters, errors, the
// near cache and the codec are kept in step here, so that no caller can forget
// one of them.
type records struct {
	store    Store
	leases   Locker    // noLeases if the store has none
	logouts  LogoutLog // noLogoutLog if the store has none
	lister   Lister    // noList if the store has none
	trails   TrailLog  // noTrail if the store has none
	canSpend bool      // the store has leases: refresh tokens are safe to use
	codec    codec
	verify   tokenCheck
	near     *nearCache
	health   *component // of the store as a whole
	writing  *component // of writes alone: a store may refuse only these
	count    *counters
	logger   *slog.Logger
	life     *lifetime
	observer Observer // or nil

	keepTrail bool
	botName   string

	pending   func(userID string) *pending
	keepNotes time.Duration // how long a logout is remembered
	unread    *bounded.Map[unread]
	silent    atomic.Bool   // the last call got no answer
	answers   atomic.Uint64 // calls that got one
	probing   atomic.Bool   // a goroutine is waiting for the store to come back
}

// snapshot is what the store held at a moment. login is nil when there is no
// session: nothing stored, something expired, or something unreadable.
type snapshot struct {
	stored    Record
	login     *login
	refused   *login    // the session whose token the verifier refused, if it has a refresh token
	loggedOut time.Time // when the user was last logged out, if it was asked for
}

func newRecords(c config, near *nearCache, count *counters, life *lifetime) *records {
	r := &records{
		store: c.store, leases: noLeases{c.store}, logouts: noLogoutLog{c.store}, lister: noList{c.store}, trails: noTrail{},
		codec: c.codec, verify: c.verify, near: near, health: newComponent(), writing: newComponent(),
		count: count, logger: c.logger, life: life, observer: c.observer,
		keepTrail: !c.noTrail, botName: c.botName,
		keepNotes: c.sessionTTL,
		unread:    bounded.New[unread](maxRemembered),
	}
	if locker, ok := c.store.(Locker); ok {
		r.leases, r.canSpend = locker, true
	}
	if log, ok := c.store.(LogoutLog); ok {
		r.logouts = log
	}
	if lister, ok := c.store.(Lister); ok {
		r.lister = lister
	}
	if trails, ok := c.store.(TrailLog); ok {
		r.trails = trails
	}
	return r
}

// read reads the user's record and keeps it in the near cache.
func (r *records) read(ctx context.Context, userID string) (snapshot, error) {
	ticket := r.near.Ticket(userID)
	op := r.begin(ctx, OpStoreRead)
	rec, err := r.store.Get(op.ctx, userID)
	if errors.Is(err, ErrNotFound) {
		rec, err = Record{UserID: userID, Version: rec.Version}, nil
	}
	if err = op.end(err); err != nil {
		return snapshot{}, err
	}
	return r.decode(ctx, r.own(rec, userID), ticket, op.started)
}

// readLogout reads the user's record and the time of the user's last logout. It
// does not check the token: the result is a base for a write, not to be served.
func (r *records) readLogout(ctx context.Context, userID string) (snapshot, error) {
	op := r.begin(ctx, OpStoreRead)
	rec, at, err := r.logouts.LoggedOutAt(op.ctx, userID)
	if err = op.end(err); err != nil {
		return snapshot{}, err
	}
	snap := r.unchecked(userID, rec)
	if at.Before(op.started.Add(maxClockAhead)) { // else it is no time of a logout
		snap.loggedOut = at
	}
	return snap, nil
}

// acquire tries to take the lease on a user and reads the record.
func (r *records) acquire(ctx context.Context, userID, owner string, ttl time.Duration) (Lease, snapshot, error) {
	ticket := r.near.Ticket(userID)
	op := r.begin(ctx, OpStoreLease)
	lease, rec, err := r.leases.Acquire(op.ctx, userID, owner, ttl)
	if err = op.end(err); err != nil {
		return Lease{}, snapshot{}, err
	}
	snap, err := r.decode(ctx, r.own(rec, userID), ticket, op.started)
	return lease, snap, err
}

// renew makes owner's lease last for ttl from now on, taking it if nobody has it, and
// reports whether it is owner's.
func (r *records) renew(ctx context.Context, userID, owner string, ttl time.Duration) (bool, error) {
	op := r.begin(ctx, OpStoreLease)
	lease, _, err := r.leases.Acquire(op.ctx, userID, owner, ttl)
	err = op.end(err)
	return err == nil && lease.Held, err
}

// release gives up owner's lease, and leaves a note of a failure for the waiters.
func (r *records) release(ctx context.Context, userID, owner, note string, keep time.Duration) error {
	op := r.begin(ctx, OpStoreRelease)
	return op.end(r.leases.Release(op.ctx, userID, owner, note, keep))
}

// save replaces old by next and, unless owner is "", releases owner's lease in the
// same step. It returns next as stored, or ErrConflict. what goes into the user's
// trail.
func (r *records) save(ctx context.Context, owner string, old Record, next *login, what TrailEvent) (*login, error) {
	value, err := r.codec.encode(next)
	if err != nil {
		return nil, err
	}
	rec := Record{UserID: next.userID, Value: value, Expires: next.expires, Event: r.note(what)}
	ticket := r.near.Ticket(next.userID)
	op := r.begin(ctx, OpStoreWrite)
	var stored Record
	if owner == "" {
		stored, err = r.store.Swap(op.ctx, old, rec)
	} else {
		stored, err = r.leases.SwapLeased(op.ctx, owner, old, rec)
	}
	err = op.end(err)
	if err == nil {
		saved := *next
		saved.stored = stored
		if r.pending(next.userID) == nil {
			r.near.wrote(ticket, &saved, op.started)
		} else {
			r.near.MarkStale(next.userID)
		}
		return &saved, nil
	}
	r.near.MarkStale(next.userID) // another process wrote, or our write got through
	return nil, err
}

// remove deletes old, or returns ErrConflict.
func (r *records) remove(ctx context.Context, old Record, what TrailEvent) error {
	old.Event = r.note(what)
	op := r.begin(ctx, OpStoreDelete)
	return r.removed(old.UserID, op.end(r.store.Delete(op.ctx, old)))
}

// removeExpired is remove for what ended by itself, or for the absence that it left. It
// holds the user's lease meanwhile, so that it ends nothing that a flight is about to
// begin: held is false while there is one.
func (r *records) removeExpired(ctx context.Context, old Record, what TrailEvent) (held bool, err error) {
	owner := rand.Text()
	held, err = r.renew(ctx, old.UserID, owner, leaseTTL)
	if held {
		if err = r.remove(ctx, old, what); err == nil { // and the lease with it
			return true, nil
		}
	}
	if err != nil { // the lease may have been taken though the answer was lost
		r.releaseSoon(ctx, old.UserID, owner)
	}
	return held, err
}

// releaseSoon is release behind the caller, also one who has given up.
func (r *records) releaseSoon(ctx context.Context, userID, owner string) {
	release := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		return r.release(ctx, userID, owner, "", 0)
	}
	if r.life.begin() != nil {
		_ = release()
		return
	}
	go func() {
		defer r.life.end()
		_ = apart(release)
	}()
}

// removeLoggedOut deletes old because of a logout at the given time, or returns
// ErrConflict.
func (r *records) removeLoggedOut(ctx context.Context, old Record, at time.Time) error {
	if old.Exists() {
		old.Event = r.note(TrailEvent{Kind: TrailEnded, By: byLogout})
	}
	op := r.begin(ctx, OpStoreDelete)
	return r.removed(old.UserID, op.end(r.logouts.MarkLoggedOut(op.ctx, old, at, r.keepNotes)))
}

func (r *records) removed(userID string, err error) error {
	if err == nil {
		r.near.Remove(userID)
	} else {
		r.near.MarkStale(userID)
	}
	return err
}

// listed is a session that a walk came by.
type listed struct {
	Record           // without its Value if that was neither asked for nor needed
	ends   time.Time // zero: never by itself
}

func (l listed) live(now time.Time) bool { return l.ends.IsZero() || l.ends.After(now) }

// list walks over the sessions in the store, expired ones included, without their
// values if the store can do that; with ends, with the time at which each ends. The
// walk ends with the Service.
func (r *records) list(ctx context.Context, ends bool) iter.Seq2[listed, error] {
	return r.walk(ctx, func(ctx context.Context) iter.Seq2[Record, error] { return r.lister.List(ctx, ends) })
}

// all is list with the values, which have the last word on when a session ends.
func (r *records) all(ctx context.Context) iter.Seq2[listed, error] {
	return r.walk(ctx, r.store.All)
}

func (r *records) walk(ctx context.Context, all func(context.Context) iter.Seq2[Record, error]) iter.Seq2[listed, error] {
	return func(yield func(listed, error) bool) {
		if err := r.life.begin(); err != nil {
			yield(listed{}, err)
			return
		}
		begun := true
		defer func() {
			if begun {
				r.life.end()
			}
		}()
		listing, told := observed(ctx, r.observer, OpStoreList)
		var failed error
		defer func() { told(failed) }()
		started := time.Now()
		for rec, err := range all(listing) {
			if failed = r.observe(ctx, OpStoreList, true, started, err); failed != nil {
				yield(listed{}, failed)
				return
			}
			l := listed{rec, rec.Expires}
			if checkUserID(rec.UserID) != nil {
				continue
			}
			// A record that was not read is current. Of others that have no end, or
			// are sealed, only the value tells.
			if rec.Exists() && (rec.Expires.IsZero() || !r.codec.believed(rec)) {
				decoded, err := r.codec.decode(rec)
				if err != nil {
					continue
				}
				l.ends = decoded.expires
			}
			// A caller may close the Service in the loop, which does not wait
			// for the loop then.
			r.life.end()
			begun = false
			if !yield(l, nil) {
				return
			}
			if err := r.life.begin(); err != nil {
				yield(listed{}, err)
				return
			}
			begun = true
			started = time.Now()
		}
	}
}

// probe reads a record that never exists, to see whether the store answers.
func (r *records) probe(ctx context.Context) error {
	op := r.begin(ctx, OpStoreRead)
	_, err := r.store.Get(op.ctx, probeUser)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return op.end(err)
}

// decode turns a record into a snapshot and fills the near cache with it. It
// returns an error when the verifier cannot judge the token in the record.
func (r *records) decode(ctx context.Context, rec Record, t nearcache.Ticket, readAt time.Time) (snapshot, error) {
	snap := snapshot{stored: rec}
	if !rec.Exists() {
		r.near.Drop(rec.UserID, t)
		return snap, nil
	}
	l, err := r.codec.decode(rec)
	if err == nil && l.live(readAt) {
		err = r.check(ctx, l)
	}
	switch {
	case errors.Is(err, ErrAuthUnavailable), ctx.Err() != nil && err != nil:
		return snapshot{}, err
	case errors.Is(err, errBadToken) && !l.refresh.empty() && r.canSpend:
		snap.refused = l.withoutToken()
	}
	if err != nil {
		r.count.unreadable.Add(1)
		r.logger.Warn("session: record is not a session", "user", rec.UserID, "reason", err)
	}
	if err != nil || !l.live(readAt) {
		r.near.Drop(rec.UserID, t)
		return snap, nil //nolint:nilerr // what is no session is none
	}
	snap.login = l
	if r.pending(rec.UserID) == nil { // which is newer
		r.near.fill(t, l, readAt)
	}
	return snap, nil
}

// unchecked is decode without the near cache and the token check.
func (r *records) unchecked(userID string, rec Record) snapshot {
	rec = r.own(rec, userID)
	snap := snapshot{stored: rec}
	if !rec.Exists() {
		return snap
	}
	if l, err := r.codec.decode(rec); err == nil && l.live(time.Now()) {
		snap.login = l
	}
	return snap
}

// check returns nil unless the verifier refuses the token of l or cannot judge it.
func (r *records) check(ctx context.Context, l *login) error {
	if r.verify == nil || r.near.holds(l.userID, l.token.raw) {
		return nil
	}
	return r.verify.run(ctx, l.token.raw)
}

// own returns rec if it belongs to the user, and else an empty record: a store
// that mixes users up must not hand one user's token to another. A record without
// a user ID belongs to the user who was asked for.
func (r *records) own(rec Record, userID string) Record {
	if rec.UserID != "" && rec.UserID != userID {
		r.count.unreadable.Add(1)
		r.logger.Error("session: the store returned another user's record", "user", userID)
		return Record{UserID: userID}
	}
	rec.UserID = userID
	return rec
}
