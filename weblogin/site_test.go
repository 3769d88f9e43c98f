package weblogin_test

import (
	"html"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/weblogin"
)

const (
	room      = "!room:matrix.example"
	otherRoom = "!other:matrix.example"
	base      = "https://bot.example/bots/login"
)

// site is a bot with a login page.
type site struct {
	*world.World
	*weblogin.Handler
}

// newSite keeps sessions in memory, and links too unless told otherwise.
func newSite(t *testing.T, opts ...weblogin.Option) *site {
	t.Helper()
	return on(world.New(t, session.NewMemoryStore()), opts...)
}

// on gives a bot a login page.
func on(w *world.World, opts ...weblogin.Option) *site {
	w.T.Helper()
	return &site{w, handlerOf(w, w.Svc, opts...)}
}

func (s *site) link(t *testing.T, userID string) string {
	t.Helper()
	link, err := s.Link(t.Context(), userID, room)
	require.NoError(t, err)
	return link
}

// code is what the page shows after alice's link was opened and her password sent.
func (s *site) code(t *testing.T) string {
	t.Helper()
	return newBrowser(t, s).logIn(s.link(t, world.Alice)).code()
}

// complete sends a code as alice, in the room of her link.
func (s *site) complete(t *testing.T, code string) error {
	t.Helper()
	_, err := s.Complete(t.Context(), world.Alice, room, code)
	return err
}

// browser is one with cookies, and without scripts.
type browser struct {
	t       *testing.T
	handler http.Handler
	cookies map[string]*http.Cookie
	header  http.Header // of every request
}

func newBrowser(t *testing.T, handler http.Handler) *browser {
	return &browser{t, handler, make(map[string]*http.Cookie), http.Header{}}
}

func (b *browser) do(r *http.Request) page {
	b.t.Helper()
	maps.Copy(r.Header, b.header)
	for _, cookie := range b.cookies {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	for _, cookie := range w.Result().Cookies() {
		b.cookies[cookie.Name] = cookie
	}
	requireSecure(b.t, w)
	return page{b.t, w}
}

func (b *browser) open(link string) page {
	b.t.Helper()
	return b.do(httptest.NewRequestWithContext(b.t.Context(), http.MethodGet, link, nil))
}

// send fills in the form of an open page and sends it.
func (b *browser) send(link string, of page, email, password string) page {
	b.t.Helper()
	return b.post(link, url.Values{"token": {of.token()}, "email": {email}, "password": {password}}.Encode())
}

func (b *browser) post(link, body string) page {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), http.MethodPost, link, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

// logIn opens a link and sends alice's password.
func (b *browser) logIn(link string) page {
	b.t.Helper()
	return b.send(link, b.open(link), world.Email, world.Password)
}

// page is what a browser is shown.
type page struct {
	t *testing.T
	*httptest.ResponseRecorder
}

var (
	tokenField = regexp.MustCompile(`name="token" value="([^"]*)"`)
	codeShown  = regexp.MustCompile(`id="code">!login ([A-Z]{8})<`)
	heading    = regexp.MustCompile(`<h1>(.*)</h1>`)
	alert      = regexp.MustCompile(`role="alert">(.*)</p>`)
)

func (p page) find(what *regexp.Regexp) string {
	if match := what.FindStringSubmatch(p.Body.String()); match != nil {
		return html.UnescapeString(match[1])
	}
	return ""
}

// main is the page without its style.
func (p page) main() string {
	_, main, _ := strings.Cut(p.Body.String(), "<main>")
	return main
}

func (p page) token() string {
	p.t.Helper()
	require.NotEmpty(p.t, p.find(tokenField), "the page has no form: %s", p.main())
	return p.find(tokenField)
}

func (p page) code() string {
	p.t.Helper()
	require.Equal(p.t, http.StatusOK, p.Code, p.main())
	require.NotEmpty(p.t, p.find(codeShown), "the page shows no code: %s", p.main())
	return p.find(codeShown)
}

// wants checks that the page is one that shows neither a form nor a code.
func (p page) wants(status int, title string) {
	p.t.Helper()
	require.Equal(p.t, status, p.Code, p.main())
	require.Equal(p.t, title, p.find(heading))
	require.NotContains(p.t, p.Body.String(), "<form")
	require.Empty(p.t, p.find(codeShown))
}

// wantsAgain checks that the page shows the form again, with a sentence above it.
func (p page) wantsAgain(status int, sentence string) {
	p.t.Helper()
	require.Equal(p.t, status, p.Code, p.main())
	require.Contains(p.t, p.find(alert), sentence)
	p.token()
}

const (
	noLongerWorks = "This link no longer works"
	noLogin       = "There is no login here"
)

// handlerOf is a login page with the world's log.
func handlerOf(w *world.World, svc *session.Service, opts ...weblogin.Option) *weblogin.Handler {
	w.T.Helper()
	logger := slog.New(slog.NewTextHandler(w.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h, err := weblogin.New(svc, base, append([]weblogin.Option{weblogin.WithLogger(logger)}, opts...)...)
	require.NoError(w.T, err)
	return h
}

// requireSecure checks what every answer has to have.
func requireSecure(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	h := w.Header()
	require.Equal(t, "no-referrer", h.Get("Referrer-Policy"))
	require.Equal(t, "no-store", h.Get("Cache-Control"))
	require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
	require.Equal(t, "text/html; charset=utf-8", h.Get("Content-Type"))
	for _, directive := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"} {
		require.Contains(t, h.Get("Content-Security-Policy"), directive)
	}
	require.NotContains(t, h.Get("Content-Security-Policy"), "script")
	require.NotContains(t, h.Get("Content-Security-Policy"), "unsafe")
	require.NotContains(t, w.Body.String(), "<script")
	require.NotContains(t, w.Body.String(), world.Password)
	for _, cookie := range w.Result().Cookies() {
		require.True(t, cookie.HttpOnly && cookie.Secure && strings.HasPrefix(cookie.Name, "__Host-"), cookie)
		require.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	}
}
