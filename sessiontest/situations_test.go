package sessiontest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// What a bot should be tried in. Each example makes one situation, and shows what
// the Service says in it.

const user = "@alice:matrix.example"

// newServer is an auth server with one account.
func newServer(opts ...sessiontest.Option) *sessiontest.AuthServer {
	auth := sessiontest.New(opts...)
	auth.AddUser("alice@example.com", "secret")
	return auth
}

func newService(opts []session.Option, more ...session.Option) *session.Service {
	svc, err := session.New(append(opts, more...)...)
	if err != nil {
		panic(err)
	}
	return svc
}

func logIn(svc *session.Service) {
	if _, err := svc.Login(context.Background(), user, "alice@example.com", "secret"); err != nil {
		panic(err)
	}
}

func ExampleAuthServer_wrongPassword() {
	auth := newServer()
	defer auth.Close()
	svc := newService(auth.Options())
	defer svc.Close()

	_, err := svc.Login(context.Background(), user, "alice@example.com", "guess")
	fmt.Println(errors.Is(err, session.ErrInvalidCredentials))
	// Output: true
}

func ExampleAuthServer_outageThatEnds() {
	auth := newServer(sessiontest.WithTokenTTL(30 * time.Second)) // too short to be handed out twice
	defer auth.Close()
	svc := newService(auth.Options())
	defer svc.Close()
	logIn(svc)

	auth.Inject(sessiontest.Any, -1, sessiontest.Status(500, "connect ECONNREFUSED 127.0.0.1:5432"))
	_, err := svc.Token(context.Background(), user)
	fmt.Println("down, the session stays:", errors.Is(err, session.ErrAuthUnavailable))
	auth.ClearFaults()
	_, err = svc.Login(context.Background(), user, "alice@example.com", "secret")
	fmt.Println("up again:", err)
	// Output:
	// down, the session stays: true
	// up again: <nil>
}

func ExampleAuthServer_tokenThatRunsOut() {
	auth := newServer(sessiontest.WithTokenTTL(30 * time.Second))
	defer auth.Close()
	auth.Link(user, "alice@example.com")
	svc := newService(auth.Options())
	defer svc.Close()
	logIn(svc)

	auth.SetTokenTTL(15 * time.Minute)
	s, err := svc.Session(context.Background(), user)
	if err != nil {
		panic(err)
	}
	token, err := svc.Token(context.Background(), user)
	fmt.Println("replaced:", token != s.Token(), err)
	// Output: replaced: true <nil>
}

func ExampleAuthServer_logoutElsewhere() {
	auth := newServer()
	defer auth.Close()
	store := session.NewMemoryStore() // stands for the Redis that bots share
	defer store.Close()
	todo := newService(auth.Options(), session.WithStore(store))
	defer todo.Close()
	calendar := newService(auth.Options(), session.WithStore(store))
	defer calendar.Close()
	logIn(todo)
	_, err := calendar.Token(context.Background(), user)
	fmt.Println("the other bot knows her:", err)

	if err := todo.Logout(context.Background(), user); err != nil {
		panic(err)
	}
	_, err = calendar.Token(context.Background(), user)
	fmt.Println("not any more:", errors.Is(err, session.ErrNotLoggedIn))
	// Output:
	// the other bot knows her: <nil>
	// not any more: true
}

func ExampleAuthServer_loginLimit() {
	auth := newServer()
	defer auth.Close()
	svc := newService(auth.Options(), session.WithLoginLimit(3, 30*time.Second)) // as by default
	defer svc.Close()

	var err error
	for range 4 {
		_, err = svc.Login(context.Background(), user, "alice@example.com", "guess")
	}
	said, _ := errors.AsType[*session.AuthError](err)
	fmt.Println(errors.Is(err, session.ErrRateLimited), said.RetryAfter > 20*time.Second)
	// Output: true true
}

func ExampleAuthServer_userWithoutALink() {
	auth := newServer()
	defer auth.Close()
	svc := newService(auth.Options())
	defer svc.Close()

	_, err := svc.Token(context.Background(), user)
	fmt.Println("no link:", errors.Is(err, session.ErrNotLoggedIn))
	auth.Link("@bob:matrix.example", "alice@example.com")
	_, err = svc.Token(context.Background(), "@bob:matrix.example")
	fmt.Println("linked:", err)
	// Output:
	// no link: true
	// linked: <nil>
}

func ExampleAuthServer_storeThatIsAway() {
	auth := newServer()
	defer auth.Close()
	store := storetest.NewFaultStore()
	defer store.Close()
	svc := newService(auth.Options(), session.WithStore(store))
	defer svc.Close()
	logIn(svc)

	back := store.Inject(storetest.Away)
	store.Cut()
	_, err := svc.Token(context.Background(), user)
	fmt.Println("known here:", err)
	_, err = svc.Token(context.Background(), "@bob:matrix.example")
	fmt.Println("a stranger:", errors.Is(err, session.ErrStoreUnavailable))
	back()
	// Output:
	// known here: <nil>
	// a stranger: true
}
