package session_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

func TestNonsenseOptionsAreRefused(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	for name, opts := range map[string][]session.Option{
		"no URL":               {session.WithAuthURL("auth.example.com")},
		"empty URL":            {session.WithAuthURL("")},
		"other scheme":         {session.WithAuthURL("ftp://auth.example.com")},
		"not even a URL":       {session.WithAuthURL("http://[")},
		"URL with a password":  {session.WithAuthURL("https://me:secret@auth.example.com")},
		"URL with a query":     {session.WithAuthURL("https://auth.example.com?a=b")},
		"negative TTL":         {session.WithSessionTTL(-time.Second)},
		"TTL of nothing":       {session.WithSessionTTL(0)},
		"negative ahead":       {session.WithRefreshAhead(-1)},
		"negative near cache":  {session.WithNearCache(-1)},
		"two stores":           {session.WithRedis(client), session.WithStore(session.NewMemoryStore())},
		"no store":             {session.WithStore(nil)},
		"no client":            {session.WithRedis(nil)},
		"no HTTP client":       {session.WithHTTPClient(nil)},
		"no logger":            {session.WithLogger(nil)},
		"link without a key":   {session.WithSSOLink(true)},
		"link with empty key":  {session.WithServiceKey(""), session.WithSSOLink(true)},
		"line break in a key":  {session.WithServiceKey("a\r\nX-Evil: 1")},
		"path without a slash": {session.WithLoginPath("login")},
		"path with a query":    {session.WithLinkPath("/a?b")},
		"negative logins":      {session.WithLoginLimit(-1, time.Second)},
		"logins in no time":    {session.WithLoginLimit(3, 0)},
		"logins back in time":  {session.WithLoginLimit(3, -time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := session.New(opts...)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "secret")
			require.True(t, strings.HasPrefix(err.Error(), "session: "), err.Error())
		})
	}
}

func TestZeroOptionsWork(t *testing.T) {
	svc, err := session.New()
	require.NoError(t, err)
	defer svc.Close()
	stats, err := svc.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, "memory", stats.StorageMode)
	require.False(t, stats.SSOLinkEnabled)
	_, err = svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
}

func TestEnvironmentIsReadOnRequestAndLosesToOptions(t *testing.T) {
	server := redistest.Start(t, redistest.WithPassword("secret"))
	auth := sessiontest.NewAuthServer(t)
	auth.AddUser(email, password)
	host, port, _ := strings.Cut(server.Addr, ":")
	for name, value := range map[string]string{
		"MANA_CORE_AUTH_URL": auth.URL + "/", "MANA_CORE_SERVICE_KEY": sessiontest.DefaultServiceKey,
		"REDIS_HOST": host, "REDIS_PORT": port, "REDIS_PASSWORD": "secret", "REDIS_URL": "", "SESSION_STORAGE_MODE": "",
	} {
		t.Setenv(name, value)
	}
	mode := func(opts ...session.Option) (string, bool) {
		t.Helper()
		svc, err := session.New(opts...)
		require.NoError(t, err)
		defer svc.Close()
		stats, err := svc.Stats(t.Context())
		require.NoError(t, err)
		return stats.StorageMode, stats.SSOLinkEnabled
	}
	is := func(wantMode string, wantLink bool) func(string, bool) {
		return func(mode string, link bool) {
			t.Helper()
			require.Equal(t, wantMode, mode)
			require.Equal(t, wantLink, link)
		}
	}
	is("memory", false)(mode())
	is("redis", true)(mode(session.FromEnv()))
	is("memory", true)(mode(session.WithStore(session.NewMemoryStore()), session.FromEnv()))
	is("memory", true)(mode(session.FromEnv(), session.WithStore(session.NewMemoryStore())))
	is("redis", false)(mode(session.WithSSOLink(false), session.FromEnv()))
	is("redis", false)(mode(session.WithServiceKey(""), session.FromEnv()))
	t.Setenv("SESSION_STORAGE_MODE", "memory")
	is("memory", true)(mode(session.FromEnv()))
	t.Setenv("SESSION_STORAGE_MODE", "redis")
	t.Setenv("REDIS_HOST", "")
	t.Setenv("REDIS_URL", "redis://:secret@"+server.Addr+"/3")
	is("redis", true)(mode(session.FromEnv()))

	svc, err := session.New(session.FromEnv())
	require.NoError(t, err)
	defer svc.Close()
	_, err = svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	require.Equal(t, 1, auth.Calls(sessiontest.Login))

	for _, bad := range [][2]string{
		{"REDIS_PORT", "port"}, {"REDIS_PORT", "65536"}, {"SESSION_STORAGE_MODE", "disk"}, {"MANA_CORE_AUTH_URL", "nowhere"}, {"REDIS_URL", "http://me:secret@x"},
	} {
		t.Run(bad[0], func(t *testing.T) {
			if bad[0] == "REDIS_PORT" {
				t.Setenv("REDIS_URL", "") // which it has nothing to say to
			}
			t.Setenv(bad[0], bad[1])
			_, err := session.New(session.FromEnv())
			require.ErrorContains(t, err, bad[0])
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestPathsAndUserAgent(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	svc := w.service(session.WithLoginPath("/auth/login/"), session.WithLinkPath("/api/v1/auth"))
	_, err := svc.Login(t.Context(), alice, email, password)
	require.ErrorIs(t, err, session.ErrAuthUnavailable, "no such route there")
	_, err = svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrAuthUnavailable, "and a missing route is not a missing link")
	requests := w.auth.Requests()
	require.Equal(t, "/auth/login", requests[0].Path)
	require.Equal(t, "/api/v1/auth/matrix-session/%40alice%3Amatrix.example", requests[1].Path)
	for _, r := range requests {
		require.Contains(t, r.Header.Get("User-Agent"), "mana-session")
	}
	require.Empty(t, requests[0].Header.Get("X-Service-Key"), "a login needs none")
}

func TestTheHTTPClientThatIsBroughtStaysAsItIs(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	brought := w.auth.Client()
	w.login(w.service(session.WithHTTPClient(brought)))
	require.Nil(t, brought.CheckRedirect)
}

func TestDefaultClientIsBoundedInTime(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	t.Parallel()
	auth := sessiontest.NewAuthServer(t)
	auth.Inject(sessiontest.Any, -1, sessiontest.Trickle(300*time.Millisecond))
	svc, err := session.New(session.WithAuthURL(auth.URL))
	require.NoError(t, err)
	defer svc.Close()
	started := time.Now()
	_, err = svc.Login(t.Context(), alice, email, password)
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	require.Less(t, time.Since(started), 12*time.Second)
	require.Greater(t, time.Since(started), 5*time.Second)
}

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
