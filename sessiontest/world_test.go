package sessiontest_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

const (
	email    = "alice@example.com"
	password = "correct horse"
	alice    = "@alice:matrix.example"

	loginPath   = "/api/v1/auth/login"
	refreshPath = "/api/v1/auth/refresh"
	logoutPath  = "/api/v1/auth/logout"
	jwksPath    = "/api/v1/auth/jwks"
	linkPath    = sessiontest.DefaultLinkPath + "/matrix-session/"
	linksPath   = sessiontest.DefaultLinkPath + "/matrix-user-links"
	checkPath   = linksPath + "/check/"
)

// world is a server with alice's account, and a client of it.
type world struct {
	*sessiontest.AuthServer
	t      *testing.T
	client *http.Client
	alice  sessiontest.User
}

// overNetwork talks HTTP on loopback. Its connections are not used twice, or
// http.Transport would repeat GETs by itself.
func overNetwork(t *testing.T, opts ...sessiontest.Option) *world {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return newWorld(t, sessiontest.NewAuthServer(t, opts...), &http.Client{Transport: transport})
}

func inProcess(t *testing.T, opts ...sessiontest.Option) *world {
	t.Helper()
	auth := sessiontest.New(opts...)
	t.Cleanup(auth.Close)
	return newWorld(t, auth, auth.Client())
}

func newWorld(t *testing.T, auth *sessiontest.AuthServer, client *http.Client) *world {
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &world{auth, t, client, auth.AddUser(email, password)}
}

// everyWay runs a story over the network, in this process, and in this process
// inside a bubble, which ends only if nothing outlives its request.
func everyWay(t *testing.T, story func(t *testing.T, w *world), opts ...sessiontest.Option) {
	t.Run("network", func(t *testing.T) { story(t, overNetwork(t, opts...)) })
	t.Run("in process", func(t *testing.T) { story(t, inProcess(t, opts...)) })
	t.Run("bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { story(t, inProcess(t, opts...)) })
	})
}

// call is what a client sends.
type call struct {
	method string
	path   string // escaped
	body   string
	key    string
	bearer string
	header http.Header
}

// answer is what it gets.
type answer struct {
	status int
	header http.Header
	body   string
}

func (w *world) do(c call) answer {
	w.t.Helper()
	got, err := w.try(w.t.Context(), c)
	require.NoError(w.t, err)
	return got
}

func (w *world) try(ctx context.Context, c call) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, c.method, w.URL+c.path, strings.NewReader(c.body))
	if err != nil {
		return answer{}, err
	}
	if c.header != nil {
		req.Header = c.header.Clone()
	}
	req.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		req.Header.Set("X-Service-Key", c.key)
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

func (w *world) login(email, password string) answer {
	w.t.Helper()
	return w.do(loginCall(email, password))
}

func loginCall(email, password string) call {
	body, err := json.Marshal(map[string]string{"email": email, "password": password})
	if err != nil {
		panic(err)
	}
	return call{method: http.MethodPost, path: loginPath, body: string(body)}
}

func refreshCall(token string) call {
	return call{method: http.MethodPost, path: refreshPath, body: `{"refreshToken":"` + token + `"}`}
}

func linkCall(userID string) call {
	return call{method: http.MethodGet, path: linkPath + url.QueryEscape(userID), key: sessiontest.DefaultServiceKey}
}

func checkCall(userID string) call {
	return call{method: http.MethodGet, path: checkPath + url.QueryEscape(userID), key: sessiontest.DefaultServiceKey}
}

// tokens are the fields of the answers that carry some.
type tokens struct {
	AccessToken  string `json:"accessToken"`
	RefreshToken string `json:"refreshToken"`
	Token        string `json:"token"`
}

func (a answer) tokens(t *testing.T) tokens {
	t.Helper()
	require.Equal(t, http.StatusOK, a.status, a.body)
	var got tokens
	require.NoError(t, json.Unmarshal([]byte(a.body), &got))
	return got
}

// refused asserts an error answer of exactly the server's shape; message is
// JSON.
func (a answer) refused(t *testing.T, status int, message, path string) {
	t.Helper()
	require.Equal(t, status, a.status, a.body)
	require.Equal(t, "application/json; charset=utf-8", a.header.Get("Content-Type"))
	var got struct {
		Timestamp string `json:"timestamp"`
	}
	require.NoError(t, json.Unmarshal([]byte(a.body), &got), a.body)
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`, got.Timestamp)
	want, err := json.Marshal(path)
	require.NoError(t, err)
	code, err := json.Marshal(status)
	require.NoError(t, err)
	require.Equal(t, `{"statusCode":`+string(code)+`,"message":`+message+`,"timestamp":"`+got.Timestamp+`","path":`+string(want)+`}`, a.body)
}
