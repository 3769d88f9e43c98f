package weblogin

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
)

// keyPrefix is what the keys on Redis begin with. The TypeScript service counts
// every key under the sessions' own prefix as a session.
const keyPrefix = "bot:login:"

type config struct {
	store   session.Store
	name    string
	command string
	perMin  int
	logger  *slog.Logger
}

// An Option changes what [New] makes.
type Option func(*config) error

// WithRedis keeps the links on Redis, so that any process that shares it can serve
// and complete them. Without it, or [WithStore], they are kept in this process,
// which then has to serve the page itself and forgets its links when it ends. The
// same client as for sessions will do; it stays the caller's to close. The keys
// begin with "bot:login:" and have a TTL.
func WithRedis(client redis.UniversalClient) Option {
	return func(c *config) (err error) {
		c.store, err = session.NewRedisStore(client, session.WithKeyPrefix(keyPrefix))
		return err
	}
}

// WithStore keeps the links in a store of the caller's. It must not be the one
// that sessions are kept in: give it a prefix, or a table, of its own. It needs
// none of the optional capabilities, and nothing but Get and Swap is called.
func WithStore(store session.Store) Option {
	return func(c *config) error {
		if store == nil || reflect.ValueOf(store).Kind() == reflect.Pointer && reflect.ValueOf(store).IsNil() {
			return errors.New("weblogin: WithStore: nil")
		}
		c.store = store
		return nil
	}
}

// WithBotName tells the page the name of the bot, or of the service it belongs to,
// as users know it. Without it the page says "the bot".
func WithBotName(name string) Option {
	return func(c *config) error {
		c.name = name
		return nil
	}
}

// WithCommand sets the command that the page tells users to send to the bot: by
// itself for a new link, followed by the code to complete a login. The default is
// "!login".
func WithCommand(command string) Option {
	return func(c *config) error {
		if command == "" {
			return errors.New("weblogin: WithCommand: empty")
		}
		c.command = command
		return nil
	}
}

// WithGlobalLimit sets how many links this process makes in a minute, and how many
// passwords it passes on, for all users together. The default is 60; 0 is no
// limit. In memory it also bounds how many links there are.
func WithGlobalLimit(perMinute int) Option {
	return func(c *config) error {
		if perMinute < 0 {
			return fmt.Errorf("weblogin: WithGlobalLimit: %d is negative", perMinute)
		}
		c.perMin = perMinute
		return nil
	}
}

// WithLogger sets where to log what an operator should know: which users were made
// a link, logged in on the page and completed their login, and what failed. It
// logs no email, password, code or link. By default nothing is logged.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) error {
		if logger == nil {
			return errors.New("weblogin: WithLogger: no logger")
		}
		c.logger = logger
		return nil
	}
}
