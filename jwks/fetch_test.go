package jwks_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mana/session"
	"github.com/mana/session/jwks"
	"github.com/mana/session/sessiontest"
)

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestKeysInAnAnswerThatIsNoneAreNotTaken(t *testing.T) {
	auth := newAuth(t)
	token := auth.MintToken(email, time.Now().Add(time.Hour))
	set := fmt.Sprintf(`{"keys":[{"alg":"EdDSA","crv":"Ed25519","kty":"OKP","kid":%q,"x":%q}]}`,
		kidOf(t, token), base64.RawURLEncoding.EncodeToString(auth.PublicKey()))
	for name, c := range map[string]struct {
		status int
		body   string
		taken  bool
	}{
		"as it should be":    {200, set, true},
		"just small enough":  {200, set + strings.Repeat(" ", 1<<20-len(set)), true},
		"too large":          {200, set + strings.Repeat(" ", 1<<20-len(set)+1), false},
		"beside an error":    {500, set, false},
		"beside a redirect":  {302, set, false},
		"cached by somebody": {203, set, false},
		"followed by more":   {200, set + set, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, auth, jwks.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: c.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(c.body)), Request: r}, nil
			})}))
			err := v.Verify(t.Context(), token)
			if c.taken {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, session.ErrAuthUnavailable)
			}
		})
	}
}

// endless is a body without an end, which counts what is read of it.
type endless struct{ read *atomic.Int64 }

func (e endless) Read(b []byte) (int, error) {
	if e.read.Add(int64(len(b))) > 64<<20 {
		return 0, errors.New("read far too much")
	}
	return len(b), nil
}

func (endless) Close() error { return nil }

func TestEndlessAnswerIsNotReadToItsEnd(t *testing.T) {
	auth := newAuth(t)
	var read atomic.Int64
	v := newVerifier(t, auth, jwks.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		read.Store(0)
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: endless{&read}, Request: r}, nil
	})}))
	err := v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour)))
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	require.LessOrEqual(t, read.Load(), int64(1<<20+1))
}

func TestRedirectIsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			elsewhere := sessiontest.NewAuthServer(t) // whose keys sign the token
			elsewhere.AddUser(email, password)
			auth := sessiontest.NewAuthServer(t)
			auth.Inject(sessiontest.Keys, -1, sessiontest.Redirect(status, elsewhere.URL+"/api/v1/auth/jwks"))
			v, err := jwks.New(auth.URL)
			require.NoError(t, err)
			defer v.Close()
			err = v.Verify(t.Context(), elsewhere.MintToken(email, time.Now().Add(time.Hour)))
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.Zero(t, elsewhere.Calls(sessiontest.Any))
		})
	}
}

func TestDefaultClientFetchesOverTheNetwork(t *testing.T) {
	auth := sessiontest.NewAuthServer(t)
	auth.AddUser(email, password)
	v, err := jwks.New(auth.URL + "/")
	require.NoError(t, err)
	defer v.Close()
	require.NoError(t, v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour))))
	requests := auth.Requests()
	require.Equal(t, "/api/v1/auth/jwks", requests[0].Path)
	require.Empty(t, requests[0].Header.Get("Authorization"))
}

func TestClientThatIsBroughtStaysAsItIs(t *testing.T) {
	auth := newAuth(t)
	client := auth.Client()
	newVerifier(t, auth, jwks.WithHTTPClient(client))
	require.Nil(t, client.CheckRedirect)
}

func TestCloseLeavesNoGoroutineBehindAndTheKeysInPlace(t *testing.T) {
	before := goleak.IgnoreCurrent()
	auth := sessiontest.New()
	auth.AddUser(email, password)
	require.NoError(t, auth.Start())
	v, err := jwks.New(auth.URL)
	require.NoError(t, err)
	token := auth.MintToken(email, time.Now().Add(time.Hour))
	require.NoError(t, v.Verify(t.Context(), token))

	arrived := make(chan struct{})
	auth.Inject(sessiontest.Keys, 1, func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		close(arrived)
		auth.Hang()(w, r, answer)
	})
	auth.RotateSigningKey()
	rotated := auth.MintToken(email, time.Now().Add(time.Hour))
	asked := make(chan error, 1)
	go func() { asked <- v.Verify(context.Background(), rotated) }()
	<-arrived
	require.NoError(t, v.Close())
	require.ErrorIs(t, <-asked, session.ErrAuthUnavailable)
	require.NoError(t, v.Close())

	calls := auth.Calls(sessiontest.Keys)
	require.NoError(t, v.Verify(t.Context(), token))
	require.ErrorIs(t, v.Verify(t.Context(), rotated), session.ErrAuthUnavailable)
	require.Equal(t, calls, auth.Calls(sessiontest.Keys))
	auth.Close()
	goleak.VerifyNone(t, before)
}

