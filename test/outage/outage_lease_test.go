package outage_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// halfway is a link that drops some calls and lets others through, as a network
// does that comes back.
type halfway struct {
	*world.Link
	dropping atomic.Bool // leases and what is written under them
	tombless atomic.Bool // tombstones cannot be read
}

func (h *halfway) LoggedOutAt(ctx context.Context, userID string) (session.Record, time.Time, error) {
	if h.tombless.Load() {
		return session.Record{}, time.Time{}, world.ErrAway
	}
	return h.Link.LoggedOutAt(ctx, userID)
}

func (h *halfway) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (session.Lease, session.Record, error) {
	if h.dropping.Load() {
		return session.Lease{}, session.Record{}, world.ErrAway
	}
	return h.Link.Acquire(ctx, userID, owner, ttl)
}

func (h *halfway) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	if h.dropping.Load() {
		return session.Record{}, world.ErrAway
	}
	return h.Link.SwapLeased(ctx, owner, old, next)
}

// halfwayThere runs a flow in a bubble, in which alice's refresh token has been
// spent and its successor waits for the store.
func halfwayThere(t *testing.T, flow func(t *testing.T, w *world.World, h *halfway, other *session.Service, token string)) {
	synctest.Test(t, func(t *testing.T) {
		h := &halfway{Link: world.NewLink(t)}
		w := world.New(t, h)
		far := *w
		far.Store = h.Another()
		other := far.Service()
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		world.MustToken(t, other, world.Alice)
		time.Sleep(15 * time.Minute)
		w.Auth.ResetCalls()
		w.Auth.Inject(sessiontest.Refresh, 1, world.First(func() { h.dropping.Store(true) }))
		token := world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 1, w.Svc.Health(t.Context()).Queued)
		flow(t, w, h, other, token)
	})
}

// The store still holds the refresh token that was spent: whoever is given the
// lease now spends it again, and is told that the session is over.
func TestLeaseStaysWithASuccessorThatWaits(t *testing.T) {
	leaseStays(t, func(*halfway) {}, func(h *halfway) { h.dropping.Store(false) })
}

func leaseStays(t *testing.T, meanwhile, atLast func(*halfway)) {
	halfwayThere(t, func(t *testing.T, w *world.World, h *halfway, other *session.Service, token string) {
		meanwhile(h)
		var got string
		done := make(chan error, 1)
		go func() {
			var err error
			got, err = other.Token(t.Context(), world.Alice)
			done <- err
		}()
		time.Sleep(2 * time.Second)
		atLast(h)
		require.NoError(t, <-done)
		require.Equal(t, token, got)
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
	})
}

// A login in the place of a successor that waits does not have to wait for the
// lease that was taken for it.
func TestLoginTakesOverTheLeaseOfASuccessorThatWaits(t *testing.T) {
	halfwayThere(t, func(t *testing.T, w *world.World, h *halfway, other *session.Service, _ string) {
		h.Away.Store(true)
		session := w.Login(w.Svc)
		h.Away.Store(false)
		h.dropping.Store(false)
		time.Sleep(time.Second)
		require.Zero(t, w.Svc.Health(t.Context()).Queued)
		require.Equal(t, session.Token(), world.MustToken(t, other, world.Alice))
	})
}

// A login whose write got through without an answer waits for the store as well.
// By then another process may have spent the refresh token that came with it.
func TestLoginStoredWithoutAnAnswerDoesNotBringBackASpentRefreshToken(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.LoseAnswer.Store(true)
		rejected := a.Login(a.Svc).Token()
		a.pass(100 * time.Millisecond)
		a.link.Away.Store(true)
		a.link.LoseAnswer.Store(false)
		refreshed, err := a.other.Refresh(t.Context(), world.Alice, rejected)
		require.NoError(t, err)
		a.link.Away.Store(false)
		a.pass(time.Second)
		require.Zero(t, a.Svc.Health(t.Context()).Queued)
		require.Equal(t, refreshed, world.MustToken(t, a.Svc, world.Alice))
		a.pass(15 * time.Minute)
		world.MustToken(t, a.other, world.Alice)
	})
}

// A process that died may have left a lease that lasts for longer than anybody
// should be told to log in who has just done so.
func TestLoginThatWaitsIsStoredAlthoughAnotherProcessHoldsTheLease(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		s := a.Login(a.Svc)
		lease, _, err := a.link.MemoryStore.Acquire(t.Context(), world.Alice, "a process that died", time.Minute)
		require.NoError(t, err)
		require.True(t, lease.Held)
		a.back()
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
	})
}

// overtaken is a link that is lost as soon as a write was overtaken.
type overtaken struct{ *world.Link }

func (o *overtaken) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	rec, err := o.Link.SwapLeased(ctx, owner, old, next)
	if errors.Is(err, session.ErrConflict) {
		o.Away.Store(true)
	}
	return rec, err
}

