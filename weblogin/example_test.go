package weblogin_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/weblogin"
)

// The bot gives a link, whose page shows a code, and takes the code in the same room.
func Example() {
	auth := sessiontest.New()
	defer auth.Close()
	svc, err := session.New(auth.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
	pages, err := weblogin.New(svc, "https://bot.example/login", weblogin.WithBotName("Todo"))
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux() // served at https://bot.example
	mux.Handle("/login", pages)

	ctx := context.Background()
	const alice, room = "@alice:matrix.example", "!room:matrix.example"
	link, err := pages.Link(ctx, alice, room) // for !login
	fmt.Println(strings.HasPrefix(link, "https://bot.example/login?"), err)

	_, err = pages.Complete(ctx, alice, room, "BCDF-GHJK") // for !login BCDF-GHJK, a guess
	fmt.Println(errors.Is(err, session.ErrInvalidCredentials))
	// Output:
	// true <nil>
	// true
}
