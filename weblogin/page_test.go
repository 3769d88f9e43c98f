package weblogin_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"html"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
	"github.com/mana/session/weblogin"
)

// Link previews, scanners of mail and chats, and browsers that load ahead.
func TestOpeningALinkSpendsAndChangesNothing(t *testing.T) {
	store := storetest.NewFaultStore()
	defer store.Close()
	s := newSite(t, weblogin.WithStore(store))
	link := s.link(t, world.Alice)
	store.Inject(func(context.Context, storetest.Call) error { panic("a write") }, storetest.Writes()...)
	for range 50 {
		preview := newBrowser(t, s)
		preview.open(link).token()
		require.Equal(t, 200, preview.do(httptest.NewRequest(http.MethodHead, link, nil)).Code)
	}
	require.Zero(t, s.Auth.Calls(sessiontest.Login))
	store.Clear()
	require.NoError(t, s.complete(t, newBrowser(t, s).logIn(link).code()))
}

func TestHeadHasNoBodyAndOtherMethodsAreRefused(t *testing.T) {
	s := newSite(t)
	server := httptest.NewServer(s)
	defer server.Close()
	link := strings.Replace(s.link(t, world.Alice), base, server.URL, 1)
	for method, want := range map[string]int{
		"GET": 200, "HEAD": 200, "PUT": 405, "DELETE": 405, "OPTIONS": 405, "PATCH": 405, "TRACE": 405, "BREW": 405,
	} {
		r, err := http.NewRequestWithContext(t.Context(), method, link, nil)
		require.NoError(t, err)
		resp, err := server.Client().Do(r)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, want, resp.StatusCode, method)
		if want == 405 {
			require.Equal(t, "GET, HEAD, POST", resp.Header.Get("Allow"))
		}
	}
}

func TestWhatIsNoLinkIsNotFound(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	for _, wrong := range []string{
		base, base + "?", base + "?link=", base + "?link=x", base + "?lin=" + strings.Repeat("A", 54),
		link[:len(link)-1], link + "A", link + "%00", base + "?link=" + strings.Repeat("A", 1<<16), base + "?link=%zz", base + "?a;b",
		base + "/" + strings.TrimPrefix(link, base+"?link="), base + "?link=" + strings.Repeat("!", 54),
	} {
		newBrowser(t, s).open(wrong).wants(404, noLogin)
		newBrowser(t, s).post(wrong, "").refused(400, 404)
	}
	// A link that nobody was sent, and one whose secret is wrong in the last bit.
	newBrowser(t, s).open(base+"?link="+strings.Repeat("A", 54)).wants(410, noLongerWorks)
	b := []byte(link)
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(link, base+"?link="))
	require.NoError(t, err)
	raw[len(raw)-1] ^= 1
	newBrowser(t, s).open(base+"?link="+base64.RawURLEncoding.EncodeToString(raw)).wants(410, noLongerWorks)
	newBrowser(t, s).open(string(b)).token()
}

// refused checks that the answer is one of these.
func (p page) refused(statuses ...int) {
	p.t.Helper()
	require.Contains(p.t, statuses, p.Code)
}

func TestFormIsTakenFromThisPageInThisBrowserAlone(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	mine, other := newBrowser(t, s), newBrowser(t, s)
	form := mine.open(link)
	stolen := other.open(link)
	filled := "&email=" + url.QueryEscape(world.Email) + "&password=" + url.QueryEscape(world.Password)

	mine.send(link, stolen, world.Email, world.Password).wantsAgain(403, "out of date") // of another browser
	newBrowser(t, s).send(link, form, world.Email, world.Password).wantsAgain(403, "out of date")
	mine.post(link, filled[1:]).wantsAgain(403, "out of date")
	mine.post(link, "token="+filled).wantsAgain(403, "out of date")
	mine.post(link, "token=x"+filled).wantsAgain(403, "out of date")
	require.Zero(t, s.Auth.Calls(sessiontest.Login), "no password was used")

	again := newBrowser(t, s).send(link, form, world.Email, world.Password)
	require.Contains(t, again.Body.String(), world.Email, "what was typed is kept")
	require.Len(t, mine.send(link, form, world.Email, world.Password).code(), 8)
}

