package auth_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
)

// web answers for every host: the n-th request with a redirect to the n-th
// location, those after the last with 200. It keeps what it was sent.
type web struct {
	locations []string
	seen      []string // "host header or URL" and whether the token came along
	answer    func(*http.Request, *http.Response) *http.Response
}

func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	n := len(w.seen)
	token := " none"
	if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
		token = " token"
	}
	w.seen = append(w.seen, r.URL.String()+token)
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}
	if n < len(w.locations) {
		resp.StatusCode = http.StatusFound
		resp.Header.Set("Location", w.locations[n])
	}
	if w.answer != nil {
		resp = w.answer(r, resp)
	}
	return resp, nil
}

// bases are how a transport under ours may treat requests and responses.
var bases = map[string]func(*http.Request, *http.Response) *http.Response{
	"says what it answers": nil,
	"says nothing": func(_ *http.Request, resp *http.Response) *http.Response {
		resp.Request = nil
		return resp
	},
	"says what it sent, a clone": func(r *http.Request, resp *http.Response) *http.Response {
		resp.Request = r.Clone(r.Context())
		return resp
	},
	"says what it sent, a request of its own": func(r *http.Request, resp *http.Response) *http.Response {
		resp.Request, _ = http.NewRequest(r.Method, r.URL.String(), nil)
		resp.Request.Header = r.Header.Clone()
		return resp
	},
	"says what it sent, to a host of its own": func(r *http.Request, resp *http.Response) *http.Response {
		resp.Request, _ = http.NewRequestWithContext(context.Background(), r.Method, "http://127.0.0.1:1/", nil)
		return resp
	},
	"says what it sent, without a header": func(r *http.Request, resp *http.Response) *http.Response {
		resp.Request = &http.Request{URL: r.URL}
		return resp
	},
}

func TestTokenStaysWithItsHost(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	for name, c := range map[string]struct {
		url       string
		host      string // header
		locations []string
		tokens    string // t or - per request
	}{
		"same host":                            {"http://a.test/", "", []string{"/x", "http://a.test/y", "y?z"}, "tttt"},
		"another host and back":                {"http://a.test/", "", []string{"http://b.test/", "http://a.test/chosen"}, "t--"},
		"another host and on":                  {"http://a.test/", "", []string{"http://b.test/", "/b", "http://c.test/", "/c"}, "t----"},
		"a subdomain":                          {"http://a.test/", "", []string{"http://sub.a.test/", "http://a.test/"}, "t--"},
		"the parent domain":                    {"http://sub.a.test/", "", []string{"http://a.test/"}, "t-"},
		"another port":                         {"http://a.test:8080/", "", []string{"http://a.test:8081/", "http://a.test:8080/"}, "t--"},
		"the default port and another":         {"http://a.test/", "", []string{"http://a.test:8080/"}, "t-"},
		"to https":                             {"http://a.test/", "", []string{"https://a.test/", "/x"}, "ttt"},
		"to https with both ports":             {"http://a.test:80/", "", []string{"https://a.test:443/"}, "tt"},
		"to https with its port":               {"http://a.test/", "", []string{"https://a.test:443/"}, "tt"},
		"to https from a port":                 {"http://a.test:80/", "", []string{"https://a.test/"}, "tt"},
		"to https on another port":             {"http://a.test/", "", []string{"https://a.test:8443/"}, "t-"},
		"to https from another port":           {"http://a.test:8080/", "", []string{"https://a.test/"}, "t-"},
		"to https elsewhere":                   {"http://a.test/", "", []string{"https://b.test/"}, "t-"},
		"to http":                              {"https://a.test/", "", []string{"http://a.test/"}, "t-"},
		"to http and back":                     {"https://a.test/", "", []string{"http://a.test/", "https://a.test/"}, "t--"},
		"to https, to http and back":           {"http://a.test/", "", []string{"https://a.test/", "http://a.test/", "https://a.test/"}, "tt--"},
		"to http on the same port":             {"https://a.test:443/", "", []string{"http://a.test:443/"}, "t-"},
		"a port spelled out":                   {"http://a.test/", "", []string{"http://a.test:80/", "http://a.test/"}, "ttt"},
		"a secure port spelled out":            {"https://a.test:443/", "", []string{"https://a.test/", "https://a.test:443/"}, "ttt"},
		"the other scheme's port":              {"http://a.test/", "", []string{"http://a.test:443/"}, "t-"},
		"an empty port":                        {"http://a.test:/", "", []string{"http://a.test/"}, "tt"},
		"upper case":                           {"http://A.test/", "", []string{"HTTP://a.TEST/"}, "tt"},
		"a letter that lower case makes ASCII": {"http://kelvin.test/", "", []string{"http://\u212Aelvin.test/"}, "t-"},
		"a dotted capital I":                   {"http://istanbul.test/", "", []string{"http://\u0130stanbul.test/"}, "t-"},
		"a trailing dot":                       {"http://a.test/", "", []string{"http://a.test./"}, "t-"},
		"the same letters beyond ASCII":        {"http://bücher.test/", "", []string{"http://bücher.test/x"}, "tt"},
		"punycode":                             {"http://bücher.test/", "", []string{"http://xn--bcher-kva.test/"}, "t-"},
		"IPv6":                                 {"http://[::1]:80/", "", []string{"http://[::1]/", "http://[::2]/"}, "tt-"},
		"a user in the URL":                    {"http://a.test/", "", []string{"http://me@a.test/", "http://a.test@b.test/"}, "tt-"},
		"a Host header that stays":             {"http://10.0.0.1/", "a.test", []string{"/x"}, "tt"},
		"a Host header that goes":              {"http://10.0.0.1/", "a.test", []string{"http://10.0.0.1/"}, "t-"},
		"a Host header that becomes the host":  {"http://10.0.0.1/", "a.test", []string{"http://a.test/"}, "t-"},
		"a Host header that is the host":       {"http://a.test/", "A.test:80", []string{"http://a.test/"}, "tt"},
		"no host in between":                   {"http://a.test/", "", []string{"http:///x", "http://a.test/"}, "t--"},
	} {
		for base, answer := range bases {
			t.Run(name+"/"+base, func(t *testing.T) {
				backend := &web{locations: c.locations, answer: answer}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url, nil)
				require.NoError(t, err)
				if c.host != "" {
					req.Host = c.host
				}
				resp, err := (&http.Client{Transport: w.Svc.Transport(world.Alice, backend)}).Do(req)
				if err == nil { // "http:///x" is none to some
					require.NoError(t, resp.Body.Close())
				}
				got := ""
				for _, s := range backend.seen {
					if strings.HasSuffix(s, " token") {
						got += "t"
					} else {
						got += "-"
					}
				}
				require.True(t, strings.HasPrefix(c.tokens, got) && (len(got) == len(c.tokens) || err != nil), "%q %v", backend.seen, err)
			})
		}
	}
}

