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
			w := newWorld(t, session.NewMemoryStore())
			w.auth.Inject(sessiontest.Login, 1, c.fault)
			_, err := w.svc.Login(t.Context(), alice, email, password)
			require.ErrorIs(t, err, c.want)
			var said *session.AuthError
			require.ErrorAs(t, err, &said)
			require.Equal(t, "login", said.Op)
			if c.message != "" {
				require.Equal(t, c.message, said.Message)
			}
			require.Equal(t, c.wait, said.RetryAfter)
			require.Equal(t, 1, w.auth.Calls(sessiontest.Any), "a login is never repeated")
			require.Empty(t, w.stored(alice))
		})
	}
}

func TestLoginByTheServerItself(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		_, err := w.svc.Login(ctx, alice, email, "wrong")
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
		_, err = w.svc.Login(ctx, alice, "nobody@example.com", password)
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
		_, err = w.svc.Login(ctx, alice, "no email", password)
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
		w.auth.AddUnverifiedUser("new@example.com", password)
		_, err = w.svc.Login(ctx, alice, "new@example.com", password)
		require.ErrorIs(t, err, session.ErrEmailNotVerified)
		w.auth.BreakSigning(true)
		_, err = w.svc.Login(ctx, alice, email, password)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		w.auth.BreakSigning(false)

		w.auth.ResetCalls()
		for _, empty := range [][2]string{{"", password}, {email, ""}} {
			_, err = w.svc.Login(ctx, alice, empty[0], empty[1])
			require.ErrorIs(t, err, session.ErrInvalidCredentials)
		}
		require.Zero(t, w.auth.Calls(sessiontest.Any), "not worth a request")

		s, err := w.svc.Login(ctx, alice, "ALICE@example.com", password)
		require.NoError(t, err)
		require.Equal(t, email, s.Email, "as the server spells it")
		require.Equal(t, alice, s.MatrixUserID)
		require.NotEmpty(t, s.Subject)
		require.WithinDuration(t, time.Now().Add(7*24*time.Hour), s.ExpiresAt, time.Minute)
		require.WithinDuration(t, time.Now().Add(15*time.Minute), s.TokenExpiresAt, time.Minute)
		require.Equal(t, s.Token(), mustToken(t, w.svc, alice))
	})
}

func TestLoginTakesTheTokenOfOlderDeployments(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	old, current := w.auth.MintToken(email, time.Now().Add(time.Hour)), w.auth.MintToken(email, time.Now().Add(2*time.Hour))
	for _, c := range []struct {
		answer map[string]string
		want   string
	}{
		{map[string]string{"token": old}, old},
		{map[string]string{"token": old, "accessToken": ""}, old},
		{map[string]string{"token": old, "accessToken": current}, current},
	} {
		w.auth.Inject(sessiontest.Login, 1, sessiontest.JSON(c.answer))
		s, err := w.svc.Login(t.Context(), alice, email, password)
		require.NoError(t, err)
		require.Equal(t, c.want, s.Token())
		require.Equal(t, email, s.Email, "the one that was typed, for want of another")
	}
}

func TestLoginMakesALinkIfItCan(t *testing.T) {
	corrected := sessiontest.New(sessiontest.WithCorrectedLinks())
	corrected.AddUser(email, password)
	w := newWorld(t, session.NewMemoryStore())
	svc := w.service(session.WithAuthURL(corrected.URL), session.WithHTTPClient(corrected.Client()))
	w.login(svc)
	require.True(t, corrected.Linked(alice))

	w.login(w.svc) // the recorded deployment refuses
	require.Equal(t, 1, w.auth.Calls(sessiontest.LinkCreate))
	require.False(t, w.auth.Linked(alice))

	off := w.service(session.WithSSOLink(false))
	w.auth.ResetCalls()
	w.login(off)
	require.Zero(t, w.auth.Calls(sessiontest.LinkCreate))
}

func TestLinkCallHoldsALoginUpFor3SecondsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Inject(sessiontest.LinkCreate, 1, w.auth.Hang())
		started := time.Now()
		w.login(w.svc)
		require.LessOrEqual(t, time.Since(started), 3*time.Second)
	})
}

func TestSecondLoginKeepsTheDataOfTheSameAccountOnly(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.login(w.svc)
		require.NoError(t, w.svc.SetData(ctx, alice, "k", "v"))
		w.login(w.svc)
		found, err := w.svc.Data(ctx, alice, "k", new(string))
		require.NoError(t, err)
		require.True(t, found)
		_, err = w.svc.Login(ctx, alice, "bob@example.com", password)
		require.NoError(t, err)
		found, err = w.svc.Data(ctx, alice, "k", new(string))
		require.NoError(t, err)
		require.False(t, found)
	})
}

func TestLoginOutlivesACallerWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		ctx, cancel := context.WithCancel(t.Context())
		// The server has logged the user in when the caller gives up.
		w.auth.Inject(sessiontest.LinkCreate, 1, func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			cancel()
			<-r.Context().Done()
		})
		_, err := w.svc.Login(ctx, alice, email, password)
		require.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		mustToken(t, w.svc, alice)
	})
}

