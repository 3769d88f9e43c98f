package session_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

func TestLoginDuringAnOutageIsKept(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		s := a.login(a.svc)
		require.Equal(t, s.Token(), mustToken(t, a.svc, alice), "served from this process")
		require.Equal(t, "dark", a.theme(a.svc))
		bobs, err := a.svc.Login(t.Context(), bob, "bob@example.com", password)
		require.NoError(t, err, "also of somebody who is not known")
		require.NotEqual(t, s.Token(), mustToken(t, a.other, alice))
		require.Equal(t, 2, a.svc.Health(t.Context()).Queued)
		require.True(t, a.svc.Health(t.Context()).Degraded)

		a.back()
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
		require.Equal(t, bobs.Token(), mustToken(t, a.other, bob))
		require.Equal(t, "dark", a.theme(a.other), "a login of the same account keeps the data")
		stats, err := a.svc.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, stats.WrittenBack)
		require.EqualValues(t, 3, stats.Logins)
		require.False(t, a.svc.Health(t.Context()).Degraded)
	})
}

func TestLogoutDuringAnOutageHoldsHereAtOnceAndEverywhereLater(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.auth.Link(alice, email)
		a.link.lose()
		require.ErrorIs(t, a.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable, "never a false success")
		a.loggedOut(a.svc)
		in, err := a.svc.LoggedIn(t.Context(), alice)
		require.NoError(t, err)
		require.False(t, in)
		mustToken(t, a.other, alice)
		a.auth.Unlink(alice)

		a.back()
		a.loggedOut(a.svc)
		a.loggedOut(a.other)
		require.Empty(t, a.stored(alice))
	})
}

func TestLogoutDuringAnOutageHoldsWhenTheStoreIsBackButNotYetWritten(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		require.Error(t, a.svc.Logout(t.Context(), alice))
		a.link.restore() // and at once, before the queue is looked at again
		a.loggedOut(a.svc)
		_, err := a.svc.Session(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.ErrorIs(t, a.svc.SetData(t.Context(), alice, "k", 1), session.ErrNotLoggedIn)
		require.Empty(t, a.stored(alice))
	})
}

// A session that the TypeScript service began does not get younger with a refresh.
func TestLogoutThatWaitedEndsASessionOfTheTypeScriptServiceThatWasRefreshedSince(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.auth.Link(alice, email)
		token := a.auth.MintToken(email, time.Now().Add(15*time.Minute))
		a.put(alice, tsRecord(token, email, "{}"))
		a.pass(time.Second)
		a.known()
		a.link.lose()
		require.ErrorIs(t, a.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
		a.pass(time.Second)
		a.auth.RotateSigningKey()
		_, err := a.other.Refresh(t.Context(), alice, token)
		require.NoError(t, err)
		a.auth.Unlink(alice)
		a.back()
		a.loggedOut(a.svc)
		a.loggedOut(a.other)
	})
}

func TestLogoutElsewhereBeatsAnOlderLoginThatWaits(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		a.login(a.svc)
		a.pass(time.Second)
		require.NoError(t, a.other.Logout(t.Context(), alice))
		a.back()
		a.loggedOut(a.svc)
		a.loggedOut(a.other)
		stats, err := a.svc.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, stats.Overtaken)
	})
}

func TestLogoutElsewhereThatWaitedBeatsAnOlderLoginThatWaits(t *testing.T) {
	for name, order := range map[string][]int{"logout stored first": {1, 0}, "login stored first": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				links := []*link{newLink(t), nil}
				links[1] = links[0].another()
				a := newWorld(t, links[0])
				b := &world{t: t, auth: a.auth, store: links[1], log: a.log}
				b.svc = b.service()
				for _, l := range links {
					l.lose()
				}
				a.login(a.svc)
				time.Sleep(time.Second)
				require.Error(t, b.svc.Logout(t.Context(), alice))
				for _, i := range order {
					links[i].restore()
					time.Sleep(time.Second)
				}
				time.Sleep(5 * time.Second)
				for _, svc := range []*session.Service{a.svc, b.svc} {
					_, err := svc.Token(t.Context(), alice)
					require.ErrorIs(t, err, session.ErrNotLoggedIn)
				}
			})
		})
	}
}

