package console_test

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/console"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// loggedIn reports whether alice has a session.
func loggedIn(t *testing.T, w *world.World) bool {
	t.Helper()
	return w.Stored(world.Alice) != ""
}

func TestTheButtonLogsAUserOut(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	w.Auth.Link(world.Alice, world.Email)
	var log bytes.Buffer
	c := newConsole(t, w.Svc, console.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	got := send(c, readForm(t, c, world.Alice).request())
	require.Equal(t, http.StatusSeeOther, got.Code)
	require.Equal(t, "user?done=logout&id=%40alice%3Amatrix.example", got.Header().Get("Location"))
	page := get(t, c, "/"+got.Header().Get("Location"))
	shows(t, page, `<p class="summary good" role="status">Logged out.</p>`)
	shows(t, page, "There is no session: logged out")
	require.False(t, loggedIn(t, w))
	require.Equal(t, 1, strings.Count(log.String(), "\n"))
	require.Contains(t, log.String(), `level=INFO msg="console: logout by an operator" operator=olga user=@alice:matrix.example unlink=false`)

	world.MustToken(t, w.Svc, world.Alice) // the link is still there
	page = get(t, c, "/"+got.Header().Get("Location"))
	shows(t, page, "Logged out. A new session has begun since.")
	got = send(c, readForm(t, c, world.Alice).request("unlink", "1"))
	require.Equal(t, http.StatusSeeOther, got.Code)
	shows(t, get(t, c, "/"+got.Header().Get("Location")), "the link at the auth server is removed")
	require.False(t, w.Auth.Linked(world.Alice))
	require.Contains(t, log.String(), "unlink=true")
}

func TestAFormWithoutTheConsolesOwnTokenIsRefused(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	c := newConsole(t, w.Svc)
	f := readForm(t, c, world.Alice)
	other := readForm(t, c, world.Bob)
	foreign := readForm(t, newConsole(t, w.Svc), world.Alice) // of another process
	header := func(r *http.Request, key, value string) *http.Request { r.Header.Set(key, value); return r }
	for name, r := range map[string]*http.Request{
		"no token":              f.request("token", ""),
		"no form":               request(t, http.MethodPost, "/logout", ""),
		"half a token":          f.request("token", f.value["token"][:20]),
		"changed token":         f.request("token", f.value["token"][:20]+"AAAA"+f.value["token"][24:]),
		"changed time":          f.request("token", "B"+f.value["token"][1:]),
		"not base64":            f.request("token", "%%%"),
		"no cookie":             form{t, nil, f.value}.request(),
		"another cookie":        form{t, other.cookie, f.value}.request(),
		"empty cookie":          form{t, &http.Cookie{Name: f.cookie.Name, Value: ""}, f.value}.request(),
		"another user's":        f.request("id", world.Bob),
		"for another user":      form{t, other.cookie, other.value}.request("id", world.Alice),
		"of another process":    foreign.request(),
		"from another operator": header(f.request(), "Operator", "eve"),
		"from another site":     header(f.request(), "Sec-Fetch-Site", "cross-site"),
		"from a sibling":        header(f.request(), "Sec-Fetch-Site", "same-site"),
		"from another origin":   header(header(f.request(), "Sec-Fetch-Site", ""), "Origin", "https://evil.example"),
		"from no origin":        header(header(f.request(), "Sec-Fetch-Site", ""), "Origin", "null"),
	} {
		got := send(c, r)
		require.Equal(t, http.StatusForbidden, got.Code, name)
		shows(t, got.Body.String(), "<h1>Nobody was logged out</h1>")
		require.Regexp(t, `<p>This (form|request) [^<]+\.</p>`, got.Body.String(), name)
		require.True(t, loggedIn(t, w), name)
	}
	require.Equal(t, http.StatusMethodNotAllowed, send(c, request(t, http.MethodGet, "/logout?id="+world.Alice+"&token="+f.value["token"], "")).Code)
	r := f.request()
	r.URL.RawQuery, r.Body = "id="+world.Alice+"&token="+f.value["token"], http.NoBody
	require.Equal(t, http.StatusForbidden, send(c, r).Code, "what is in the address does not count")
	got := send(c, request(t, http.MethodPost, "/logout", "id="+strings.Repeat("x", 100_000)))
	require.Equal(t, http.StatusBadRequest, got.Code)
	require.True(t, loggedIn(t, w))
	require.Equal(t, http.StatusSeeOther, send(c, f.request()).Code, "it was good all along")
}

func TestAFormIsGoodForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Login(w.Svc)
		c := newConsole(t, w.Svc)
		f := readForm(t, c, world.Alice)
		time.Sleep(time.Hour)
		got := send(c, f.request())
		require.Equal(t, http.StatusForbidden, got.Code)
		shows(t, got.Body.String(), "This form is too old.")
		require.True(t, loggedIn(t, w))

		r := request(t, http.MethodGet, userPath(world.Alice), "")
		r.AddCookie(f.cookie)
		again := send(c, r)
		require.Empty(t, again.Header().Get("Set-Cookie"), "the browser keeps its cookie, and older pages their tokens")
		time.Sleep(59 * time.Minute)
		require.Equal(t, http.StatusSeeOther, send(c, f.request("token", tokenIn(t, again))).Code)
	})
}

