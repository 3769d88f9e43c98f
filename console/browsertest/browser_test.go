// Package browsertest uses the console as operators do: in Chromium, with the
// keyboard, in light and dark, on wide and narrow screens, and without scripts.
package browsertest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/console"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestMain(m *testing.M) { world.Main(m) }

// site is a console with users, at an address of its own.
type site struct {
	*world.World
	url  string // of the root, with a slash at its end
	port string
}

func newSite(t *testing.T) site {
	t.Helper()
	w := world.New(t, session.NewMemoryStore(), session.WithBotName("todo bot"))
	for i := range 120 {
		ends := time.Now().Add(time.Duration(i+1) * time.Hour)
		id := fmt.Sprintf("@user%03d:matrix.example", i)
		_, err := w.Store.Swap(t.Context(), session.Record{}, session.Record{
			UserID: id, Value: world.TsRecord(w.Auth.MintToken(world.Email, ends), "", "{}"), Expires: ends,
		})
		require.NoError(t, err)
	}
	w.LoginDead()
	world.MustToken(t, w.Svc, world.Alice)
	w.Auth.Link(world.Bob, world.Email)
	world.MustToken(t, w.Svc, world.Bob)
	require.NoError(t, w.Svc.Logout(t.Context(), world.Bob))
	c, err := console.New(w.Svc, func(*http.Request) (string, error) { return "olga", nil })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	w.Auth.Link(world.Carol, world.Email) // so that there is a bar in two charts
	world.MustToken(t, w.Svc, world.Carol)
	w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(http.StatusUnauthorized, "Valid service key required"))
	_, err = w.Svc.Token(t.Context(), "@dave:matrix.example")
	require.ErrorIs(t, err, session.ErrServiceKeyRejected)
	mux := http.NewServeMux()
	mux.Handle("/ops/console/", http.StripPrefix("/ops/console", c))
	mux.HandleFunc("/lure", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<form method="post" action=%q><input name="id" value=%q><input name="token" value="x"><button>Win</button></form>`,
			r.URL.Query().Get("to"), world.Alice)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	return site{w, server.URL + "/ops/console/", port}
}

// browser is a Chromium with one page, in which pages run no scripts.
type browser struct {
	t   *testing.T
	ctx context.Context
}

// newBrowser starts a browser. What it complains about, such as a style that the policy
// forbids, fails the test.
func newBrowser(t *testing.T) browser {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		require.Empty(t, os.Getenv("CI"), "chromium is missing")
		t.Skip("needs chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox,
		chromedp.Flag("host-resolver-rules", "MAP console.test 127.0.0.1"))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := browser{t, ctx}
	complaints := make(chan string, 100)
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*cdplog.EventEntryAdded); ok && !strings.Contains(e.Entry.Text, "Failed to load resource") {
			select {
			case complaints <- e.Entry.Text:
			default:
			}
		}
	}))
	t.Cleanup(func() {
		for len(complaints) > 0 {
			t.Error("the browser complains: ", <-complaints)
		}
	})
	_, err = chromedp.Call(ctx, cdplog.Enable, cdp.Empty{})
	require.NoError(t, err)
	_, err = chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(t, err)
	return b
}

func (b browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, actions...))
}

// follow does what leads to another page, and waits for it.
func (b browser) follow(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	_, err := chromedp.RunResponse(ctx, actions...)
	require.NoError(b.t, err)
}

func (b browser) open(address string) {
	b.t.Helper()
	b.do(chromedp.Navigate(address))
}

// press presses a button or follows a link.
func (b browser) press(selector string) {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.querySelector(%q).focus()", selector)))
	b.follow(chromedp.KeyEvent(kb.Enter))
}

// eval evaluates a script of the test's, not of the page's.
func eval[T any](b browser, script string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script))
	require.NoError(b.t, err, script)
	return value
}

func (b browser) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q).innerText", selector))
}

// focused is what has the focus, by its label or its text.
func (b browser) focused() string {
	b.t.Helper()
	return strings.TrimSpace(eval[string](b, `(e => e.labels && e.labels.length ? e.labels[0].innerText : e.innerText)(document.activeElement)`))
}

// tabTo presses Tab until what is named has the focus, which has to be seen.
func (b browser) tabTo(name string) {
	b.t.Helper()
	for range 150 {
		b.do(chromedp.KeyEvent(kb.Tab))
		outline := eval[string](b, `getComputedStyle(document.activeElement).outlineStyle`)
		require.Equal(b.t, "solid", outline, "the focus is not seen on %q", b.focused())
		if b.focused() == name {
			return
		}
	}
	require.Fail(b.t, "the keyboard does not reach it", name)
}

// screen is what the console is looked at on.
type screen struct {
	name          string
	width, height int64
	scheme        string
}

var screens = []screen{
	{"light-wide", 1280, 900, "light"},
	{"dark-wide", 1280, 900, "dark"},
	{"light-narrow", 320, 640, "light"},
	{"dark-narrow", 320, 640, "dark"},
}

func (b browser) use(s screen) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(s.width, s.height))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: s.scheme}},
	})
	require.NoError(b.t, err)
}

// keep writes a picture of the whole page to the directory that the environment names,
// if it does.
func (b browser) keep(name string) {
	b.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600))
}

func (b browser) clearCookies() {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, network.ClearBrowserCookies, cdp.Empty{})
	require.NoError(b.t, err)
}
