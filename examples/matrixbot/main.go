// Matrixbot keeps todo lists for users who are logged in.
//
//	go run -tags goolm . demo
//
// needs nothing but Go: it starts a homeserver, an auth server and a backend of
// its own on loopback, and shows a user talking to the bot. Against real servers:
//
//	export MATRIX_PASSWORD=… MATRIX_PICKLE_KEY=…
//	go run -tags goolm . -homeserver https://matrix.example.com -user todo \
//		-database todo.db -backend https://api.example.com
//
// Instead of the password MATRIX_ACCESS_TOKEN can be set. MATRIX_PICKLE_KEY, which
// encrypts the keys in the database, may be any text and must stay the same. Auth
// server and Redis are those of session.FromEnv.
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

	"github.com/mana/session"
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
	backend := flag.String("backend", "", "URL that !publish sends lists to")
	flag.Parse()
	if a.homeserver == "" || a.pickleKey == "" || a.accessToken == "" && (a.user == "" || a.password == "") {
		return errors.New("a homeserver, MATRIX_PICKLE_KEY, and a user with MATRIX_PASSWORD or MATRIX_ACCESS_TOKEN are needed")
	}
	log := zerolog.New(os.Stderr).Level(zerolog.InfoLevel).With().Timestamp().Logger()
	return start(ctx, a, *backend, log, session.FromEnv(), session.WithLogger(slog.New(zerolog.NewSlogHandler(log))))
}

// start runs the bot until ctx ends.
func start(ctx context.Context, a account, backend string, log zerolog.Logger, opts ...session.Option) error {
	svc, err := session.New(opts...)
	if err != nil {
		return err
	}
	defer svc.Close()
	client, keys, err := connect(ctx, a, log)
	if err != nil {
		return err
	}
	b := &bot{sessions: svc, backend: backend}
	return errors.Join(b.listen(ctx, client), keys.Close())
}