// Between finding the record changed and looking at what it is now, the store
// can go away as at any other time.
func TestSuccessorIsKeptWhenTheStoreGoesAwayAfterAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &overtaken{world.NewLink(t)}
		w := world.New(t, o)
		far := *w
		far.Store = o.Another()
		other := far.Service()
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(15 * time.Minute)
		w.Auth.Inject(sessiontest.Refresh, 1, world.First(func() {
			require.NoError(t, other.SetData(t.Context(), world.Alice, "theme", "dark"))
		}))
		token := world.MustToken(t, w.Svc, world.Alice)
		o.Away.Store(false)
		time.Sleep(time.Second)
		require.Equal(t, token, world.MustToken(t, other, world.Alice))
		theme, _, err := session.DataAs[string](t.Context(), other, world.Alice, "theme")
		require.NoError(t, err)
		require.Equal(t, "dark", theme)
	})
}

// An attempt to store what waits may have taken the lease without hearing of it.
func TestLostAnswersDoNotKeepALoginThatWaitsFromBeingStored(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.drop(world.Alice)
		a.link.Lose()
		s := a.Login(a.Svc)
		a.link.LoseAnswer.Store(true)
		a.link.Away.Store(false)
		a.pass(time.Second)
		a.link.LoseAnswer.Store(false)
		a.pass(time.Second)
		require.Zero(t, a.Svc.Health(t.Context()).Queued)
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
	})
}

func TestLeaseStaysWithASuccessorWhoseStoringBrokeOff(t *testing.T) {
	leaseStays(t, func(h *halfway) {
		h.tombless.Store(true)
		h.dropping.Store(false)
	}, func(h *halfway) { h.tombless.Store(false) })
}

// watched is a link over which something happens at a point of a write-back or a
// logout.
type watched struct {
	*world.Link
	sought, removed func() // after a tombstone was looked for; after a record was removed
}

func (l *watched) LoggedOutAt(ctx context.Context, userID string) (session.Record, time.Time, error) {
	rec, at, err := l.Link.LoggedOutAt(ctx, userID)
	if do := l.sought; do != nil && err == nil {
		l.sought = nil
		do()
	}
	return rec, at, err
}

func (l *watched) MarkLoggedOut(ctx context.Context, old session.Record, at time.Time, keep time.Duration) error {
	err := l.Link.MarkLoggedOut(ctx, old, at, keep)
	if do := l.removed; do != nil && err == nil {
		l.removed = nil
		do()
	}
	return err
}

// Whichever comes first, the logout or what it overtakes, no session is left.
func TestLogoutRacingAWriteBackLasts(t *testing.T) {
	for name, race := range map[string]func(near, far *watched, logout func()){
		"after its tombstone was looked for": func(near, _ *watched, logout func()) {
			near.sought = logout
			near.Away.Store(false)
			time.Sleep(time.Second)
		},
		"between removing the record and the end": func(near, far *watched, logout func()) {
			far.removed = func() {
				near.Away.Store(false)
				time.Sleep(time.Second)
			}
			logout()
		},
	} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/replacing a session: %t", name, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near := &watched{Link: world.NewLink(t)}
					far := &watched{Link: near.Another()}
					w := world.New(t, near)
					other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: far}).Service()
					if known {
						w.Login(w.Svc)
					}
					time.Sleep(time.Millisecond)
					near.Away.Store(true)
					w.Login(w.Svc)
					time.Sleep(time.Millisecond)
					race(near, far, func() { require.NoError(t, other.Logout(t.Context(), world.Alice)) })
					require.Zero(t, w.Svc.Health(t.Context()).Queued)
					require.Empty(t, w.Stored(world.Alice))
					for _, svc := range []*session.Service{w.Svc, other} {
						_, err := svc.Token(t.Context(), world.Alice)
						require.ErrorIs(t, err, session.ErrNotLoggedIn)
					}
				})
			})
		}
	}
}

// partly is a link over which one user's record cannot be read.
type partly struct {
	*world.Link
	broken atomic.Value // user ID
}

func (p *partly) Get(ctx context.Context, userID string) (session.Record, error) {
	if p.broken.Load() == userID {
		return session.Record{}, world.ErrAway
	}
	return p.Link.Get(ctx, userID)
}

func (p *partly) Watch(ctx context.Context, feed session.Feed) error {
	if p.broken.Load() != nil {
		return world.ErrAway
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for ctx.Err() == nil && p.broken.Load() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	return p.Link.MemoryStore.Watch(ctx, feed)
}

// One node of a Cluster being away does not hide logouts of users on the others.
func TestLogoutElsewhereIsSeenWhileOtherUsersRecordsCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &partly{Link: world.NewLink(t)}
		w := world.New(t, p)
		far := *w
		far.Store = p.Another()
		other := far.Service()
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		p.broken.Store(world.Bob)
		time.Sleep(time.Second) // the feed broke off
		_, err := w.Svc.Token(t.Context(), world.Bob)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.NoError(t, other.Logout(t.Context(), world.Alice))
		served := 0
		for range 100 { // 50 s
			_, _ = w.Svc.Token(t.Context(), world.Bob)
			if _, err := w.Svc.Token(t.Context(), world.Alice); err == nil {
				served++
			}
			time.Sleep(500 * time.Millisecond)
		}
		require.Zero(t, served)
	})
}

