package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/redis/go-redis/v9"
)

const (
	defaultAuthURL      = "http://localhost:3001"
	defaultLoginPath    = "/api/v1/auth/login"
	defaultLinkPath     = "/api/v1/api/v1/auth" // doubled as the server is deployed
	defaultSessionTTL   = 7 * 24 * time.Hour
	defaultRefreshAhead = 5 * time.Minute
	defaultNearCache    = 100_000
)

// Option configures [New]. An explicit option wins over [FromEnv], which wins
// over the default, in whatever order they are given.
type Option func(*config) error

type config struct {
	authURL    string // "" if no option and no environment says otherwise
	serviceKey secret
	keyGiven   bool // also if it is empty
	linkOff    bool
	linkAsked  bool // WithSSOLink(true)
	store      Store
	redis      redis.UniversalClient
	ownRedis   bool // from the environment
	stores     int  // how many were asked for
	sessionTTL time.Duration
	ahead      time.Duration
	nearCache  int
	loginPath  string
	linkPrefix string
	httpClient *http.Client
	logger     *slog.Logger
	loginBurst int
	loginEvery time.Duration
	fromEnv    bool
	codec      codec
	verify     tokenCheck
	observer   Observer
	noTrail    bool
	botName    string
	onEnd      func(context.Context, SessionEnd)

	// Derived by apply.
	linkEnabled bool // tokens are asked for by the SSO-Link
	makeLinks   bool // a login tries to make one
	storageMode string
	closers     []func(limit time.Duration) error // of what is the Service's own, in order
}

// newConfig has the defaults of what the environment has no say in.
func newConfig() config {
	return config{
		sessionTTL: defaultSessionTTL,
		ahead:      defaultRefreshAhead,
		nearCache:  defaultNearCache,
		loginPath:  defaultLoginPath,
		linkPrefix: defaultLinkPath,
		logger:     slog.New(slog.DiscardHandler),
		loginBurst: defaultLoginBurst,
		loginEvery: defaultLoginEvery,
	}
}

// WithAuthURL sets the auth server's base URL; default http://localhost:3001.
// A trailing slash is tolerated.
func WithAuthURL(rawURL string) Option {
	return func(c *config) (err error) {
		c.authURL, err = checkURL("WithAuthURL", rawURL)
		return err
	}
}

// checkURL does not quote the URL: what is wrong with it may be where the
// password stands.
func checkURL(option, rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	var reason string
	switch {
	case err != nil, strings.ContainsFunc(rawURL, unprintable):
		reason = "not a URL"
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		reason = "want http://host or https://host"
	case u.User != nil, strings.ContainsAny(rawURL, "?#"):
		reason = "no user, query or fragment, please"
	case u.Port() != "" && !isPort(u.Port()):
		reason = "the port is not between 1 and 65535"
	default:
		return strings.TrimRight(rawURL, "/"), nil
	}
	return "", fmt.Errorf("session: %s: %s", option, reason)
}

func unprintable(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }

func isPort(s string) bool {
	port, err := strconv.ParseUint(s, 10, 16)
	return err == nil && port > 0
}

// WithServiceKey sets the key that authenticates the bot to the auth server's
// link calls, and thereby turns the SSO-Link on. White space around it is
// dropped. An empty key is as none, also if [FromEnv] finds another.
func WithServiceKey(key string) Option {
	return func(c *config) (err error) {
		c.serviceKey, err = checkKey("WithServiceKey", key)
		c.keyGiven = true
		return err
	}
}

// checkKey trims what files and environments put around a key.
func checkKey(option, key string) (secret, error) {
	key = strings.Trim(key, " \t\r\n")
	if strings.ContainsFunc(key, unicode.IsControl) {
		return secret{}, fmt.Errorf("session: %s: control character in the key", option)
	}
	return newSecret(key), nil
}

// WithSSOLink with false switches the SSO-Link off although there is a service
// key. With true it has [New] fail when there is no key; it is the key that
// switches the link on.
func WithSSOLink(on bool) Option {
	return func(c *config) error {
		c.linkOff, c.linkAsked = !on, on
		return nil
	}
}

// WithStore keeps the sessions in store, which stays the caller's to close.
// The default is a [MemoryStore] of the Service's own.
func WithStore(store Store) Option {
	return func(c *config) error {
		if isNil(store) {
			return errors.New("session: WithStore: no store")
		}
		c.store = store
		c.stores++
		return nil
	}
}

// WithRedis keeps the sessions on Redis (one server, Sentinel or Cluster). The
// client stays the caller's to close, after the Service. For another key
// prefix use [NewRedisStore] and [WithStore].
func WithRedis(client redis.UniversalClient) Option {
	return func(c *config) error {
		if isNil(client) {
			return errors.New("session: WithRedis: no client")
		}
		c.redis = client
		c.stores++
		return nil
	}
}

// isNil also sees a nil pointer, map or function in an interface.
func isNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Chan, reflect.Slice:
		return r.IsNil()
	}
	return false
}

// WithSessionTTL sets how long a session lives without use; default 7 days.
// Every refresh and login starts it anew. At least a minute.
func WithSessionTTL(d time.Duration) Option {
	return func(c *config) error {
		if d < time.Minute {
			return fmt.Errorf("session: WithSessionTTL: %s is less than a minute", d)
		}
		c.sessionTTL = d
		return nil
	}
}

