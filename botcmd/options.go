package botcmd

import (
	"context"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
)

// An Option changes what [New] makes.
type Option func(*config) error

type config struct {
	language    func(context.Context, id.UserID) Language
	web         WebLogin
	noPasswords bool
	logout      []session.LogoutOption
	timeout     time.Duration
	concurrency int
}

func newConfig(opts []Option) (config, error) {
	c := config{
		language:    func(context.Context, id.UserID) Language { return English() },
		timeout:     time.Minute,
		concurrency: 16,
	}
	for _, opt := range opts {
		if err := opt(&c); err != nil {
			return c, err
		}
	}
	if c.noPasswords && c.web == nil {
		return c, errors.New("botcmd: WithoutPasswords needs WithWebLogin: nobody could log in")
	}
	return c, nil
}

// WithLanguage sets the language of the answers to a user, which is [English]
// otherwise. Matrix does not know what its users speak: choose returns the same
// for all of them, or looks it up. It is called at each answer and must be safe
// for concurrent use.
func WithLanguage(choose func(ctx context.Context, user id.UserID) Language) Option {
	return func(c *config) error {
		if choose == nil {
			return errors.New("botcmd: WithLanguage: nil")
		}
		c.language = choose
		return nil
	}
}

// WithWebLogin lets users log in on a web page: !login answers with a link, and
// !login CODE or !code CODE completes the login. A password is still accepted,
// unless there is [WithoutPasswords], too.
func WithWebLogin(web WebLogin) Option {
	return func(c *config) error {
		if web == nil {
			return errors.New("botcmd: WithWebLogin: nil")
		}
		c.web = web
		return nil
	}
}

// WithoutPasswords makes !login refuse passwords. One that is sent all the same is
// deleted and not used. It needs [WithWebLogin].
func WithoutPasswords() Option {
	return func(c *config) error {
		c.noPasswords = true
		return nil
	}
}

// WithUnlink makes !logout remove the user's link at the auth server as well.
// Without it a linked user is logged in again by their next command: see
// [session.AndUnlink].
func WithUnlink() Option {
	return func(c *config) error {
		c.logout = []session.LogoutOption{session.AndUnlink()}
		return nil
	}
}

// WithTimeout sets how long one command may take, its answer included. It is a
// minute otherwise. The time that a homeserver asks the bot to wait for counts.
func WithTimeout(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return errors.New("botcmd: WithTimeout: not positive")
		}
		c.timeout = d
		return nil
	}
}

// WithConcurrency sets how many commands run at the same time, which is 16
// otherwise. Those of one user run one after the other in any case.
func WithConcurrency(n int) Option {
	return func(c *config) error {
		if n < 1 {
			return errors.New("botcmd: WithConcurrency: less than 1")
		}
		c.concurrency = n
		return nil
	}
}
