// Package browsertest_test has the login page of package weblogin used in headless
// Chromium. It needs chromium in the PATH.
package browsertest_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/weblogin"
)

const (
	alice    = "@alice:matrix.example"
	room     = "!room:matrix.example"
	email    = "alice@example.com"
	password = "correct horse"
)

var screenshots = flag.String("screenshots", "", "a directory to keep pictures of the pages in")

// bot is one with a login page on the loopback interface.
type bot struct {
	*weblogin.Handler
	t    *testing.T
	svc  *session.Service
	auth *sessiontest.AuthServer
	url  string
}

func newBot(t *testing.T) *bot {
	t.Helper()
	auth := sessiontest.New(sessiontest.WithLoginLimit(0))
	t.Cleanup(auth.Close)
	auth.AddUser(email, password)
	svc, err := session.New(auth.Options()...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, svc.Close()) })
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	pages, err := weblogin.New(svc, server.URL+"/bots/login", weblogin.WithBotName("Todo"))
	require.NoError(t, err)
	mux.Handle("/bots/login", pages)
	return &bot{pages, t, svc, auth, server.URL}
}

func (b *bot) link() string {
	b.t.Helper()
	link, err := b.Link(b.t.Context(), alice, room)
	require.NoError(b.t, err)
	return link
}

// chromium is the one browser of all tests, each of which has a profile of its own.
var chromium struct {
	sync.Mutex
	ctx  context.Context
	stop func()
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if chromium.stop != nil {
		chromium.stop()
	}
	os.Exit(code)
}

func browser(t *testing.T) context.Context {
	t.Helper()
	chromium.Lock()
	defer chromium.Unlock()
	if chromium.ctx != nil {
		return chromium.ctx
	}
	if testing.Short() {
		t.Skip("starts a browser")
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("there is no chromium")
		}
		t.Skip("there is no chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(allocator)
	require.NoError(t, chromedp.Do(ctx))
	chromium.ctx, chromium.stop = ctx, func() {
		stop()
		stopAllocator()
	}
	return ctx
}

// tab is a tab of a private window, in which no script runs.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	errors []string // of the page, that the browser logs
}

func newTab(t *testing.T) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser(t), chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx)) // whose context must have no time-out
	ctx, cancelTimeout := context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancelTimeout)
	b := &tab{t: t, ctx: ctx}
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		if entry, ok := event.(*log.EventEntryAdded); ok {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.errors = append(b.errors, entry.Entry.Text)
		}
	}))
	command(b, log.Enable, cdp.Empty{})
	command(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.size(480, 800)
	return b
}

// command has the browser do something.
func command[P, R any](b *tab, of cdp.Command[P, R], params P) R {
	b.t.Helper()
	result, err := chromedp.Call(b.ctx, of, params)
	require.NoError(b.t, err)
	return result
}

// ask is what an action finds out.
func ask[T any](b *tab, action chromedp.Action[T]) T {
	b.t.Helper()
	result, err := chromedp.Run(b.ctx, action)
	require.NoError(b.t, err)
	return result
}

func (b *tab) size(width, height int64) {
	b.t.Helper()
	command(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1})
}

func (b *tab) open(link string) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, chromedp.Navigate(link)))
}

// press sends keys, one after the other.
func (b *tab) press(keys ...string) {
	b.t.Helper()
	for _, key := range keys {
		require.NoError(b.t, chromedp.Do(b.ctx, chromedp.KeyEvent(key)))
	}
}

// leave presses a key that leads to another page, waits for it, and returns its
// status.
func (b *tab) leave(key string) int64 {
	b.t.Helper()
	response, err := chromedp.RunResponse(b.ctx, chromedp.KeyEvent(key))
	require.NoError(b.t, err)
	return response.Status
}

func (b *tab) text(selector string) string {
	b.t.Helper()
	return strings.TrimSpace(ask(b, chromedp.Text(chromedp.CSS(selector))))
}

// dark and german change what the browser prefers.
func (b *tab) dark() {
	b.t.Helper()
	command(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	})
}

func (b *tab) german() {
	b.t.Helper()
	agent := ask(b, chromedp.Evaluate[string]("navigator.userAgent"))
	command(b, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: "de-DE"})
}

func (b *tab) cookies(address string) []*network.Cookie {
	b.t.Helper()
	return command(b, network.GetCookies, network.GetCookiesParams{URLs: []string{address}}).Cookies
}

func (b *tab) clearCookies() {
	b.t.Helper()
	command(b, network.ClearBrowserCookies, cdp.Empty{})
}

// picture keeps what the page looks like.
func (b *tab) picture(name string) {
	b.t.Helper()
	dir := *screenshots
	if dir == "" {
		dir = b.t.TempDir()
	}
	picture := ask(b, chromedp.FullScreenshot(100))
	require.NotEmpty(b.t, picture)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600))
}

// logged is what the browser has complained about.
func (b *tab) logged() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.errors...)
}

// fits checks that nothing has to be scrolled sideways.
func (b *tab) fits() {
	b.t.Helper()
	require.False(b.t, ask(b, chromedp.Evaluate[bool]("document.documentElement.scrollWidth > document.documentElement.clientWidth")),
		"the page is wider than the window")
}

// site is a page of somebody else's, on another site.
func site(t *testing.T, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<!doctype html><title>elsewhere</title>"+body)
	}))
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
}
