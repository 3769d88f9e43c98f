package outage_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// halfway is a link that drops some calls and lets others through, as a network
// does that comes back.
type halfway struct {
	*world.Link
	letLeases func() // leases, and what is written under them, get through again
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
		w.Auth.Inject(sessiontest.Refresh, 1, world.First(func() {
			h.letLeases = h.Inject(storetest.Away, storetest.Acquire, storetest.SwapLeased)
		}))
		token := world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 1, w.Svc.Health(t.Context()).Queued)
		flow(t, w, h, other, token)
	})
}

// The store still holds the refresh token that was spent: whoever is given the
// lease now spends it again, and is told that the session is over.
func TestLeaseStaysWithASuccessorThatWaits(t *testing.T) {
	leaseStays(t, func(*halfway) {}, func(h *halfway) { h.letLeases() })
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
		h.letLeases()
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

// Between finding the record changed and looking at what it is now, the store
// can go away as at any other time.
func TestSuccessorIsKeptWhenTheStoreGoesAwayAfterAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := world.NewLink(t)
		o.Inject(func(ctx context.Context, call storetest.Call) error {
			err := call.Do(ctx)
			if errors.Is(err, session.ErrConflict) {
				o.Away.Store(true)
			}
			return err
		}, storetest.SwapLeased)
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
	var letLogouts func()
	leaseStays(t, func(h *halfway) {
		letLogouts = h.Inject(storetest.Away, storetest.LoggedOutAt)
		h.letLeases()
	}, func(*halfway) { letLogouts() })
}

// once has something happen after the first call of a method that succeeds.
func once(l *world.Link, method storetest.Method, do func()) {
	var remove func()
	remove = l.Inject(func(ctx context.Context, call storetest.Call) error {
		err := call.Do(ctx)
		if err == nil {
			remove()
			do()
		}
		return err
	}, method)
}

// Whichever comes first, the logout or what it overtakes, no session is left.
func TestLogoutRacingAWriteBackLasts(t *testing.T) {
	for name, race := range map[string]func(near, far *world.Link, logout func()){
		"after its note was looked for": func(near, _ *world.Link, logout func()) {
			once(near, storetest.LoggedOutAt, logout)
			near.Away.Store(false)
			time.Sleep(time.Second)
		},
		"between removing the record and the end": func(near, far *world.Link, logout func()) {
			once(far, storetest.MarkLoggedOut, func() {
				near.Away.Store(false)
				time.Sleep(time.Second)
			})
			logout()
		},
	} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/replacing a session: %t", name, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near := world.NewLink(t)
					far := near.Another()
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

// One node of a Cluster being away does not hide logouts of users on the others.
func TestLogoutElsewhereIsSeenWhileOtherUsersRecordsCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := world.NewLink(t)
		w := world.New(t, p)
		far := *w
		far.Store = p.Another()
		other := far.Service()
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		p.Inject(storetest.Only(world.Bob, storetest.Away), storetest.Get)
		p.Inject(storetest.Away, storetest.Watch)
		p.Cut()
		time.Sleep(time.Second)
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

// A logout in the same process is not undone by the write-back of the login before it.
func TestLogoutIsNotUndoneByTheWriteBackUnderWay(t *testing.T) {
	for name, only := range map[string]func(*storetest.FaultStore) session.Store{
		"leases, no notes of logouts": world.WithoutLogoutLog,
		"neither":                     world.WithoutCapabilities,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				link, at := world.NewLink(t), make(chan struct{}, 10)
				w := world.New(t, only(link.FaultStore))
				w.Login(w.Svc)
				link.Away.Store(true)
				time.Sleep(10 * time.Millisecond)
				w.Login(w.Svc)
				goOn := make(chan struct{})
				letNext := link.Inject(func(ctx context.Context, call storetest.Call) error {
					at <- struct{}{}
					<-goOn
					return call.Do(ctx)
				}, storetest.Swap, storetest.SwapLeased)
				link.Away.Store(false)
				<-at // the write-back is about to swap
				time.Sleep(10 * time.Millisecond)
				letNext()
				done := make(chan error, 1)
				go func() { done <- w.Svc.Logout(t.Context(), world.Alice) }()
				time.Sleep(10 * time.Millisecond)
				close(goOn)
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
