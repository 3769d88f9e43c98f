// Matrixbot is a bot that keeps todo lists for users who are logged in: an example
// of package botcmd. What it does is in bot.go; the other files connect it.
//
//	go run -tags goolm . demo
//
// needs nothing but Go: it starts a homeserver, an auth server and a backend of
// its own on loopback, and shows a user talking to the bot in an encrypted room.
// The first time takes some minutes, in which the homeserver is built. Against real
// servers:
//
//	export MATRIX_PASSWORD=… MATRIX_PICKLE_KEY=…
//	go run -tags goolm . -homeserver https://matrix.example.com -user todo \
//		-database todo.db -backend https://api.example.com -language de
//
// A homeserver with the Matrix Authentication Service has no password login: set
// MATRIX_ACCESS_TOKEN instead, and leave out -user. MATRIX_PICKLE_KEY, which
// encrypts the keys in the database, may be any text and must stay the same. Auth
// server and Redis are those of session.FromEnv.
//
// With -login-url https://bot.example.com/login -listen 127.0.0.1:8080, !login is
// answered with a link to a page for the password, which stays out of the room.
//
// Then invite the bot to a room with nobody but you, let it delete messages there
// (power level 50), and send
//
//	!login alice@example.com password
//	!add call mum
//	!list
//	!done 1
//	!publish
//	!logout
//
// With -tags goolm and modernc.org/sqlite everything is Go: it builds with
// CGO_ENABLED=0.
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
