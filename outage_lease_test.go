package session_test

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
	"github.com/mana/session/sessiontest"
)

// halfway is a link that drops some calls and lets others through, as a network
// does that comes back.
type halfway struct {
	*link
	dropping atomic.Bool // leases and what is written under them
	tombless atomic.Bool // tombstones cannot be read
}

func (h *halfway) LoggedOutAt(ctx context.Context, userID string) (session.Record, time.Time, error) {
	if h.tombless.Load() {
		return session.Record{}, time.Time{}, errAway
	}
	return h.link.LoggedOutAt(ctx, userID)
}

func (h *halfway) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (session.Lease, session.Record, error) {
	if h.dropping.Load() {
		return session.Lease{}, session.Record{}, errAway
	}
	return h.link.Acquire(ctx, userID, owner, ttl)
}

func (h *halfway) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	if h.dropping.Load() {
		return session.Record{}, errAway
	}
	return h.link.SwapLeased(ctx, owner, old, next)
}

// halfwayThere runs a flow in a bubble, in which alice's refresh token has been
// spent and its successor waits for the store.
func halfwayThere(t *testing.T, flow func(t *testing.T, w *world, h *halfway, other *session.Service, token string)) {
	synctest.Test(t, func(t *testing.T) {
		h := &halfway{link: newLink(t)}
		w := newWorld(t, h)
		far := *w
		far.store = h.another()
		other := far.service()
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		mustToken(t, other, alice)
		time.Sleep(15 * time.Minute)
		w.auth.ResetCalls()
		w.auth.Inject(sessiontest.Refresh, 1, first(func() { h.dropping.Store(true) }))
		token := mustToken(t, w.svc, alice)
		require.Equal(t, 1, w.svc.Health(t.Context()).Queued)
		flow(t, w, h, other, token)
	})
}

// The store still holds the refresh token that was spent: whoever is given the
// lease now spends it again, and is told that the session is over.
func TestLeaseStaysWithASuccessorThatWaits(t *testing.T) {
	leaseStays(t, func(*halfway) {}, func(h *halfway) { h.dropping.Store(false) })
}

func leaseStays(t *testing.T, meanwhile, atLast func(*halfway)) {
	halfwayThere(t, func(t *testing.T, w *world, h *halfway, other *session.Service, token string) {
		meanwhile(h)
		var got string
		done := make(chan error, 1)
		go func() {
			var err error
			got, err = other.Token(t.Context(), alice)
			done <- err
		}()
		time.Sleep(2 * time.Second)
		atLast(h)
		require.NoError(t, <-done)
		require.Equal(t, token, got)
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh))
	})
}

// A login in the place of a successor that waits does not have to wait for the
// lease that was taken for it.
func TestLoginTakesOverTheLeaseOfASuccessorThatWaits(t *testing.T) {
	halfwayThere(t, func(t *testing.T, w *world, h *halfway, other *session.Service, _ string) {
		h.away.Store(true)
		session := w.login(w.svc)
		h.away.Store(false)
		h.dropping.Store(false)
		time.Sleep(time.Second)
		require.Zero(t, w.svc.Health(t.Context()).Queued)
		require.Equal(t, session.Token(), mustToken(t, other, alice))
	})
}

// A login whose write got through without an answer waits for the store as well.
// By then another process may have spent the refresh token that came with it.
func TestLoginStoredWithoutAnAnswerDoesNotBringBackASpentRefreshToken(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.loseAnswer.Store(true)
		rejected := a.login(a.svc).Token()
		a.pass(100 * time.Millisecond)
		a.link.away.Store(true)
		a.link.loseAnswer.Store(false)
		refreshed, err := a.other.Refresh(t.Context(), alice, rejected)
		require.NoError(t, err)
		a.link.away.Store(false)
		a.pass(time.Second)
		require.Zero(t, a.svc.Health(t.Context()).Queued)
		require.Equal(t, refreshed, mustToken(t, a.svc, alice))
		a.pass(15 * time.Minute)
		mustToken(t, a.other, alice)
	})
}

