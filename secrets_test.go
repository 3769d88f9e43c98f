package session_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// everyLog is what all Services of all tests have logged, at every level.
var everyLog struct {
	mu   sync.Mutex
	logs []*logged
}

// secretShapes is what a JWT, a refresh token (64 characters of base32), and
// the password and service key of most tests look like.
var secretShapes = regexp.MustCompile(`eyJ[\w-]{8,}\.[\w-]{8,}|[A-Z2-7]{40,}|` +
	regexp.QuoteMeta(password) + `|` + regexp.QuoteMeta(sessiontest.DefaultServiceKey))

func TestMain(m *testing.M) {
	// Tests that run side by side mostly wait for servers of their own.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	code := m.Run()
	everyLog.mu.Lock()
	defer everyLog.mu.Unlock()
	for _, log := range everyLog.logs {
		for line := range strings.Lines(log.String()) {
			if secretShapes.MatchString(line) {
				fmt.Println("a secret in a log line:", line)
				code = max(code, 1)
			}
		}
	}
	os.Exit(code)
}

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
	near := newLink(t)
	w := newWorld(t, near)
	w.auth.Link(bob, "bob@example.com")
	var printed bytes.Buffer
	say := func(values ...any) {
		for _, v := range values {
			fmt.Fprintf(&printed, "%v %+v %#v %q\n", v, v, v, fmt.Sprint(v))
		}
	}
	const wrong = `not "that" one`
	secrets := []string{password, wrong, `not \"that\" one`, sessiontest.DefaultServiceKey}
	remember := func(tokens ...string) {
		for _, token := range tokens {
			if token != "" {
				secrets = append(secrets, token, token[len(token)/2:])
			}
		}
	}
	everything := func() {
		ctx := t.Context()
		for _, user := range []string{alice, bob, "@carol:matrix.example", "not an ID"} {
			token, err := w.svc.Token(ctx, user)
			remember(token)
			say(err)
			token, err = w.svc.Refresh(ctx, user, token)
			remember(token)
			say(err)
			in, err := w.svc.LoggedIn(ctx, user)
			say(in, err)
			s, err := w.svc.Session(ctx, user)
			if err == nil {
				remember(s.Token())
				say(s, *s, []any{s}, map[string]any{"s": *s})
			}
			say(err, w.svc.SetData(ctx, user, "k", "v"))
			backend := &http.Client{Transport: w.svc.Transport(user, w.auth.Client().Transport)}
			resp, err := backend.Get(w.auth.URL + "/no/such/route")
			if err == nil {
				resp.Body.Close()
			}
			say(err)
		}
		for _, pass := range []string{password, wrong} {
			s, err := w.svc.Login(ctx, alice, email, pass)
			say(s, err)
			if err == nil {
				remember(s.Token())
			}
		}
		var record struct{ Token, RefreshToken string }
		if value := w.stored(alice); value != "" {
			require.NoError(t, json.Unmarshal([]byte(value), &record))
			remember(record.Token, record.RefreshToken)
		}
		stats, err := w.svc.Stats(ctx)
		say(stats, err, w.svc.Health(ctx), w.svc)
	}
	near.restore()
	w.auth.Inject(sessiontest.LinkCreate, 1, echo(500)) // which gets the user's token
	remember(w.loginDead().Token())
	w.auth.Inject(sessiontest.Any, -1, fault)
	everything()
	time.Sleep(15 * time.Minute)
	everything()
	w.auth.ClearFaults()
	near.lose()
	for _, fault := range []sessiontest.Fault{nil, fault} {
		if fault != nil {
			w.auth.Inject(sessiontest.Any, -1, fault)
		}
		_, err := w.svc.Login(t.Context(), alice, email, password)
		say(err)
		_, err = w.svc.Login(context.WithoutCancel(t.Context()), bob, "bob@example.com", password)
		say(err, w.svc, w.svc.Logout(t.Context(), alice, session.AndUnlink()))
	}
	near.restore()
	time.Sleep(5 * time.Second)
	everything()
	say(w.svc.Close())

	require.Greater(t, printed.Len(), 1000)
	require.NotEmpty(t, w.log.String())
	for _, secret := range secrets {
		require.NotContains(t, printed.String(), secret)
		require.NotContains(t, w.log.String(), secret)
	}
	require.NotRegexp(t, secretShapes, printed.String())
}