func TestTwoTabsOfABrowserShareItsCookie(t *testing.T) {
	s := newSite(t)
	b := newBrowser(t, s)
	alices, bobs := s.link(t, world.Alice), s.link(t, world.Bob)
	first, second := b.open(alices), b.open(bobs)
	require.NotEqual(t, first.token(), second.token())
	require.Len(t, b.send(alices, first, world.Email, world.Password).code(), 8)
	require.Len(t, b.send(bobs, second, world.Email, world.Password).code(), 8)
}

func TestFormsThatOtherSitesSendAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		site, origin string
		want         int
	}{
		"this page": {"same-origin", "null", 200},
		"this page, behind a proxy that changes Host": {"", "https://bot.example", 200},
		"this page, in a browser too old to say so":   {"", "null", 200},
		"another site":                   {"cross-site", "https://evil.example", 403},
		"another site that hides itself": {"cross-site", "null", 403},
		"a subdomain":                    {"same-site", "https://evil.bot.example", 403},
		"another site, in a browser too old to say so": {"", "https://evil.example", 403},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			link := s.link(t, world.Alice)
			b := newBrowser(t, s)
			form := b.open(link)
			b.header = http.Header{"Origin": {c.origin}}
			if c.site != "" {
				b.header.Set("Sec-Fetch-Site", c.site)
			}
			got := b.send(strings.Replace(link, "bot.example", "10.0.0.7:8080", 1), form, world.Email, world.Password)
			if c.want == 403 {
				got.wants(403, "Not sent from this page")
				require.Zero(t, s.Auth.Calls(sessiontest.Login))
				return
			}
			require.Len(t, got.code(), 8)
		})
	}
}

func TestDefaultPortIsNotPartOfAnOrigin(t *testing.T) {
	s := newSite(t)
	h, err := weblogin.New(s.Svc, "https://Bot.example:443/login")
	require.NoError(t, err)
	link, err := h.Link(t.Context(), world.Alice, room)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(link, "https://bot.example/login?"), link)
	b := newBrowser(t, h)
	form := b.open(link)
	b.header.Set("Origin", "https://bot.example")
	require.Len(t, b.send(strings.Replace(link, "bot.example", "10.0.0.7", 1), form, world.Email, world.Password).code(), 8)
}

func TestWhatIsNotTheFormIsRefused(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	form := b.open(link)
	for body, want := range map[string]int{
		"token=" + strings.Repeat("x", 8<<10): 413, "%zz": 400, "a;b=c": 400, "password=%": 400,
	} {
		require.Equal(t, want, b.post(link, body).Code, body[:3])
	}
	for _, kind := range []string{"", "text/plain", "application/json", "multipart/form-data; boundary=x", ";", "application/x-www-form-urlencoded; ="} {
		r := httptest.NewRequest(http.MethodPost, link, strings.NewReader("token="+form.token()))
		r.Header.Set("Content-Type", kind)
		b.do(r).wants(415, "This cannot be read")
	}
	for _, missing := range []string{"", "email=x%40y.z", "password=x", "email=+&password=x"} {
		b.post(link, "token="+form.token()+"&"+missing).wantsAgain(422, "both")
	}
	// Neither the query nor a cookie stands in for the form.
	b.post(link+"&token="+form.token()+"&email=a%40b.c&password=x", "").wantsAgain(403, "out of date")
	require.Zero(t, s.Auth.Calls(sessiontest.Login))
	b.send(link, form, world.Email, strings.Repeat("x", 2000)).wantsAgain(422, "wrong")
	require.Zero(t, s.Auth.Calls(sessiontest.Login))
	require.Len(t, b.logIn(link).code(), 8)
}

func TestLongestEmailAndPasswordFitIntoTheForm(t *testing.T) {
	s := newSite(t)
	email := strings.Repeat("a", 64) + "@" + strings.Repeat(strings.Repeat("d", 61)+".", 3) + "com"
	password := strings.Repeat("€", 341)
	require.Len(t, email, 254)
	s.Auth.AddUser(email, password)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	require.Len(t, b.send(link, b.open(link), email, password).code(), 8)
}

