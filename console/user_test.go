package console_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

func TestAUsersPageTellsTheirSessionAndTrail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore(), session.WithBotName("todo bot"))
		s := w.Login(w.Svc)
		c := newConsole(t, w.Svc)
		page := get(t, c, userPath(world.Alice))
		shows(t, page, "<h1><bdi>"+world.Alice+"</bdi></h1>")
		shows(t, page, world.Email)
		shows(t, page, s.Subject)
		shows(t, page, "good for 15 minutes")
		shows(t, page, s.ExpiresAt.UTC().Format("2006-01-02 15:04:05"))
		shows(t, page, "in 7 days")
		shows(t, page, "Logged in with email and password, at todo bot.")

		for range 3 {
			time.Sleep(20 * time.Minute)
			world.MustToken(t, w.Svc, world.Alice)
		}
		shows(t, get(t, c, userPath(world.Alice)), "The token was replaced, by the refresh token, 3 times.")
		time.Sleep(14*time.Minute + 30*time.Second)
		shows(t, get(t, c, userPath(world.Alice)), "less than a minute left, so replaced at the next use")
		time.Sleep(time.Minute)
		shows(t, get(t, c, userPath(world.Alice)), "has run out, so replaced at the next use")
	})
}

func TestThePageTellsWhyThereIsNoSession(t *testing.T) {
	tell := func(t *testing.T, happen func(w *world.World)) string {
		var page string
		synctest.Test(t, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.Login(w.Svc)
			happen(w)
			page = get(t, newConsole(t, w.Svc), userPath(world.Alice))
			showsNot(t, page, world.Email)
		})
		return page
	}
	shows(t, tell(t, func(w *world.World) { require.NoError(w.T, w.Svc.Logout(w.T.Context(), world.Alice)) }),
		"There is no session: logged out.")
	shows(t, tell(t, func(w *world.World) {
		w.Auth.RevokeRefreshTokens(world.Email)
		time.Sleep(20 * time.Minute)
		require.ErrorIs(w.T, world.AskToken(w), session.ErrNotLoggedIn)
	}), "There is no session: the auth server ended the session: refresh: auth server answered 401: Invalid refresh token.")
	shows(t, tell(t, func(w *world.World) { time.Sleep(8 * 24 * time.Hour) }),
		"There is no session: it was not used until it ended, on 2000-01-08 00:00:00 UTC.")
	shows(t, tell(t, func(w *world.World) {
		require.NoError(w.T, w.Store.Delete(w.T.Context(), session.Record{UserID: world.Alice}))
	}), "Either other software removed it, or Redis evicted it")
	shows(t, tell(t, func(w *world.World) { w.Put(world.Alice, "not a session") }), "or the record is damaged")
	shows(t, tell(t, func(w *world.World) { time.Sleep(30 * 24 * time.Hour) }), "no trail of one")
}

// To look at a linked user must not log them in.
func TestLookingAtAUserBeginsNoSession(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Bob, "bob@example.com")
	c := newConsole(t, w.Svc)
	for range 3 {
		shows(t, get(t, c, userPath(world.Bob)), "There is no session")
	}
	require.Empty(t, w.Stored(world.Bob))
	require.Zero(t, w.Auth.Calls(sessiontest.LinkFetch))
}

func TestNoPageShowsAToken(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	token := w.Login(w.Svc).Token()
	w.Auth.Inject(sessiontest.Any, -1, sessiontest.Echo(http.StatusInternalServerError))
	_, err := w.Svc.Refresh(t.Context(), world.Alice, token)
	require.Error(t, err)
	c := newConsole(t, w.Svc)
	form := readForm(t, c, world.Alice)
	for _, page := range []string{
		get(t, c, "/"), get(t, c, "/users"), get(t, c, userPath(world.Alice)), get(t, c, "/readyz"),
		send(c, form.request("unlink", "1")).Body.String(),
	} {
		for part := range strings.SplitSeq(token, ".") {
			showsNot(t, page, part)
		}
		hidden := strings.ReplaceAll(page, form.value["token"], "")
		require.False(t, world.SecretShapes.MatchString(hidden), "a secret on a page: %s", world.SecretShapes.FindString(hidden))
	}
}

func TestWhatIsNoUserIDIsAnsweredWithASentence(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	for id, reason := range map[string]string{
		"alice": "does not start with @", "@alice": "not of the form @localpart:domain", "@a\x00:b": "control character",
		"@a:b c": "no server name", "@\xff:b": "not valid UTF-8", "@" + strings.Repeat("a", 300) + ":b": "longer than 255 bytes",
		"<script>": "does not start with @", "..": "does not start with @",
	} {
		got := send(c, request(t, http.MethodGet, userPath(id), ""))
		require.Equal(t, http.StatusBadRequest, got.Code, id)
		shows(t, got.Body.String(), "is not a Matrix user ID: "+reason)
		showsNot(t, got.Body.String(), "<script")
	}
	got := send(c, request(t, http.MethodGet, "/user", ""))
	require.Equal(t, http.StatusSeeOther, got.Code)
	require.Equal(t, "users", got.Header().Get("Location"))
}