// WithRefreshAhead sets how long before a token's end it is replaced behind
// the callers; default 5 minutes. At 0, or anything up to the 60 s below which
// no token is handed out, the caller who finds a dead token waits for the auth
// server.
func WithRefreshAhead(d time.Duration) Option {
	return func(c *config) error {
		if d < 0 {
			return fmt.Errorf("session: WithRefreshAhead: %s is negative", d)
		}
		c.ahead = d
		return nil
	}
}

// WithLoginPath sets the path of the login call; default /api/v1/auth/login.
func WithLoginPath(path string) Option {
	return func(c *config) (err error) {
		c.loginPath, err = checkPath("WithLoginPath", path)
		return err
	}
}

// WithLinkPath sets the prefix of the link calls; default
// /api/v1/api/v1/auth, doubled as the auth server is deployed. With "/" they
// begin right at /matrix-session.
func WithLinkPath(prefix string) Option {
	return func(c *config) (err error) {
		c.linkPrefix, err = checkPath("WithLinkPath", prefix)
		return err
	}
}

// checkPath returns the path without slashes at its end: "" for "/".
func checkPath(option, path string) (string, error) {
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#%") || strings.ContainsFunc(path, unprintable) {
		return "", fmt.Errorf("session: %s: want /a/path, not %q", option, printable(path))
	}
	return strings.TrimRight(path, "/"), nil
}

// WithHTTPClient sets the client for calls to the auth server, for its
// transport. Redirects are not followed whatever it says, and no call takes
// longer than 10 s. The client itself is not modified.
func WithHTTPClient(client *http.Client) Option {
	return func(c *config) error {
		if client == nil {
			return errors.New("session: WithHTTPClient: no client")
		}
		if client.Transport != nil && isNil(client.Transport) {
			return errors.New("session: WithHTTPClient: the client's transport is nil")
		}
		c.httpClient = client
		return nil
	}
}

// WithLoginLimit sets how often one user may call [Service.Login]: burst times,
// and then once every so often; default 3 and 30 s. It is for auth servers that
// allow another number than 10 a minute for all users together, and for test
// suites that log one user in over and over. A burst of 0 is no limit.
func WithLoginLimit(burst int, every time.Duration) Option {
	return func(c *config) error {
		if burst < 0 || every < 0 || burst > 0 && every == 0 {
			return fmt.Errorf("session: WithLoginLimit: %d logins, then one every %s", burst, every)
		}
		c.loginBurst, c.loginEvery = burst, every
		return nil
	}
}

// WithLogger sets where the Service logs what an operator should know; by
// default nowhere. No token, password, refresh token or key is ever logged.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) error {
		if logger == nil || isNil(logger.Handler()) {
			return errors.New("session: WithLogger: no logger")
		}
		c.logger = logger
		return nil
	}
}

// WithNearCache sets how many users' sessions this process keeps at hand;
// default 100,000, in 2 KiB each on average: large records count for several. 0
// switches the near cache off, so that every Token reads the store. It serves stores that implement [Watcher].
func WithNearCache(maxEntries int) Option {
	return func(c *config) error {
		if maxEntries < 0 {
			return fmt.Errorf("session: WithNearCache: %d is negative", maxEntries)
		}
		c.nearCache = maxEntries
		return nil
	}
}

// apply applies the options and what is left of the defaults, and refuses what
// makes no sense.
func (c *config) apply(opts []Option) error {
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		if err := opt(c); err != nil {
			return err
		}
	}
	if c.fromEnv {
		if err := c.applyKeysFromEnv(); err != nil {
			return err
		}
	}
	if err := c.codec.check(); err != nil {
		return err
	}
	if c.stores > 1 {
		return errors.New("session: New: more than one store")
	}
	if c.fromEnv {
		if err := c.applyEnv(); err != nil {
			return err
		}
	}
	c.authURL = cmp.Or(c.authURL, defaultAuthURL)
	if c.linkAsked && c.serviceKey.empty() {
		return errors.New("session: New: the SSO-Link needs a service key")
	}
	c.linkEnabled = !c.linkOff && !c.serviceKey.empty()
	c.makeLinks = !c.linkOff
	return c.openStore()
}

// openStore makes the store that is wanted, and what closes it.
func (c *config) openStore() error {
	switch {
	case c.redis != nil:
		store, err := NewRedisStore(c.redis)
		if err != nil {
			if c.ownRedis {
				err = errors.Join(err, c.redis.Close())
			}
			return err
		}
		c.store = store
		c.closers = append(c.closers, store.closeWithin)
		if c.ownRedis {
			c.closers = append(c.closers, func(time.Duration) error { return c.redis.Close() })
		}
	case c.store == nil:
		store := NewMemoryStore()
		c.store = store
		c.closers = append(c.closers, func(time.Duration) error { return store.Close() })
	}
	switch c.store.(type) {
	case *MemoryStore:
		c.storageMode = "memory"
	case *RedisStore:
		c.storageMode = "redis"
	default:
		c.storageMode = "custom"
	}
	return nil
}