// A process that died may have left a lease that lasts for longer than anybody
// should be told to log in who has just done so.
func TestLoginThatWaitsIsStoredAlthoughAnotherProcessHoldsTheLease(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		s := a.login(a.svc)
		lease, _, err := a.link.MemoryStore.Acquire(t.Context(), alice, "a process that died", time.Minute)
		require.NoError(t, err)
		require.True(t, lease.Held)
		a.back()
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
	})
}

// overtaken is a link that is lost as soon as a write was overtaken.
type overtaken struct{ *link }

func (o *overtaken) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	rec, err := o.link.SwapLeased(ctx, owner, old, next)
	if errors.Is(err, session.ErrConflict) {
		o.away.Store(true)
	}
	return rec, err
}

// Between finding the record changed and looking at what it is now, the store
// can go away as at any other time.
func TestSuccessorIsKeptWhenTheStoreGoesAwayAfterAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &overtaken{newLink(t)}
		w := newWorld(t, o)
		far := *w
		far.store = o.another()
		other := far.service()
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		time.Sleep(15 * time.Minute)
		w.auth.Inject(sessiontest.Refresh, 1, first(func() {
			require.NoError(t, other.SetData(t.Context(), alice, "theme", "dark"))
		}))
		token := mustToken(t, w.svc, alice)
		o.away.Store(false)
		time.Sleep(time.Second)
		require.Equal(t, token, mustToken(t, other, alice))
		theme, _, err := session.DataAs[string](t.Context(), other, alice, "theme")
		require.NoError(t, err)
		require.Equal(t, "dark", theme)
	})
}

// An attempt to store what waits may have taken the lease without hearing of it.
func TestLostAnswersDoNotKeepALoginThatWaitsFromBeingStored(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.drop(alice)
		a.link.lose()
		s := a.login(a.svc)
		a.link.loseAnswer.Store(true)
		a.link.away.Store(false)
		a.pass(time.Second)
		a.link.loseAnswer.Store(false)
		a.pass(time.Second)
		require.Zero(t, a.svc.Health(t.Context()).Queued)
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
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
	*link
	sought, removed func() // after a tombstone was looked for; after a record was removed
}

func (l *watched) LoggedOutAt(ctx context.Context, userID string) (session.Record, time.Time, error) {
	rec, at, err := l.link.LoggedOutAt(ctx, userID)
	if do := l.sought; do != nil && err == nil {
		l.sought = nil
		do()
	}
	return rec, at, err
}

func (l *watched) MarkLoggedOut(ctx context.Context, old session.Record, at time.Time, keep time.Duration) error {
	err := l.link.MarkLoggedOut(ctx, old, at, keep)
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
			near.away.Store(false)
			time.Sleep(time.Second)
		},
		"between removing the record and the end": func(near, far *watched, logout func()) {
			far.removed = func() {
				near.away.Store(false)
				time.Sleep(time.Second)
			}
			logout()
		},
	} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/replacing a session: %t", name, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near := &watched{link: newLink(t)}
					far := &watched{link: near.another()}
					w := newWorld(t, near)
					other := (&world{t: t, auth: w.auth, log: w.log, store: far}).service()
					if known {
						w.login(w.svc)
					}
					time.Sleep(time.Millisecond)
					near.away.Store(true)
					w.login(w.svc)
					time.Sleep(time.Millisecond)
					race(near, far, func() { require.NoError(t, other.Logout(t.Context(), alice)) })
					require.Zero(t, w.svc.Health(t.Context()).Queued)
					require.Empty(t, w.stored(alice))
					for _, svc := range []*session.Service{w.svc, other} {
						_, err := svc.Token(t.Context(), alice)
						require.ErrorIs(t, err, session.ErrNotLoggedIn)
					}
				})
			})
		}
	}
}

// partly is a link over which one user's record cannot be read.
type partly struct {
	*link
	broken atomic.Value // user ID
}

func (p *partly) Get(ctx context.Context, userID string) (session.Record, error) {
	if p.broken.Load() == userID {
		return session.Record{}, errAway
	}
	return p.link.Get(ctx, userID)
}

