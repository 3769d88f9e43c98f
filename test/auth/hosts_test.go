package auth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
)

// recorder is a backend transport that keeps what was sent where.
type recorder struct {
	mu    sync.Mutex
	sent  []*http.Request // guarded by mu
	reply func(*http.Request) *http.Response
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, req)
	if r.reply != nil {
		return r.reply(req), nil
	}
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: req}, nil
}

func (r *recorder) bearers() (bearers []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, req := range r.sent {
		bearer, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		if strings.HasPrefix(bearer, "Basic ") { // the URL's own
			bearer = ""
		}
		bearers = append(bearers, bearer)
	}
	return bearers
}

func TestTokenGoesToAllowedHostsOnly(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	token := world.MustToken(t, w.Svc, world.Alice)
	for _, c := range []struct {
		allowed, url, host string
		want               bool
	}{
		{"api.example.com", "https://api.example.com/x", "", true},
		{"api.example.com", "https://API.Example.com:443/x", "", true},
		{"API.example.com:443", "https://api.example.com/x", "", true},
		{"api.example.com", "https://api.example.com:8443/x", "", false},
		{"api.example.com:8443", "https://api.example.com:8443/x", "", true},
		{"api.example.com:8443", "https://api.example.com/x", "", false},
		{"api.example.com", "http://api.example.com/x", "", false},
		{"http://api.example.com", "http://api.example.com/x", "", true},
		{"http://api.example.com", "https://api.example.com/x", "", false},
		{"https://api.example.com", "https://api.example.com/x", "", true},
		{"HTTPS://API.Example.com", "https://api.example.com/x", "", true},
		{"HTTP://todo:3000", "HTTP://TODO:3000/x", "", true},
		{"HTTP://todo:3000", "https://todo:3000/x", "", false},
		{"api.example.com", "https://user:password@api.example.com/x", "", true},
		{"api.example.com", "https://api.example.com:0443/x", "", false},
		{"api.example.com", "https://api.example.com:/x", "", true},
		{"api.example.com", "https://api\u3002example.com/x", "", false},
		{"api.example.com", "https://\uff41pi.example.com/x", "", false},
		{"k.example", "https://\u212a.example/x", "", false},
		{"b\u00fccher.example", "https://b\u00fccher.example/x", "", true},
		{"b\u00fccher.example", "https://B\u00dcCHER.example/x", "", false},
		{"xn--bcher-kva.example", "https://XN--bcher-kva.example/x", "", true},
		{"[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080/x", "", false},
		{"localhost", "http://localhost.evil.example/x", "", false},
		{"localhost", "http://evil.localhost/x", "", false},
		{"http://todo:3000", "http://todo:3000/x", "", true},
		{"http://todo:3000", "http://todo/x", "", false},
		{"example.com", "https://api.example.com/x", "", false},
		{"api.example.com", "https://example.com/x", "", false},
		{"api.example.com", "https://api.example.com.evil.example/x", "", false},
		{"api.example.com", "https://evil.example/api.example.com", "", false},
		{"api.example.com", "https://api.example.com@evil.example/x", "", false},
		{"api.example.com", "https://api.example.com./x", "", false},
		{"api.example.com", "https://api.example.com/x", "evil.example", false},
		{"api.example.com", "https://evil.example/x", "api.example.com", false},
		{"bücher.example", "https://xn--bcher-kva.example/x", "", false},
		{"localhost", "http://localhost/x", "", true},
		{"localhost:8080", "http://localhost:8080/x", "", true},
		{"localhost:8080", "https://localhost:8080/x", "", true},
		{"localhost:8080", "http://localhost:8081/x", "", false},
		{"127.0.0.1:8080", "http://127.0.0.1:8080/x", "", true},
		{"127.0.0.1", "http://127.0.0.2/x", "", false},
		{"[::1]:8080", "http://[::1]:8080/x", "", true},
		{"10.0.0.1", "http://10.0.0.1/x", "", false},
		{"10.0.0.1", "https://10.0.0.1/x", "", true},
	} {
		base := new(recorder)
		client := &http.Client{Transport: w.Svc.Transport(world.Alice, base, session.AllowHosts(c.allowed))}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url, nil)
		require.NoError(t, err, c.url)
		req.Host = c.host
		resp, err := client.Do(req)
		require.NoError(t, err, c.url)
		require.NoError(t, resp.Body.Close())
		want := ""
		if c.want {
			want = token
		}
		require.Equal(t, []string{want}, base.bearers(), "%s allowed, %s (Host: %s) asked", c.allowed, c.url, c.host)
	}
}

func TestAllowedHostsAddUpAndNoneIsNowhere(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	get := func(opts ...session.ClientOption) string {
		base := new(recorder)
		client := &http.Client{Transport: w.Svc.Transport(world.Alice, base, opts...)}
		resp, err := client.Get("https://api.example.com/")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return base.bearers()[0]
	}
	require.NotEmpty(t, get())
	require.NotEmpty(t, get(nil))
	require.NotEmpty(t, get(session.AllowHosts("other.example"), session.AllowHosts("api.example.com")))
	require.Empty(t, get(session.AllowHosts()))
	require.Empty(t, get(session.AllowHosts("other.example")))
}

