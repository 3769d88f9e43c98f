//go:build goolm

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
	"github.com/mana/session/botcmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := serve
	if len(os.Args) > 1 && os.Args[1] == "demo" {
		run = demo
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "matrixbot:", err)
		os.Exit(1)
	}
}

// serve runs the bot against real servers.
func serve(ctx context.Context) error {
	a := account{
		password:    os.Getenv("MATRIX_PASSWORD"),
		accessToken: os.Getenv("MATRIX_ACCESS_TOKEN"),
		pickleKey:   os.Getenv("MATRIX_PICKLE_KEY"),
	}
	flag.StringVar(&a.homeserver, "homeserver", "", "URL of the bot's homeserver")
	flag.StringVar(&a.user, "user", "", "the bot's user name; not needed with an access token")
	flag.StringVar(&a.database, "database", "matrixbot.db", "file for keys and the place in the conversation")
	var s settings
	flag.StringVar(&s.backend, "backend", "", "URL that !publish sends lists to")
	flag.StringVar(&s.loginURL, "login-url", "", "address of the login page as browsers see it; none: passwords are sent to the bot")
	flag.StringVar(&s.listen, "listen", "127.0.0.1:8080", "where the login page is served")
	language := flag.String("language", "en", "what the bot speaks about logins: en or de")
	flag.Parse()
	if a.homeserver == "" || a.pickleKey == "" || a.accessToken == "" && (a.user == "" || a.password == "") {
		return errors.New("a homeserver, MATRIX_PICKLE_KEY, and a user with MATRIX_PASSWORD or MATRIX_ACCESS_TOKEN are needed")
	}
	var ok bool
	if s.language, ok = map[string]botcmd.Language{"en": botcmd.English(), "de": botcmd.German()}[*language]; !ok {
		return fmt.Errorf("language %q is not known", *language)
	}
	log := zerolog.New(os.Stderr).Level(zerolog.InfoLevel).With().Timestamp().Logger()
	return start(ctx, a, s, log, session.FromEnv(), session.WithLogger(slog.New(zerolog.NewSlogHandler(log))))
}

// settings are what the flags say about the bot.
type settings struct {
	backend          string
	language         botcmd.Language
	loginURL, listen string
}

// start runs the bot until ctx ends.
func start(ctx context.Context, a account, s settings, log zerolog.Logger, opts ...session.Option) error {
	svc, err := session.New(opts...)
	if err != nil {
		return err
	}
	defer svc.Close()
	client, keys, err := connect(ctx, a, log)
	if err != nil {
		return err
	}
	options := []botcmd.Option{botcmd.WithLanguage(func(context.Context, id.UserID) botcmd.Language { return s.language })}
	if s.loginURL != "" {
		pages, err := servePages(ctx, svc, s.loginURL, s.listen)
		if err != nil {
			return errors.Join(err, keys.Close())
		}
		options = append(options, botcmd.WithWebLogin(pages), botcmd.WithoutPasswords())
	}
	b := &bot{sessions: svc, backend: s.backend}
	return errors.Join(b.listen(ctx, client, options...), keys.Close())
}
