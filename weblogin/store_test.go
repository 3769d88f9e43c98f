package weblogin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
	"github.com/mana/session/weblogin"
)

// stores are where links can be kept: each makes another process's way to it.
func stores(t *testing.T) map[string]func() weblogin.Option {
	memory := session.NewMemoryStore()
	t.Cleanup(func() { memory.Close() })
	stores := map[string]func() weblogin.Option{
		"memory": func() weblogin.Option { return weblogin.WithStore(memory) },
	}
	if !testing.Short() {
		addr := redistest.Start(t).Addr
		stores["redis"] = func() weblogin.Option { return weblogin.WithRedis(world.NewClient(t, addr)) }
		nodes := redistest.StartCluster(t, 3, 0).Addrs()
		stores["cluster"] = func() weblogin.Option {
			client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: nodes})
			t.Cleanup(func() { client.Close() })
			return weblogin.WithRedis(client)
		}
	}
	return stores
}

func TestLinksAreKeptAlikeInEveryStore(t *testing.T) {
	for name, store := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Run("any process serves and completes a link", func(t *testing.T) { anyProcessServesAndCompletesALink(t, store) })
			t.Run("guesses at once are all counted", func(t *testing.T) { guessesAtOnceAreAllCounted(t, store) })
			t.Run("passwords at once are all counted", func(t *testing.T) { passwordsAtOnceAreAllCounted(t, store) })
			t.Run("of the same code sent twice at once one counts", func(t *testing.T) { ofTheSameCodeSentTwiceAtOnceOneCounts(t, store) })
		})
	}
}

func anyProcessServesAndCompletesALink(t *testing.T, store func() weblogin.Option) {
	s := newSite(t, store())
	serving := handlerOf(s.World, s.Service(), store())
	completing := handlerOf(s.World, s.Service(), store())
	for i := range 20 { // in many slots
		user := world.UserID(i)
		link := s.link(t, user)
		b := newBrowser(t, s)
		form := b.open(link)
		b.handler = serving
		code := b.send(link, form, world.Email, world.Password).code()
		_, err := completing.Complete(t.Context(), user, room, "BBBBBBBB")
		require.ErrorIs(t, err, session.ErrInvalidCredentials)
		got, err := completing.Complete(t.Context(), user, room, code)
		require.NoError(t, err)
		require.Equal(t, got.Token(), world.MustToken(t, s.Svc, user))
		newBrowser(t, s).open(link).wants(410, noLongerWorks)
	}
}