// A logout that waits does not break the lease of a flight that was begun before it.
func TestLogoutThatWaitedIsNotUndoneByAFlightElsewhere(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.auth.Link(carol, email)
		g := newGate(a.auth.Client().Transport)
		far := *a.world
		far.store = a.link.another()
		flying := far.service(session.WithHTTPClient(&http.Client{Transport: &late{g.base, g.open, g.arrived}}))
		done := make(chan error, 1)
		go func() {
			_, err := flying.Token(context.WithoutCancel(t.Context()), carol)
			done <- err
		}()
		<-g.arrived // answered, but not heard yet
		a.pass(10 * time.Millisecond)
		a.link.lose()
		require.ErrorIs(t, a.svc.Logout(t.Context(), carol, session.AndUnlink()), session.ErrStoreUnavailable)
		a.pass(10 * time.Millisecond)
		a.link.restore()
		a.pass(time.Second)
		close(g.open)
		<-done
		a.pass(20 * time.Second)
		require.Zero(t, a.svc.Health(t.Context()).Queued)
		_, err := a.other.Token(t.Context(), carol)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestLoginElsewhereBeatsAnOlderLogoutThatWaits(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		require.Error(t, a.svc.Logout(t.Context(), alice))
		a.pass(time.Second)
		s := a.login(a.other)
		a.back()
		require.Equal(t, s.Token(), mustToken(t, a.svc, alice))
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
	})
}

func TestTheNewestOfTwoLoginsStays(t *testing.T) {
	for name, newest := range map[string]int{"the one that waits": 0, "the one in the store": 1} {
		t.Run(name, func(t *testing.T) {
			duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
				a.link.lose()
				var logins [2]*session.Session
				for _, i := range []int{1 - newest, newest} {
					a.pass(time.Second)
					logins[i] = a.login([]*session.Service{a.svc, a.other}[i])
				}
				a.back()
				require.Equal(t, logins[newest].Token(), mustToken(t, a.svc, alice))
				require.Equal(t, logins[newest].Token(), mustToken(t, a.other, alice))
			})
		})
	}
}

func TestLoginAfterALogoutDuringAnOutageStartsClean(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		require.Error(t, a.svc.Logout(t.Context(), alice))
		s := a.login(a.svc)
		require.Equal(t, s.Token(), mustToken(t, a.svc, alice))
		require.Empty(t, a.theme(a.svc))
		a.back()
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
		require.Empty(t, a.theme(a.other), "the data went with the logout")
	})
}

func TestLoginAfterALogoutElsewhereStartsClean(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		a.pass(time.Second)
		require.NoError(t, a.other.Logout(t.Context(), alice))
		a.pass(time.Second)
		s := a.login(a.svc)
		require.Equal(t, "dark", a.theme(a.svc), "which cannot know better")
		a.back()
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
		require.Empty(t, a.theme(a.other))
	})
}

func TestLogoutHoldsWhileTheStoreCanBeReadButNotWritten(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.readOnly.Store(true)
		require.ErrorIs(t, a.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
		for range 5 {
			a.pass(time.Second) // in which the queue is tried again
			a.loggedOut(a.svc)
		}
		a.link.readOnly.Store(false)
		a.pass(time.Second)
		a.loggedOut(a.other)
	})
}

// The data of a session that was logged out does not come back with the second login.
func TestSecondLoginAfterALogoutDuringAnOutageStartsCleanToo(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		require.Error(t, a.svc.Logout(t.Context(), alice))
		a.pass(time.Millisecond)
		a.login(a.svc)
		a.pass(time.Millisecond)
		a.link.restore()
		a.login(a.svc)
		require.Empty(t, a.theme(a.svc))
		a.pass(time.Second)
		require.Empty(t, a.theme(a.other))
	})
}

func TestLoginAsAnotherAccountDuringAnOutageTakesNothingAlong(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		s, err := a.svc.Login(t.Context(), alice, "bob@example.com", password)
		require.NoError(t, err)
		a.back()
		got, err := a.other.Session(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, s.Subject, got.Subject)
		require.Equal(t, "bob@example.com", got.Email)
		require.Empty(t, a.theme(a.other))
	})
}

