package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/spf13/pflag"

	"github.com/mana/session"
	"github.com/mana/session/internal/rediskeys"
)

// config is what flags say. Where they are silent the environment does, under the
// names that session.FromEnv reads.
type config struct {
	redisURL       string
	passwordFile   string
	cluster        bool
	sentinelMaster string
	keyPrefix      string

	authURL        string
	linkPath       string
	serviceKeyFile string
	keysFile       string
}

func (c *config) flags(flags *pflag.FlagSet) {
	flags.StringVar(&c.redisURL, "redis", "", "Redis, as redis://[user@]host:port[/db] or rediss://… (default $REDIS_URL, or $REDIS_HOST and $REDIS_PORT)")
	flags.StringVar(&c.passwordFile, "redis-password-file", "", "`file` with the password of Redis (default $REDIS_PASSWORD)")
	flags.BoolVar(&c.cluster, "cluster", false, "Redis is a Cluster: more nodes as ?addr=host:port in the URL")
	flags.StringVar(&c.sentinelMaster, "sentinel-master", "", "`name` of the master: the URL is that of a Sentinel")
	flags.StringVar(&c.keyPrefix, "key-prefix", "bot:session:", "`prefix` of the sessions' keys")
	flags.StringVar(&c.authURL, "auth-url", "", "`URL` of the auth server (default $MANA_CORE_AUTH_URL, or http://localhost:3001)")
	flags.StringVar(&c.linkPath, "link-path", "/api/v1/api/v1/auth", "`prefix` of the auth server's link calls")
	flags.StringVar(&c.serviceKeyFile, "service-key-file", "", "`file` with the service key (default $MANA_CORE_SERVICE_KEY)")
	flags.StringVar(&c.keysFile, "encryption-keys-file", "", "`file` with the encryption keys, the current one first (default $SESSION_ENCRYPTION_KEYS)")
}

// errMemory is for those who have bots without Redis.
var errMemory = errors.New("no Redis is named. Bots without one keep their sessions in memory, where nobody else can look: " +
	"set REDIS_URL as the bots have it, or --redis")

// How long a connection, and an answer, may take. An operator waits for it.
const (
	dialTimeout   = 2 * time.Second
	answerTimeout = 2 * time.Second
)

// noNotices has a connection ask for less before it is of use, of a Redis that is slow.
var noNotices = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}

// connect returns a client of the Redis that is configured.
func (c *config) connect() (redis.UniversalClient, error) {
	if c.cluster && c.sentinelMaster != "" {
		return nil, errors.New("--cluster and --sentinel-master: a Redis is one of the two at the most")
	}
	rawURL, password, err := c.redisAddress()
	if err != nil {
		return nil, err
	}
	// In the address that the environment names, a flag wins over what stands there.
	of := func(inURL string) string {
		if c.passwordFile != "" {
			return password
		}
		return cmp.Or(inURL, password)
	}
	notAURL := errors.New("the URL of Redis is none: want redis://[user@]host:port[/db]") // its own error may quote the password
	switch {
	case c.cluster:
		o, err := redis.ParseClusterURL(rawURL)
		if err != nil {
			return nil, notAURL
		}
		o.Password, o.ContextTimeoutEnabled, o.DialTimeout, o.DialerRetries = of(o.Password), true, dialTimeout, 1
		o.ReadTimeout, o.WriteTimeout = cmp.Or(o.ReadTimeout, answerTimeout), cmp.Or(o.WriteTimeout, answerTimeout)
		o.DisableIdentity, o.MaintNotificationsConfig = true, noNotices
		return redis.NewClusterClient(o), nil
	case c.sentinelMaster != "":
		o, err := redis.ParseFailoverURL(rawURL)
		if err != nil {
			return nil, notAURL
		}
		o.MasterName = c.sentinelMaster
		o.Password, o.ContextTimeoutEnabled, o.DialTimeout, o.DialerRetries = of(o.Password), true, dialTimeout, 1
		o.ReadTimeout, o.WriteTimeout, o.MaxRetries = cmp.Or(o.ReadTimeout, answerTimeout), cmp.Or(o.WriteTimeout, answerTimeout), 1
		o.DisableIdentity = true
		return redis.NewFailoverClient(o), nil
	}
	o, err := redis.ParseURL(rawURL)
	if err != nil {
		return nil, notAURL
	}
	o.Password, o.ContextTimeoutEnabled, o.DialTimeout, o.DialerRetries = of(o.Password), true, dialTimeout, 1
	o.ReadTimeout, o.WriteTimeout, o.MaxRetries = cmp.Or(o.ReadTimeout, answerTimeout), cmp.Or(o.WriteTimeout, answerTimeout), 1
	o.DisableIdentity, o.MaintNotificationsConfig = true, noNotices
	return redis.NewClient(o), nil
}

