package browsertest_test

import (
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

// A Matrix client in a browser is another site than the login page.
func TestLinkThatIsClickedOnAnotherSiteWorks(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.open(site(t, fmt.Sprintf(`<a href="%s" rel="noreferrer">log in</a>`, html.EscapeString(bot.link()))))
	b.press(kb.Tab)
	require.EqualValues(t, 200, b.leave(kb.Enter))
	require.EqualValues(t, 200, b.fill(password))
	_, err := bot.Complete(t.Context(), alice, room, b.shown())
	require.NoError(t, err)
}

func TestFormOfAnotherSiteIsRefused(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	link := bot.link()
	b.open(link) // the browser has the cookie
	token := ask(b, chromedp.Value(chromedp.CSS("[name=token]")))
	b.open(site(t, fmt.Sprintf(`<form method="post" action="%s">
		<input type="hidden" name="token" value="%s"><input type="hidden" name="email" value="%s">
		<input type="hidden" name="password" value="%s"><button>a prize</button></form>`,
		html.EscapeString(link), token, email, password)))
	b.press(kb.Tab)
	require.EqualValues(t, 403, b.leave(kb.Enter))
	require.Equal(t, "Not sent from this page", b.text("h1"))
	require.Zero(t, bot.auth.Calls(sessiontest.Login))
}

func TestPageIsShownInNoFrame(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.open(site(t, fmt.Sprintf(`<iframe src="%s"></iframe>`, html.EscapeString(bot.link()))))
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(b.logged(), "\n"), "frame-ancestors 'none'")
	}, 20*time.Second, 20*time.Millisecond, "%v", b.logged())
}

func TestFormWithoutItsCookieIsShownAgain(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	link := bot.link()
	b.open(link)
	b.clearCookies()
	require.EqualValues(t, 403, b.fill(password))
	require.Contains(t, b.text("[role=alert]"), "out of date")
	b.press(kb.Tab, kb.Tab, password)
	require.EqualValues(t, 200, b.leave(kb.Enter))
	b.shown()
}

func TestReloadedCodeIsNotShownAgain(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	link := bot.link()
	b.open(link)
	b.fill(password)
	code := b.shown()
	require.NoError(t, chromedp.Do(b.ctx, chromedp.Reload())) // sends the form again
	require.Equal(t, "This link no longer works", b.text("h1"))
	b.open(link)
	require.Equal(t, "This link no longer works", b.text("h1"))
	_, err := bot.Complete(t.Context(), alice, room, code)
	require.NoError(t, err)
}

func TestColorsFollowTheBrowser(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.open(bot.link())
	colors := func() string {
		return ask(b, chromedp.Evaluate[string](
			`["main", "h1", ".note", "button", "input", "dt"].map(s => document.querySelector(s)).map(e => {
				const c = getComputedStyle(e); return c.backgroundColor + "/" + c.color }).join(" ")`))
	}
	require.Contains(t, colors(), "rgb(255, 255, 255)/rgb(27, 29, 33)")
	b.dark()
	require.Contains(t, colors(), "rgb(29, 32, 38)/rgb(233, 234, 237)")
}

// The cookie is of this host alone, out of reach of scripts and of other sites.
func TestCookieIsStrict(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.open(bot.link())
	cookies := b.cookies(bot.url)
	require.Len(t, cookies, 1)
	require.True(t, cookies[0].HTTPOnly)
	require.EqualValues(t, "Strict", cookies[0].SameSite)
	host, err := url.Parse(bot.url)
	require.NoError(t, err)
	require.Equal(t, host.Hostname(), cookies[0].Domain)
}