func TestEachFailureHasASentenceAndAStatus(t *testing.T) {
	for name, c := range map[string]struct {
		fault    sessiontest.Fault
		status   int
		sentence string
		german   string
	}{
		"wrong password":   {sessiontest.Status(500, "Invalid email or password"), 422, "email or password is wrong", "Passwort stimmt nicht"},
		"not verified":     {sessiontest.Status(500, "Email not verified"), 403, "not confirmed yet", "noch nicht bestätigt"},
		"too many":         {sessiontest.Status(429, "ThrottlerException: Too Many Requests", "Retry-After", "40"), 429, "in 40 seconds", "in 40 Sekunden"},
		"down":             {sessiontest.Status(500, "connect ECONNREFUSED"), 503, "does not answer", "antwortet gerade nicht"},
		"not JSON":         {sessiontest.HTML(), 503, "does not answer", "antwortet gerade nicht"},
		"echoes passwords": {sessiontest.Echo(500), 503, "does not answer", "antwortet gerade nicht"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, language := range []string{"en", "de"} {
				s := newSite(t)
				link := s.link(t, world.Alice)
				b := newBrowser(t, s)
				b.header.Set("Accept-Language", language)
				form := b.open(link)
				s.Auth.Inject(sessiontest.Login, 1, c.fault)
				got := b.send(link, form, world.Email, world.Password)
				got.wantsAgain(c.status, map[string]string{"en": c.sentence, "de": c.german}[language])
				require.Contains(t, got.Body.String(), `value="`+world.Email+`"`)
				require.Equal(t, c.status == 429 || c.status == 503, got.Header().Get("Retry-After") != "")
				require.Regexp(t, `<title>(Error|Fehler): `, got.Body.String())
			}
		})
	}
}

func TestServiceThatIsClosedHasItsSentence(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	form := b.open(link)
	require.NoError(t, s.Svc.Close())
	b.send(link, form, world.Email, world.Password).wantsAgain(503, "try again in a minute")
}

func TestBrowserThatGivesUpSpendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		link := s.link(t, world.Alice)
		b := newBrowser(t, s)
		form := b.open(link)
		for range 6 { // more often than a wrong password might be sent
			s.Auth.Inject(sessiontest.Login, 1, sessiontest.Delay(5*time.Second))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			body := url.Values{"token": {form.token()}, "email": {world.Email}, "password": {world.Password}}.Encode()
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, link, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			b.do(r).wantsAgain(503, "does not answer")
			cancel()
			s.Auth.ClearFaults()
		}
		require.NoError(t, s.complete(t, b.logIn(link).code()))
	})
}

func TestPageSpeaksTheLanguageThatTheBrowserPrefers(t *testing.T) {
	s := newSite(t, weblogin.WithBotName("Todo <b>"), weblogin.WithCommand("/login"))
	link := s.link(t, world.Alice)
	for accept, want := range map[string]string{
		"": "en", "de": "de", "DE-at": "de", "fr, de;q=0.5": "de", "en, de": "en", "de, en": "de",
		"en;q=0.1,de;q=0.2": "de", "de;q=0": "en", "de;q=x": "en", "*": "en", "de;q=NaN": "en", ";;,": "en",
		strings.Repeat("x,", 1000) + "de": "en", "zh-CN,zh;q=0.9": "en",
	} {
		b := newBrowser(t, s)
		b.header.Set("Accept-Language", accept)
		form := b.open(link)
		require.Equal(t, want, form.Header().Get("Content-Language"), accept)
		require.Contains(t, form.Body.String(), `<html lang="`+want+`">`)
		require.Equal(t, "Accept-Language", form.Header().Get("Vary"))
		title := map[string]string{"en": "Log in to Todo <b>", "de": "Bei Todo <b> anmelden"}[want]
		require.Equal(t, title, form.find(heading))
		require.NotContains(t, form.Body.String(), "<b>")
	}
	german := newBrowser(t, s)
	german.header.Set("Accept-Language", "de-DE,de;q=0.9,en;q=0.8")
	require.Contains(t, german.logIn(link).Body.String(), "Gib den Code niemandem")
	german.open(link).wants(410, "Dieser Link gilt nicht mehr")
	require.Contains(t, german.open(link).Body.String(), "Sende dem Bot /login")
	german.open(base).wants(404, "Hier gibt es keine Anmeldung")
}

func TestWhatUsersAreCalledIsNoHTML(t *testing.T) {
	s := newSite(t)
	const user = `@<script>"'&:matrix.example`
	link := s.link(t, user)
	b := newBrowser(t, s)
	form := b.open(link)
	require.Contains(t, form.Body.String(), `@&lt;script&gt;&#34;&#39;&amp;:matrix.example`)
	again := b.send(link, form, `"><script>alert(1)</script>`, "x")
	again.wantsAgain(422, "wrong")
	require.NotContains(t, again.Body.String(), `"><`)
}

