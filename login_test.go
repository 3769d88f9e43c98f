package session_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestLoginAsTheServerReallyAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		fault   sessiontest.Fault
		want    error
		message string
		wait    time.Duration
	}{
		"wrong password":           {fault: sessiontest.Status(500, "Invalid email or password"), want: session.ErrInvalidCredentials, message: "Invalid email or password"},
		"wrong password elsewhere": {fault: sessiontest.Status(401, "Unauthorized"), want: session.ErrInvalidCredentials, message: "Unauthorized"},
		"malformed email":          {fault: sessiontest.Status(400, []string{"email must be an email", "again"}), want: session.ErrInvalidCredentials, message: "email must be an email; again"},
		"not verified":             {fault: sessiontest.Status(500, "Email not verified"), want: session.ErrEmailNotVerified, message: "Email not verified"},
		"not verified elsewhere":   {fault: sessiontest.Status(403, "Forbidden"), want: session.ErrEmailNotVerified, message: "Forbidden"},
		"too many":                 {fault: sessiontest.Status(429, "ThrottlerException: Too Many Requests", "Retry-After", "60"), want: session.ErrRateLimited, wait: time.Minute},
		"database down":            {fault: sessiontest.Status(500, "connect ECONNREFUSED 127.0.0.1:5432"), want: session.ErrAuthUnavailable, message: "connect ECONNREFUSED 127.0.0.1:5432"},
		"no JSON":                  {fault: sessiontest.HTML(), want: session.ErrAuthUnavailable, message: "the answer is HTML"},
		"error without JSON":       {fault: sessiontest.Raw(502, "text/html", "<h1>Bad Gateway</h1>"), want: session.ErrAuthUnavailable, message: "the answer is HTML"},
		"no token":                 {fault: sessiontest.Without("accessToken"), want: session.ErrAuthUnavailable, message: "no token in the answer"},
		"opaque token":             {fault: sessiontest.JSON(map[string]string{"accessToken": "opaque"}), want: session.ErrAuthUnavailable, message: "the access token is not a JWT"},
		"no connection":            {fault: sessiontest.Reset(), want: session.ErrAuthUnavailable, message: "no answer"},
		"redirect":                 {fault: sessiontest.Redirect(307, "http://elsewhere.test/"), want: session.ErrAuthUnavailable, message: "redirect not followed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.Auth.Inject(sessiontest.Login, 1, c.fault)
			_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
			require.ErrorIs(t, err, c.want)
			var said *session.AuthError
			require.ErrorAs(t, err, &said)
			require.Equal(t, "login", said.Op)
			if c.message != "" {
				require.Equal(t, c.message, said.Message)
			}
			require.Equal(t, c.wait, said.RetryAfter)
			require.Equal(t, 1, w.Auth.Calls(sessiontest.Any), "a login is never repeated")
			require.Empty(t, w.Stored(world.Alice))
		})
	}
}

func TestLoginByTheServerItself(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		ctx := t.Context()
		_, err := w.Svc.Login(ctx, world.Alice, world.Email, "wrong")
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
		_, err = w.Svc.Login(ctx, world.Alice, "nobody@example.com", world.Password)
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
		_, err = w.Svc.Login(ctx, world.Alice, "no email", world.Password)
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
		w.Auth.AddUnverifiedUser("new@example.com", world.Password)
		_, err = w.Svc.Login(ctx, world.Alice, "new@example.com", world.Password)
		require.ErrorIs(t, err, session.ErrEmailNotVerified)
		w.Auth.BreakSigning(true)
		_, err = w.Svc.Login(ctx, world.Alice, world.Email, world.Password)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		w.Auth.BreakSigning(false)

		w.Auth.ResetCalls()
		for _, empty := range [][2]string{{"", world.Password}, {world.Email, ""}} {
			_, err = w.Svc.Login(ctx, world.Alice, empty[0], empty[1])
			require.ErrorIs(t, err, session.ErrInvalidCredentials)
		}
		require.Zero(t, w.Auth.Calls(sessiontest.Any), "not worth a request")

		s, err := w.Svc.Login(ctx, world.Alice, "ALICE@example.com", world.Password)
		require.NoError(t, err)
		require.Equal(t, world.Email, s.Email, "as the server spells it")
		require.Equal(t, world.Alice, s.MatrixUserID)
		require.NotEmpty(t, s.Subject)
		require.WithinDuration(t, time.Now().Add(7*24*time.Hour), s.ExpiresAt, time.Minute)
		require.WithinDuration(t, time.Now().Add(15*time.Minute), s.TokenExpiresAt, time.Minute)
		require.Equal(t, s.Token(), world.MustToken(t, w.Svc, world.Alice))
	})
}