func TestCloseEndsAFetchWaitsForItAndBeginsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(t)
		fetches, ended := 0, false
		v := newVerifier(t, auth, jwks.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			fetches++
			<-r.Context().Done()
			time.Sleep(100 * time.Millisecond) // a transport that takes its time
			ended = true
			return nil, r.Context().Err()
		})}))
		synctest.Wait()
		started := time.Now()
		require.NoError(t, v.Close())
		require.Equal(t, 100*time.Millisecond, time.Since(started))
		require.True(t, ended)
		require.ErrorIs(t, v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour))), session.ErrAuthUnavailable)
		require.Equal(t, 1, fetches)
	})
}

func TestNonsenseIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		url  string
		opts []jwks.Option
	}{
		"no URL":              {url: "auth.example.com"},
		"empty URL":           {url: ""},
		"not even a URL":      {url: "http://["},
		"URL with a password": {url: "https://me:secret@auth.example.com"},
		"URL with a query":    {url: "https://auth.example.com?a=b"},
		"empty query":         {url: "http://h?"},
		"empty fragment":      {url: "http://h#"},
		"password, no scheme": {url: "me:secret@host"},
		"no host":             {url: "http://:80"},
		"line break":          {url: "http://h/\n"},
		"nil transport":       {"http://auth.test", []jwks.Option{jwks.WithHTTPClient(&http.Client{Transport: (*http.Transport)(nil)})}},
		"nil function":        {"http://auth.test", []jwks.Option{jwks.WithHTTPClient(&http.Client{Transport: roundTripper(nil)})}},
		"no client":           {"http://auth.test", []jwks.Option{jwks.WithHTTPClient(nil)}},
		"no issuer":           {"http://auth.test", []jwks.Option{jwks.WithIssuer("")}},
		"no audience":         {"http://auth.test", []jwks.Option{jwks.WithAudience("")}},
	} {
		_, err := jwks.New(c.url, c.opts...)
		require.ErrorContains(t, err, "jwks: ", name)
		require.NotContains(t, err.Error(), "secret", name)
	}
}

// Whose keys they are is known by where they come from.
func TestKeysFromAnotherAddressAreNotTaken(t *testing.T) {
	elsewhere := sessiontest.NewAuthServer(t)
	elsewhere.AddUser(email, password)
	token := elsewhere.MintToken(email, time.Now().Add(time.Hour))
	for name, transport := range map[string]http.RoundTripper{
		"a transport that follows redirects": roundTripper(func(r *http.Request) (*http.Response, error) {
			return http.DefaultClient.Do(r)
		}),
		"one that asks somebody else": roundTripper(func(r *http.Request) (*http.Response, error) {
			own, err := http.NewRequestWithContext(r.Context(), http.MethodGet, elsewhere.URL+"/api/v1/auth/jwks", nil)
			if err != nil {
				return nil, err
			}
			return http.DefaultTransport.RoundTrip(own)
		}),
		"one that changes what it was given": roundTripper(func(r *http.Request) (*http.Response, error) {
			r.URL.Host = strings.TrimPrefix(elsewhere.URL, "http://")
			return http.DefaultTransport.RoundTrip(r)
		}),
		"one that hides where it went": roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := http.DefaultClient.Do(r)
			if err == nil {
				resp.Request.URL = r.URL
			}
			return resp, err
		}),
	} {
		t.Run(name, func(t *testing.T) {
			auth := sessiontest.NewAuthServer(t)
			auth.Inject(sessiontest.Keys, -1, sessiontest.Redirect(307, elsewhere.URL+"/api/v1/auth/jwks"))
			v, err := jwks.New(auth.URL, jwks.WithHTTPClient(&http.Client{Transport: transport}))
			require.NoError(t, err)
			defer v.Close()
			err = v.Verify(t.Context(), token)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.ErrorContains(t, err, "another address")
		})
	}
}

func TestClientWithoutATransportUsesNoProxy(t *testing.T) {
	auth := sessiontest.NewAuthServer(t)
	auth.AddUser(email, password)
	// http.DefaultTransport asks no proxy for loopback addresses, so it is
	// told apart by the transport that it is.
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	http.DefaultTransport = roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("the default transport") })
	client := &http.Client{}
	v, err := jwks.New(auth.URL, jwks.WithHTTPClient(client))
	require.NoError(t, err)
	defer v.Close()
	require.NoError(t, v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour))))
	require.Nil(t, client.Transport)
}

func TestTransportThatPanicsOrExitsIsAnOutage(t *testing.T) {
	for name, crash := range map[string]func(){"panic": func() { panic("secret") }, "exit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			auth := newAuth(t)
			v, err := jwks.New(auth.URL, jwks.WithHTTPClient(&http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				crash()
				return nil, nil
			})}))
			require.NoError(t, err)
			err = v.Verify(t.Context(), auth.MintToken(email, time.Now().Add(time.Hour)))
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.NotContains(t, err.Error(), "secret")
			require.NoError(t, v.Close())
		})
	}
}
