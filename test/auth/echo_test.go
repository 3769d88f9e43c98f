package auth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// odd has what encodings change: quotes, markup, spaces, a letter beyond ASCII.
const odd = `se"cret<&>/pass wörd-0123`

// shows is everything that an error can be made to print.
func shows(err error) string {
	var all strings.Builder
	text := slog.New(slog.NewTextHandler(&all, nil))
	json := slog.New(slog.NewJSONHandler(&all, nil))
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&all, verb+"\n", err)
		}
		text.Error("failed", "error", err)
		json.Error("failed", "error", err)
		switch e := err.(type) { //nolint:errorlint // one link of the chain at a time
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				walk(err)
			}
		}
	}
	walk(err)
	return all.String()
}

// hides checks that a text quotes the secret in no form.
func hides(t *testing.T, text, secret string) {
	t.Helper()
	escaped := strings.NewReplacer(`"`, `\"`).Replace(secret)
	for form, quoted := range map[string]string{
		"as it is": secret, "in JSON": escaped,
		"in Go's JSON":         strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`).Replace(escaped),
		"in a URL's query":     url.QueryEscape(secret),
		"in a URL's path":      url.PathEscape(secret),
		"quoted twice":         strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(escaped),
		"in hexadecimal":       fmt.Sprintf("%x", secret),
		"in part":              secret[:12],
		"in part, in its JSON": escaped[:12],
	} {
		require.NotContains(t, text, quoted, form)
	}
}

func TestSecretsThatTheServerSendsBackAreNotShown(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]sessiontest.Fault{
		"in its message": sessiontest.Echo(500), "in a 400": sessiontest.Echo(400), "in a 404": sessiontest.Echo(404),
		"on a page": sessiontest.EchoRaw(502), "on a page that is no error": sessiontest.EchoRaw(200),
		"in a header line": sessiontest.EchoMalformed(),
	} {
		for _, overNetwork := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", over the network ", overNetwork), func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				key := odd + "key"
				w.Auth.SetServiceKey(key)
				w.Auth.AddUser("carol@example.com", odd)
				opts := []session.Option{session.WithServiceKey(key)}
				if overNetwork {
					require.NoError(t, w.Auth.Start())
					opts = append(opts, session.WithHTTPClient(&http.Client{}))
				}
				svc := w.Service(opts...)
				w.Auth.SetTokenTTL(30 * time.Second)
				s, err := svc.Login(t.Context(), world.Carol, "carol@example.com", odd)
				require.NoError(t, err)
				refreshToken := fieldIn(w.Stored(world.Carol), "refreshToken")

				w.Auth.Inject(sessiontest.Any, -1, fault)
				_, loginErr := svc.Login(t.Context(), world.Alice, "carol@example.com", odd)
				_, tokenErr := svc.Token(t.Context(), world.Carol)
				_, linkErr := svc.Token(t.Context(), world.Bob)
				unlinkErr := svc.Logout(t.Context(), world.Bob, session.AndUnlink())
				health := svc.Health(t.Context())
				for _, err := range []error{loginErr, tokenErr, linkErr, unlinkErr} {
					require.Error(t, err)
					require.Less(t, len(err.Error()), 600)
				}
				printed := shows(errors.Join(loginErr, tokenErr, linkErr, unlinkErr)) + w.Log.String() + health.Auth.LastError + notes(t, w)
				for _, secret := range []string{odd, key, refreshToken, s.Token()} {
					hides(t, printed, secret)
				}
			})
		}
	}
}

// notes are what a failed refresh leaves for other processes.
func notes(t *testing.T, w *world.World) (all string) {
	for _, user := range []string{world.Carol, world.Bob} {
		lease, _, err := w.Store.(session.Locker).Acquire(t.Context(), user, "another process", time.Millisecond)
		require.NoError(t, err)
		all += lease.Note
	}
	return all
}

// fieldIn is a field of a record.
func fieldIn(record, name string) string {
	_, rest, _ := strings.Cut(record, `"`+name+`":"`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func TestSecretsThatATransportQuotesAreNotShown(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	quoting := world.RoundTripper(func(r *http.Request) (*http.Response, error) {
		var body []byte
		if r.Body != nil {
			body, _ = io.ReadAll(r.Body)
		}
		return nil, fmt.Errorf("could not send %q with %v: %w", body, r.Header, syscall.ECONNRESET)
	})
	svc := w.Service(session.WithHTTPClient(&http.Client{Transport: quoting}), session.WithServiceKey(odd+"key"))
	_, loginErr := svc.Login(t.Context(), world.Alice, world.Email, odd)
	_, tokenErr := svc.Token(t.Context(), world.Bob)
	for _, err := range []error{loginErr, tokenErr} {
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.ErrorIs(t, err, syscall.ECONNRESET, "what it is can still be told")
	}
	hides(t, shows(loginErr)+shows(tokenErr)+w.Log.String(), odd)
}