func TestLoginTakesTheTokenOfOlderDeployments(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	old, current := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour))
	for _, c := range []struct {
		answer map[string]string
		want   string
	}{
		{map[string]string{"token": old}, old},
		{map[string]string{"token": old, "accessToken": ""}, old},
		{map[string]string{"token": old, "accessToken": current}, current},
	} {
		w.Auth.Inject(sessiontest.Login, 1, sessiontest.JSON(c.answer))
		s, err := w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
		require.NoError(t, err)
		require.Equal(t, c.want, s.Token())
		require.Equal(t, world.Email, s.Email, "the one that was typed, for want of another")
	}
}

func TestLoginMakesALinkIfItCan(t *testing.T) {
	corrected := sessiontest.New(sessiontest.WithCorrectedLinks())
	corrected.AddUser(world.Email, world.Password)
	w := world.New(t, session.NewMemoryStore())
	svc := w.Service(session.WithAuthURL(corrected.URL), session.WithHTTPClient(corrected.Client()))
	w.Login(svc)
	require.True(t, corrected.Linked(world.Alice))

	w.Login(w.Svc) // the recorded deployment refuses
	require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkCreate))
	require.False(t, w.Auth.Linked(world.Alice))

	off := w.Service(session.WithSSOLink(false))
	w.Auth.ResetCalls()
	w.Login(off)
	require.Zero(t, w.Auth.Calls(sessiontest.LinkCreate))
}

func TestLinkCallHoldsALoginUpFor3SecondsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Inject(sessiontest.LinkCreate, 1, w.Auth.Hang())
		started := time.Now()
		w.Login(w.Svc)
		require.LessOrEqual(t, time.Since(started), 3*time.Second)
	})
}

func TestSecondLoginKeepsTheDataOfTheSameAccountOnly(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		ctx := t.Context()
		w.Login(w.Svc)
		require.NoError(t, w.Svc.SetData(ctx, world.Alice, "k", "v"))
		w.Login(w.Svc)
		found, err := w.Svc.Data(ctx, world.Alice, "k", new(string))
		require.NoError(t, err)
		require.True(t, found)
		_, err = w.Svc.Login(ctx, world.Alice, "bob@example.com", world.Password)
		require.NoError(t, err)
		found, err = w.Svc.Data(ctx, world.Alice, "k", new(string))
		require.NoError(t, err)
		require.False(t, found)
	})
}

func TestLoginOutlivesACallerWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		ctx, cancel := context.WithCancel(t.Context())
		// The server has logged the user in when the caller gives up.
		w.Auth.Inject(sessiontest.LinkCreate, 1, func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			cancel()
			<-r.Context().Done()
		})
		_, err := w.Svc.Login(ctx, world.Alice, world.Email, world.Password)
		require.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestLogoutReachesEveryProcess(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		other := w.Service()
		w.Login(w.Svc)
		world.MustToken(t, other, world.Alice)
		world.MustToken(t, other, world.Alice)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		require.Empty(t, w.Stored(world.Alice))
		world.Eventually(t, "the other process hands the token out no more", func() bool {
			_, err := other.Token(t.Context(), world.Alice)
			return err != nil
		})
		_, err := other.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		_, err = other.Session(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice), "nothing to end is no error")
	})
}

func TestLogoutOfALinkedUserLastsOnlyWithAndUnlink(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		world.MustToken(t, w.Svc, world.Alice)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()))
		require.False(t, w.Auth.Linked(world.Alice))
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()), "no link is no error")
	})
}

func TestLogoutEndsTheSessionEvenIfTheLinkStays(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		w.Auth.Inject(sessiontest.LinkRemove, -1, sessiontest.Status(503, "down"))
		require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()), session.ErrAuthUnavailable)
		require.Empty(t, w.Stored(world.Alice))
	})
}

