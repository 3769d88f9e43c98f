//go:build goolm

package main

import (
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

// withPages has the bot serve a login page.
func (p *place) withPages() {
	p.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a free port
	require.NoError(p.t, err)
	p.settings.listen = listener.Addr().String()
	p.settings.loginURL = "http://" + p.settings.listen + "/login"
	require.NoError(p.t, listener.Close())
}

var (
	linkIn  = regexp.MustCompile(`http://\S+`)
	tokenIn = regexp.MustCompile(`name="token" value="([^"]+)"`)
	codeIn  = regexp.MustCompile(`id="code">!login ([A-Z]{8})<`)
)

// codeFor is what somebody's browser shows who logs in on a link.
func (p *place) codeFor(link string) string {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(p.t, err)
	browser := &http.Client{Jar: jar}
	read := func(resp *http.Response, err error) string {
		p.t.Helper()
		require.NoError(p.t, err)
		defer resp.Body.Close()
		page, err := io.ReadAll(resp.Body)
		require.NoError(p.t, err)
		require.Equal(p.t, http.StatusOK, resp.StatusCode, "%s", page)
		return string(page)
	}
	token := tokenIn.FindStringSubmatch(read(browser.Get(link))) //nolint:noctx // a browser of the test's
	require.NotNil(p.t, token)
	code := codeIn.FindStringSubmatch(read(browser.PostForm(link, url.Values{ //nolint:noctx // the same
		"token": {token[1]}, "email": {email}, "password": {password},
	})))
	require.NotNil(p.t, code)
	return code[1]
}

func TestLoginOnThePageAndByItsCode(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		p.withPages()
		p.start()
		alice := p.visitor(encrypted, mayDelete)
		mallory := p.visitor(encrypted, mayDelete)

		link := linkIn.FindString(alice.asks("!login"))
		require.True(t, strings.HasPrefix(link, p.settings.loginURL), link)
		code := p.codeFor(link)
		require.Contains(t, alice.asks("!list"), "Please log in", "a password alone does nothing")
		require.NotContains(t, mallory.asks("!login "+code), "You are logged in")
		require.Equal(t, "You are logged in as "+email+".", alice.asks("!login "+strings.ToLower(code)))
		require.Equal(t, "1. call mum", alice.asks("!add call mum"))
		require.Contains(t, mallory.asks("!list"), "Please log in")
		require.NotContains(t, alice.asks("!login "+code), "You are logged in", "it is spent")
		require.Equal(t, 1, p.auth.Calls(sessiontest.Login))
	})
}

func TestPasswordInARoomIsRefusedWhereThereIsAPage(t *testing.T) {
	p := newPlace(t)
	p.withPages()
	p.start()
	alice := p.visitor(false, mayDelete)
	message, reply, err := alice.ask(p.ctx, alice.room, "!login "+email+" "+password)
	require.NoError(t, err)
	require.NotContains(t, reply, "You are logged in")
	require.Empty(t, alice.stored(message).Content.Raw, "it is deleted all the same")
	require.Zero(t, p.auth.Calls(sessiontest.Login))
}
