package session_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestNonsenseOptionsAreRefused(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	for name, opts := range map[string][]session.Option{
		"no URL":                       {session.WithAuthURL("auth.example.com")},
		"empty URL":                    {session.WithAuthURL("")},
		"other scheme":                 {session.WithAuthURL("ftp://auth.example.com")},
		"not even a URL":               {session.WithAuthURL("http://[")},
		"URL with a password":          {session.WithAuthURL("https://me:secret@auth.example.com")},
		"URL with a query":             {session.WithAuthURL("https://auth.example.com?a=b")},
		"negative TTL":                 {session.WithSessionTTL(-time.Second)},
		"TTL of nothing":               {session.WithSessionTTL(0)},
		"negative ahead":               {session.WithRefreshAhead(-1)},
		"negative near cache":          {session.WithNearCache(-1)},
		"two stores":                   {session.WithRedis(client), session.WithStore(session.NewMemoryStore())},
		"no store":                     {session.WithStore(nil)},
		"no client":                    {session.WithRedis(nil)},
		"no HTTP client":               {session.WithHTTPClient(nil)},
		"no logger":                    {session.WithLogger(nil)},
		"link without a key":           {session.WithSSOLink(true)},
		"link with empty key":          {session.WithServiceKey(""), session.WithSSOLink(true)},
		"line break in a key":          {session.WithServiceKey("a\r\nX-Evil: 1")},
		"URL with an empty query":      {session.WithAuthURL("http://h?")},
		"URL with an empty fragment":   {session.WithAuthURL("http://h#")},
		"URL with both in its path":    {session.WithAuthURL("http://h/a/?#")},
		"URL with a fragment":          {session.WithAuthURL("http://h/#secret")},
		"URL without a host":           {session.WithAuthURL("http://:80")},
		"URL with an empty user":       {session.WithAuthURL("http://@h")},
		"URL with another port":        {session.WithAuthURL("http://h:65536")},
		"URL with a line break":        {session.WithAuthURL("http://h/\n")},
		"URL with a control character": {session.WithAuthURL("http://h/a\u0085b")},
		"URL with a space":             {session.WithAuthURL("http://h/a b")},
		"no scheme, but a password":    {session.WithAuthURL("me:secret@host")},
		"no scheme, path and password": {session.WithAuthURL("me:secret@host/auth")},
		"other scheme and a password":  {session.WithAuthURL("postgres://me:secret@host")},
		"password and an odd host":     {session.WithAuthURL("http://me:secret@[h")},
		"password in a query":          {session.WithAuthURL("auth.example.com?key=secret")},
		"control character in a key":   {session.WithServiceKey("sec\x00ret")},
		"tab in a key":                 {session.WithServiceKey("a\tsecret")},
		"C1 control in a key":          {session.WithServiceKey("secret\u0085a")},
		"line break in a key, of two":  {session.WithServiceKey("secret\na\n")},
		"control character in a path":  {session.WithLoginPath("/a\x7f")},
		"C1 control in a path":         {session.WithLinkPath("/a\u009b")},
		"tab in a path":                {session.WithLinkPath("/a\tb")},
		"empty path":                   {session.WithLinkPath("")},
		"nil memory store":             {session.WithStore((*session.MemoryStore)(nil))},
		"nil Redis store":              {session.WithStore((*session.RedisStore)(nil))},
		"nil client":                   {session.WithRedis((*redis.Client)(nil))},
		"nil Cluster client":           {session.WithRedis((*redis.ClusterClient)(nil))},
		"nil transport":                {session.WithHTTPClient(&http.Client{Transport: (*http.Transport)(nil)})},
		"nil transport function":       {session.WithHTTPClient(&http.Client{Transport: world.RoundTripper(nil)})},
		"no log handler":               {session.WithLogger(&slog.Logger{})},
		"nil log handler":              {session.WithLogger(slog.New((*slog.TextHandler)(nil)))},
		"path without a slash":         {session.WithLoginPath("login")},
		"path with a query":            {session.WithLinkPath("/a?b")},
		"negative logins":              {session.WithLoginLimit(-1, time.Second)},
		"logins in no time":            {session.WithLoginLimit(3, 0)},
		"logins back in time":          {session.WithLoginLimit(3, -time.Second)},
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
	_, err = svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
}

func TestEnvironmentIsReadOnRequestAndLosesToOptions(t *testing.T) {
	server := redistest.Start(t, redistest.WithPassword("secret"))
	auth := sessiontest.NewAuthServer(t)
	auth.AddUser(world.Email, world.Password)
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
	_, err = svc.Login(t.Context(), world.Alice, world.Email, world.Password)
	require.NoError(t, err)
	require.Equal(t, 1, auth.Calls(sessiontest.Login))

	for _, bad := range [][2]string{
		{"REDIS_PORT", "port"}, {"REDIS_PORT", "65536"}, {"SESSION_STORAGE_MODE", "disk"}, {"MANA_CORE_AUTH_URL", "nowhere"}, {"REDIS_URL", "http://me:secret@x"},
		{"REDIS_PORT", "0"}, {"REDIS_PORT", "-1"}, {"REDIS_HOST", host + ":" + port}, {"REDIS_HOST", "[::1]"}, {"REDIS_HOST", "[::1]:6379"},
		{"REDIS_HOST", "redis://:secret@" + host}, {"REDIS_HOST", "localhost\n"}, {"REDIS_HOST", "me@localhost"}, {"REDIS_HOST", "a,b"}, {"REDIS_HOST", "localhost/0"},
		{"MANA_CORE_SERVICE_KEY", "sec\x01ret"}, {"MANA_CORE_AUTH_URL", "me:secret@host"}, {"MANA_CORE_AUTH_URL", "http://h?"},
	} {
		t.Run(bad[0]+"="+bad[1], func(t *testing.T) {
			t.Setenv("REDIS_HOST", host)
			if bad[0] == "REDIS_PORT" || bad[0] == "REDIS_HOST" {
				t.Setenv("REDIS_URL", "") // which they have nothing to say to
			}
			t.Setenv(bad[0], bad[1])
			_, err := session.New(session.FromEnv())
			require.ErrorContains(t, err, bad[0])
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestPortWithoutAHostIsRefused(t *testing.T) {
	for _, mode := range []string{"", "redis"} {
		t.Run("mode "+mode, func(t *testing.T) {
			clearEnv(t)
			t.Setenv("SESSION_STORAGE_MODE", mode)
			t.Setenv("REDIS_PORT", "6380")
			_, err := session.New(session.FromEnv())
			require.ErrorContains(t, err, "REDIS_HOST")
			svc, err := session.New(session.FromEnv(), session.WithStore(session.NewMemoryStore()))
			require.NoError(t, err, "nobody wants Redis")
			require.NoError(t, svc.Close())
			t.Setenv("SESSION_STORAGE_MODE", "memory")
			svc, err = session.New(session.FromEnv())
			require.NoError(t, err)
			require.NoError(t, svc.Close())
		})
	}
}

// clearEnv sets what FromEnv reads to nothing.
func clearEnv(t *testing.T) {
	t.Helper()
	for _, name := range []string{"MANA_CORE_AUTH_URL", "MANA_CORE_SERVICE_KEY", "SESSION_STORAGE_MODE", "REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "SESSION_ENCRYPTION_KEYS"} {
		t.Setenv(name, "")
	}
}

func TestPortThatKubernetesSetsIsIgnored(t *testing.T) {
	for name, c := range map[string]struct {
		host, mode string
		port       string
		want       string
		warns      bool
	}{
		"beside a host":    {"127.0.0.1", "", "tcp://10.0.0.1:6379", "redis", true},
		"another protocol": {"127.0.0.1", "redis", "udp://10.0.0.1:6379", "redis", true},
		"without a host":   {"", "", "tcp://10.0.0.1:6379", "memory", true},
		"in memory mode":   {"", "memory", "tcp://10.0.0.1:6379", "memory", false},
		"a port of ours":   {"127.0.0.1", "", "6380", "redis", false},
		"IPv6":             {"::1", "", "", "redis", false},
	} {
		t.Run(name, func(t *testing.T) {
			clearEnv(t)
			t.Setenv("REDIS_HOST", c.host)
			t.Setenv("REDIS_PORT", c.port)
			t.Setenv("SESSION_STORAGE_MODE", c.mode)
			var log bytes.Buffer
			svc, err := session.New(session.FromEnv(), session.WithLogger(slog.New(slog.NewTextHandler(&log, nil))), session.WithNearCache(0))
			require.NoError(t, err)
			defer svc.Close()
			require.Equal(t, c.warns, strings.Contains(log.String(), "level=WARN") && strings.Contains(log.String(), "REDIS_PORT"), log.String())
			require.Contains(t, fmt.Sprint(svc), c.want)
		})
	}
}

// As net/http, and with it the service that is replaced, treats header values.
func TestWhiteSpaceAroundAServiceKeyIsDropped(t *testing.T) {
	for _, key := range []string{sessiontest.DefaultServiceKey + "\n", sessiontest.DefaultServiceKey + "\r\n", " \t" + sessiontest.DefaultServiceKey + " \n\n"} {
		w := world.New(t, session.NewMemoryStore(), session.WithServiceKey(key))
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)

		clearEnv(t)
		t.Setenv("MANA_CORE_SERVICE_KEY", key)
		svc, err := session.New(session.FromEnv(), session.WithAuthURL(w.Auth.URL), session.WithHTTPClient(w.Auth.Client()))
		require.NoError(t, err)
		world.MustToken(t, svc, world.Alice)
		require.NoError(t, svc.Close())
	}
	svc, err := session.New(session.WithServiceKey(" \n"))
	require.NoError(t, err)
	defer svc.Close()
	stats, err := svc.Stats(t.Context())
	require.NoError(t, err)
	require.False(t, stats.SSOLinkEnabled, "as none")
}

func TestLinkPathMayBeEmpty(t *testing.T) {
	for _, prefix := range []string{"/", "//"} {
		w := world.New(t, session.NewMemoryStore(), session.WithLinkPath(prefix), session.WithLoginPath(prefix))
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable, "no such route there")
		_, err = w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
		require.Error(t, err)
		requests := w.Auth.Requests()
		require.Equal(t, "/matrix-session/%40alice%3Amatrix.example", requests[0].Path)
		require.Contains(t, []string{"", "/"}, requests[len(requests)-1].Path)
	}
}

// Settings of nothing are settings, whatever the default.
func TestOptionsWinOverDefaultsAndTheLastOneCounts(t *testing.T) {
	clearEnv(t)
	t.Setenv("MANA_CORE_AUTH_URL", "nowhere")
	t.Setenv("MANA_CORE_SERVICE_KEY", "a\x01b")
	svc, err := session.New(session.WithAuthURL("http://h"), session.WithServiceKey(""), session.FromEnv())
	require.NoError(t, err, "what no option leaves to it is not looked at")
	require.NoError(t, svc.Close())

	for want, opts := range map[bool][]session.Option{
		true:  {session.WithServiceKey("k"), session.WithSSOLink(false), session.WithSSOLink(true)},
		false: {session.WithServiceKey("k"), session.WithSSOLink(true), session.WithSSOLink(false)},
	} {
		svc, err := session.New(opts...)
		require.NoError(t, err)
		stats, err := svc.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, stats.SSOLinkEnabled)
		require.NoError(t, svc.Close())
	}
}

func TestPathsAndUserAgent(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	svc := w.Service(session.WithLoginPath("/auth/login/"), session.WithLinkPath("/api/v1/auth"))
	_, err := svc.Login(t.Context(), world.Alice, world.Email, world.Password)
	require.ErrorIs(t, err, session.ErrAuthUnavailable, "no such route there")
	_, err = svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrAuthUnavailable, "and a missing route is not a missing link")
	requests := w.Auth.Requests()
	require.Equal(t, "/auth/login", requests[0].Path)
	require.Equal(t, "/api/v1/auth/matrix-session/%40alice%3Amatrix.example", requests[1].Path)
	for _, r := range requests {
		require.Contains(t, r.Header.Get("User-Agent"), "mana-session")
	}
	require.Empty(t, requests[0].Header.Get("X-Service-Key"), "a login needs none")
}

func TestTheHTTPClientThatIsBroughtStaysAsItIs(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	brought := w.Auth.Client()
	w.Login(w.Service(session.WithHTTPClient(brought)))
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
	_, err = svc.Login(t.Context(), world.Alice, world.Email, world.Password)
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	require.Less(t, time.Since(started), 12*time.Second)
	require.Greater(t, time.Since(started), 5*time.Second)
}
