package session

import (
	"context"
	"errors"
	"iter"
	"time"
)

// What stands in for the optional capabilities of a store that has none.

// noLeases is the Locker of a store that has none: everybody holds the lease,
// and so refresh tokens are not spent under it.
type noLeases struct{ Store }

func (n noLeases) Acquire(ctx context.Context, userID, _ string, _ time.Duration) (Lease, Record, error) {
	rec, err := n.Get(ctx, userID)
	if errors.Is(err, ErrNotFound) {
		rec, err = Record{UserID: userID, Version: rec.Version}, nil
	}
	return Lease{Held: true}, rec, err
}

func (n noLeases) Release(context.Context, string, string, string, time.Duration) error { return nil }

func (n noLeases) SwapLeased(ctx context.Context, _ string, old, next Record) (Record, error) {
	return n.Swap(ctx, old, next)
}

// noLogoutLog is the LogoutLog of a store that has none.
type noLogoutLog struct{ Store }

func (n noLogoutLog) MarkLoggedOut(ctx context.Context, old Record, _ time.Time, _ time.Duration) error {
	return n.Delete(ctx, old)
}

func (n noLogoutLog) LoggedOutAt(ctx context.Context, userID string) (Record, time.Time, error) {
	rec, err := n.Get(ctx, userID)
	if errors.Is(err, ErrNotFound) {
		rec, err = Record{UserID: userID, Version: rec.Version}, nil
	}
	return rec, time.Time{}, err
}

// noTrail is the TrailLog of a store that has none.
type noTrail struct{}

func (noTrail) Trail(context.Context, string) ([]TrailEntry, error) { return nil, nil }

// noList is the Lister of a store that has none.
type noList struct{ Store }

func (n noList) List(ctx context.Context, _ bool) iter.Seq2[Record, error] { return n.All(ctx) }
