package session_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

func TestClientSendsTheUsersToken(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.auth.Link(alice, email)
	var got []string
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"))
	}))
	defer backend.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, backend.URL, nil)
	require.NoError(t, err)
	resp, err := w.svc.Client(alice).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, []string{"Bearer " + mustToken(t, w.svc, alice)}, got)
	require.Empty(t, req.Header, "the caller's request is not modified")

	_, err = w.svc.Client(bob).Do(req)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Len(t, got, 1)
}

func TestRefusedTokenIsReplacedAndTheRequestSentAgain(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.auth.Link(alice, email)
	refused := mustToken(t, w.svc, alice)
	w.auth.RotateSigningKey() // so that the next token is another one
	var bodies []string
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(body))
		if r.Header.Get("Authorization") == "Bearer "+refused {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer backend.Close()
	resp, err := w.svc.Client(alice).Post(backend.URL, "text/plain", strings.NewReader("hello"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, []string{"hello", "hello"}, bodies)
	require.NotEqual(t, refused, mustToken(t, w.svc, alice))

	// A body that cannot be sent twice is not, and the answer is passed on.
	refused = mustToken(t, w.svc, alice)
	bodies = nil
	resp, err = w.svc.Client(alice).Post(backend.URL, "text/plain", io.MultiReader(strings.NewReader("once")))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.Equal(t, []string{"once"}, bodies)
}

func TestBackendThatRefusesEveryTokenIsAskedTwice(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.auth.Link(alice, email)
	asked := 0
	transport := w.svc.Transport(alice, roundTripper(func(r *http.Request) (*http.Response, error) {
		asked++
		w.auth.RotateSigningKey()
		return &http.Response{StatusCode: http.StatusUnauthorized, Body: http.NoBody, Request: r}, nil
	}))
	resp, err := (&http.Client{Transport: transport}).Get("http://backend.test/")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.Equal(t, 2, asked)
}

func TestTokenDoesNotFollowARedirectToAnotherHost(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.auth.Link(alice, email)
	var there, here []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		there = append(there, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		here = append(here, r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/out":
			http.Redirect(rw, r, elsewhere.URL, http.StatusFound)
		case "/in":
			http.Redirect(rw, r, "/", http.StatusFound)
		}
	}))
	defer backend.Close()
	for _, path := range []string{"/out", "/in"} {
		resp, err := w.svc.Client(alice).Get(backend.URL + path)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	require.Equal(t, []string{""}, there)
	bearer := "Bearer " + mustToken(t, w.svc, alice)
	require.Equal(t, []string{bearer, bearer, bearer}, here)
}

func TestTransportTakesTokensAsTheyCome(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(time.Hour)), email, "{}"))
	transport := w.svc.Transport(alice, nil)
	require.NotNil(t, transport)
}