type halting struct {
	l    *world.Link
	swap atomic.Pointer[chan struct{}] // SwapLeased waits before it does anything
	at   chan struct{}
}

func (h *halting) Get(ctx context.Context, u string) (session.Record, error) { return h.l.Get(ctx, u) }

func (h *halting) Delete(ctx context.Context, r session.Record) error { return h.l.Delete(ctx, r) }

func (h *halting) stop() {
	if c := h.swap.Load(); c != nil {
		h.at <- struct{}{}
		<-*c
	}
}

func (h *halting) Swap(ctx context.Context, o, n session.Record) (session.Record, error) {
	h.stop()
	return h.l.Swap(ctx, o, n)
}

func (h *halting) All(ctx context.Context) iter.Seq2[session.Record, error] {
	return h.l.All(ctx)
}

type locking struct{ *halting }

func (h locking) Acquire(ctx context.Context, u, o string, ttl time.Duration) (session.Lease, session.Record, error) {
	return h.l.Acquire(ctx, u, o, ttl)
}

func (h locking) Release(ctx context.Context, u, o, n string, k time.Duration) error {
	return h.l.Release(ctx, u, o, n, k)
}

func (h locking) SwapLeased(ctx context.Context, owner string, o, n session.Record) (session.Record, error) {
	h.stop()
	return h.l.SwapLeased(ctx, owner, o, n)
}

type storeOnly struct{ *halting }

// A logout in the same process is not undone by the write-back of the login before it.
func TestLogoutIsNotUndoneByTheWriteBackUnderWay(t *testing.T) {
	for name, wrap := range map[string]func(*halting) session.Store{
		"lease, no tombstones": func(h *halting) session.Store { return locking{h} },
		"neither":              func(h *halting) session.Store { return storeOnly{h} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &halting{l: world.NewLink(t), at: make(chan struct{}, 10)}
				w := world.New(t, wrap(h))
				w.Login(w.Svc)
				h.l.Away.Store(true)
				time.Sleep(10 * time.Millisecond)
				w.Login(w.Svc)
				go1 := make(chan struct{})
				h.swap.Store(&go1)
				h.l.Away.Store(false)
				<-h.at // the write-back is about to swap
				time.Sleep(10 * time.Millisecond)
				h.swap.Store(nil)
				done := make(chan error, 1)
				go func() { done <- w.Svc.Logout(t.Context(), world.Alice) }()
				time.Sleep(10 * time.Millisecond)
				close(go1)
				require.NoError(t, <-done)
				time.Sleep(10 * time.Second)
				require.Zero(t, w.Svc.Health(t.Context()).Queued)
				_, err := w.Svc.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
			})
		})
	}
}

// A refresh token's successor is not dropped for a record that still holds the one spent.
func TestSuccessorIsNotDroppedForARefreshByLinkThatWaited(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.Auth.Link(world.Alice, world.Email)
		far := *a.World
		far.Store = a.link.Another()
		keyless := far.Service(session.WithServiceKey(""))
		a.link.Lose()
		a.pass(15 * time.Minute)
		world.MustToken(t, a.Svc, world.Alice) // by the link, waits
		a.Auth.Inject(sessiontest.Refresh, 1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			a.link.Restore()
			sessiontest.Delay(time.Second)(w, r, answer)
		})
		world.MustToken(t, keyless, world.Alice)
		a.pass(5 * time.Second)
		a.Auth.Unlink(world.Alice)
		a.pass(15 * time.Minute)
		world.MustToken(t, keyless, world.Alice)
	})
}

// A flight that cannot store what it has returns the login that waits.
func TestFlightReturnsTheLoginThatWaitsInsteadOfItsOwn(t *testing.T) {
	for name, linked := range map[string]bool{"link": true, "refresh token": false} {
		t.Run(name, func(t *testing.T) {
			duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
				op := sessiontest.Refresh
				if linked {
					a.Auth.Link(world.Alice, world.Email)
					op = sessiontest.LinkFetch
				}
				a.pass(15 * time.Minute)
				a.Auth.Inject(op, 1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
					a.link.Lose()
					sessiontest.Delay(time.Second)(w, r, answer)
				})
				var got string
				done := make(chan error, 1)
				go func() {
					var err error
					got, err = a.Svc.Token(t.Context(), world.Alice)
					done <- err
				}()
				time.Sleep(500 * time.Millisecond)
				s := a.Login(a.Svc)
				began := time.Now()
				require.NoError(t, <-done)
				require.Equal(t, s.Token(), got)
				require.Less(t, time.Since(began), 2*time.Second)
				a.back()
			})
		})
	}
}

// A store that can be read but not written does not fill the log.
func TestStoreThatCanBeReadButNotWrittenDoesNotFillTheLog(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.ReadOnly.Store(true)
		require.Error(t, a.Svc.Logout(t.Context(), world.Alice))
		before := strings.Count(a.Log.String(), "\n")
		a.pass(time.Minute)
		require.Less(t, strings.Count(a.Log.String(), "\n")-before, 20)
		a.link.ReadOnly.Store(false)
		a.pass(time.Second)
	})
}
