package browsertest_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

var message = regexp.MustCompile(`^!login ([A-Z]{8})$`)

// shown is the code that the page shows.
func (b *tab) shown() string {
	b.t.Helper()
	match := message.FindStringSubmatch(b.text("#code"))
	require.NotNil(b.t, match, b.text("main"))
	return match[1]
}

// fill fills the form in and sends it, with the keyboard alone.
func (b *tab) fill(password string) (status int64) {
	b.t.Helper()
	b.press(kb.Tab, email, kb.Tab, password)
	return b.leave(kb.Enter)
}

func TestScriptsDoNotRun(t *testing.T) {
	b := newTab(t)
	b.open(site(t, `<h1 id="h">idle</h1><script>document.getElementById("h").textContent = "ran"</script>`))
	require.Equal(t, "idle", b.text("#h"))
}

func TestLoginByKeyboardAlone(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.open(bot.link())
	require.Equal(t, "Log in to Todo", b.text("h1"))
	require.Contains(t, b.text("dl"), alice)
	b.picture("form-light")
	b.fill(password)
	code := b.shown()
	b.picture("code-light")
	require.Contains(t, b.text("main"), email)
	require.Contains(t, b.text("main"), strings.Join(strings.Split(code, ""), " "))

	_, err := bot.svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	_, err = bot.Complete(t.Context(), alice, room, code)
	require.NoError(t, err)
	_, err = bot.svc.Token(t.Context(), alice)
	require.NoError(t, err)
	require.Empty(t, b.logged(), "the browser complains")
}

func TestButtonIsReachedAndPressedByKeyboard(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.open(bot.link())
	b.press(kb.Tab, email, kb.Tab, password, kb.Tab)
	b.picture("button-focused")
	b.leave(" ")
	b.shown()
}

func TestWrongPasswordAndASpentLink(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	link := bot.link()
	b.open(link)
	b.fill("wrong")
	require.Contains(t, b.text("[role=alert]"), "password is wrong")
	require.Equal(t, email, ask(b, chromedp.Value(chromedp.CSS("#email"))))
	b.picture("wrong-light")
	b.dark()
	b.picture("wrong-dark")

	b.press(kb.Tab, kb.Tab, password) // the email stays
	b.leave(kb.Enter)
	b.picture("code-dark")
	code := b.shown()
	b.open(link)
	require.Equal(t, "This link no longer works", b.text("h1"))
	b.picture("gone-dark")
	_, err := bot.Complete(t.Context(), alice, room, code)
	require.NoError(t, err)
}

func TestOutageIsToldOnThePage(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.open(bot.link())
	bot.auth.Inject(sessiontest.Login, 1, sessiontest.Status(503, "down"))
	b.fill(password)
	require.Contains(t, b.text("[role=alert]"), "does not answer")
}

func TestGerman(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.german()
	b.open(bot.link())
	require.Equal(t, "Bei Todo anmelden", b.text("h1"))
	b.picture("form-german-light")
	b.dark()
	b.picture("form-german-dark")
	b.fill("wrong")
	b.picture("wrong-german-dark")
	b.press(kb.Tab, kb.Tab, password)
	b.leave(kb.Enter)
	b.shown()
	require.Contains(t, b.text("main"), "Gib den Code niemandem")
	b.picture("code-german-dark")
}

func TestPageFitsSmallWindowsAndLongNames(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	long := "@" + strings.Repeat("a_very_long_localpart", 10) + ":matrix.example"
	link, err := bot.Link(t.Context(), long, room)
	require.NoError(t, err)
	b.size(320, 640)
	b.open(link)
	b.fits()
	b.picture("form-small")
	b.fill(password)
	b.shown()
	b.fits()
	b.picture("code-small")
	b.size(160, 640) // 320 at twice the size
	b.fits()
	b.size(1280, 900)
	b.picture("code-wide")
}

func TestScreenReadersAreToldWhatTheFieldsAre(t *testing.T) {
	bot, b := newBot(t), newTab(t)
	b.open(bot.link())
	b.fill("wrong")
	var found []string
	for _, node := range command(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if node.Ignored || node.Role == nil || node.Name == nil {
			continue
		}
		found = append(found, fmt.Sprintf("%s %s", node.Role.Value, node.Name.Value))
	}
	for _, want := range []string{`"main" ""`, `"heading" "Log in to Todo"`, `"textbox" "Email"`, `"textbox" "Password"`, `"button" "Continue"`} {
		require.Contains(t, found, want)
	}
	require.Contains(t, strings.Join(found, "\n"), `"alert"`)
	require.Equal(t, "en", ask(b, chromedp.Evaluate[string]("document.documentElement.lang")))
	require.Equal(t, "Error: Log in to Todo", ask(b, chromedp.Title()))
}
