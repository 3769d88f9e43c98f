package outage_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
)

func TestLoginDuringAnOutageIsKept(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		s := a.Login(a.Svc)
		require.Equal(t, s.Token(), world.MustToken(t, a.Svc, world.Alice), "served from this process")
		require.Equal(t, "dark", a.theme(a.Svc))
		bobs, err := a.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
		require.NoError(t, err, "also of somebody who is not known")
		require.NotEqual(t, s.Token(), world.MustToken(t, a.other, world.Alice))
		require.Equal(t, 2, a.Svc.Health(t.Context()).Queued)
		require.True(t, a.Svc.Health(t.Context()).Degraded)

		a.back()
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
		require.Equal(t, bobs.Token(), world.MustToken(t, a.other, world.Bob))
		require.Equal(t, "dark", a.theme(a.other), "a login of the same account keeps the data")
		stats, err := a.Svc.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, stats.WrittenBack)
		require.EqualValues(t, 3, stats.Logins)
		require.False(t, a.Svc.Health(t.Context()).Degraded)
	})
}

func TestLogoutDuringAnOutageHoldsHereAtOnceAndEverywhereLater(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.Auth.Link(world.Alice, world.Email)
		a.link.Lose()
		require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable, "never a false success")
		a.loggedOut(a.Svc)
		in, err := a.Svc.LoggedIn(t.Context(), world.Alice)
		require.NoError(t, err)
		require.False(t, in)
		world.MustToken(t, a.other, world.Alice)
		a.Auth.Unlink(world.Alice)

		a.back()
		a.loggedOut(a.Svc)
		a.loggedOut(a.other)
		require.Empty(t, a.Stored(world.Alice))
	})
}

func TestLogoutDuringAnOutageHoldsWhenTheStoreIsBackButNotYetWritten(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		require.Error(t, a.Svc.Logout(t.Context(), world.Alice))
		a.link.Restore() // and at once, before the queue is looked at again
		a.loggedOut(a.Svc)
		_, err := a.Svc.Session(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.ErrorIs(t, a.Svc.SetData(t.Context(), world.Alice, "k", 1), session.ErrNotLoggedIn)
		require.Empty(t, a.Stored(world.Alice))
	})
}

// A session that the TypeScript service began does not get younger with a refresh.
func TestLogoutThatWaitedEndsASessionOfTheTypeScriptServiceThatWasRefreshedSince(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.Auth.Link(world.Alice, world.Email)
		token := a.Auth.MintToken(world.Email, time.Now().Add(15*time.Minute))
		a.Put(world.Alice, world.TsRecord(token, world.Email, "{}"))
		a.pass(time.Second)
		a.known()
		a.link.Lose()
		require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
		a.pass(time.Second)
		a.Auth.RotateSigningKey()
		_, err := a.other.Refresh(t.Context(), world.Alice, token)
		require.NoError(t, err)
		a.Auth.Unlink(world.Alice)
		a.back()
		a.loggedOut(a.Svc)
		a.loggedOut(a.other)
	})
}

func TestLogoutElsewhereBeatsAnOlderLoginThatWaits(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		a.Login(a.Svc)
		a.pass(time.Second)
		require.NoError(t, a.other.Logout(t.Context(), world.Alice))
		a.back()
		a.loggedOut(a.Svc)
		a.loggedOut(a.other)
		stats, err := a.Svc.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, stats.Overtaken)
	})
}

func TestLogoutElsewhereThatWaitedBeatsAnOlderLoginThatWaits(t *testing.T) {
	for name, order := range map[string][]int{"logout stored first": {1, 0}, "login stored first": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				links := []*world.Link{world.NewLink(t), nil}
				links[1] = links[0].Another()
				a := world.New(t, links[0])
				b := &world.World{T: t, Auth: a.Auth, Store: links[1], Log: a.Log}
				b.Svc = b.Service()
				for _, l := range links {
					l.Lose()
				}
				a.Login(a.Svc)
				time.Sleep(time.Second)
				require.Error(t, b.Svc.Logout(t.Context(), world.Alice))
				for _, i := range order {
					links[i].Restore()
					time.Sleep(time.Second)
				}
				time.Sleep(5 * time.Second)
				for _, svc := range []*session.Service{a.Svc, b.Svc} {
					_, err := svc.Token(t.Context(), world.Alice)
					require.ErrorIs(t, err, session.ErrNotLoggedIn)
				}
			})
		})
	}
}

