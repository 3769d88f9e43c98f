package sessiontest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// A bot's test has its own auth server, without a network, and decides what
// goes wrong there.
func Example() {
	auth := sessiontest.New()
	defer auth.Close()
	auth.AddUser("alice@example.com", "secret")

	svc, err := session.New(auth.Options()...)
	if err != nil {
		panic(err)
	}
	defer svc.Close()

	auth.Inject(sessiontest.Login, 1, sessiontest.Reset())
	for range 2 {
		_, err = svc.Login(context.Background(), "@alice:matrix.example", "alice@example.com", "secret")
		fmt.Println("no answer:", errors.Is(err, session.ErrAuthUnavailable), "- in:", err == nil)
	}
	fmt.Println("logins:", auth.Calls(sessiontest.Login))
	// Output:
	// no answer: true - in: false
	// no answer: false - in: true
	// logins: 2
}
