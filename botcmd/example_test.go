package botcmd_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/commands"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
	"github.com/mana/session/botcmd"
)

// A bot with !login, !logout, !whoami and a command of its own, in German. In
// encrypted rooms it works with a client that a crypto helper has prepared: see
// examples/matrixbot.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	svc, err := session.New(session.FromEnv())
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
	client, err := mautrix.NewClient("https://matrix.example", "@bot:matrix.example", os.Getenv("MATRIX_ACCESS_TOKEN"))
	if err != nil {
		log.Fatal(err)
	}

	proc := commands.NewProcessor[*session.Service](client)
	cmds, err := botcmd.New(proc, svc, botcmd.WithLanguage(func(context.Context, id.UserID) botcmd.Language {
		return botcmd.German()
	}))
	if err != nil {
		log.Fatal(err)
	}
	proc.Register(&commands.Handler[*session.Service]{
		Name: "token",
		Func: func(c *commands.Event[*session.Service]) {
			token, err := svc.Token(c.Ctx, c.Sender.String())
			if err != nil {
				cmds.ReplyError(c, err) // "Bitte melde dich zuerst an: !login"
				return
			}
			cmds.Reply(c, "Dein Token hat "+strconv.Itoa(len(token))+" Bytes.")
		},
	})
	if err := cmds.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// A language of one's own is a table; sentences that it leaves out are English.
func ExampleLanguage() {
	french := botcmd.Language{
		NotLoggedIn: "Connectez-vous d'abord : {prefix}login",
		LoggedOut:   "Vous êtes déconnecté.",
	}
	botcmd.WithLanguage(func(context.Context, id.UserID) botcmd.Language { return french })
}

func ExampleLanguage_Reply() {
	err := session.ErrNotLoggedIn
	fmt.Println(botcmd.English().Reply(err))
	fmt.Println(botcmd.German().Reply(err))
	// Output:
	// Please log in first: !login
	// Bitte melde dich zuerst an: !login
}
