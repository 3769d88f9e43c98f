package session

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"time"
)

// Record is what a [Store] keeps for one user. The Service alone knows what
// Value means.
type Record struct {
	// UserID is the Matrix user the record belongs to.
	UserID string
	// Value holds opaque bytes; empty means that there is no record.
	Value string
	// Version is the store's own mark of this state of the record, or of this
	// absence of one. A store that tells records apart by Value leaves it 0
	// in those.
	Version uint64
	// Expires is when the record is to be dropped. A store whose engine keeps
	// that time to itself may leave it zero in what it returns.
	Expires time.Time
	// Event is for a [TrailLog], in records that are written (next) or deleted
	// (old): what happened, in one line; empty if it is not worth noting.
	// Stores leave it empty in what they return.
	Event string
}

// Exists reports whether there is a record at all.
func (r Record) Exists() bool { return r.Value != "" }

// String describes r without its Value, which holds a user's tokens.
func (r Record) String() string {
	expires := "never"
	if !r.Expires.IsZero() {
		expires = r.Expires.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("session.Record(%q, %d bytes, version %d, expires %s)", r.UserID, len(r.Value), r.Version, expires)
}

// Format implements [fmt.Formatter]: whatever the verb, r prints as String says.
func (r Record) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// GoString implements [fmt.GoStringer].
func (r Record) GoString() string { return r.String() }

// LogValue implements [slog.LogValuer].
func (r Record) LogValue() slog.Value { return slog.StringValue(r.String()) }

// Store keeps one record per Matrix user. All methods are safe for concurrent
// use, honour ctx, and treat user IDs as opaque and case-sensitive. Errors
// other than [ErrNotFound] and [ErrConflict] mean that the store is
// unavailable. Package storetest checks an implementation.
//
// An absence has a version, too, if the store can tell one absence from
// another: each time a record is deleted a new absence begins. It is what keeps
// a write that was held up on its way from creating a record again that was
// deleted since. A store that cannot tell leaves it 0.
//
// A store that is shared between processes should implement [Locker], and
// [Watcher] and [LogoutLog] if it can. Memory and Redis are both of the first
// two, and a [TrailLog]; Redis, which can be away, is also the third, and a
// [Lister].
type Store interface {
	// Get returns the user's record. A record past its expiry is no record.
	// It returns ErrNotFound when there is none.
	Get(ctx context.Context, userID string) (Record, error)

	// Swap puts next in the place of old and returns next as a later Get
	// would. It returns ErrConflict, and changes nothing, when what is stored
	// is not old any more. An old that does not exist stands for "no record":
	// for the absence with its Version, or for any absence if that is 0.
	// A record past its expiry is no record. next.UserID says whose record it
	// is; a zero next.Expires stands for a record that does not expire.
	Swap(ctx context.Context, old, next Record) (Record, error)

	// Delete removes old, or returns ErrConflict when another record, or
	// another absence, is in its place. With an old that does not exist and
	// has a Version it ends that absence: nothing that names it can create a
	// record from then on. With one that has none, it removes whatever is
	// stored. Whenever it succeeds it also breaks the lease on the user (see
	// Locker). Deleting a record where there is none any more is not an error.
	Delete(ctx context.Context, old Record) error

	// All walks over the records in no order, without blocking other callers.
	// A record that is written or dropped meanwhile may or may not be among
	// them; none comes twice. Records past their expiry that still take up
	// room are among them, if the store can tell. An error ends the walk.
	All(ctx context.Context) iter.Seq2[Record, error]
}

// Locker is an optional capability of a [Store]: a lease per user, held by at
// most one owner at a time over all processes, for as long as it takes to ask
// the auth server. Without it, processes that share the store may ask for the
// same user side by side, and refresh tokens (which are single-use) are not
// safe to spend.
type Locker interface {
	// Acquire tries to take the user's lease for owner for the time ttl and
	// reads the record, in that order, in one round trip. An owner who has the
	// lease keeps it, and it then lasts for ttl from now on. It never waits.
	// No record is not an error here: see Record.Exists. The record of an
	// absence carries the absence's Version.
	Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (Lease, Record, error)

	// Release gives up owner's lease; a lease of anybody else stays as it is.
	// With a note, those who try to Acquire within keep are told the note
	// instead of being given the lease.
	Release(ctx context.Context, userID, owner, note string, keep time.Duration) error

	// SwapLeased is Swap and Release in one step. Replacing a record needs
	// only old to be what is stored, so that the work of an owner who was
	// overtaken is not lost; creating one also needs the lease to be owner's
	// still, and returns ErrConflict otherwise. After an error the lease is
	// as it was.
	SwapLeased(ctx context.Context, owner string, old, next Record) (Record, error)
}

// LogoutLog is an optional capability of a [Store] that processes share and
// that can be away: it remembers when users were logged out. Without it, a login
// that a process could not store for a while can undo a logout that another
// process made since.
type LogoutLog interface {
	// MarkLoggedOut is Delete, and in the same step notes that the user was
	// logged out at the given time, unless a later time is noted already. The
	// note lasts for keep at least. It takes no room that a full store would
	// refuse.
	MarkLoggedOut(ctx context.Context, old Record, at time.Time, keep time.Duration) error

	// LoggedOutAt reads the user's record, and when the user was last logged
	// out, to the microsecond, or the zero time; in one round trip. No record
	// is not an error here; the record of an absence carries its Version.
	LoggedOutAt(ctx context.Context, userID string) (Record, time.Time, error)
}

// Lister is an optional capability of a [Store] that can tell which records there
// are without reading them. Without it, counting and listing read every record.
type Lister interface {
	// List walks over the records as All does, but leaves out Value where the
	// store sees to it that the record ends in time, so that being there makes
	// it current. Where only the Value tells, the record comes with it. With ends
	// it tells Expires of each that it leaves the Value out of.
	List(ctx context.Context, ends bool) iter.Seq2[Record, error]
}

// TrailLog is an optional capability of a [Store]: it notes what happened to a user's
// session in the step that writes or deletes the record (see Record.Event), at no
// further round trip. A note that cannot be made fails nothing.
type TrailLog interface {
	// Trail returns the user's newest 8 events, the newest first. An event that
	// begins with "~" and is equal to one before it, with none but such events in
	// between, takes its place and is counted. The trail lasts for a week longer
	// than the record.
	Trail(ctx context.Context, userID string) ([]TrailEntry, error)
}

// Lease is the answer to [Locker.Acquire].
type Lease struct {
	Held bool   // the caller has the lease
	Note string // what the last owner left for those who come next, if anything
}

// Watcher is an optional capability of a [Store]: change notices, which let
// the Service serve hits from memory.
type Watcher interface {
	// Watch reports changes to feed until ctx ends or watching fails. It calls
	// Flush before it calls Trust for the first time. The Service calls it
	// again after an error.
	Watch(ctx context.Context, feed Feed) error
}

// Feed takes the notices of a [Watcher]. Its methods return at once and are
// safe for concurrent use.
type Feed interface {
	// Changed says that the user's record was written or dropped. A write
	// must be announced before Get can return to a caller who might have
	// missed it, or within the time promised with Trust.
	Changed(userID string)

	// Flush says that any record may have changed unnoticed.
	Flush()

	// Trust says that every change up to now has been announced, and that
	// what the Service knows may be believed until the given time; the zero
	// time stands for as long as Watch runs. Unless it is 0, maxAge bounds in
	// addition how long after being read a record may be believed: for feeds
	// that do not see the writes of other software.
	//
	// The time until which to trust is how old what is served can be when the
	// watcher breaks off unnoticed, and how soon callers wait for the store
	// when a sign of life is late: RedisStore hears from itself every 250 ms
	// and trusts for 1 s. For maxAge, 1 s spares a busy bot nearly all reads.
	Trust(until time.Time, maxAge time.Duration)
}

// EndFeed is a [Feed] that a Watcher can tell the end of a session from other
// changes. The Service's is one; a Watcher that cannot tell calls Changed.
type EndFeed interface {
	Feed

	// Ended says that the user's record was deleted or marked as logged out.
	Ended(userID string)
}
