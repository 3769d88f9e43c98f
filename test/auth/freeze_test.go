package auth_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// unlinkedUsers logs users in with a Service that has nothing but their refresh
// tokens to go by, and returns it.
func unlinkedUsers(t *testing.T, n int) (*world.World, *session.Service, []string) {
	t.Helper()
	w := world.New(t, session.NewMemoryStore())
	w.Auth = sessiontest.New(sessiontest.WithLoginLimit(0), sessiontest.WithRefreshLimit(0))
	t.Cleanup(w.Auth.Close)
	svc := w.Service(session.WithServiceKey(""))
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("@user%d:matrix.example", i)
		address := fmt.Sprintf("user%d@example.com", i)
		w.Auth.AddUser(address, world.Password)
		_, err := svc.Login(t.Context(), users[i], address, world.Password)
		require.NoError(t, err)
	}
	return w, svc, users
}

// lostLogins is how many users have to log in again.
func lostLogins(t *testing.T, svc *session.Service, users []string) (lost int) {
	t.Helper()
	for _, user := range users {
		for range 100 { // until what holds refreshes back has ended
			_, err := svc.Token(t.Context(), user)
			if err == nil {
				break
			}
			if errors.Is(err, session.ErrNotLoggedIn) {
				lost++
				break
			}
			time.Sleep(2 * time.Second)
		}
	}
	return lost
}

// The auth server's database freezes for a while: what was sent is done after
// the thaw, when nobody waits for the answer any more, and so is lost.
func TestFrozenAuthServerLogsHardlyAnybodyOut(t *testing.T) {
	for name, c := range map[string]struct {
		age     time.Duration // of the tokens
		freezes time.Duration
		most    int
	}{
		"aging tokens":               {11 * time.Minute, 13 * time.Second, 1},
		"dead tokens":                {15 * time.Minute, 13 * time.Second, 1},
		"aging tokens, for a minute": {11 * time.Minute, time.Minute, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, svc, users := unlinkedUsers(t, 40)
				time.Sleep(c.age)
				w.Auth.FreezeDatabase(true)
				var all sync.WaitGroup
				for began := time.Now(); time.Since(began) < c.freezes; time.Sleep(500 * time.Millisecond) {
					for _, user := range users {
						all.Go(func() { _, _ = svc.Token(t.Context(), user) })
					}
				}
				t.Logf("%d refresh tokens were sent meanwhile", w.Auth.Calls(sessiontest.Refresh))
				w.Auth.FreezeDatabase(false)
				all.Wait()
				time.Sleep(time.Minute)
				lost := lostLogins(t, svc, users)
				t.Logf("%d of %d users have to log in again", lost, len(users))
				require.LessOrEqual(t, lost, c.most)
			})
		})
	}
}

// It freezes while refreshes go on.
func TestAuthServerThatFreezesInTheMiddleLogsHardlyAnybodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, svc, users := unlinkedUsers(t, 40)
		w.Auth.Inject(sessiontest.Refresh, -1, sessiontest.Delay(20*time.Millisecond))
		time.Sleep(15 * time.Minute)
		var all sync.WaitGroup
		for _, user := range users {
			all.Go(func() { _, _ = svc.Token(t.Context(), user) })
		}
		time.Sleep(210 * time.Millisecond)
		w.Auth.FreezeDatabase(true)
		time.Sleep(13 * time.Second)
		w.Auth.FreezeDatabase(false)
		all.Wait()
		time.Sleep(time.Minute)
		lost := lostLogins(t, svc, users)
		t.Logf("%d of %d users have to log in again", lost, len(users))
		require.LessOrEqual(t, lost, 1)
	})
}

func TestRestartOfTheAuthServerLogsHardlyAnybodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, svc, users := unlinkedUsers(t, 60)
		w.Auth.Inject(sessiontest.Refresh, -1, sessiontest.Delay(20*time.Millisecond))
		time.Sleep(11 * time.Minute)
		stop := make(chan struct{})
		var all sync.WaitGroup
		for _, user := range users {
			all.Go(func() {
				for {
					_, _ = svc.Token(t.Context(), user)
					select {
					case <-stop:
						return
					case <-time.After(100 * time.Millisecond):
					}
				}
			})
		}
		time.Sleep(310 * time.Millisecond)
		w.Auth.Restart(3 * time.Second)
		time.Sleep(time.Minute)
		close(stop)
		all.Wait()
		lost := lostLogins(t, svc, users)
		t.Logf("%d of %d users have to log in again", lost, len(users))
		require.LessOrEqual(t, lost, 1)
	})
}