func TestKeylessLogoutUnlinksWithTheUsersToken(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		keyless := w.Service(session.WithServiceKey(""))
		w.Login(keyless)
		require.NoError(t, keyless.Logout(t.Context(), world.Alice, session.AndUnlink()))
		require.False(t, w.Auth.Linked(world.Alice))
		require.Error(t, keyless.Logout(t.Context(), world.Alice, session.AndUnlink()), "neither key nor token any more")
	})
}

func TestLoggedIn(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		ctx := t.Context()
		in, err := w.Svc.LoggedIn(ctx, world.Alice)
		require.NoError(t, err)
		require.False(t, in)
		w.Login(w.Svc)
		in, err = w.Svc.LoggedIn(ctx, world.Alice)
		require.NoError(t, err)
		require.True(t, in)
		w.Auth.Link(world.Bob, "bob@example.com")
		in, err = w.Svc.LoggedIn(ctx, world.Bob)
		require.NoError(t, err)
		require.True(t, in, "linked")
		w.Auth.BreakDatabase(true)
		_, err = w.Svc.LoggedIn(ctx, "@carol:matrix.example")
		require.ErrorIs(t, err, session.ErrAuthUnavailable, "cannot be told")
	})
}

func TestSessionIsACopyThatDoesNotPrintItsToken(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	s := w.Login(w.Svc)
	wrapped := struct{ S session.Session }{*s}
	hidden := struct{ s session.Session }{*s}
	for _, text := range []string{
		fmt.Sprint(s), fmt.Sprintf("%+v %#v", s, s), fmt.Sprintf("%v %+v %#v", *s, *s, *s),
		fmt.Sprintf("%+v %#v", wrapped, hidden), fmt.Sprintf("%+v %#v", w.Svc, w.Svc), slog.AnyValue(s).String(),
	} {
		require.NotContains(t, text, s.Token())
		require.NotContains(t, text, s.Token()[10:40])
		require.NotContains(t, text, sessiontest.DefaultServiceKey)
	}
	asJSON, err := json.Marshal(s)
	require.NoError(t, err)
	require.NotContains(t, string(asJSON), s.Token())
	s.Email = "changed"
	again, err := w.Svc.Session(t.Context(), world.Alice)
	require.NoError(t, err)
	require.Equal(t, world.Email, again.Email)
}

func TestPasswordAndKeysGoOnlyToTheAuthServer(t *testing.T) {
	elsewhere := sessiontest.NewAuthServer(t)
	auth := sessiontest.NewAuthServer(t)
	auth.AddUser(world.Email, world.Password)
	for _, status := range []int{301, 302, 303, 307, 308} {
		svc, err := session.New(session.WithAuthURL(auth.URL+"/"), session.WithServiceKey("key"))
		require.NoError(t, err)
		for user, where := range map[string]string{world.Alice: elsewhere.URL + "/x", world.Bob: "/elsewhere"} {
			auth.ClearFaults()
			auth.ResetCalls()
			auth.Inject(sessiontest.Any, -1, sessiontest.Redirect(status, where))
			_, err = svc.Login(t.Context(), world.Alice, world.Email, world.Password)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			_, err = svc.Token(t.Context(), user)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.Equal(t, 2, auth.Calls(sessiontest.Any), "on the same host no more than elsewhere")
		}
		require.NoError(t, svc.Close())
	}
	require.Zero(t, elsewhere.Calls(sessiontest.Any))
}

func TestSecretsAreInNoLogAndNoError(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	// A server that echoes what it was sent.
	w.Auth.Inject(sessiontest.Login, 1, sessiontest.Status(500, "cannot log in with "+world.Password))
	_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
	require.Error(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), world.Password)

	s := w.LoginDead()
	var record struct{ RefreshToken string }
	require.NoError(t, json.Unmarshal([]byte(w.Stored(world.Alice)), &record))
	require.Len(t, record.RefreshToken, 64)
	w.Auth.Inject(sessiontest.Refresh, 1, sessiontest.Status(500, "cannot refresh "+record.RefreshToken))
	_, err = w.Svc.Token(t.Context(), world.Alice)
	require.Error(t, err)
	for _, secret := range []string{world.Password, s.Token(), record.RefreshToken, sessiontest.DefaultServiceKey} {
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), secret)
		require.NotContains(t, w.Log.String(), secret)
	}
}