// A request to where the token does not go needs neither a user nor a session.
func TestOtherHostsNeedNoUser(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	base := new(recorder)
	resp, err := (&http.Client{Transport: w.Svc.Transport(world.Bob, base, session.AllowHosts("api.example.com"))}).Get("https://other.example/")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, []string{""}, base.bearers())
}

func TestWhatIsNotAHostFailsEveryRequest(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	for _, entry := range []string{
		"", ":443", "https://", "ftp://api.example.com", "api.example.com/path", "https://api.example.com/", "user@api.example.com",
		"api.example.com?x", "api.example.com#x", "api.example.com:0", "api.example.com:70000", "a b", "*.example.com/",
		"api.example.com\n", "[::1", "::1",
	} {
		base := new(recorder)
		client := &http.Client{Transport: w.Svc.Transport(world.Alice, base, session.AllowHosts("api.example.com", entry))}
		_, err := client.Get("https://api.example.com/")
		require.ErrorContains(t, err, "AllowHosts", "%q", entry)
		require.Empty(t, base.sent, "%q", entry)
	}
}

func TestRedirectToAnotherHostCarriesNoTokenEvenIfItIsAllowed(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	token := world.MustToken(t, w.Svc, world.Alice)
	for name, c := range map[string]struct {
		from, to string
		want     []string
	}{
		"within the host":                 {"https://api.example.com/a", "https://api.example.com/b", []string{token, token}},
		"to another that is allowed":      {"https://api.example.com/a", "https://files.example.com/b", []string{token, ""}},
		"to one that is not":              {"https://api.example.com/a", "https://evil.example/b", []string{token, ""}},
		"from one that is not to allowed": {"https://evil.example/a", "https://api.example.com/b", []string{"", ""}},
	} {
		base := &recorder{reply: func(r *http.Request) *http.Response {
			if r.URL.Path == "/a" {
				return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {c.to}}, Body: http.NoBody, Request: r}
			}
			return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}
		}}
		client := &http.Client{Transport: w.Svc.Transport(world.Alice, base, session.AllowHosts("api.example.com", "files.example.com"))}
		resp, err := client.Get(c.from)
		require.NoError(t, err, name)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, c.want, base.bearers(), name)
	}
}

func TestOneClientServesTheUserOfEachRequest(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.AddUser("bob@example.com", world.Password)
	w.Auth.Link(world.Alice, world.Email)
	w.Auth.Link(world.Bob, "bob@example.com")
	tokens := map[string]string{world.Alice: world.MustToken(t, w.Svc, world.Alice), world.Bob: world.MustToken(t, w.Svc, world.Bob)}
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+tokens[r.Header.Get("X-User")] {
			rw.WriteHeader(http.StatusForbidden)
		}
	}))
	defer backend.Close()
	client := w.Svc.HTTPClient(session.AllowHosts(strings.TrimPrefix(backend.URL, "http://")))
	var callers sync.WaitGroup
	for i := range 40 {
		user := []string{world.Alice, world.Bob}[i%2]
		callers.Go(func() {
			req, err := http.NewRequestWithContext(session.WithUser(t.Context(), user), http.MethodGet, backend.URL, nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("X-User", user)
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", user, resp.StatusCode)
			}
		})
	}
	callers.Wait()
}

func TestClientForAllReplacesATokenThatWasRefused(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	refused := world.MustToken(t, w.Svc, world.Alice)
	w.Auth.RotateSigningKey()
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+refused {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer backend.Close()
	req, err := http.NewRequestWithContext(session.WithUser(t.Context(), world.Alice), http.MethodPost, backend.URL, strings.NewReader("body"))
	require.NoError(t, err)
	resp, err := w.Svc.HTTPClient(session.AllowHosts(backend.Listener.Addr().String())).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.NotEqual(t, refused, world.MustToken(t, w.Svc, world.Alice))
}

func TestClientForAllNeedsAUserInTheContext(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	base := new(recorder)
	client := w.Svc.HTTPClient(session.AllowHosts("api.example.com"))
	for _, ctx := range []context.Context{t.Context(), session.WithUser(t.Context(), ""), session.WithUser(t.Context(), "alice")} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example.com/", nil)
		require.NoError(t, err)
		_, err = client.Do(req)
		require.ErrorIs(t, err, session.ErrInvalidUserID)
	}
	require.Empty(t, base.sent)
	// The innermost user counts.
	w.Auth.Link(world.Alice, world.Email)
	ctx := session.WithUser(session.WithUser(t.Context(), world.Bob), world.Alice)
	backend := httptest.NewServer(http.NotFoundHandler())
	defer backend.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, backend.URL, nil)
	require.NoError(t, err)
	resp, err := w.Svc.HTTPClient().Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}
