package session

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

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
	authURL    string
	serviceKey secret
	keyGiven   bool // also if it is empty
	ssoLink    *bool
	store      Store
	ownStore   bool // Close closes it
	redis      redis.UniversalClient
	ownRedis   bool // Close closes it
	sessionTTL time.Duration
	ahead      *time.Duration
	nearCache  *int
	loginPath  string
	linkPrefix string
	httpClient *http.Client
	logger     *slog.Logger
	loginBurst *int
	loginEvery time.Duration

	fromEnv bool
	stores  int // how many stores were asked for
	codec   codec
	verify  tokenCheck

	makeLinks bool // a login tries to
}

func (c *config) storageMode() string {
	switch c.store.(type) {
	case *MemoryStore:
		return "memory"
	case *RedisStore:
		return "redis"
	}
	return "custom"
}

// closers are what Close closes, in order.
func (c *config) closers() (closers []func(limit time.Duration) error) {
	switch store := c.store.(type) {
	case *RedisStore:
		if c.ownStore {
			closers = append(closers, store.closeWithin)
		}
	case *MemoryStore:
		if c.ownStore {
			closers = append(closers, func(time.Duration) error { return store.Close() })
		}
	}
	if c.ownRedis {
		closers = append(closers, func(time.Duration) error { return c.redis.Close() })
	}
	return closers
}

// WithAuthURL sets the auth server's base URL; default http://localhost:3001.
// A trailing slash is tolerated.
func WithAuthURL(rawURL string) Option {
	return func(c *config) error {
		u, err := url.Parse(rawURL)
		switch {
		case err != nil:
			return errors.New("session: WithAuthURL: not a URL") // err quotes it
		case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
			return fmt.Errorf("session: WithAuthURL: want http://host or https://host, not %q", u.Redacted())
		case u.User != nil, u.RawQuery != "", u.Fragment != "":
			return errors.New("session: WithAuthURL: no user, query or fragment, please")
		}
		c.authURL = strings.TrimRight(rawURL, "/")
		return nil
	}
}

// WithServiceKey sets the key that authenticates the bot to the auth server's
// link calls, and thereby turns the SSO-Link on. An empty key is as none, also
// if [FromEnv] finds another.
func WithServiceKey(key string) Option {
	return func(c *config) error {
		if strings.ContainsAny(key, "\r\n") {
			return errors.New("session: WithServiceKey: line break in the key")
		}
		c.serviceKey, c.keyGiven = newSecret(key), true
		return nil
	}
}

// WithSSOLink switches the SSO-Link on or off. By default it is on when there
// is a service key; on without one is an error.
func WithSSOLink(on bool) Option {
	return func(c *config) error {
		c.ssoLink = &on
		return nil
	}
}

// WithStore keeps the sessions in store, which stays the caller's to close.
// The default is a [MemoryStore] of the Service's own.
func WithStore(store Store) Option {
	return func(c *config) error {
		if store == nil {
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
		if client == nil {
			return errors.New("session: WithRedis: no client")
		}
		c.redis = client
		c.stores++
		return nil
	}
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
		c.ahead = &d
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
// /api/v1/api/v1/auth, doubled as the auth server is deployed.
func WithLinkPath(prefix string) Option {
	return func(c *config) (err error) {
		c.linkPrefix, err = checkPath("WithLinkPath", prefix)
		return err
	}
}

func checkPath(option, path string) (string, error) {
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#% \r\n") {
		return "", fmt.Errorf("session: %s: want /a/path, not %q", option, path)
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
		c.loginBurst, c.loginEvery = &burst, every
		return nil
	}
}

// WithLogger sets where the Service logs what an operator should know; by
// default nowhere. No token, password, refresh token or key is ever logged.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) error {
		if logger == nil {
			return errors.New("session: WithLogger: no logger")
		}
		c.logger = logger
		return nil
	}
}

// WithNearCache sets how many users' sessions this process keeps at hand;
// default 100,000, about 1 kB each. 0 switches the near cache off, so that
// every Token reads the store. It serves stores that implement [Watcher].
func WithNearCache(maxEntries int) Option {
	return func(c *config) error {
		if maxEntries < 0 {
			return fmt.Errorf("session: WithNearCache: %d is negative", maxEntries)
		}
		c.nearCache = &maxEntries
		return nil
	}
}

