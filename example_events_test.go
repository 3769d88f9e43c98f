package session_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/mana/session"
)

// Why a user has no session is kept on the store, for all bots that share it.
func ExampleService_Trail() {
	auth := exampleServer()
	defer auth.Close()
	svc, err := session.New(append(auth.Options(), session.WithBotName("todo"))...)
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
	ctx := context.Background()
	if _, err := svc.Login(ctx, "@alice:matrix.example", "alice@example.com", "secret"); err != nil {
		log.Fatal(err)
	}
	if err := svc.Logout(ctx, "@alice:matrix.example"); err != nil {
		log.Fatal(err)
	}
	trail, err := svc.Trail(ctx, "@alice:matrix.example")
	if err != nil {
		log.Fatal(err)
	}
	for _, event := range trail { // the newest first
		fmt.Println(event.Kind, "on", event.Bot)
	}
	// Output:
	// ended on todo
	// began on todo
}

// A user whose session the auth server has ended hears it from the bot.
func ExampleWithOnSessionEnd() {
	auth := exampleServer()
	defer auth.Close()
	told := make(chan session.SessionEnd, 1)
	svc, err := session.New(append(auth.Options(), session.WithOnSessionEnd(func(_ context.Context, end session.SessionEnd) {
		told <- end // a real bot sends a message
	}))...)
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
	ctx := context.Background()
	s, err := svc.Login(ctx, "@alice:matrix.example", "alice@example.com", "secret")
	if err != nil {
		log.Fatal(err)
	}
	auth.RevokeRefreshTokens("alice@example.com")
	_, err = svc.Refresh(ctx, "@alice:matrix.example", s.Token())
	fmt.Println(errors.Is(err, session.ErrNotLoggedIn))

	end := <-told
	fmt.Println(end.UserID, end.Reason)
	// Output:
	// true
	// @alice:matrix.example refused
}