func TestLogoutReachesEveryProcess(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		other := w.service()
		w.login(w.svc)
		mustToken(t, other, alice)
		mustToken(t, other, alice)
		require.NoError(t, w.svc.Logout(t.Context(), alice))
		require.Empty(t, w.stored(alice))
		eventually(t, "the other process hands the token out no more", func() bool {
			_, err := other.Token(t.Context(), alice)
			return err != nil
		})
		_, err := other.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		_, err = other.Session(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.NoError(t, w.svc.Logout(t.Context(), alice), "nothing to end is no error")
	})
}

func TestLogoutOfALinkedUserLastsOnlyWithAndUnlink(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		mustToken(t, w.svc, alice)
		require.NoError(t, w.svc.Logout(t.Context(), alice))
		mustToken(t, w.svc, alice)
		require.NoError(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()))
		require.False(t, w.auth.Linked(alice))
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.NoError(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()), "no link is no error")
	})
}

func TestLogoutEndsTheSessionEvenIfTheLinkStays(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		mustToken(t, w.svc, alice)
		w.auth.Inject(sessiontest.LinkRemove, -1, sessiontest.Status(503, "down"))
		require.ErrorIs(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()), session.ErrAuthUnavailable)
		require.Empty(t, w.stored(alice))
	})
}

func TestKeylessLogoutUnlinksWithTheUsersToken(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		keyless := w.service(session.WithServiceKey(""))
		w.login(keyless)
		require.NoError(t, keyless.Logout(t.Context(), alice, session.AndUnlink()))
		require.False(t, w.auth.Linked(alice))
		require.Error(t, keyless.Logout(t.Context(), alice, session.AndUnlink()), "neither key nor token any more")
	})
}

func TestLoggedIn(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		in, err := w.svc.LoggedIn(ctx, alice)
		require.NoError(t, err)
		require.False(t, in)
		w.login(w.svc)
		in, err = w.svc.LoggedIn(ctx, alice)
		require.NoError(t, err)
		require.True(t, in)
		w.auth.Link(bob, "bob@example.com")
		in, err = w.svc.LoggedIn(ctx, bob)
		require.NoError(t, err)
		require.True(t, in, "linked")
		w.auth.BreakDatabase(true)
		_, err = w.svc.LoggedIn(ctx, "@carol:matrix.example")
		require.ErrorIs(t, err, session.ErrAuthUnavailable, "cannot be told")
	})
}

func TestSessionIsACopyThatDoesNotPrintItsToken(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	s := w.login(w.svc)
	wrapped := struct{ S session.Session }{*s}
	hidden := struct{ s session.Session }{*s}
	for _, text := range []string{
		fmt.Sprint(s), fmt.Sprintf("%+v %#v", s, s), fmt.Sprintf("%v %+v %#v", *s, *s, *s),
		fmt.Sprintf("%+v %#v", wrapped, hidden), fmt.Sprintf("%+v %#v", w.svc, w.svc), slog.AnyValue(s).String(),
	} {
		require.NotContains(t, text, s.Token())
		require.NotContains(t, text, s.Token()[10:40])
		require.NotContains(t, text, sessiontest.DefaultServiceKey)
	}
	asJSON, err := json.Marshal(s)
	require.NoError(t, err)
	require.NotContains(t, string(asJSON), s.Token())
	s.Email = "changed"
	again, err := w.svc.Session(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, email, again.Email)
}

func TestPasswordAndKeysGoOnlyToTheAuthServer(t *testing.T) {
	elsewhere := sessiontest.NewAuthServer(t)
	real := sessiontest.NewAuthServer(t)
	real.AddUser(email, password)
	for _, status := range []int{301, 302, 303, 307, 308} {
		svc, err := session.New(session.WithAuthURL(real.URL+"/"), session.WithServiceKey("key"))
		require.NoError(t, err)
		for user, where := range map[string]string{alice: elsewhere.URL + "/x", bob: "/elsewhere"} {
			real.ClearFaults()
			real.ResetCalls()
			real.Inject(sessiontest.Any, -1, sessiontest.Redirect(status, where))
			_, err = svc.Login(t.Context(), alice, email, password)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			_, err = svc.Token(t.Context(), user)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.Equal(t, 2, real.Calls(sessiontest.Any), "on the same host no more than elsewhere")
		}
		require.NoError(t, svc.Close())
	}
	require.Zero(t, elsewhere.Calls(sessiontest.Any))
}

func TestSecretsAreInNoLogAndNoError(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	// A server that echoes what it was sent.
	w.auth.Inject(sessiontest.Login, 1, sessiontest.Status(500, "cannot log in with "+password))
	_, err := w.svc.Login(t.Context(), alice, email, password)
	require.Error(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), password)

	s := w.loginDead()
	var record struct{ RefreshToken string }
	require.NoError(t, json.Unmarshal([]byte(w.stored(alice)), &record))
	require.Len(t, record.RefreshToken, 64)
	w.auth.Inject(sessiontest.Refresh, 1, sessiontest.Status(500, "cannot refresh "+record.RefreshToken))
	_, err = w.svc.Token(t.Context(), alice)
	require.Error(t, err)
	for _, secret := range []string{password, s.Token(), record.RefreshToken, sessiontest.DefaultServiceKey} {
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), secret)
		require.NotContains(t, w.log.String(), secret)
	}
}