func TestDeadTokenIsReplacedByTheLinkDuringAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.auth.Link(alice, email)
		a.link.lose()
		a.pass(15 * time.Minute)
		a.auth.ResetCalls()
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() { _, _ = a.svc.Token(t.Context(), alice) })
		}
		callers.Wait()
		token := mustToken(t, a.svc, alice)
		require.Equal(t, 1, a.auth.Calls(sessiontest.LinkFetch))
		require.Zero(t, a.auth.Calls(sessiontest.Refresh), "not without the lease")
		require.NoError(t, a.other.SetData(t.Context(), alice, "theme", "light"))

		a.back()
		require.Equal(t, token, mustToken(t, a.other, alice))
		require.Equal(t, "light", a.theme(a.svc), "what was written meanwhile stays")
		mail, err := a.other.Email(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, email, mail)
		require.Contains(t, a.stored(alice), "refreshToken")
	})
}

func TestRefreshThatWaitsDoesNotUndoALogoutElsewhere(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.auth.Link(alice, email)
		a.link.lose()
		a.pass(15 * time.Minute)
		mustToken(t, a.svc, alice)
		a.pass(time.Second)
		require.NoError(t, a.other.Logout(t.Context(), alice, session.AndUnlink()))
		a.back()
		a.loggedOut(a.svc)
		a.loggedOut(a.other)
	})
}

func TestRefreshThatWaitsDoesNotTakeTheTokenBack(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.auth.Link(alice, email)
		a.link.lose()
		a.pass(15 * time.Minute)
		mustToken(t, a.svc, alice)
		a.pass(time.Minute)
		token := mustToken(t, a.other, alice)
		a.back()
		require.Equal(t, token, mustToken(t, a.svc, alice), "the later one stays")
	})
}

func TestRefreshThatWaitsDoesNotBringASpentRefreshTokenBack(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		a.pass(15 * time.Minute)
		mustToken(t, a.other, alice) // with the refresh token
		a.auth.Link(alice, email)
		a.pass(time.Minute)
		token := mustToken(t, a.svc, alice) // by the link
		a.back()
		require.Equal(t, token, mustToken(t, a.other, alice))
		a.auth.Unlink(alice)
		a.pass(15 * time.Minute)
		mustToken(t, a.other, alice)
	})
}

func TestWithoutALinkItIsNotAskedForAtEveryCallOfAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		a.pass(15 * time.Minute)
		a.auth.ResetCalls()
		for range 50 {
			_, err := a.svc.Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrStoreUnavailable)
		}
		require.Equal(t, 1, a.auth.Calls(sessiontest.LinkFetch))
		a.link.restore()
		a.pass(5 * time.Second)
		mustToken(t, a.svc, alice)
	})
}

func TestLinkToAnotherAccountIsNotFollowedDuringAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.auth.Link(alice, "bob@example.com")
		a.link.lose()
		a.pass(15 * time.Minute)
		_, err := a.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
	})
}

func TestWriteThatFailedLeavesTheUserKnown(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.readOnly.Store(true)
		require.ErrorIs(t, a.svc.SetData(t.Context(), alice, "theme", "light"), session.ErrStoreUnavailable)
		a.link.lose()
		mustToken(t, a.svc, alice)
	})
}

func TestStoreThatHangsHoldsUpOneCallerASecond(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.hangs.Store(true)
		a.link.lose()
		a.pass(time.Millisecond)
		began := time.Now()
		for range 20 {
			mustToken(t, a.svc, alice)
		}
		require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
	})
}

// Each of them has asked for a lease, and may have been given it.
func TestOutageDoesNotLeaveAGoroutinePerUser(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		const users = 200
		id := func(i int) string { return fmt.Sprintf("@user%d:matrix.example", i) }
		for i := range users {
			a.auth.Link(id(i), email)
			mustToken(t, a.svc, id(i))
			mustToken(t, a.svc, id(i)) // read, and so known
		}
		a.pass(15 * time.Minute)
		before := runtime.NumGoroutine()
		a.link.lose()
		for i := range users {
			mustToken(t, a.svc, id(i))
		}
		require.Less(t, runtime.NumGoroutine(), before+users/4)
		a.back()
	})
}

func TestQueueIsBounded(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		session.SetMaxQueued(a.svc, 1)
		a.link.lose()
		_, err := a.svc.Login(t.Context(), bob, "bob@example.com", password)
		require.NoError(t, err)
		_, err = a.svc.Login(t.Context(), alice, email, password)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.ErrorIs(t, a.svc.Logout(t.Context(), "@carol:matrix.example"), session.ErrStoreUnavailable)
		require.Equal(t, 1, a.svc.Health(t.Context()).Queued)
		mustToken(t, a.svc, bob)
		a.back()
		mustToken(t, a.other, bob)
	})
}