func TestNobodyCanLookLikeAnotherUser(t *testing.T) {
	s := newSite(t)
	for user, shown := range map[string]string{
		"@\u0430lice:matrix.example":      `@\u{430}lice:matrix.example`, // a Cyrillic letter
		"@\u202eecila:matrix.example":     `@\u{202E}ecila:matrix.example`,
		"@alice\u200b:matrix.example":     `@alice\u{200B}:matrix.example`,
		"@alice  or so:matrix.example":    `@alice\u{20}\u{20}or\u{20}so:matrix.example`,
		"@a.b_c=d/e+f-g~1:[::1]:8448":     `@a.b_c=d/e+f-g~1:[::1]:8448`,
		"@\U0001f600:matrix.example:8448": `@\u{1F600}:matrix.example:8448`,
	} {
		form := newBrowser(t, s).open(s.link(t, user))
		require.Contains(t, html.UnescapeString(form.main()), "<bdi>"+shown+"</bdi>")
	}
}

func TestPolicyAllowsTheStyleOfThePageAndNothingElse(t *testing.T) {
	s := newSite(t)
	form := newBrowser(t, s).open(s.link(t, world.Alice))
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(form.Body.String())
	require.NotNil(t, style)
	sum := sha256.Sum256([]byte(style[1]))
	require.Contains(t, form.Header().Get("Content-Security-Policy"), "style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	require.NotRegexp(t, `(?i) (style|on\w+|src|href)=`, form.Body.String())
}

func TestStoreThatIsAwayHasItsSentence(t *testing.T) {
	store := storetest.NewFaultStore()
	defer store.Close()
	s := newSite(t, weblogin.WithStore(store))
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	form := b.open(link)
	store.Inject(storetest.Away)
	for _, got := range []page{b.open(link), b.send(link, form, world.Email, world.Password)} {
		got.wants(503, "Error")
		require.Contains(t, got.Body.String(), "try again in a minute")
		require.Equal(t, "60", got.Header().Get("Retry-After"))
	}
	_, err := s.Link(t.Context(), world.Alice, room)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.ErrorIs(t, err, storetest.ErrLost)
	require.ErrorIs(t, s.complete(t, "BCDFGHJK"), session.ErrStoreUnavailable)
	require.Zero(t, s.Auth.Calls(sessiontest.Login))

	store.Clear()
	store.Inject(storetest.Away, storetest.Writes()...)
	b.send(link, form, world.Email, world.Password).wantsAgain(503, "cannot look up your link")
	require.Zero(t, s.Auth.Calls(sessiontest.Login), "a password that cannot be counted is not used")
	store.Clear()
	require.NoError(t, s.complete(t, b.logIn(link).code()), "all is as it was")
}

func TestHungStoreEndsWithTheCallersPatience(t *testing.T) {
	store := storetest.NewFaultStore()
	defer store.Close()
	s := newSite(t, weblogin.WithStore(store))
	store.Inject(storetest.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := s.Link(ctx, world.Alice, room)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// contrast is the ratio of https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio.
func contrast(a, b string) float64 {
	luminance := func(color string) float64 {
		sum := 0.0
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			n, _ := strconv.ParseUint(color[1+2*i:3+2*i], 16, 8)
			c := float64(n) / 255
			if c <= 0.04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+0.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	la, lb := luminance(a), luminance(b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

func TestColorsHaveContrastInLightAndDark(t *testing.T) {
	require.InDelta(t, 21, contrast("#000000", "#ffffff"), 0.01)
	s := newSite(t)
	css := newBrowser(t, s).open(s.link(t, world.Alice)).Body.String()
	light, dark, found := strings.Cut(css, "prefers-color-scheme: dark")
	require.True(t, found)
	for scheme, text := range map[string]string{"light": light, "dark": dark} {
		colors := make(map[string]string)
		for _, match := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(text, -1) {
			colors[match[1]] = match[2]
		}
		for _, pair := range []struct {
			on, of string
			want   float64
		}{
			{"card", "text", 7}, {"card", "muted", 4.5}, {"accent", "on-accent", 4.5}, {"note", "on-note", 7}, {"bad", "on-bad", 7},
			{"card", "line", 3}, {"card", "accent", 3}, {"note", "note-line", 3}, {"bad", "bad-line", 3},
		} {
			got := contrast(colors[pair.on], colors[pair.of])
			t.Logf("%s: %s on %s: %.1f", scheme, pair.of, pair.on, got)
			require.GreaterOrEqual(t, got, pair.want, "%s: %s on %s", scheme, pair.of, pair.on)
		}
	}
}