func TestProcessesWithOneKeyTakeEachOthersForms(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	key := bytes.Repeat([]byte("k"), 32)
	f := readForm(t, newConsole(t, w.Svc, console.WithFormKey(key)), world.Alice)
	key[0]++
	require.Equal(t, http.StatusForbidden, send(newConsole(t, w.Svc, console.WithFormKey(key)), f.request()).Code)
	key[0]--
	require.Equal(t, http.StatusSeeOther, send(newConsole(t, w.Svc, console.WithFormKey(key)), f.request()).Code)
}

func TestTheCookieIsForNoScriptAndNoOtherSite(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	cookie := readForm(t, c, world.Alice).cookie
	require.True(t, cookie.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	require.False(t, cookie.Secure, "over http a browser would not keep it")
	require.Empty(t, cookie.Path)
	require.Zero(t, cookie.MaxAge)
	for name, change := range map[string]func(*http.Request){
		"TLS":   func(r *http.Request) { r.TLS = new(tls.ConnectionState) },
		"proxy": func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") },
	} {
		r := request(t, http.MethodGet, userPath(world.Alice), "")
		change(r)
		require.Contains(t, send(c, r).Header().Get("Set-Cookie"), "; Secure", name)
	}
	for _, route := range []string{"/", "/users", "/healthz"} {
		require.Empty(t, send(c, request(t, http.MethodGet, route, "")).Header().Get("Set-Cookie"), route)
	}
}

func TestALogoutThatTheStoreDoesNotTake(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Login(w.Svc)
	var log bytes.Buffer
	c := newConsole(t, w.Svc, console.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	f := readForm(t, c, world.Alice)
	server.MustDo("REPLICAOF", "127.0.0.1", "1") // which takes no writes
	got := send(c, f.request())
	require.Equal(t, http.StatusBadGateway, got.Code)
	shows(t, got.Body.String(), "The user is logged out in this process, and everywhere when the store is back")
	shows(t, got.Body.String(), `<a href="user?id=%40alice%3Amatrix.example">Back to the user's page</a>`)
	require.Contains(t, log.String(), "READONLY")
	shows(t, get(t, c, "/"), "1 write waiting")
	shows(t, get(t, c, userPath(world.Alice)), "Writes wait for the store, and a logout of this user may be one of them.")
	server.MustDo("REPLICAOF", "NO", "ONE")
	world.Eventually(t, "the logout is stored", func() bool { return server.MustDo("EXISTS", "bot:session:"+world.Alice) == "0" })
}

func TestALogoutWhoseLinkStays(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	c := newConsole(t, w.Svc)
	f := readForm(t, c, world.Alice)
	w.Auth.Inject(sessiontest.LinkRemove, -1, sessiontest.Status(http.StatusInternalServerError, "connect ECONNREFUSED"))
	got := send(c, f.request("unlink", "1"))
	require.Equal(t, http.StatusBadGateway, got.Code)
	shows(t, got.Body.String(), "The user is logged out, but the link is not removed")
	shows(t, got.Body.String(), "The auth server did not answer, or made no sense: link remove: auth server answered 500: connect ECONNREFUSED.")
	require.False(t, loggedIn(t, w))

	require.NoError(t, w.Svc.Close())
	got = send(c, f.request())
	require.Equal(t, http.StatusServiceUnavailable, got.Code)
	shows(t, got.Body.String(), "The service has been closed. The user is still logged in.")
}