// What is left around a redacted password would give it away.
func TestShortPasswordsAreNotGivenAway(t *testing.T) {
	for _, message := range []string{"ThrottlerException: Too Many Requests", "Invalid email or password", "x", "exactly x", "no"} {
		var said []string
		for _, typed := range []string{"x", "Th", "zz"} {
			w := world.New(t, session.NewMemoryStore())
			w.Auth.Inject(sessiontest.Login, 1, sessiontest.Status(500, message))
			_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, typed)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "[redacted]ception")
			if e, ok := errors.AsType[*session.AuthError](err); ok && !strings.Contains(e.Message, "redacted") {
				said = append(said, e.Message)
			}
		}
		for _, s := range said {
			require.Equal(t, message, s)
		}
	}
}

// A transport that does what it must not: the password and the key stay where
// they were sent.
func TestTransportsThatRepeatOrFollowAreFoundOut(t *testing.T) {
	t.Parallel()
	other := sessiontest.New()
	defer other.Close()
	require.NoError(t, other.Start())
	follows := func(base http.RoundTripper) http.RoundTripper { // as an http.Client within one does
		return world.RoundTripper(func(r *http.Request) (*http.Response, error) {
			return (&http.Client{Transport: base}).Do(withoutURI(r))
		})
	}
	repeats := func(base http.RoundTripper) http.RoundTripper {
		return world.RoundTripper(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			var resp *http.Response
			for range 5 {
				again := r.Clone(r.Context())
				again.Body = io.NopCloser(bytes.NewReader(body))
				if resp, err = base.RoundTrip(again); err != nil {
					return nil, err
				}
				if resp.StatusCode < 500 {
					return resp, nil
				}
				_ = resp.Body.Close()
			}
			return resp, nil
		})
	}
	t.Run("a redirect to another host", func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		require.NoError(t, w.Auth.Start())
		svc := w.Service(session.WithHTTPClient(&http.Client{Transport: follows(http.DefaultTransport)}))
		for _, status := range []int{302, 307} {
			w.Auth.ClearFaults()
			w.Auth.Inject(sessiontest.Any, -1, sessiontest.Redirect(status, other.URL+"/api/v1/auth/login"))
			_, err := svc.Login(t.Context(), world.Alice, world.Email, world.Password)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			_, err = svc.Token(t.Context(), world.Bob)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.ErrorContains(t, err, "transport")
		}
		for _, r := range other.Requests() {
			require.NotContains(t, string(r.Body), world.Password)
			require.Empty(t, r.Header.Get("X-Service-Key"))
		}
	})
	t.Run("a wrong password", func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		require.NoError(t, w.Auth.Start())
		svc := w.Service(session.WithHTTPClient(&http.Client{Transport: repeats(http.DefaultTransport)}))
		_, err := svc.Login(t.Context(), world.Alice, world.Email, "not it")
		require.Error(t, err)
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Login), 1)
	})
}

func withoutURI(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	r.RequestURI = ""
	return r
}

// A log handler that is slow, or that asks the Service, holds nobody up.
func TestBreakerLogsOutsideItsLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var svc atomic.Pointer[session.Service]
		handler := logHandler(func(line string) {
			if s := svc.Load(); s != nil && strings.Contains(line, "circuit breaker") {
				s.Health(context.Background())
				_, _ = s.Login(context.Background(), world.Bob, "bob@example.com", world.Password)
				time.Sleep(time.Minute)
			}
		})
		svc.Store(w.Service(session.WithLogger(slog.New(handler))))
		w.Auth.BreakDatabase(true)
		for range 20 {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := svc.Load().Login(ctx, world.Alice, world.Email, world.Password)
			cancel()
			require.Error(t, err)
			require.LessOrEqual(t, time.Since(began), 2*time.Second)
		}
		w.Auth.BreakDatabase(false)
		time.Sleep(2*time.Minute + 30*time.Second) // not when the handler logs in, which the half-open breaker may let through instead
		_, err := svc.Load().Login(t.Context(), world.Alice, world.Email, world.Password)
		require.NoError(t, err)
		time.Sleep(time.Hour) // until the last line is written
	})
}

type logHandler func(string)

func (logHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h logHandler) Handle(_ context.Context, r slog.Record) error {
	h(r.Message)
	return nil
}
func (h logHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h logHandler) WithGroup(string) slog.Handler      { return h }