// redisAddress is the URL of Redis, and the password that goes with it.
func (c *config) redisAddress() (rawURL, password string, err error) {
	password = os.Getenv("REDIS_PASSWORD")
	if c.passwordFile != "" {
		if password, err = secretFrom(c.passwordFile); err != nil {
			return "", "", err
		}
	}
	if c.redisURL != "" {
		if hasPassword(c.redisURL) {
			return "", "", errors.New("--redis has a password in it, which everybody on this machine can read: " +
				"use REDIS_URL, REDIS_PASSWORD or --redis-password-file")
		}
		return c.redisURL, password, nil
	}
	host, port, mode := os.Getenv("REDIS_HOST"), os.Getenv("REDIS_PORT"), os.Getenv("SESSION_STORAGE_MODE")
	if strings.Contains(port, "://") { // Kubernetes sets such a one for a service that is called redis
		port = ""
	}
	switch fromEnv := os.Getenv("REDIS_URL"); {
	case mode == "memory":
		return "", "", fmt.Errorf("SESSION_STORAGE_MODE is memory: %w", errMemory)
	case mode != "" && mode != "redis":
		return "", "", fmt.Errorf("SESSION_STORAGE_MODE is %q, want memory or redis", mode)
	case fromEnv != "":
		if c.passwordFile == "" && c.sentinelMaster == "" {
			password = "" // REDIS_PASSWORD goes with REDIS_HOST, as for bots
		}
		return fromEnv, password, nil
	case host == "" && mode == "":
		return "", "", errMemory
	}
	return "redis://" + net.JoinHostPort(cmp.Or(host, "localhost"), cmp.Or(port, "6379")), password, nil
}

// hasPassword reports whether a URL has a password in it: before the host, or, as the
// URL of a Sentinel may, among its parameters.
func hasPassword(rawURL string) bool {
	u, err := url.Parse(rawURL)
	if err != nil {
		return false // and none of Redis, which connect says
	}
	_, beforeHost := u.User.Password()
	return beforeHost || u.Query().Has("password")
}

// secretFrom reads a secret from a file.
func secretFrom(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}

// serviceKey is the key for the auth server, "" for none.
func (c *config) serviceKey() (string, error) {
	if c.serviceKeyFile != "" {
		return secretFrom(c.serviceKeyFile)
	}
	return strings.TrimSpace(os.Getenv("MANA_CORE_SERVICE_KEY")), nil
}

// options are those of a Service, less its store.
func (c *config) options() ([]session.Option, error) {
	opts := []session.Option{session.FromEnv(), session.WithLinkPath(c.linkPath)}
	if c.authURL != "" {
		opts = append(opts, session.WithAuthURL(c.authURL))
	}
	key, err := c.serviceKey()
	if err != nil {
		return nil, err
	}
	opts = append(opts, session.WithServiceKey(key))
	current, older, err := c.encryptionKeys()
	if err != nil {
		return nil, err
	}
	if current != nil || older != nil {
		opts = append(opts, session.WithEncryption(current, older...))
	}
	return opts, nil
}