func (p *partly) Watch(ctx context.Context, feed session.Feed) error {
	if p.broken.Load() != nil {
		return errAway
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for ctx.Err() == nil && p.broken.Load() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	return p.link.MemoryStore.Watch(ctx, feed)
}

// One node of a Cluster being away does not hide logouts of users on the others.
func TestLogoutElsewhereIsSeenWhileOtherUsersRecordsCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &partly{link: newLink(t)}
		w := newWorld(t, p)
		far := *w
		far.store = p.another()
		other := far.service()
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		p.broken.Store(bob)
		time.Sleep(time.Second) // the feed broke off
		_, err := w.svc.Token(t.Context(), bob)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.NoError(t, other.Logout(t.Context(), alice))
		served := 0
		for range 100 { // 50 s
			_, _ = w.svc.Token(t.Context(), bob)
			if _, err := w.svc.Token(t.Context(), alice); err == nil {
				served++
			}
			time.Sleep(500 * time.Millisecond)
		}
		require.Zero(t, served)
	})
}

type halting struct {
	l    *link
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
				h := &halting{l: newLink(t), at: make(chan struct{}, 10)}
				w := newWorld(t, wrap(h))
				w.login(w.svc)
				h.l.away.Store(true)
				time.Sleep(10 * time.Millisecond)
				w.login(w.svc)
				go1 := make(chan struct{})
				h.swap.Store(&go1)
				h.l.away.Store(false)
				<-h.at // the write-back is about to swap
				time.Sleep(10 * time.Millisecond)
				h.swap.Store(nil)
				done := make(chan error, 1)
				go func() { done <- w.svc.Logout(t.Context(), alice) }()
				time.Sleep(10 * time.Millisecond)
				close(go1)
				require.NoError(t, <-done)
				time.Sleep(10 * time.Second)
				require.Zero(t, w.svc.Health(t.Context()).Queued)
				_, err := w.svc.Token(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
			})
		})
	}
}

// A refresh token's successor is not dropped for a record that still holds the one spent.
func TestSuccessorIsNotDroppedForARefreshByLinkThatWaited(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.auth.Link(alice, email)
		far := *a.world
		far.store = a.link.another()
		keyless := far.service(session.WithServiceKey(""))
		a.link.lose()
		a.pass(15 * time.Minute)
		mustToken(t, a.svc, alice) // by the link, waits
		a.auth.Inject(sessiontest.Refresh, 1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			a.link.restore()
			sessiontest.Delay(time.Second)(w, r, answer)
		})
		mustToken(t, keyless, alice)
		a.pass(5 * time.Second)
		a.auth.Unlink(alice)
		a.pass(15 * time.Minute)
		mustToken(t, keyless, alice)
	})
}

// A flight that cannot store what it has returns the login that waits.
func TestFlightReturnsTheLoginThatWaitsInsteadOfItsOwn(t *testing.T) {
	for name, linked := range map[string]bool{"link": true, "refresh token": false} {
		t.Run(name, func(t *testing.T) {
			duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
				op := sessiontest.Refresh
				if linked {
					a.auth.Link(alice, email)
					op = sessiontest.LinkFetch
				}
				a.pass(15 * time.Minute)
				a.auth.Inject(op, 1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
					a.link.lose()
					sessiontest.Delay(time.Second)(w, r, answer)
				})
				var got string
				done := make(chan error, 1)
				go func() {
					var err error
					got, err = a.svc.Token(t.Context(), alice)
					done <- err
				}()
				time.Sleep(500 * time.Millisecond)
				s := a.login(a.svc)
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
		a.link.readOnly.Store(true)
		require.Error(t, a.svc.Logout(t.Context(), alice))
		before := strings.Count(a.log.String(), "\n")
		a.pass(time.Minute)
		require.Less(t, strings.Count(a.log.String(), "\n")-before, 20)
		a.link.readOnly.Store(false)
		a.pass(time.Second)
	})
}
