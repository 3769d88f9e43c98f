package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// limited is a world whose auth server allows 10 logins a minute, as deployed,
// and whose service has the default limit per user.
func limited(t *testing.T, opts ...session.Option) *world.World {
	t.Helper()
	w := &world.World{T: t, Auth: sessiontest.New(), Store: session.NewMemoryStore(), Log: &world.Logged{}}
	t.Cleanup(w.Auth.Close)
	w.Auth.AddUser(world.Email, world.Password)
	w.Auth.AddUser("bob@example.com", world.Password)
	w.Svc = w.Service(append([]session.Option{session.WithLoginLimit(3, 30*time.Second)}, opts...)...)
	return w
}

// tooMany asserts a refusal for being too many, by the server or (status 0)
// before it, and returns the wait.
func tooMany(t *testing.T, err error, status int) time.Duration {
	t.Helper()
	require.ErrorIs(t, err, session.ErrRateLimited)
	said, ok := errors.AsType[*session.AuthError](err)
	require.True(t, ok)
	require.Equal(t, "login", said.Op)
	require.Equal(t, status, said.StatusCode)
	require.Positive(t, said.RetryAfter)
	return said.RetryAfter
}

func TestOneUserCannotUseUpTheLoginsOfAll(t *testing.T) {
	for name, c := range map[string]struct {
		limit            session.Option
		atServer, others int // of 100 wrong passwords; of 6 others' logins
	}{
		"limited per user": {session.WithLoginLimit(3, 30*time.Second), 4, 6},
		"not limited":      {session.WithLoginLimit(0, 0), 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := limited(t, c.limit)
				began := time.Now()
				for range 100 { // in 59.4 s: within one minute of the server's
					require.Error(t, w.Wrong(world.Alice))
					time.Sleep(594 * time.Millisecond)
				}
				require.Less(t, time.Since(began), time.Minute)
				require.Equal(t, c.atServer, w.Auth.Calls(sessiontest.Login))
				others := 0
				for i := range 6 {
					if w.Right(fmt.Sprintf("@other%d:matrix.example", i)) == nil {
						others++
					}
				}
				require.Equal(t, c.others, others)
			})
		})
	}
}

func TestUserWhoHammersForTenMinutesIsNotNoticedByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		ctx, stop := context.WithCancel(t.Context())
		var hammer sync.WaitGroup
		defer hammer.Wait()
		defer stop()
		hammer.Go(func() {
			for ctx.Err() == nil {
				_ = w.Wrong(world.Alice)
				time.Sleep(100 * time.Millisecond)
			}
		})
		for range 20 { // twice a minute, at whatever moment of the server's minute
			time.Sleep(30*time.Second + 37*time.Millisecond)
			require.NoError(t, w.Right(world.Bob))
		}
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Login), 20+4+20)
	})
}

func TestThreeTypingErrorsCostHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		for range 3 {
			require.ErrorIs(t, w.Wrong(world.Alice), session.ErrInvalidCredentials)
		}
		wait := tooMany(t, w.Right(world.Alice), 0)
		require.Equal(t, 30*time.Second, wait)
		time.Sleep(10*time.Second + 300*time.Millisecond)
		wait = tooMany(t, w.Right(world.Alice), 0)
		require.Equal(t, 20*time.Second, wait, "what is left, in seconds that a person can be told")
		require.Equal(t, 3, w.Auth.Calls(sessiontest.Login))
		time.Sleep(wait)
		require.NoError(t, w.Right(world.Alice), "after the wait that was named")
		tooMany(t, w.Right(world.Alice), 0)

		time.Sleep(90 * time.Second)
		for range 3 {
			require.NoError(t, w.Right(world.Alice), "all is forgotten")
		}
		tooMany(t, w.Right(world.Alice), 0) // a login that succeeds uses up the server's budget as well
	})
}

func TestRefusalsDoNotMakeTheWaitLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		for range 3 {
			require.Error(t, w.Wrong(world.Alice))
		}
		var callers sync.WaitGroup
		for range 200 { // at once, too
			callers.Go(func() { _ = w.Wrong(world.Alice) })
		}
		callers.Wait()
		require.Equal(t, 3, w.Auth.Calls(sessiontest.Login))
		require.Equal(t, 30*time.Second, tooMany(t, w.Right(world.Alice), 0))
		time.Sleep(30 * time.Second)
		require.NoError(t, w.Right(world.Alice))
	})
}

func TestManyLoginsOfOneUserAtOncePassAsOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		var callers sync.WaitGroup
		for range 200 {
			callers.Go(func() { _ = w.Wrong(world.Alice) })
		}
		callers.Wait()
		require.Equal(t, 3, w.Auth.Calls(sessiontest.Login))
	})
}

func TestLimitIsPerUserByTheirExactID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		for range 4 {
			_ = w.Wrong("@A:h")
		}
		tooMany(t, w.Right("@A:h"), 0)
		require.NoError(t, w.Right("@a:h"))
	})
}

func TestLoginsThatNeverReachTheServerDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		ended, end := context.WithCancel(t.Context())
		end()
		long := string(make([]byte, 2000))
		for range 20 {
			for _, typed := range [][2]string{{"", world.Password}, {world.Email, ""}, {long, world.Password}, {world.Email, long}} {
				_, err := w.Svc.Login(t.Context(), world.Alice, typed[0], typed[1])
				require.ErrorIs(t, err, session.ErrInvalidCredentials)
			}
			_, err := w.Svc.Login(ended, world.Alice, world.Email, world.Password)
			require.ErrorIs(t, err, context.Canceled)
		}
		for range 3 {
			require.ErrorIs(t, w.Wrong(world.Alice), session.ErrInvalidCredentials)
		}
	})
}

func TestOpenBreakerUsesUpNobodysLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		w.Auth.BreakDatabase(true)
		for i := range 5 {
			require.ErrorIs(t, w.Right(fmt.Sprintf("@user%d:h", i)), session.ErrAuthUnavailable)
		}
		for range 20 { // the breaker is open now
			require.ErrorIs(t, w.Right(world.Alice), session.ErrAuthUnavailable)
		}
		require.Equal(t, 5, w.Auth.Calls(sessiontest.Login))
		w.Auth.BreakDatabase(false)
		time.Sleep(6 * time.Second)
		for range 3 {
			require.NoError(t, w.Right(world.Alice))
		}
	})
}

func TestUserWhoUpsetsTheServerCannotOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		w.Auth.Link(world.Bob, "bob@example.com")
		w.Auth.Inject(sessiontest.Login, -1, sessiontest.Status(500, "invalid byte sequence"))
		for range 100 {
			require.Error(t, w.Wrong(world.Alice))
		}
		world.MustToken(t, w.Svc, world.Bob)
	})
}

func TestServerThatSaysTooManyIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t, session.WithLoginLimit(0, 0))
		w.Auth.Inject(sessiontest.Login, 1, sessiontest.Status(429, "ThrottlerException: Too Many Requests", "Retry-After", "45"))
		require.Equal(t, 45*time.Second, tooMany(t, w.Right(world.Alice), 429))
		for left := 45; left > 0; left-- {
			require.Equal(t, time.Duration(left)*time.Second, tooMany(t, w.Right(world.Bob), 0))
			time.Sleep(time.Second)
		}
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Login))
		require.NoError(t, w.Right(world.Bob))
	})
}

func TestLastLoginOfTheServersMinuteEndsItForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		for i := range 10 {
			require.NoError(t, w.Right(fmt.Sprintf("@user%d:h", i)))
			time.Sleep(time.Second)
		}
		require.Equal(t, 50*time.Second, tooMany(t, w.Right(world.Alice), 0), "X-RateLimit-Remaining was 0")
		for range 49 {
			for range 3 {
				tooMany(t, w.Right(world.Alice), 0)
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, 10, w.Auth.Calls(sessiontest.Login))
		time.Sleep(time.Second)
		require.NoError(t, w.Right(world.Alice), "and what was refused counted for nothing") // the window slides: there is room for one
	})
}

func TestPauseIsBelievedWithinReason(t *testing.T) {
	refused := func(headers ...string) sessiontest.Fault { return sessiontest.Status(429, "slow down", headers...) }
	for name, c := range map[string]struct {
		fault sessiontest.Fault
		pause time.Duration
	}{
		"ten years":      {refused("Retry-After", "315360000"), time.Minute},
		"beyond numbers": {refused("Retry-After", "99999999999999999999"), 0},
		"negative":       {refused("Retry-After", "-5"), 0},
		"nothing":        {refused(), 0},
		"garbage":        {refused("Retry-After", "soon", "X-RateLimit-Reset", "later"), 0},
		"only a reset":   {refused("X-RateLimit-Reset", "20"), 20 * time.Second},
		"the longer":     {refused("Retry-After", "10", "X-RateLimit-Reset", "20"), 20 * time.Second},
		"another reset":  {refused("X-RateLimit-Reset", "1795000000"), 0},
		"none remaining, another reset": {func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			w.Header().Set("X-RateLimit-Remaining", "0")
			w.Header().Set("X-RateLimit-Reset", "1795000000")
			sessiontest.Status(500, "Invalid email or password")(w, r, answer)
		}, 0},
		"some remaining": {func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			w.Header().Set("X-RateLimit-Remaining", "1")
			w.Header().Set("X-RateLimit-Reset", "20")
			sessiontest.Status(500, "Invalid email or password")(w, r, answer)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := limited(t)
				w.Auth.Inject(sessiontest.Login, 1, c.fault)
				require.Error(t, w.Right(world.Alice))
				if c.pause > 0 {
					require.Equal(t, c.pause, tooMany(t, w.Right(world.Bob), 0))
					time.Sleep(c.pause)
				}
				require.NoError(t, w.Right(world.Bob))
			})
		})
	}
}

func TestRefusalsAreLoginFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t)
		for range 10 {
			require.Error(t, w.Wrong(world.Alice))
		}
		stats, err := w.Svc.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 10, stats.LoginFailures)
		require.True(t, w.Svc.Health(t.Context()).Auth.OK)
		require.NotContains(t, w.Log.String(), "wrong")
	})
}