// Historical user IDs may hold what is not seen, or turns the text around.
func TestWhatCannotBeSeenInAUserIDIsWrittenOut(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	id := "@a\u202eb\u200d<i>:h"
	w.Put(id, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), world.Email, "{}"))
	c := newConsole(t, w.Svc)
	for _, page := range []string{get(t, c, "/users"), get(t, c, userPath(id))} {
		shows(t, page, `<bdi>@a\u{202e}b\u{200d}&lt;i&gt;:h</bdi>`)
	}
	link := userCell.FindStringSubmatch(get(t, c, "/users"))[1]
	shows(t, get(t, c, "/"+link), world.Email)
	require.Equal(t, http.StatusSeeOther, send(c, readForm(t, c, id).request()).Code)
	require.Empty(t, w.Stored(id))
}

// Whoever can write to the store chooses what is in a record and its trail.
func TestWhatStandsInARecordIsShownAsText(t *testing.T) {
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	token := w.Auth.Sign(map[string]any{"sub": "<b>\u202es</b>", "exp": time.Now().Add(time.Hour).Unix()})
	record, err := json.Marshal(map[string]any{
		"token": token, "email": "\x1b[2J\u202e<script>alert(1)</script>\"'@x", "data": map[string]any{"<img src=x>": "\x1b"},
		"expiresAt": time.Now().Add(time.Hour).UTC(),
	})
	require.NoError(t, err)
	w.Put(world.Alice, string(record))
	now := strconv.FormatInt(time.Now().UnixMilli(), 10)
	for _, user := range []string{world.Alice, world.Bob} {
		server.MustDo("SET", "bot:session-trail:{bot:session:"+user+"}",
			now+" "+now+` 1 0 {"k":"ended","by":"auth server","bot":"<i>\u202e","why":"<script>\u0007\u2066\""}`)
	}
	c := newConsole(t, w.Svc)
	page := get(t, c, userPath(world.Alice))
	shows(t, page, `<bdi>\u{1b}[2J\u{202e}&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;@x</bdi>`)
	shows(t, page, `<bdi>&lt;b&gt;\u{202e}s&lt;/b&gt;</bdi>`)
	shows(t, page, `at &lt;i&gt;\u{202e}: &lt;script&gt;\u{7}\u{2066}&#34;.`)
	showsNot(t, page, "img src")
	page += get(t, c, userPath(world.Bob))
	shows(t, page, `There is no session: the auth server ended the session, at &lt;i&gt;\u{202e}: &lt;script&gt;`)
	require.NotRegexp(t, `<script|<i>|<b>|[\x00-\x08\x0b-\x1f\x7f]|\x{202e}|\x{2066}`, page)
}

func TestAUsersPageWhenTheStoreIsAwayOrHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		w.Login(w.Svc)
		c := newConsole(t, w.Svc)
		defer h.Inject(storetest.Hang)()
		began := time.Now()
		page := get(t, c, userPath(world.Bob))
		require.Less(t, time.Since(began), 3*time.Second)
		shows(t, page, "Whether there is a session is not known just now. There was no answer in time.")
		shows(t, get(t, c, userPath(world.Alice)), world.Email) // as last known
	})
}

func TestAUserWhoseTrailMayNotBeRead(t *testing.T) {
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Login(w.Svc)
	server.MustDo("ACL", "SETUSER", "bot", "on", ">secret", "~bot:session:*", "&*", "+@all")
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret"})
	t.Cleanup(func() { client.Close() })
	page := get(t, newConsole(t, w.Bot(client)), userPath(world.Alice))
	shows(t, page, world.Email)
	shows(t, page, "The trail could not be read. The store did not answer, or refused")
}

// form is the logout form of a user's page in a browser.
type form struct {
	t      *testing.T
	cookie *http.Cookie
	value  map[string]string
}

// readForm opens the page of a user in a browser that has no cookie yet.
func readForm(t *testing.T, h http.Handler, userID string) form {
	t.Helper()
	w := send(h, request(t, http.MethodGet, userPath(userID), ""))
	require.Equal(t, http.StatusOK, w.Code)
	cookies := (&http.Response{Header: w.Header()}).Cookies()
	require.Len(t, cookies, 1)
	return form{t, cookies[0], map[string]string{"id": userID, "token": tokenIn(t, w)}}
}

func tokenIn(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	_, rest, found := strings.Cut(w.Body.String(), `name="token" value="`)
	require.True(t, found)
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

// request is what the browser sends when the button is pressed, with other values in
// the form if there are any.
func (f form) request(changes ...string) *http.Request {
	values := url.Values{}
	for key, value := range f.value {
		values.Set(key, value)
	}
	for i := 0; i < len(changes); i += 2 {
		values.Set(changes[i], changes[i+1])
	}
	r := request(f.t, http.MethodPost, "/logout", values.Encode())
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if f.cookie != nil {
		r.AddCookie(&http.Cookie{Name: f.cookie.Name, Value: f.cookie.Value})
	}
	return r
}
