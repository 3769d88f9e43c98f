package outage_test

import (
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestDeadTokenIsReplacedByTheLinkDuringAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.Auth.Link(world.Alice, world.Email)
		a.link.Lose()
		a.pass(15 * time.Minute)
		a.Auth.ResetCalls()
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() { _, _ = a.Svc.Token(t.Context(), world.Alice) })
		}
		callers.Wait()
		token := world.MustToken(t, a.Svc, world.Alice)
		require.Equal(t, 1, a.Auth.Calls(sessiontest.LinkFetch))
		require.Zero(t, a.Auth.Calls(sessiontest.Refresh), "not without the lease")
		require.NoError(t, a.other.SetData(t.Context(), world.Alice, "theme", "light"))

		a.back()
		require.Equal(t, token, world.MustToken(t, a.other, world.Alice))
		require.Equal(t, "light", a.theme(a.Svc), "what was written meanwhile stays")
		mail, err := a.other.Email(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, world.Email, mail)
		require.Contains(t, a.Stored(world.Alice), "refreshToken")
	})
}

func TestRefreshThatWaitsDoesNotUndoALogoutElsewhere(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.Auth.Link(world.Alice, world.Email)
		a.link.Lose()
		a.pass(15 * time.Minute)
		world.MustToken(t, a.Svc, world.Alice)
		a.pass(time.Second)
		require.NoError(t, a.other.Logout(t.Context(), world.Alice, session.AndUnlink()))
		a.back()
		a.loggedOut(a.Svc)
		a.loggedOut(a.other)
	})
}

func TestRefreshThatWaitsDoesNotTakeTheTokenBack(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.Auth.Link(world.Alice, world.Email)
		a.link.Lose()
		a.pass(15 * time.Minute)
		world.MustToken(t, a.Svc, world.Alice)
		a.pass(time.Minute)
		token := world.MustToken(t, a.other, world.Alice)
		a.back()
		require.Equal(t, token, world.MustToken(t, a.Svc, world.Alice), "the later one stays")
	})
}

func TestRefreshThatWaitsDoesNotBringASpentRefreshTokenBack(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		a.pass(15 * time.Minute)
		world.MustToken(t, a.other, world.Alice) // with the refresh token
		a.Auth.Link(world.Alice, world.Email)
		a.pass(time.Minute)
		token := world.MustToken(t, a.Svc, world.Alice) // by the link
		a.back()
		require.Equal(t, token, world.MustToken(t, a.other, world.Alice))
		a.Auth.Unlink(world.Alice)
		a.pass(15 * time.Minute)
		world.MustToken(t, a.other, world.Alice)
	})
}

func TestWithoutALinkItIsNotAskedForAtEveryCallOfAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		a.pass(15 * time.Minute)
		a.Auth.ResetCalls()
		for range 50 {
			_, err := a.Svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrStoreUnavailable)
		}
		require.Equal(t, 1, a.Auth.Calls(sessiontest.LinkFetch))
		a.link.Restore()
		a.pass(5 * time.Second)
		world.MustToken(t, a.Svc, world.Alice)
	})
}

func TestLinkToAnotherAccountIsNotFollowedDuringAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.Auth.Link(world.Alice, "bob@example.com")
		a.link.Lose()
		a.pass(15 * time.Minute)
		_, err := a.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
	})
}

func TestWriteThatFailedLeavesTheUserKnown(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.ReadOnly.Store(true)
		require.ErrorIs(t, a.Svc.SetData(t.Context(), world.Alice, "theme", "light"), session.ErrStoreUnavailable)
		a.link.Lose()
		world.MustToken(t, a.Svc, world.Alice)
	})
}

func TestStoreThatHangsHoldsUpOneCallerASecond(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Hangs.Store(true)
		a.link.Lose()
		a.pass(time.Millisecond)
		began := time.Now()
		for range 20 {
			world.MustToken(t, a.Svc, world.Alice)
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
			a.Auth.Link(id(i), world.Email)
			world.MustToken(t, a.Svc, id(i))
			world.MustToken(t, a.Svc, id(i)) // read, and so known
		}
		a.pass(15 * time.Minute)
		before := runtime.NumGoroutine()
		a.link.Lose()
		for i := range users {
			world.MustToken(t, a.Svc, id(i))
		}
		require.Less(t, runtime.NumGoroutine(), before+users/4)
		a.back()
	})
}

