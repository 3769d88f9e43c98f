//go:build goolm

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
	"github.com/mana/session/botcmd"
	"github.com/mana/session/internal/homeserver"
	"github.com/mana/session/sessiontest"
)

const (
	demoEmail    = "alice@example.com"
	demoPassword = "correct horse battery staple"
)

// demo starts everything that the bot needs on loopback, and a user who talks to it
// in an encrypted room.
func demo(ctx context.Context) (err error) {
	program, err := homeserver.Build(ctx, os.Stderr)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "matrixbot-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	server, err := homeserver.Start(ctx, program, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	auth := sessiontest.New()
	if err := auth.Start(); err != nil {
		return err
	}
	defer auth.Close()
	auth.AddUser(demoEmail, demoPassword)
	lists := newBackend(auth.PublicKey())
	defer lists.Close()
	fmt.Printf("homeserver %s, auth server %s, backend %s\n\n", server.URL, auth.URL, lists.URL)

	a := account{
		homeserver: server.URL, user: "todo", password: "the bot's password",
		database: filepath.Join(dir, "bot.db"), pickleKey: "the bot's key",
	}
	if err := register(ctx, a); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer cancel() // without a bot nobody answers
		ended <- start(ctx, a, settings{backend: lists.URL, language: botcmd.English()}, zerolog.Nop(), session.WithAuthURL(auth.URL))
	}()
	err = converse(ctx, server.URL, dir)
	cancel()
	return cmp.Or(<-ended, err)
}

func converse(ctx context.Context, homeserverURL, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	alice, err := newPerson(ctx, homeserverURL, "alice", dir)
	if err != nil {
		return err
	}
	todo := id.NewUserID("todo", homeserver.Name)
	err = func() error {
		room, err := alice.invite(ctx, true, true, todo)
		if err != nil {
			return err
		}
		if err := alice.joined(ctx, room, todo); err != nil {
			return err
		}
		for _, text := range []string{
			"!list",
			"!login " + demoEmail + " wrong",
			"!login " + demoEmail + " " + demoPassword,
			"!add call mum", "!add buy milk", "!done 1", "!publish", "!logout", "!list",
		} {
			_, reply, err := alice.ask(ctx, room, text)
			if err != nil {
				return err
			}
			if strings.HasPrefix(text, "!login") {
				text = "!login " + demoEmail + " …  (deleted by the bot)"
			}
			fmt.Printf("alice  %s\n todo  %s\n", text, strings.ReplaceAll(strings.TrimSpace(reply), "\n", "\n       "))
		}
		return nil
	}()
	return errors.Join(err, alice.Close())
}