// encryptionKeys are those that are configured; the current one may be missing.
func (c *config) encryptionKeys() (current []byte, older [][]byte, err error) {
	list, name := os.Getenv("SESSION_ENCRYPTION_KEYS"), "SESSION_ENCRYPTION_KEYS"
	if c.keysFile != "" {
		text, err := os.ReadFile(c.keysFile)
		if err != nil {
			return nil, nil, err
		}
		list, name = strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ","), c.keysFile
	}
	if list == "" {
		return nil, nil, nil
	}
	for i, text := range strings.Split(list, ",") {
		if i == 0 && strings.TrimSpace(text) == "" {
			continue
		}
		key, err := session.ParseKey(text)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("%s: number %d: %w", name, i+1, err)
		case i == 0:
			current = key
		default:
			older = append(older, key)
		}
	}
	return current, older, nil
}

// deployment is what the bots share, as this program reaches it.
type deployment struct {
	client redis.UniversalClient
	store  *session.RedisStore
	svc    *session.Service
	keys   rediskeys.Keys
	name   string // of the Redis, to be shown
	stop   func() bool
	behind atomic.Int64 // how far this machine's clock is behind that of Redis, in nanoseconds, if it was measured
}

// open prepares everything and asks nobody. Unless asks, the Service asks the auth
// server for nothing: looking at a user is not to begin a session for them. When ctx
// ends so do the connections, because go-redis goes on to wait for an answer.
func (c *config) open(ctx context.Context, asks bool) (*deployment, error) {
	opts, err := c.options()
	if err != nil {
		return nil, usage(err)
	}
	client, err := c.connect()
	if err != nil {
		return nil, usage(err)
	}
	d := &deployment{client: client, name: nameOf(client), stop: context.AfterFunc(ctx, func() { _ = client.Close() })}
	if d.keys, err = rediskeys.New(c.keyPrefix); err == nil {
		d.store, err = session.NewRedisStore(client, session.WithKeyPrefix(c.keyPrefix))
	}
	if err == nil {
		opts = append(opts, session.WithStore(d.store), session.WithNearCache(0), session.WithBotName("mana-session"))
		if !asks {
			opts = append(opts, session.WithSSOLink(false))
		}
		d.svc, err = session.New(opts...)
	}
	if err != nil {
		d.close()
		return nil, usage(err)
	}
	return d, nil
}

// close ends everything. The connections go first: there is nobody to wait for
// commands that a Redis does not answer.
func (d *deployment) close() {
	d.stop()
	_ = d.client.Close()
	if d.svc != nil {
		_ = d.svc.Close()
	}
	if d.store != nil {
		_ = d.store.Close()
	}
}

// nameOf is where a client connects to, without what it says there.
func nameOf(client redis.UniversalClient) string {
	switch c := client.(type) {
	case *redis.Client:
		o := c.Options()
		if o.Addr == "FailoverClient" { // go-redis's word for whatever Sentinel names
			return fmt.Sprintf("the master that Sentinel names, database %d", o.DB)
		}
		return fmt.Sprintf("%s, database %d", o.Addr, o.DB)
	case *redis.ClusterClient:
		return "Cluster at " + strings.Join(c.Options().Addrs, ", ")
	}
	return fmt.Sprintf("%T", client)
}

// masters calls do for each server that has keys of its own.
func (d *deployment) masters(ctx context.Context, do func(ctx context.Context, master *redis.Client) error) error {
	switch c := d.client.(type) {
	case *redis.Client:
		return do(ctx, c)
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, do)
	}
	return fmt.Errorf("the servers behind a %T cannot be listed", d.client)
}

// authServer is where the auth server is, as far as this program knows.
func (c *config) authServer() string {
	return strings.TrimRight(cmp.Or(c.authURL, os.Getenv("MANA_CORE_AUTH_URL"), "http://localhost:3001"), "/")
}