func TestStoreThatPanicsDuringAnOutageWedgesNothing(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		s := a.login(a.svc)
		a.link.panics.Store(true)
		a.link.restore()
		a.pass(time.Minute)
		require.Equal(t, s.Token(), mustToken(t, a.svc, alice))
		require.ErrorIs(t, a.svc.Logout(t.Context(), bob), session.ErrStoreUnavailable)
		a.link.panics.Store(false)
		a.pass(time.Second)
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
		require.Zero(t, a.svc.Health(t.Context()).Queued)
	})
}

func TestRefreshTokenIsNotSpentDuringAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		a.pass(15 * time.Minute)
		a.auth.ResetCalls()
		_, err := a.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.Zero(t, a.auth.Calls(sessiontest.Refresh))
		a.link.restore()
		a.pass(5 * time.Second)
		mustToken(t, a.svc, alice)
		require.Equal(t, 1, a.auth.Calls(sessiontest.Refresh))
	})
}

// A refresh token that was spent just before the store went away leaves
// nothing to go back to but its successor.
func TestSuccessorOfASpentRefreshTokenOutlivesAnOutage(t *testing.T) {
	for name, during := range map[string]func(t *testing.T, a *twoProcesses){
		"and nobody else asked":  func(*testing.T, *twoProcesses) {},
		"and the store lost all": func(t *testing.T, a *twoProcesses) { a.drop(alice) },
		"and data was written": func(t *testing.T, a *twoProcesses) {
			require.NoError(t, a.other.SetData(t.Context(), alice, "theme", "light"))
		},
		"and another process found the old one spent": func(t *testing.T, a *twoProcesses) {
			a.pass(20 * time.Second) // the lease runs out
			_, err := a.other.Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
				a.pass(15 * time.Minute)
				a.auth.ResetCalls()
				a.auth.Inject(sessiontest.Refresh, 1, first(a.link.lose))
				token := mustToken(t, a.svc, alice)
				require.Equal(t, token, mustToken(t, a.svc, alice))
				during(t, a)
				a.back()
				require.Equal(t, token, mustToken(t, a.other, alice))
				calls := a.auth.Calls(sessiontest.Refresh)
				a.pass(15 * time.Minute)
				mustToken(t, a.other, alice)
				require.Equal(t, calls+1, a.auth.Calls(sessiontest.Refresh))
			})
		})
	}
}

// A tombstone from a clock that is ahead does not cost a session that was begun since.
func TestSuccessorOfASpentRefreshTokenOutlivesAnOlderLogoutByAnotherClock(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		// Logged out on a bot whose clock is ahead by 2 s, and logged in again at once.
		require.NoError(t, a.other.Logout(t.Context(), alice))
		require.NoError(t, a.link.MarkLoggedOut(t.Context(), session.Record{UserID: alice}, time.Now().Add(2*time.Second), time.Hour))
		a.login(a.svc)
		a.known()
		a.pass(15 * time.Minute)
		a.auth.Inject(sessiontest.Refresh, 1, first(a.link.lose))
		token := mustToken(t, a.svc, alice)
		a.back()
		require.Equal(t, token, mustToken(t, a.svc, alice))
		require.Equal(t, token, mustToken(t, a.other, alice))
	})
}

func TestSuccessorOfASpentRefreshTokenDoesNotUndoALogout(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.pass(15 * time.Minute)
		a.auth.Inject(sessiontest.Refresh, 1, first(a.link.lose))
		mustToken(t, a.svc, alice)
		require.NoError(t, a.other.Logout(t.Context(), alice))
		a.back()
		a.loggedOut(a.svc)
		a.loggedOut(a.other)
	})
}

func TestLogoutDuringARefreshThatCannotBeStored(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.pass(15 * time.Minute)
		a.auth.Inject(sessiontest.Refresh, 1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			a.link.lose()
			sessiontest.Delay(time.Second)(w, r, answer)
		})
		done := make(chan error, 1)
		go func() {
			_, err := a.svc.Token(t.Context(), alice)
			done <- err
		}()
		time.Sleep(500 * time.Millisecond)
		require.ErrorIs(t, a.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
		require.ErrorIs(t, <-done, session.ErrNotLoggedIn)
		a.back()
		a.loggedOut(a.svc)
		a.loggedOut(a.other)
	})
}

func TestDataIsReadButNotWrittenDuringAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		require.ErrorIs(t, a.svc.SetData(t.Context(), alice, "theme", "light"), session.ErrStoreUnavailable)
		require.ErrorIs(t, a.svc.DeleteData(t.Context(), alice, "theme"), session.ErrStoreUnavailable)
		require.Equal(t, "dark", a.theme(a.svc), "nothing is half-kept")
		a.login(a.svc)
		require.ErrorIs(t, a.svc.SetData(t.Context(), alice, "theme", "light"), session.ErrStoreUnavailable)
		a.link.restore()
		require.NoError(t, a.svc.SetData(t.Context(), alice, "theme", "light"), "the login is stored first")
		a.pass(5 * time.Second)
		require.Equal(t, "light", a.theme(a.other))
	})
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		_, err := a.svc.Login(t.Context(), bob, "bob@example.com", password)
		require.NoError(t, err)
		a.link.restore()
		require.NoError(t, a.svc.SetData(t.Context(), bob, "theme", "light"), "also of who was not known")
	})
}

func TestWriteWhoseAnswerWasLost(t *testing.T) {
	t.Run("login", func(t *testing.T) {
		duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
			a.link.loseAnswer.Store(true)
			s := a.login(a.svc)
			require.NoError(t, a.other.SetData(t.Context(), alice, "theme", "light"))
			a.link.loseAnswer.Store(false)
			a.pass(time.Minute)
			require.Equal(t, s.Token(), mustToken(t, a.svc, alice))
			require.Equal(t, s.Token(), mustToken(t, a.other, alice))
			require.Equal(t, "light", a.theme(a.svc))
		})
	})
	t.Run("logout", func(t *testing.T) {
		duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
			a.link.loseAnswer.Store(true)
			require.ErrorIs(t, a.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
			a.pass(time.Second)
			a.login(a.other)
			a.link.loseAnswer.Store(false)
			a.pass(time.Minute)
			mustToken(t, a.svc, alice)
			mustToken(t, a.other, alice)
		})
	})
	t.Run("refresh", func(t *testing.T) {
		duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
			a.pass(15 * time.Minute)
			a.auth.Inject(sessiontest.Refresh, 1, first(func() { a.link.loseAnswer.Store(true) }))
			token := mustToken(t, a.svc, alice)
			require.Equal(t, token, mustToken(t, a.other, alice))
			a.link.loseAnswer.Store(false)
			a.pass(time.Minute)
			require.Equal(t, token, mustToken(t, a.svc, alice))
			a.pass(15 * time.Minute)
			mustToken(t, a.other, alice)
		})
	})
}

func TestLoginLaterOvertakesWhatWaits(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		require.Error(t, a.svc.Logout(t.Context(), alice))
		a.pass(time.Second)
		a.link.restore()
		s := a.login(a.svc)
		require.Zero(t, a.svc.Health(t.Context()).Queued)
		a.pass(time.Minute)
		require.Equal(t, s.Token(), mustToken(t, a.svc, alice))
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
		require.Empty(t, a.theme(a.other))
	})
}

func TestCloseStoresWhatWaits(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.lose()
		s := a.login(a.svc)
		closed := make(chan error, 1)
		go func() { closed <- a.svc.Close() }()
		time.Sleep(2 * time.Second)
		a.link.restore()
		require.NoError(t, <-closed)
		a.pass(time.Second)
		require.Equal(t, s.Token(), mustToken(t, a.other, alice))
	})
}

func TestCloseSaysWhatItCouldNotStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := newLink(t)
		w := newWorld(t, session.NewMemoryStore())
		svc, err := session.New(session.WithAuthURL(w.auth.URL), session.WithHTTPClient(w.auth.Client()), session.WithStore(away))
		require.NoError(t, err)
		away.lose()
		w.login(svc)
		began := time.Now()
		err = svc.Close()
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.ErrorContains(t, err, "1 login")
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
	})
}

func TestSessionThatWaitsForTheStoreEndsAsAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near := newLink(t)
		w := newWorld(t, near, session.WithSessionTTL(time.Minute))
		near.lose()
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		time.Sleep(2 * time.Minute)
		_, err := w.svc.Token(t.Context(), alice)
		require.Error(t, err)
		_, err = w.svc.Session(t.Context(), alice)
		require.Error(t, err)
		near.restore()
		time.Sleep(time.Second)
	})
}
