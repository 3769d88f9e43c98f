package console_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/console"
	"github.com/mana/session/internal/world"
)

func TestMain(m *testing.M) { world.Main(m) }

// as lets everybody in who says who they are in a header.
func as(r *http.Request) (string, error) {
	if name := r.Header.Get("Operator"); name != "" {
		return name, nil
	}
	return "", errors.New("a secret reason")
}

// newConsole is a console of the world's service, which the test closes.
func newConsole(t *testing.T, svc *session.Service, opts ...console.Option) *console.Console {
	t.Helper()
	c, err := console.New(svc, as, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// request is what an operator's browser sends.
func request(t *testing.T, method, target string, body string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	r.Header.Set("Operator", "olga")
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

func send(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// get is a page, which has to be there.
func get(t *testing.T, h http.Handler, target string) string {
	t.Helper()
	w := send(h, request(t, http.MethodGet, target, ""))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

// shows checks that a page shows a text; it does not print the page if not.
func shows(t *testing.T, page, text string) {
	t.Helper()
	require.True(t, strings.Contains(page, text), "the page does not show %q", text)
}

func showsNot(t *testing.T, page, text string) {
	t.Helper()
	require.False(t, strings.Contains(page, text), "the page shows %q", text)
}

func userPath(userID string) string { return "/user?" + url.Values{"id": {userID}}.Encode() }

func TestNewDemandsAServiceAndAuthorization(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	_, err := console.New(nil, as)
	require.ErrorContains(t, err, "no service")
	_, err = console.New(w.Svc, nil)
	require.ErrorContains(t, err, "open to everybody")
	for name, opt := range map[string]console.Option{
		"no prefix":         console.WithPrefix(""),
		"prefix with slash": console.WithPrefix("/console/"),
		"relative prefix":   console.WithPrefix("console"),
		"no challenge":      console.WithChallenge(""),
		"two lines":         console.WithChallenge("Basic\r\nX: y"),
		"no logger":         console.WithLogger(nil),
		"no readiness":      console.WithReadiness(nil),
		"short key":         console.WithFormKey(make([]byte, 31)),
		"nil":               nil,
	} {
		_, err := console.New(w.Svc, as, opt)
		require.ErrorContains(t, err, "console: ", name)
	}
}

var routes = []string{"/", "/users", "/user?id=" + world.Alice, "/logout", "/nothing", "/healthz/", "/readyz/x", "/../users", "//"}

func TestNobodyIsLetInWithoutAuthorization(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	c := newConsole(t, w.Svc)
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"} {
		for _, route := range routes {
			r := request(t, method, route, "id="+url.QueryEscape(world.Alice))
			r.Header.Del("Operator")
			got := send(c, r)
			require.Equal(t, http.StatusForbidden, got.Code, "%s %s", method, route)
			require.NotContains(t, got.Body.String(), "alice")
			require.NotContains(t, got.Body.String(), "secret reason")
			require.NotContains(t, got.Body.String(), "<nav")
		}
	}
	in, err := w.Svc.LoggedIn(t.Context(), world.Alice)
	require.NoError(t, err)
	require.True(t, in)
}

func TestWhoDoesNotSayWhoTheyAreIsChallenged(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	operator, refusal := "", error(nil)
	c, err := console.New(w.Svc, func(*http.Request) (string, error) { return operator, refusal },
		console.WithChallenge(`Basic realm="console"`))
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, http.StatusForbidden, send(c, request(t, "GET", "/", "")).Code, "no name is no operator")

	refusal = fmt.Errorf("no cookie: %w", console.ErrUnauthenticated)
	got := send(c, request(t, "GET", "/", ""))
	require.Equal(t, http.StatusUnauthorized, got.Code)
	require.Equal(t, `Basic realm="console"`, got.Header().Get("WWW-Authenticate"))

	operator = "olga"
	require.Equal(t, http.StatusUnauthorized, send(c, request(t, "GET", "/", "")).Code, "an error counts for more than a name")
	operator, refusal = "<b>olga</b>", nil
	shows(t, get(t, c, "/"), "&lt;b&gt;olga&lt;/b&gt;")
}

func TestEveryAnswerHasStrictHeaders(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	for _, route := range append(routes, "/healthz", "/readyz") {
		for _, operator := range []string{"olga", ""} {
			r := request(t, "GET", route, "")
			r.Header.Set("Operator", operator)
			h := send(c, r).Header()
			policy := h.Get("Content-Security-Policy")
			require.Regexp(t, `^default-src 'none'; style-src 'sha256-[\w+/]+='; form-action 'self'; base-uri 'none'; frame-ancestors 'none'$`, policy, route)
			require.Equal(t, "no-store", h.Get("Cache-Control"))
			require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
			wanted := "no-referrer"
			if strings.HasPrefix(route, "/user?") && operator != "" {
				wanted = "same-origin" // or its form would be sent without an origin
			}
			require.Equal(t, wanted, h.Get("Referrer-Policy"), route)
		}
	}
}

func TestPagesHaveNoScriptsAndNoStyleOfTheirOwn(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	c := newConsole(t, w.Svc)
	for _, route := range []string{"/", "/users", userPath(world.Alice), userPath(world.Bob), "/users?q=x"} {
		page := get(t, c, route)
		require.NotRegexp(t, `(?i)<script|javascript:|\son[a-z]+=|\sstyle=|https?://`, page, route)
		shows(t, page, `<html lang="en">`)
		require.Equal(t, 1, strings.Count(page, "<h1>"), route)
		showsNot(t, page, "ZgotmplZ")
	}
}

func TestWrongMethodsAndUnknownPages(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	for route, allowed := range map[string]string{
		"/": "GET, HEAD", "/users": "GET, HEAD", "/user?id=x": "GET, HEAD", "/healthz": "GET, HEAD", "/readyz": "GET, HEAD", "/logout": "POST",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"} {
			if strings.Contains(allowed, method) {
				continue
			}
			got := send(c, request(t, method, route, ""))
			require.Equal(t, http.StatusMethodNotAllowed, got.Code, "%s %s", method, route)
			require.Equal(t, allowed, got.Header().Get("Allow"))
		}
	}
	for _, route := range []string{"/nothing", "/users/", "/user/x", "/Users", "/healthz/", "/%2e%2e/users", "/page/style.css"} {
		got := send(c, request(t, "GET", route, ""))
		require.Equal(t, http.StatusNotFound, got.Code, route)
		require.Contains(t, got.Body.String(), "There is no such page.")
	}
}

// However it is mounted, the pages name no path that they do not know.
func TestMounting(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	stripped, slashed, prefixed := http.NewServeMux(), http.NewServeMux(), http.NewServeMux()
	stripped.Handle("/ops/console", http.StripPrefix("/ops/console", newConsole(t, w.Svc)))
	stripped.Handle("/ops/console/", http.StripPrefix("/ops/console", newConsole(t, w.Svc)))
	slashed.Handle("/ops/console/", http.StripPrefix("/ops/console/", newConsole(t, w.Svc)))
	slashed.Handle("/ops/console", http.RedirectHandler("./console/", http.StatusTemporaryRedirect))
	prefixed.Handle("/ops/", newConsole(t, w.Svc, console.WithPrefix("/ops/console")))
	for name, mux := range map[string]*http.ServeMux{"StripPrefix": stripped, "StripPrefix with slash": slashed, "WithPrefix": prefixed} {
		t.Run(name, func(t *testing.T) {
			page := get(t, mux, "/ops/console/")
			shows(t, page, "<h1>Overview</h1>")
			require.NotRegexp(t, `(href|action)="/`, page)
			shows(t, get(t, mux, "/ops/console/users"), "<h1>Sessions</h1>")
			shows(t, get(t, mux, "/ops/console"+userPath(world.Alice)), world.Email)
			shows(t, get(t, mux, "/ops/console/healthz"), "ok")

			got := send(mux, request(t, "GET", "/ops/console", ""))
			require.Equal(t, http.StatusTemporaryRedirect, got.Code)
			to, err := (&url.URL{Path: "/ops/console"}).Parse(got.Header().Get("Location"))
			require.NoError(t, err)
			require.Equal(t, "/ops/console/", to.Path)
		})
	}
	for _, outside := range []string{"/ops/consoles", "/ops/", "/ops/users", "/ops/healthz"} {
		require.Equal(t, http.StatusNotFound, send(prefixed, request(t, "GET", outside, "")).Code, outside)
	}
}

// The way to the address with a slash cannot be made to lead to another host.
func TestTheRedirectStaysOnItsHost(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	for _, asked := range []string{"//evil.example", "/x//evil.example", "/javascript:alert(1)", "/%2F%2Fevil.example", `/\evil.example`} {
		r := request(t, "GET", "/", "")
		r.URL.Path, r.RequestURI = "", asked
		got := send(c, r)
		require.Equal(t, http.StatusTemporaryRedirect, got.Code, asked)
		require.Regexp(t, `^\./[^/]`, got.Header().Get("Location"))
	}
}

func TestAClosedConsoleServesNothing(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c, err := console.New(w.Svc, as)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	for _, route := range []string{"/", "/users", "/user?id=@a:b", "/logout", "/healthz", "/readyz"} {
		require.Equal(t, http.StatusServiceUnavailable, send(c, request(t, "GET", route, "")).Code, route)
	}
	require.NotEmpty(t, world.MustToken(t, w.Svc, w.Login(w.Svc).MatrixUserID), "the service goes on")
}

func TestAConsoleOfAClosedServiceSaysSo(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	require.NoError(t, w.Svc.Close())
	shows(t, get(t, c, "/"), "The service has been closed")
	shows(t, get(t, c, "/users"), "The service has been closed.")
	shows(t, get(t, c, userPath(world.Alice)), "The service has been closed.")
	require.Equal(t, http.StatusServiceUnavailable, send(c, request(t, "GET", "/healthz", "")).Code)
	require.Equal(t, http.StatusServiceUnavailable, send(c, request(t, "GET", "/readyz", "")).Code)
}
