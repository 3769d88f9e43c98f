package sessions_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestMain(m *testing.M) { world.Main(m) }

// A server that sends everything back that it was sent.
func echo(status int) sessiontest.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		body, _ := io.ReadAll(r.Body)
		message, _ := json.Marshal(fmt.Sprint(r.Header, string(body)))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"message":%s}`, message)
	}
}

func TestNothingPrintsASecretWhateverFails(t *testing.T) {
	t.Parallel()
	faults := map[string]sessiontest.Fault{
		"nothing": func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) { answer(w, r) },
		"cut":     sessiontest.CutBody(60), "truncated": sessiontest.TruncateJSON(60), "HTML": sessiontest.HTML(),
		"redirect": sessiontest.Redirect(307, "http://elsewhere.test/"), "reset": sessiontest.Reset(),
		"opaque": sessiontest.JSON(map[string]string{"accessToken": "eyJ-an-opaque-token.with-a.dot", "token": "eyJ-an-opaque-token.with-a.dot"}),
	}
	for _, status := range []int{400, 401, 403, 404, 409, 418, 429, 500, 503} {
		faults[fmt.Sprint("echo ", status)] = echo(status)
	}
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { printNothing(t, faults[name]) })
		})
	}
}

func printNothing(t *testing.T, fault sessiontest.Fault) {
	near := world.NewLink(t)
	w := world.New(t, near)
	w.Auth.Link(world.Bob, "bob@example.com")
	var printed bytes.Buffer
	say := func(values ...any) {
		for _, v := range values {
			fmt.Fprintf(&printed, "%v %+v %#v %q\n", v, v, v, fmt.Sprint(v))
		}
	}
	const wrong = `not "that" one`
	secrets := []string{world.Password, wrong, `not \"that\" one`, sessiontest.DefaultServiceKey}
	remember := func(tokens ...string) {
		for _, token := range tokens {
			if token != "" {
				secrets = append(secrets, token, token[len(token)/2:])
			}
		}
	}
	everything := func() {
		ctx := t.Context()
		for _, user := range []string{world.Alice, world.Bob, "@carol:matrix.example", "not an ID"} {
			token, err := w.Svc.Token(ctx, user)
			remember(token)
			say(err)
			token, err = w.Svc.Refresh(ctx, user, token)
			remember(token)
			say(err)
			in, err := w.Svc.LoggedIn(ctx, user)
			say(in, err)
			s, err := w.Svc.Session(ctx, user)
			if err == nil {
				remember(s.Token())
				say(s, *s, []any{s}, map[string]any{"s": *s})
			}
			say(err, w.Svc.SetData(ctx, user, "k", "v"))
			backend := &http.Client{Transport: w.Svc.Transport(user, w.Auth.Client().Transport)}
			resp, err := backend.Get(w.Auth.URL + "/no/such/route")
			if err == nil {
				resp.Body.Close()
			}
			say(err)
		}
		for _, pass := range []string{world.Password, wrong} {
			s, err := w.Svc.Login(ctx, world.Alice, world.Email, pass)
			say(s, err)
			if err == nil {
				remember(s.Token())
			}
		}
		var record struct{ Token, RefreshToken string }
		if value := w.Stored(world.Alice); value != "" {
			require.NoError(t, json.Unmarshal([]byte(value), &record))
			remember(record.Token, record.RefreshToken)
		}
		stats, err := w.Svc.Stats(ctx)
		say(stats, err, w.Svc.Health(ctx), w.Svc)
	}
	near.Restore()
	w.Auth.Inject(sessiontest.LinkCreate, 1, echo(500)) // which gets the user's token
	remember(w.LoginDead().Token())
	w.Auth.Inject(sessiontest.Any, -1, fault)
	everything()
	time.Sleep(15 * time.Minute)
	everything()
	w.Auth.ClearFaults()
	near.Lose()
	for _, fault := range []sessiontest.Fault{nil, fault} {
		if fault != nil {
			w.Auth.Inject(sessiontest.Any, -1, fault)
		}
		_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
		say(err)
		_, err = w.Svc.Login(context.WithoutCancel(t.Context()), world.Bob, "bob@example.com", world.Password)
		say(err, w.Svc, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()))
	}
	near.Restore()
	time.Sleep(5 * time.Second)
	everything()
	say(w.Svc.Close())

	require.Greater(t, printed.Len(), 1000)
	require.NotEmpty(t, w.Log.String())
	for _, secret := range secrets {
		require.NotContains(t, printed.String(), secret)
		require.NotContains(t, w.Log.String(), secret)
	}
	require.NotRegexp(t, world.SecretShapes, printed.String())
}
