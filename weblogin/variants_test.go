package weblogin_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/weblogin"
)

// An embedder mounts the page where they like, and a proxy may cut a prefix off.
func TestPageWorksWhereverItIsMounted(t *testing.T) {
	for name, c := range map[string]struct {
		address  string // as browsers see it
		mount    func(*weblogin.Handler) http.Handler
		internal string // what the proxy asks for
	}{
		"at a path":                 {"https://bot.example/login", at("/login"), "/login"},
		"below a path":              {"https://bot.example/login/", at("/login/"), "/login/"},
		"at the root":               {"https://bot.example", at("/"), "/"},
		"at the root, with a slash": {"https://bot.example/", at("/"), "/"},
		"behind a prefix":           {"https://example.com/bots/todo/login", at("/login"), "/login"},
		"without a prefix":          {"https://example.com/bots/login", func(h *weblogin.Handler) http.Handler { return http.StripPrefix("/bots", h) }, "/bots/login"},
		"at an escaped path":        {"https://bot.example/a%20b/c%2Fd", func(h *weblogin.Handler) http.Handler { return h }, "/a%20b/c%2Fd"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			h, err := weblogin.New(s.Svc, c.address)
			require.NoError(t, err)
			link, err := h.Link(t.Context(), world.Alice, room)
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(link, c.address+"?link="), link)
			inside := "http://10.0.0.7:8080" + c.internal + strings.TrimPrefix(link, c.address)
			b := newBrowser(t, c.mount(h))
			form := b.open(inside)
			require.NotContains(t, form.main(), "action=", "the browser sends it to where it is")
			code := b.send(inside, form, world.Email, world.Password).code()
			_, err = h.Complete(t.Context(), world.Alice, room, code)
			require.NoError(t, err)
		})
	}
}

func at(path string) func(*weblogin.Handler) http.Handler {
	return func(h *weblogin.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle(path, h)
		return mux
	}
}

// A browser that loads ahead, and one that asks before it sends to another site.
func TestWhatBrowsersAskAheadSpendsNothing(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	for _, purpose := range []string{"prefetch", "prefetch;prerender", "prefetch;anonymous-client-ip"} {
		b := newBrowser(t, s)
		b.header = http.Header{"Sec-Purpose": {purpose}, "Purpose": {"prefetch"}, "X-Moz": {"prefetch"}}
		b.open(link).token()
	}
	preflight := httptest.NewRequest(http.MethodOptions, link, nil)
	preflight.Header.Set("Origin", "https://evil.example")
	preflight.Header.Set("Access-Control-Request-Method", http.MethodPost)
	got := newBrowser(t, s).do(preflight)
	require.Equal(t, http.StatusMethodNotAllowed, got.Code)
	require.Empty(t, got.Header().Get("Access-Control-Allow-Origin"))
	require.NoError(t, s.complete(t, newBrowser(t, s).logIn(link).code()))
}

func TestFirstOfFieldsThatComeTwiceCounts(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	form := b.open(link)
	body := url.Values{
		"token": {form.token(), "x"}, "email": {world.Email, "bob@example.com"}, "password": {world.Password, "wrong"},
	}.Encode()
	require.Len(t, b.post(link+"&link=x", body).code(), 8)
}

func TestBodyInPiecesIsBoundedToo(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	form := b.open(link)
	r := httptest.NewRequest(http.MethodPost, link, struct{ *strings.Reader }{strings.NewReader("token=" + form.token() + "&password=" + strings.Repeat("x", 1<<20))})
	require.EqualValues(t, -1, r.ContentLength)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	b.do(r).wants(http.StatusRequestEntityTooLarge, "This cannot be read")
	require.Zero(t, s.Auth.Calls(sessiontest.Login))
}

func TestPasswordIsTakenAsItIs(t *testing.T) {
	for _, password := range []string{"  spaces  around ", `"quotes" 'and' “smart” ones`, "&=+%25;#?", "пароль 密碼 \u202e\u200b", "<b>\t"} {
		s := newSite(t)
		s.Auth.AddUser("carol@example.com", password)
		link := s.link(t, world.Alice)
		b := newBrowser(t, s)
		require.Len(t, b.send(link, b.open(link), " carol@example.com\r\n", password).code(), 8, "%q", password)
	}
}

func TestTypesOfFormsAreReadAsBrowsersWriteThem(t *testing.T) {
	s := newSite(t)
	for _, kind := range []string{"application/x-www-form-urlencoded; charset=UTF-8", "Application/X-WWW-Form-URLencoded"} {
		link := s.link(t, world.Alice)
		b := newBrowser(t, s)
		body := url.Values{"token": {b.open(link).token()}, "email": {world.Email}, "password": {world.Password}}.Encode()
		r := httptest.NewRequest(http.MethodPost, link, strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		require.Len(t, b.do(r).code(), 8)
	}
}

// A page under a name of the attacker's that leads to the bot's address has a cookie
// and a token of its own, and still no code that anybody but the user can send.
func TestHostOfARequestChangesNothing(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	for _, host := range []string{"evil.example", "bot.example.evil.example", "bot.example:1", "", "[::1]:80", "bot.example, evil.example"} {
		r := httptest.NewRequest(http.MethodGet, link, nil)
		r.Host = host
		r.Header.Set("X-Forwarded-Host", "evil.example")
		r.Header.Set("X-Forwarded-Proto", "http")
		r.Header.Set("Forwarded", "host=evil.example")
		got := newBrowser(t, s).do(r)
		got.token()
		require.NotContains(t, got.Body.String(), "evil")
		require.Empty(t, got.Header().Get("Location"))
	}
}