func TestStoreThatPanicsDuringAnOutageWedgesNothing(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		s := a.Login(a.Svc)
		a.link.Panics.Store(true)
		a.link.Restore()
		a.pass(time.Minute)
		require.Equal(t, s.Token(), world.MustToken(t, a.Svc, world.Alice))
		require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Bob), session.ErrStoreUnavailable)
		a.link.Panics.Store(false)
		a.pass(time.Second)
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
		require.Zero(t, a.Svc.Health(t.Context()).Queued)
	})
}

func TestRefreshTokenIsNotSpentDuringAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		a.pass(15 * time.Minute)
		a.Auth.ResetCalls()
		_, err := a.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.Zero(t, a.Auth.Calls(sessiontest.Refresh))
		a.link.Restore()
		a.pass(5 * time.Second)
		world.MustToken(t, a.Svc, world.Alice)
		require.Equal(t, 1, a.Auth.Calls(sessiontest.Refresh))
	})
}

// A refresh token that was spent just before the store went away leaves
// nothing to go back to but its successor.
func TestSuccessorOfASpentRefreshTokenOutlivesAnOutage(t *testing.T) {
	for name, during := range map[string]func(t *testing.T, a *twoProcesses){
		"and nobody else asked":  func(*testing.T, *twoProcesses) {},
		"and the store lost all": func(t *testing.T, a *twoProcesses) { a.drop(world.Alice) },
		"and data was written": func(t *testing.T, a *twoProcesses) {
			require.NoError(t, a.other.SetData(t.Context(), world.Alice, "theme", "light"))
		},
		"and another process found the old one spent": func(t *testing.T, a *twoProcesses) {
			a.pass(20 * time.Second) // the lease runs out
			_, err := a.other.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
				a.pass(15 * time.Minute)
				a.Auth.ResetCalls()
				a.Auth.Inject(sessiontest.Refresh, 1, world.First(a.link.Lose))
				token := world.MustToken(t, a.Svc, world.Alice)
				require.Equal(t, token, world.MustToken(t, a.Svc, world.Alice))
				during(t, a)
				a.back()
				require.Equal(t, token, world.MustToken(t, a.other, world.Alice))
				calls := a.Auth.Calls(sessiontest.Refresh)
				a.pass(15 * time.Minute)
				world.MustToken(t, a.other, world.Alice)
				require.Equal(t, calls+1, a.Auth.Calls(sessiontest.Refresh))
			})
		})
	}
}

// A tombstone from a clock that is ahead does not cost a session that was begun since.
func TestSuccessorOfASpentRefreshTokenOutlivesAnOlderLogoutByAnotherClock(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		// Logged out on a bot whose clock is ahead by 2 s, and logged in again at once.
		require.NoError(t, a.other.Logout(t.Context(), world.Alice))
		require.NoError(t, a.link.MarkLoggedOut(t.Context(), session.Record{UserID: world.Alice}, time.Now().Add(2*time.Second), time.Hour))
		a.Login(a.Svc)
		a.known()
		a.pass(15 * time.Minute)
		a.Auth.Inject(sessiontest.Refresh, 1, world.First(a.link.Lose))
		token := world.MustToken(t, a.Svc, world.Alice)
		a.back()
		require.Equal(t, token, world.MustToken(t, a.Svc, world.Alice))
		require.Equal(t, token, world.MustToken(t, a.other, world.Alice))
	})
}

func TestSuccessorOfASpentRefreshTokenDoesNotUndoALogout(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.pass(15 * time.Minute)
		a.Auth.Inject(sessiontest.Refresh, 1, world.First(a.link.Lose))
		world.MustToken(t, a.Svc, world.Alice)
		require.NoError(t, a.other.Logout(t.Context(), world.Alice))
		a.back()
		a.loggedOut(a.Svc)
		a.loggedOut(a.other)
	})
}

func TestLogoutDuringARefreshThatCannotBeStored(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.pass(15 * time.Minute)
		a.Auth.Inject(sessiontest.Refresh, 1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			a.link.Lose()
			sessiontest.Delay(time.Second)(w, r, answer)
		})
		done := make(chan error, 1)
		go func() {
			_, err := a.Svc.Token(t.Context(), world.Alice)
			done <- err
		}()
		time.Sleep(500 * time.Millisecond)
		require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
		require.ErrorIs(t, <-done, session.ErrNotLoggedIn)
		a.back()
		a.loggedOut(a.Svc)
		a.loggedOut(a.other)
	})
}

