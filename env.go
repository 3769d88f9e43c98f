package session

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
)

// FromEnv reads what is not set by an option from the environment, under the
// names that the TypeScript service uses:
//
//	MANA_CORE_AUTH_URL     auth server
//	MANA_CORE_SERVICE_KEY  service key
//	SESSION_STORAGE_MODE   "memory" or "redis"; default: redis if one of the next two is set
//	REDIS_URL              redis://user:password@host:port/db, or rediss://
//	REDIS_HOST             instead of it: a host name or an address, without a port; localhost
//	REDIS_PORT             beside REDIS_HOST; 6379
//	REDIS_PASSWORD         none
//
// and under a name of this package's own, for [WithEncryption]:
//
//	SESSION_ENCRYPTION_KEYS  keys as ParseKey reads them, the current one first, then
//	                         older ones, separated by commas; ",key" has no current one
//
// A REDIS_PORT such as tcp://10.0.0.1:6379, which Kubernetes sets for a service
// that is called redis, is ignored, with a line in the log. A Redis client made
// from the environment is closed by Close.
func FromEnv() Option {
	return func(c *config) error {
		c.fromEnv = true
		return nil
	}
}

// applyEnv fills the gaps of c that the environment has something for.
func (c *config) applyEnv() (err error) {
	const authURL, serviceKey = "MANA_CORE_AUTH_URL", "MANA_CORE_SERVICE_KEY"
	if v := os.Getenv(authURL); c.authURL == "" && v != "" {
		if c.authURL, err = checkURL(authURL, v); err != nil {
			return err
		}
	}
	if v := os.Getenv(serviceKey); !c.keyGiven && v != "" {
		if c.serviceKey, err = checkKey(serviceKey, v); err != nil {
			return err
		}
	}
	if c.stores > 0 {
		return nil
	}
	opts, err := c.redisFromEnv()
	if opts == nil || err != nil {
		return err
	}
	opts.ContextTimeoutEnabled = true
	c.redis = redis.NewClient(opts)
	c.ownRedis = true
	return nil
}

// applyKeysFromEnv is WithEncryption with the keys in the environment.
func (c *config) applyKeysFromEnv() error {
	const name = "SESSION_ENCRYPTION_KEYS"
	list := os.Getenv(name)
	if c.codec.keys != nil || list == "" {
		return nil
	}
	var current []byte
	var older [][]byte
	for i, text := range strings.Split(list, ",") {
		if i == 0 && strings.TrimSpace(text) == "" {
			continue
		}
		key, err := ParseKey(text)
		switch {
		case err != nil:
			return fmt.Errorf("session: %s: number %d: %w", name, i+1, err)
		case i == 0:
			current = key
		default:
			older = append(older, key)
		}
	}
	if err := WithEncryption(current, older...)(c); err != nil {
		return fmt.Errorf("session: %s: %w", name, err)
	}
	return nil
}

// redisFromEnv returns nil when sessions are to be kept in memory.
func (c *config) redisFromEnv() (*redis.Options, error) {
	redisURL, host, port := os.Getenv("REDIS_URL"), os.Getenv("REDIS_HOST"), os.Getenv("REDIS_PORT")
	mode := os.Getenv("SESSION_STORAGE_MODE")
	switch mode {
	case "memory":
		return nil, nil
	case "", "redis":
	default:
		return nil, fmt.Errorf("session: SESSION_STORAGE_MODE is %q, want memory or redis", printable(mode))
	}
	if redisURL != "" {
		opts, err := redis.ParseURL(redisURL)
		if err != nil {
			return nil, errors.New("session: REDIS_URL is not a Redis URL") // err may quote the password
		}
		return opts, nil
	}
	if strings.Contains(port, "://") {
		c.logger.Warn("session: REDIS_PORT is not a port but the address of a Kubernetes service, and is ignored")
		port = ""
	}
	switch {
	case port != "" && host == "":
		return nil, errors.New("session: REDIS_PORT without a REDIS_HOST")
	case port != "" && !isPort(port):
		return nil, errors.New("session: REDIS_PORT is not a port")
	case host == "" && mode == "":
		return nil, nil
	case host != "" && !isHost(host):
		return nil, errors.New("session: REDIS_HOST is not a host name or an address alone: a port goes to REDIS_PORT, a URL to REDIS_URL")
	}
	return &redis.Options{
		Addr:     net.JoinHostPort(cmp.Or(host, "localhost"), cmp.Or(port, "6379")),
		Password: os.Getenv("REDIS_PASSWORD"),
	}, nil
}

// isHost refuses ports, brackets, URLs and whatever else is no host alone.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return !strings.ContainsAny(s, ":/\\[]@?#%,;\"'") && !strings.ContainsFunc(s, unprintable)
}