// A wrapper that loses what we know of a chain loses the token, not the other
// way round.
func TestRedirectOfUnknownOriginGoesWithoutAToken(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	for name, forget := range bases {
		if forget == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			backend := &web{locations: []string{"http://b.test/", "http://b.test/x", "http://b.test/y"}}
			inner := w.Svc.Transport(world.Alice, backend)
			outer := world.RoundTripper(func(r *http.Request) (*http.Response, error) {
				resp, err := inner.RoundTrip(r)
				if err == nil && name != "says what it sent, a clone" { // which keeps it
					resp = forget(r, resp)
				}
				return resp, err
			})
			resp, err := (&http.Client{Transport: outer}).Get("http://a.test/")
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, []string{"http://a.test/ token", "http://b.test/ none", "http://b.test/x none", "http://b.test/y none"}, backend.seen)
		})
	}
}

func TestRequestMadeFromAResponseBelongsToItsChain(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	backend := &web{}
	client := &http.Client{Transport: w.Svc.Transport(world.Alice, backend)}
	resp, err := client.Get("http://a.test/")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	for _, url := range []string{"http://a.test/x", "http://b.test/"} {
		req, err := http.NewRequestWithContext(resp.Request.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		again, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, again.Body.Close())
	}
	require.Equal(t, []string{"http://a.test/ token", "http://a.test/x token", "http://b.test/ none"}, backend.seen)
}

func TestResponsesDoNotCarryTheToken(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	for name, own := range map[string][]string{"none": nil, "the caller's own": {"Basic bWU="}} {
		for base, answer := range bases {
			if base == "says what it sent, to a host of its own" || base == "says what it sent, without a header" {
				continue
			}
			t.Run(name+"/"+base, func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a.test/", nil)
				require.NoError(t, err)
				if own != nil {
					req.Header["Authorization"] = own
				}
				backend := &web{answer: answer}
				resp, err := w.Svc.Transport(world.Alice, backend).RoundTrip(req)
				require.NoError(t, err)
				require.Equal(t, []string{"http://a.test/ token"}, backend.seen)
				require.Equal(t, own, resp.Request.Header.Values("Authorization"))
				require.Equal(t, own, req.Header.Values("Authorization"))
			})
		}
	}
}

// net/http would take an Authorization header to another port.
func TestBaseThatFollowsRedirectsItselfIsFoundOut(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "elsewhere") }))
	defer elsewhere.Close()
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/out":
			http.Redirect(rw, r, elsewhere.URL, http.StatusFound)
		case "/stripped":
			http.Redirect(rw, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
		case "/in":
			http.Redirect(rw, r, "/", http.StatusFound)
		}
	}))
	defer backend.Close()
	following := w.Svc.Transport(world.Alice, world.RoundTripper(func(r *http.Request) (*http.Response, error) {
		return http.DefaultClient.Do(r)
	}))
	for path, fails := range map[string]bool{"/out": true, "/in": false, "/stripped": false} {
		resp, err := (&http.Client{Transport: following}).Get(backend.URL + path)
		if fails {
			require.ErrorContains(t, err, "followed a redirect to another host", path)
			require.NotContains(t, err.Error(), world.MustToken(t, w.Svc, world.Alice))
			continue
		}
		require.NoError(t, err, path)
		require.NoError(t, resp.Body.Close())
	}
}