func TestDataIsReadButNotWrittenDuringAnOutage(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		require.ErrorIs(t, a.Svc.SetData(t.Context(), world.Alice, "theme", "light"), session.ErrStoreUnavailable)
		require.ErrorIs(t, a.Svc.DeleteData(t.Context(), world.Alice, "theme"), session.ErrStoreUnavailable)
		require.Equal(t, "dark", a.theme(a.Svc), "nothing is half-kept")
		a.Login(a.Svc)
		require.ErrorIs(t, a.Svc.SetData(t.Context(), world.Alice, "theme", "light"), session.ErrStoreUnavailable)
		a.link.Restore()
		require.NoError(t, a.Svc.SetData(t.Context(), world.Alice, "theme", "light"), "the login is stored first")
		a.pass(5 * time.Second)
		require.Equal(t, "light", a.theme(a.other))
	})
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		_, err := a.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
		require.NoError(t, err)
		a.link.Restore()
		require.NoError(t, a.Svc.SetData(t.Context(), world.Bob, "theme", "light"), "also of who was not known")
	})
}

func TestWriteWhoseAnswerWasLost(t *testing.T) {
	t.Run("login", func(t *testing.T) {
		duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
			a.link.LoseAnswer.Store(true)
			s := a.Login(a.Svc)
			require.NoError(t, a.other.SetData(t.Context(), world.Alice, "theme", "light"))
			a.link.LoseAnswer.Store(false)
			a.pass(time.Minute)
			require.Equal(t, s.Token(), world.MustToken(t, a.Svc, world.Alice))
			require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
			require.Equal(t, "light", a.theme(a.Svc))
		})
	})
	t.Run("logout", func(t *testing.T) {
		duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
			a.link.LoseAnswer.Store(true)
			require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
			a.pass(time.Second)
			a.Login(a.other)
			a.link.LoseAnswer.Store(false)
			a.pass(time.Minute)
			world.MustToken(t, a.Svc, world.Alice)
			world.MustToken(t, a.other, world.Alice)
		})
	})
	t.Run("refresh", func(t *testing.T) {
		duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
			a.pass(15 * time.Minute)
			a.Auth.Inject(sessiontest.Refresh, 1, world.First(func() { a.link.LoseAnswer.Store(true) }))
			token := world.MustToken(t, a.Svc, world.Alice)
			require.Equal(t, token, world.MustToken(t, a.other, world.Alice))
			a.link.LoseAnswer.Store(false)
			a.pass(time.Minute)
			require.Equal(t, token, world.MustToken(t, a.Svc, world.Alice))
			a.pass(15 * time.Minute)
			world.MustToken(t, a.other, world.Alice)
		})
	})
}

func TestLoginLaterOvertakesWhatWaits(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		require.Error(t, a.Svc.Logout(t.Context(), world.Alice))
		a.pass(time.Second)
		a.link.Restore()
		s := a.Login(a.Svc)
		require.Zero(t, a.Svc.Health(t.Context()).Queued)
		a.pass(time.Minute)
		require.Equal(t, s.Token(), world.MustToken(t, a.Svc, world.Alice))
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
		require.Empty(t, a.theme(a.other))
	})
}

func TestCloseStoresWhatWaits(t *testing.T) {
	duringAnOutage(t, func(t *testing.T, a *twoProcesses) {
		a.link.Lose()
		s := a.Login(a.Svc)
		closed := make(chan error, 1)
		go func() { closed <- a.Svc.Close() }()
		time.Sleep(2 * time.Second)
		a.link.Restore()
		require.NoError(t, <-closed)
		a.pass(time.Second)
		require.Equal(t, s.Token(), world.MustToken(t, a.other, world.Alice))
	})
}

func TestCloseSaysWhatItCouldNotStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := world.NewLink(t)
		w := world.New(t, session.NewMemoryStore())
		svc, err := session.New(session.WithAuthURL(w.Auth.URL), session.WithHTTPClient(w.Auth.Client()), session.WithStore(away))
		require.NoError(t, err)
		away.Lose()
		w.Login(svc)
		began := time.Now()
		err = svc.Close()
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.ErrorContains(t, err, "1 login")
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
	})
}

func TestSessionThatWaitsForTheStoreEndsAsAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near := world.NewLink(t)
		w := world.New(t, near, session.WithSessionTTL(time.Minute))
		near.Lose()
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(2 * time.Minute)
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.Error(t, err)
		_, err = w.Svc.Session(t.Context(), world.Alice)
		require.Error(t, err)
		near.Restore()
		time.Sleep(time.Second)
	})
}
