package browsertest

import (
	_ "embed"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/world"
)

func TestAUserIsLoggedOutWithTheKeyboardAlone(t *testing.T) {
	b := newBrowser(t)
	for _, s := range screens {
		t.Run(s.name, func(t *testing.T) {
			site, b := newSite(t), browser{t, b.ctx}
			b.use(s)
			b.open(site.url)
			b.tabTo("Skip to the content")
			b.keep(s.name + "-skip")
			b.do(chromedp.KeyEvent(kb.Enter))
			require.Equal(t, "#main", eval[string](b, "location.hash"))
			b.do(chromedp.KeyEvent(kb.Tab))
			require.Equal(t, "User ID, or a part of one", b.focused(), "the navigation is skipped")
			b.do(chromedp.KeyEvent("alice"))
			b.follow(chromedp.KeyEvent(kb.Enter))
			require.Equal(t, "Sessions", b.text("h1"))
			b.tabTo(world.Alice)
			b.follow(chromedp.KeyEvent(kb.Enter))
			require.Equal(t, world.Alice, b.text("h1"))
			b.tabTo("Also remove the user's link at the auth server")
			b.do(chromedp.KeyEvent(" "))
			require.True(t, eval[bool](b, "document.activeElement.checked"))
			b.do(chromedp.KeyEvent(" "))
			b.tabTo("Log out " + world.Alice)
			b.keep(s.name + "-button")
			b.follow(chromedp.KeyEvent(kb.Enter))
			require.Equal(t, "Logged out.", b.text("[role=status]"))
			require.Empty(t, site.Stored(world.Alice))
			b.keep(s.name + "-done")
		})
	}
}

//go:embed audit.js
var audit string

// audit.js returns what is wrong with a page: contrast, labels, headings, tables,
// what does not fit the screen.
func TestEveryPageCanBeReadOnEveryScreen(t *testing.T) {
	site := newSite(t)
	b := newBrowser(t)
	for _, s := range screens {
		for name, path := range map[string]string{
			"overview": "", "users": "users", "search": "users?q=" + url.QueryEscape(world.Alice) + "&sort=end", "page": "users?page=2",
			"user": "user?id=" + url.QueryEscape(world.Alice), "gone": "user?id=" + url.QueryEscape(world.Bob),
			"nobody": "user?id=nobody", "nothing": "nothing", "logout": "logout",
		} {
			t.Run(s.name+"/"+name, func(t *testing.T) {
				b := browser{t, b.ctx}
				b.use(s)
				b.open(site.url + path)
				b.keep(s.name + "-" + name)
				b.do(chromedp.Evaluate[chromedp.Void]("document.querySelectorAll('details').forEach(d => d.open = true)"))
				require.Empty(t, eval[[]string](b, audit))
				if name == "overview" {
					require.Equal(t, 2, eval[int](b, "document.querySelectorAll('.chart .value').length"))
				}
				require.NotZero(t, eval[int](b, "document.styleSheets[0].cssRules.length"), "the policy allows the style")
			})
		}
	}
}

// An audit that finds nothing proves something only if it would find it.
func TestTheAuditFindsWhatIsWrong(t *testing.T) {
	site := newSite(t)
	b := newBrowser(t)
	for breakage, complaint := range map[string]string{
		"document.querySelector('main p').style.color = 'rgb(120, 120, 120)'":                                         "contrast",
		"document.querySelector('label').remove()":                                                                    "no label",
		"document.querySelector('caption').remove()":                                                                  "no caption",
		"document.querySelector('tbody th').removeAttribute('scope')":                                                 "no scope",
		"document.querySelector('desc').textContent = ''":                                                             "a picture without a text",
		"document.querySelector('h2').outerHTML = '<h4>x</h4>'":                                                       "a heading skips a level",
		"document.querySelector('main').style.width = '2000px'":                                                       "wider than the screen",
		"document.querySelector('nav a').style.display = 'inline'; document.querySelector('nav a').style.padding = 0": "a small target",
		"document.documentElement.lang = ''":                                                                          "no language",
	} {
		b.open(site.url)
		require.Empty(t, eval[[]string](b, audit))
		b.do(chromedp.Evaluate[chromedp.Void](breakage))
		require.Contains(t, strings.Join(eval[[]string](b, audit), "\n"), complaint)
	}
}

// On plain http a browser sends no Sec-Fetch-Site, and the form has to show by its
// Origin where it comes from.
func TestLogoutWorksOnPlainHTTP(t *testing.T) {
	site := newSite(t)
	b := newBrowser(t)
	b.open("http://console.test:" + site.port + "/ops/console/user?id=" + url.QueryEscape(world.Alice))
	b.press("button.danger")
	require.Equal(t, "Logged out.", b.text("[role=status]"))
	require.Empty(t, site.Stored(world.Alice))
}

// A page of another site, which the operator is lured to, after the cookie is set.
func TestAnotherSitesFormLogsNobodyOut(t *testing.T) {
	b := newBrowser(t)
	for name, lure := range map[string]string{"another host": "http://localhost:", "plain http": "http://console.test:"} {
		t.Run(name, func(t *testing.T) {
			site, b := newSite(t), browser{t, b.ctx}
			b.open(site.url + "user?id=" + url.QueryEscape(world.Alice))
			b.open(lure + site.port + "/lure?to=" + url.QueryEscape(site.url+"logout"))
			b.press("button")
			require.Equal(t, "Nobody was logged out", b.text("h1"))
			require.Contains(t, b.text("main"), "another site")
			require.NotEmpty(t, site.Stored(world.Alice))
		})
	}
}

// A page that was left open for too long, or whose cookie is gone.
func TestAFormWithoutItsCookieIsAnsweredWithAWayBack(t *testing.T) {
	site := newSite(t)
	b := newBrowser(t)
	b.open(site.url + "user?id=" + url.QueryEscape(world.Alice))
	b.clearCookies()
	b.press("button.danger")
	require.Equal(t, "Nobody was logged out", b.text("h1"))
	require.NotEmpty(t, site.Stored(world.Alice))
	b.press("main a")
	b.press("button.danger")
	require.Empty(t, site.Stored(world.Alice))
}