// FromEnv reads what is not set by an option from the environment, under the
// names that the TypeScript service uses:
//
//	MANA_CORE_AUTH_URL     auth server
//	MANA_CORE_SERVICE_KEY  service key
//	SESSION_STORAGE_MODE   "memory" or "redis"; default: redis if the next is set
//	REDIS_URL              redis://user:password@host:port/db, or rediss://
//	REDIS_HOST, REDIS_PORT, REDIS_PASSWORD   instead of it; localhost, 6379, none
//
// A Redis client made from it is closed by Close.
func FromEnv() Option {
	return func(c *config) error {
		c.fromEnv = true
		return nil
	}
}

// applyEnv fills the gaps of c that the environment has something for.
func (c *config) applyEnv() error {
	if v := os.Getenv("MANA_CORE_AUTH_URL"); c.authURL == "" && v != "" {
		if err := WithAuthURL(v)(c); err != nil {
			return fmt.Errorf("MANA_CORE_AUTH_URL: %w", err)
		}
	}
	if v := os.Getenv("MANA_CORE_SERVICE_KEY"); !c.keyGiven && v != "" {
		if err := WithServiceKey(v)(c); err != nil {
			return fmt.Errorf("MANA_CORE_SERVICE_KEY: %w", err)
		}
	}
	if c.stores > 0 {
		return nil
	}
	redisURL, host := os.Getenv("REDIS_URL"), os.Getenv("REDIS_HOST")
	switch mode := os.Getenv("SESSION_STORAGE_MODE"); mode {
	case "memory":
		return nil
	case "redis":
	case "":
		if redisURL == "" && host == "" {
			return nil
		}
	default:
		return fmt.Errorf("session: SESSION_STORAGE_MODE is %q, want memory or redis", mode)
	}
	port := cmp.Or(os.Getenv("REDIS_PORT"), "6379")
	if _, err := strconv.ParseUint(port, 10, 16); err != nil && redisURL == "" {
		return errors.New("session: REDIS_PORT is not a port")
	}
	opts := &redis.Options{
		Addr:     net.JoinHostPort(cmp.Or(host, "localhost"), port),
		Password: os.Getenv("REDIS_PASSWORD"),
	}
	if redisURL != "" {
		var err error
		if opts, err = redis.ParseURL(redisURL); err != nil {
			return errors.New("session: REDIS_URL is not a Redis URL") // err may quote the password
		}
	}
	opts.ContextTimeoutEnabled = true
	c.redis = redis.NewClient(opts)
	c.ownRedis = true
	return nil
}

// settle applies the options and the defaults and refuses what makes no sense.
func (c *config) settle(opts []Option) error {
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		if err := opt(c); err != nil {
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
	if c.ssoLink != nil && *c.ssoLink && c.serviceKey.empty() {
		return errors.New("session: New: the SSO-Link needs a service key")
	}
	c.makeLinks = c.ssoLink == nil || *c.ssoLink
	if c.ssoLink == nil {
		on := !c.serviceKey.empty()
		c.ssoLink = &on
	}
	c.authURL = cmp.Or(c.authURL, defaultAuthURL)
	c.loginPath = cmp.Or(c.loginPath, defaultLoginPath)
	c.linkPrefix = cmp.Or(c.linkPrefix, defaultLinkPath)
	c.sessionTTL = cmp.Or(c.sessionTTL, defaultSessionTTL)
	if c.ahead == nil {
		ahead := defaultRefreshAhead
		c.ahead = &ahead
	}
	if c.nearCache == nil {
		size := defaultNearCache
		c.nearCache = &size
	}
	if c.loginBurst == nil {
		burst := defaultLoginBurst
		c.loginBurst, c.loginEvery = &burst, defaultLoginEvery
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.redis != nil:
		store, err := NewRedisStore(c.redis)
		if err != nil {
			return err
		}
		c.store, c.ownStore = store, true
	case c.store == nil:
		c.store, c.ownStore = NewMemoryStore(), true
	}
	return nil
}