func guessesAtOnceAreAllCounted(t *testing.T, store func() weblogin.Option) {
	s := newSite(t, store())
	other := handlerOf(s.World, s.Service(), store())
	code := s.code(t)
	var mu sync.Mutex
	said := make(map[error]int)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			h := []*weblogin.Handler{s.Handler, other}[i%2]
			_, err := h.Complete(t.Context(), world.Alice, room, "BBBBBBBB")
			mu.Lock()
			defer mu.Unlock()
			for _, sentinel := range []error{session.ErrInvalidCredentials, session.ErrLoginExpired, err} {
				if errors.Is(err, sentinel) {
					said[sentinel]++
					break
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, map[error]int{session.ErrInvalidCredentials: 4, session.ErrLoginExpired: 16}, said)
	require.ErrorIs(t, s.complete(t, code), session.ErrLoginExpired)
}

func passwordsAtOnceAreAllCounted(t *testing.T, store func() weblogin.Option) {
	s := newSite(t, store())
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	body := url.Values{"token": {b.open(link).token()}, "email": {world.Email}, "password": {"wrong"}}.Encode()
	var cookie *http.Cookie
	for _, cookie = range b.cookies {
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, link, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.AddCookie(cookie)
			s.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	wg.Wait()
	require.Equal(t, 5, s.Auth.Calls(sessiontest.Login))
	b.open(link).wants(410, noLongerWorks)
}

func ofTheSameCodeSentTwiceAtOnceOneCounts(t *testing.T, store func() weblogin.Option) {
	s := newSite(t, store())
	code := s.code(t)
	errs := make(chan error, 8)
	for range 8 {
		go func() { errs <- s.complete(t, code) }()
	}
	done := 0
	for range 8 {
		if err := <-errs; err == nil {
			done++
		} else {
			require.ErrorIs(t, err, session.ErrLoginExpired)
		}
	}
	require.Equal(t, 1, done)
}

func TestWhatIsOnRedisIsShortLivedAndGivesNothingAway(t *testing.T) {
	key := make([]byte, 32)
	key[0] = 1
	for name, opts := range map[string][]session.Option{"plain": nil, "sealed": {session.WithEncryption(key)}} {
		t.Run(name, func(t *testing.T) {
			client := world.NewClient(t, redistest.Start(t).Addr)
			s := on(world.New(t, session.NewMemoryStore(), opts...), weblogin.WithRedis(client))
			link := s.link(t, world.Alice)
			code := newBrowser(t, s).logIn(link).code()

			keys, err := client.Keys(t.Context(), "*").Result()
			require.NoError(t, err)
			require.Len(t, keys, 1)
			require.Regexp(t, `^bot:login:[\w-]{22}$`, keys[0])
			ttl, err := client.TTL(t.Context(), keys[0]).Result()
			require.NoError(t, err)
			require.InDelta(t, 600, ttl.Seconds(), 20)
			value, err := client.Get(t.Context(), keys[0]).Result()
			require.NoError(t, err)
			require.NotContains(t, value, code)
			require.NotContains(t, value, world.Password)
			require.NotContains(t, value, secretOf(link))
			require.NotContains(t, keys[0], secretOf(link)[22:])
			require.NotContains(t, s.Log.String(), secretOf(link)[22:])
			require.NotContains(t, s.Log.String(), code)
			require.NotContains(t, s.Log.String(), world.Email)
			if name == "sealed" {
				require.NotContains(t, value, "ZXlK", `the base64 of "eyJ"`)
				require.NotContains(t, value, "eyJwZW5kaW5nRm9yI", `the base64 of {"pendingFor"`)
			}
			require.NoError(t, s.complete(t, code))
			value, err = client.Get(t.Context(), keys[0]).Result()
			require.NoError(t, err)
			require.Less(t, len(value), 250, "what was pending is gone: %s", value)
		})
	}
}

func secretOf(link string) string {
	_, secret, _ := strings.Cut(link, "?link=")
	return secret
}

func TestRedisThatIsAway(t *testing.T) {
	server := redistest.Start(t, redistest.WithPersistence())
	s := newSite(t, weblogin.WithRedis(world.NewClient(t, server.Addr)))
	link := s.link(t, world.Alice)
	code := newBrowser(t, s).logIn(link).code()
	server.Kill()
	newBrowser(t, s).open(link).wants(503, "Error")
	require.ErrorIs(t, s.complete(t, code), session.ErrStoreUnavailable)
	_, err := s.Link(t.Context(), world.Alice, room)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.Contains(t, err.Error(), "connection refused")
	server.Restart()
	require.NoError(t, s.complete(t, code))
}

func TestWhatIsNoRecordReadsAsNoLink(t *testing.T) {
	client := world.NewClient(t, redistest.Start(t).Addr)
	s := newSite(t, weblogin.WithRedis(client))
	for _, garbage := range []string{"x", "null", "{}", `{"link":{}}`, `{"user":"@bob:matrix.example","window":"2999-01-01T00:00:00Z","links":5}`, `{"user":"@bob:matrix.example","link":{"room":"!room:matrix.example","until":"2999-01-01T00:00:00Z","code":""}}`, strings.Repeat("[", 1<<16)} {
		link := s.link(t, world.Alice)
		keys, err := client.Keys(t.Context(), "bot:login:*").Result()
		require.NoError(t, err)
		require.Len(t, keys, 1)
		require.NoError(t, client.Set(t.Context(), keys[0], garbage, 0).Err())
		newBrowser(t, s).open(link).wants(410, noLongerWorks)
		require.ErrorIs(t, s.complete(t, ""), session.ErrLoginExpired)
	}
	keys, err := client.Keys(t.Context(), "bot:login:*").Result()
	require.NoError(t, err)
	require.NoError(t, client.Del(t.Context(), keys[0]).Err())
	require.NoError(t, client.LPush(t.Context(), keys[0], "a list").Err())
	require.NoError(t, s.complete(t, s.code(t)), "and is replaced")
}

func TestStoreErrorsShowNoRecord(t *testing.T) {
	s := newSite(t, weblogin.WithStore(quoting{session.NewMemoryStore()}))
	_, err := s.Link(t.Context(), world.Alice, room)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		require.NotContains(t, fmt.Sprintf(verb, err), "serial")
	}
}

// quoting is a store whose errors quote what it was given.
type quoting struct{ *session.MemoryStore }

func (q quoting) Swap(_ context.Context, _, next session.Record) (session.Record, error) {
	return session.Record{}, errors.New("cannot write " + next.Value)
}

func TestNewChecksWhatItIsGiven(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	for _, address := range []string{
		"", "bot.example/login", "/login", "http://bot.example/login", "ftp://bot.example", "https://", "https://user@bot.example",
		"https://bot.example/?x=1", "https://bot.example/?", "https://bot.example/#x", "https:bot.example", "://", "http://10.0.0.1/",
	} {
		_, err := weblogin.New(w.Svc, address)
		require.Error(t, err, address)
	}
	for _, address := range []string{
		"https://bot.example", "https://BOT.example:8443/a/b/", "http://localhost:8080/login", "http://127.0.0.1/", "http://[::1]:80/login",
	} {
		_, err := weblogin.New(w.Svc, address)
		require.NoError(t, err, address)
	}
	for name, opt := range map[string]weblogin.Option{
		"nil client": weblogin.WithRedis(nil), "nil store": weblogin.WithStore(nil), "nil logger": weblogin.WithLogger(nil),
		"nil memory store": weblogin.WithStore((*session.MemoryStore)(nil)),
		"command":          weblogin.WithCommand(""), "limit": weblogin.WithGlobalLimit(-1),
	} {
		_, err := weblogin.New(w.Svc, base, opt)
		require.Error(t, err, name)
	}
	_, err := weblogin.New(nil, base)
	require.Error(t, err)
}

func TestLinkAndCompleteCheckTheirArguments(t *testing.T) {
	s := newSite(t)
	for _, userID := range []string{"", "alice", "@alice", "@a\n:h"} {
		_, err := s.Link(t.Context(), userID, room)
		require.ErrorIs(t, err, session.ErrInvalidUserID)
		_, err = s.Complete(t.Context(), userID, room, "BCDFGHJK")
		require.ErrorIs(t, err, session.ErrInvalidUserID)
	}
	for _, room := range []string{"", strings.Repeat("x", 256)} {
		_, err := s.Link(t.Context(), world.Alice, room)
		require.ErrorContains(t, err, "room ID")
	}
	s.code(t)
	for _, code := range []string{"", " ", "BCDF", "\x00", strings.Repeat("B", 1<<20)} {
		_, err := s.Complete(t.Context(), world.Alice, room, code)
		require.Error(t, err)
	}
	require.NoError(t, s.Svc.Close())
	_, err := s.Link(t.Context(), world.Alice, room)
	require.ErrorIs(t, err, session.ErrClosed)
}

func TestNoLimitIsNoLimit(t *testing.T) {
	s := newSite(t, weblogin.WithGlobalLimit(0))
	for i := range 200 {
		s.link(t, world.UserID(i))
	}
}

func TestOperatorIsToldOfOutagesAndNotOfTypingErrors(t *testing.T) {
	store := storetest.NewFaultStore()
	defer store.Close()
	s := newSite(t, weblogin.WithStore(store))
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	b.send(link, b.open(link), world.Email, "wrong").wantsAgain(422, "wrong")
	require.Error(t, s.complete(t, "BBBBBBBB"))
	for range 6 {
		_, _ = s.Link(t.Context(), world.Alice, room)
	}
	require.NotContains(t, s.Log.String(), `level=WARN msg="weblogin`)
	store.Inject(storetest.Away)
	b.open(link)
	require.Contains(t, s.Log.String(), `level=WARN msg="weblogin: a link could not be looked up"`)
}

func TestHandlerPrintsNoSecret(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", s.Handler, s.Handler, s.Handler), secretOf(link))
	_, err := weblogin.New(s.Svc, base, weblogin.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
}

// FuzzRequest sends the page what browsers do not.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "link=AAAA", "token=x&email=a%40b.c&password=y", "de;q=0.3", "__Host-login-form=x")
	f.Add("GET", "link="+strings.Repeat("A", 54), "", "*", "")
	f.Add("HEAD", ";", "%", ";q=", "=")
	f.Fuzz(func(t *testing.T, method, query, body, language, cookie string) {
		s := newSite(t)
		r := &http.Request{
			Method: method, URL: &url.URL{Path: "/", RawQuery: query}, Host: "bot.example",
			Header: http.Header{
				"Accept-Language": {language}, "Cookie": {cookie}, "Content-Type": {"application/x-www-form-urlencoded"},
			},
			Body: io.NopCloser(strings.NewReader(body)),
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r.WithContext(t.Context()))
		require.NotContains(t, []int{200, 500}, w.Code)
		requireSecure(t, w)
	})
}

// What docs/weblogin.md says that links need is enough, and none of it too much.
func TestDocumentedACL(t *testing.T) {
	page, err := os.ReadFile("../docs/weblogin.md")
	require.NoError(t, err)
	documented := regexp.MustCompile("exactly\\s`(~bot:login:[^`]*)`").FindSubmatch(page)
	require.NotNil(t, documented)
	rules := strings.Fields(string(documented[1]))
	require.Len(t, rules, 7)
	require.Empty(t, denied(t, rules))
	for i, rule := range rules {
		require.NotEmpty(t, denied(t, slices.Delete(slices.Clone(rules), i, i+1)), rule)
	}
}

// denied is what a bot on Redis tried, in a login, that the rules forbid.
func denied(t *testing.T, rules []string) (denied []string) {
	t.Helper()
	server := redistest.Start(t, redistest.WithACL("bot on >secret "+strings.Join(rules, " ")))
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret", DisableIdentity: true})
	t.Cleanup(func() { client.Close() })
	s := newSite(t, weblogin.WithRedis(client))
	if link, err := s.Link(t.Context(), world.Alice, room); err == nil {
		b := newBrowser(t, s)
		if form := b.open(link); form.Code == http.StatusOK {
			_ = s.complete(t, b.send(link, form, world.Email, world.Password).find(codeShown))
		}
	}
	admin := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "redistest", Password: "redistest"})
	defer admin.Close()
	entries, err := admin.ACLLog(t.Context(), 100).Result()
	require.NoError(t, err)
	for _, entry := range entries {
		denied = append(denied, entry.Reason+" "+entry.Object)
	}
	return denied
}