// A logout that waits does not break the lease of a flight that was begun before it.
func TestLogoutThatWaitedIsNotUndoneByAFlightElsewhere(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.Auth.Link(world.Carol, world.Email)
		g := world.NewGate(a.Auth.Client().Transport)
		far := *a.World
		far.Store = a.link.Another()
		flying := far.Service(session.WithHTTPClient(&http.Client{Transport: &late{g.Base, g.Open, g.Arrived}}))
		done := make(chan error, 1)
		go func() {
			_, err := flying.Token(context.WithoutCancel(t.Context()), world.Carol)
			done <- err
		}()
		<-g.Arrived // answered, but not heard yet
		a.pass(10 * time.Millisecond)
		a.link.Lose()
		require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Carol, session.AndUnlink()), session.ErrStoreUnavailable)
		a.pass(10 * time.Millisecond)
		a.link.Restore()
		a.pass(time.Second)
		close(g.Open)
		<-done
		a.pass(20 * time.Second)
		require.Zero(t, a.Svc.Health(t.Context()).Queued)
		_, err := a.other.Token(t.Context(), world.Carol)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestLoginElsewhereBeatsAnOlderLogoutThatWaits(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		require.Error(t, a.Svc.Logout(t.Context(), world.Alice))
		a.pass(time.Second)
		s := a.Login(a.other)
		a.back()
		require.Equal(t, s.Token(), world.MustToken(t, a.Svc, world.Alice))
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
	})
}

func TestTheNewestOfTwoLoginsStays(t *testing.T) {
	for name, newest := range map[string]int{"the one that waits": 0, "the one in the store": 1} {
		t.Run(name, func(t *testing.T) {
			duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
				a.link.Lose()
				var logins [2]*session.Session
				for _, i := range []int{1 - newest, newest} {
					a.pass(time.Second)
					logins[i] = a.Login([]*session.Service{a.Svc, a.other}[i])
				}
				a.back()
				require.Equal(t, logins[newest].Token(), world.MustToken(t, a.Svc, world.Alice))
				require.Equal(t, logins[newest].Token(), world.MustToken(t, a.other, world.Alice))
			})
		})
	}
}

func TestLoginAfterALogoutDuringAnOutageStartsClean(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		require.Error(t, a.Svc.Logout(t.Context(), world.Alice))
		s := a.Login(a.Svc)
		require.Equal(t, s.Token(), world.MustToken(t, a.Svc, world.Alice))
		require.Empty(t, a.theme(a.Svc))
		a.back()
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
		require.Empty(t, a.theme(a.other), "the data went with the logout")
	})
}

func TestLoginAfterALogoutElsewhereStartsClean(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		a.pass(time.Second)
		require.NoError(t, a.other.Logout(t.Context(), world.Alice))
		a.pass(time.Second)
		s := a.Login(a.Svc)
		require.Equal(t, "dark", a.theme(a.Svc), "which cannot know better")
		a.back()
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
		require.Empty(t, a.theme(a.other))
	})
}

func TestLogoutHoldsWhileTheStoreCanBeReadButNotWritten(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.ReadOnly.Store(true)
		require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
		for range 5 {
			a.pass(time.Second) // in which the queue is tried again
			a.loggedOut(a.Svc)
		}
		a.link.ReadOnly.Store(false)
		a.pass(time.Second)
		a.loggedOut(a.other)
	})
}

// The data of a session that was logged out does not come back with the second login.
func TestSecondLoginAfterALogoutDuringAnOutageStartsCleanToo(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		require.Error(t, a.Svc.Logout(t.Context(), world.Alice))
		a.pass(time.Millisecond)
		a.Login(a.Svc)
		a.pass(time.Millisecond)
		a.link.Restore()
		a.Login(a.Svc)
		require.Empty(t, a.theme(a.Svc))
		a.pass(time.Second)
		require.Empty(t, a.theme(a.other))
	})
}

func TestLoginAsAnotherAccountDuringAnOutageTakesNothingAlong(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		s, err := a.Svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
		require.NoError(t, err)
		a.back()
		got, err := a.other.Session(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, s.Subject, got.Subject)
		require.Equal(t, "bob@example.com", got.Email)
		require.Empty(t, a.theme(a.other))
	})
}
