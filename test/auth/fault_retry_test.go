package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// How long the auth server is waited for, what is asked again, and when it is
// not asked at all.

func TestRetryAfter(t *testing.T) {
	in := func(d time.Duration) func() string {
		return func() string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	}
	is := func(s string) func() string { return func() string { return s } }
	for name, c := range map[string]struct {
		value     func() string
		told      time.Duration // what the error says
		calls     int           // of an idempotent call
		from, end time.Duration // how long those take
	}{
		"seconds":              {is("2"), 2 * time.Second, 3, 4 * time.Second, 5 * time.Second},
		"seconds, once":        {is("9"), 9 * time.Second, 2, 9 * time.Second, 9 * time.Second},
		"seconds, too many":    {is("60"), time.Minute, 1, 0, 0},
		"date":                 {in(3 * time.Second), 3 * time.Second, 3, 6 * time.Second, 6 * time.Second},
		"date, too late":       {in(time.Minute), time.Minute, 1, 0, 0},
		"date that has passed": {in(-time.Hour), 0, 3, 100 * time.Millisecond, time.Second},
		"garbage":              {is("in a while"), 0, 3, 100 * time.Millisecond, time.Second},
		"negative":             {is("-30"), 0, 3, 100 * time.Millisecond, time.Second},
		"fraction":             {is("1.5"), 0, 3, 100 * time.Millisecond, time.Second},
		"ten years":            {is("315360000"), time.Hour, 1, 0, 0},
		"ten years, as a date": {in(10 * 365 * 24 * time.Hour), time.Hour, 1, 0, 0},
		"beyond all numbers":   {is("9999999999999999999999"), 0, 3, 100 * time.Millisecond, time.Second},
	} {
		for _, status := range []int{429, 503} {
			for wayName, way := range ways {
				t.Run(fmt.Sprint(name, "/", status, "/", wayName), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := world.New(t, session.NewMemoryStore(), way.opts...)
						way.had(w)
						before := w.Stored(world.Alice)
						w.Auth.Inject(way.op, -1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
							sessiontest.Status(status, "later", "Retry-After", c.value())(rw, r, answer)
						})
						began := time.Now()
						err := way.ask(w)
						if took := time.Since(began); way.op == sessiontest.LinkFetch {
							require.GreaterOrEqual(t, took, c.from)
							require.LessOrEqual(t, took, c.end)
							require.Equal(t, c.calls, w.Auth.Calls(way.op))
						} else {
							require.Zero(t, took)
							require.Equal(t, 1, w.Auth.Calls(way.op), "never repeated")
						}
						want := session.ErrAuthUnavailable
						if way.op == sessiontest.Login && status == 429 {
							want = session.ErrRateLimited
						}
						require.ErrorIs(t, err, want)
						said, ok := errors.AsType[*session.AuthError](err)
						require.True(t, ok)
						require.Equal(t, status, said.StatusCode)
						require.Equal(t, c.told, said.RetryAfter)
						require.Equal(t, before, w.Stored(world.Alice))
					})
				})
			}
		}
	}
}

func TestLinkCheckIsRepeatedAsTheFetchIs(t *testing.T) {
	for name, fault := range map[string]sessiontest.Fault{
		"502": sessiontest.Status(502, "x"), "503": sessiontest.Status(503, "x"), "504": sessiontest.Status(504, "x"),
		"429": sessiontest.Status(429, "x", "Retry-After", "1"), "reset": sessiontest.Reset(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now()), world.Email, "{}"))
				w.Auth.Inject(sessiontest.LinkCheck, 2, fault)
				require.ErrorIs(t, world.AskToken(w), session.ErrNotLoggedIn)
				require.Equal(t, 3, w.Auth.Calls(sessiontest.LinkCheck))
				require.Empty(t, w.Stored(world.Alice), "in the end a clear no")
			})
		})
	}
}

func TestWrongPasswordsAreNoOutageAndLockNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore(), session.WithLoginLimit(3, 30*time.Second))
		w.LoginDead()
		for i := range 50 {
			require.ErrorIs(t, w.Wrong(fmt.Sprintf("@user%d:h", i)), session.ErrInvalidCredentials)
		}
		world.MustToken(t, w.Svc, world.Alice) // by the refresh token
		w.Auth.Link(world.Bob, "bob@example.com")
		world.MustToken(t, w.Svc, world.Bob) // by the link
		require.NoError(t, w.Right("@other:h"))
		h := w.Svc.Health(t.Context())
		require.True(t, h.Auth.OK)
		require.Empty(t, h.Auth.LastError)
		require.NotContains(t, w.Log.String(), "circuit breaker")
	})
}

func TestBreakerOpensOnAnOutageTriesOnceAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		users := func(i int) string { return fmt.Sprintf("@user%d:h", i) }
		for i := range 30 {
			w.Auth.Link(users(i), world.Email)
		}
		ask := func(i int) error {
			_, err := w.Svc.Token(context.WithoutCancel(t.Context()), users(i))
			return err
		}
		w.Auth.Inject(sessiontest.LinkFetch, -1, sessiontest.Status(500, "down"))
		for i := range 20 {
			require.ErrorIs(t, ask(i), session.ErrAuthUnavailable)
		}
		require.Equal(t, 5, w.Auth.Calls(sessiontest.LinkFetch), "opened by five in a row")
		h := w.Svc.Health(t.Context())
		require.False(t, h.Auth.OK)
		require.True(t, h.Degraded)
		require.Contains(t, h.Auth.LastError, "down", "what it was, not that it is not asked")

		// Half open: one call at a time finds out.
		w.Auth.ResetCalls()
		time.Sleep(5*time.Second + time.Millisecond)
		w.Auth.ClearFaults()
		w.Auth.Inject(sessiontest.LinkFetch, -1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			time.Sleep(time.Second)
			sessiontest.Status(500, "still down")(rw, r, answer)
		})
		results := make(chan error, 10)
		for i := range 10 {
			go func() { results <- ask(i) }()
		}
		for range 10 {
			require.ErrorIs(t, <-results, session.ErrAuthUnavailable)
		}
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Any))

		w.Auth.ClearFaults()
		require.ErrorIs(t, ask(20), session.ErrAuthUnavailable, "open again")
		time.Sleep(5*time.Second + time.Millisecond)
		for i := range 30 {
			require.NoError(t, ask(i))
		}
		require.True(t, w.Svc.Health(t.Context()).Auth.OK)
		require.Contains(t, w.Log.String(), "circuit breaker")
	})
}

func TestAllThatOneTokenTakesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.LoginDead()
		before := w.Stored(world.Alice)
		slowly := func(d time.Duration, status int, message string) sessiontest.Fault {
			return func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
				time.Sleep(d)
				sessiontest.Status(status, message)(rw, r, answer)
			}
		}
		w.Auth.Inject(sessiontest.LinkFetch, -1, slowly(2900*time.Millisecond, 404, "No link found for this Matrix user"))
		w.Auth.Inject(sessiontest.Refresh, -1, slowly(9900*time.Millisecond, 401, "Invalid refresh token"))
		w.Auth.Inject(sessiontest.LinkCheck, -1, w.Auth.Hang())
		began := time.Now()
		require.ErrorIs(t, world.AskToken(w), session.ErrAuthUnavailable)
		require.LessOrEqual(t, time.Since(began), 20*time.Second)
		require.NotEmpty(t, before)
		require.Contains(t, w.Stored(world.Alice), `"token"`, "the session is kept")
		require.NotContains(t, w.Stored(world.Alice), "refreshToken", "which was refused")
	})
}
