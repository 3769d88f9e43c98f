package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// exampleServer stands for the auth server of a deployment.
func exampleServer() *sessiontest.AuthServer {
	auth := sessiontest.New()
	auth.AddUser("alice@example.com", "secret")
	return auth
}

// exampleService is a bot's Service. A real one needs no WithHTTPClient.
func exampleService(auth *sessiontest.AuthServer) *session.Service {
	svc, err := session.New(
		session.WithAuthURL(auth.URL),
		session.WithServiceKey(sessiontest.DefaultServiceKey),
		session.WithHTTPClient(auth.Client()),
	)
	if err != nil {
		log.Fatal(err)
	}
	return svc
}

func Example() {
	auth := exampleServer()
	svc := exampleService(auth)
	defer svc.Close()
	ctx := context.Background()

	// What a bot does at every command.
	command := func(user string) string {
		token, err := svc.Token(ctx, user)
		switch {
		case errors.Is(err, session.ErrNotLoggedIn):
			return "Please log in."
		case errors.Is(err, session.ErrAuthUnavailable):
			return "Please try again in a minute."
		case err != nil:
			return "Something is wrong here; the operator knows."
		}
		_ = token // for the backend
		return "Here is your list."
	}

	fmt.Println(command("@alice:matrix.example"))
	if _, err := svc.Login(ctx, "@alice:matrix.example", "alice@example.com", "secret"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(command("@alice:matrix.example"))
	// Output:
	// Please log in.
	// Here is your list.
}

func ExampleNew_redis() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer client.Close()
	svc, err := session.New(
		session.WithAuthURL("https://auth.example.com"),
		session.WithRedis(client), // every bot on this Redis knows the same users
	)
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
}

func ExampleFromEnv() {
	// MANA_CORE_AUTH_URL, MANA_CORE_SERVICE_KEY, REDIS_HOST, … as the
	// TypeScript service reads them; an option wins over the environment.
	svc, err := session.New(session.FromEnv(), session.WithSessionTTL(24*time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
}

func ExampleService_Token() {
	auth := exampleServer()
	auth.Link("@alice:matrix.example", "alice@example.com") // signed in to Matrix through the same provider
	svc := exampleService(auth)
	defer svc.Close()

	_, err := svc.Token(context.Background(), "@alice:matrix.example")
	fmt.Println(err)
	_, err = svc.Token(context.Background(), "@stranger:matrix.example")
	fmt.Println(errors.Is(err, session.ErrNotLoggedIn))
	_, err = svc.Token(context.Background(), "not a user")
	fmt.Println(errors.Is(err, session.ErrInvalidUserID))
	// Output:
	// <nil>
	// true
	// true
}

func ExampleService_Login() {
	svc := exampleService(exampleServer())
	defer svc.Close()
	ctx := context.Background()

	_, err := svc.Login(ctx, "@alice:matrix.example", "alice@example.com", "wrong")
	switch {
	case errors.Is(err, session.ErrInvalidCredentials):
		fmt.Println("That is not your password.")
	case errors.Is(err, session.ErrEmailNotVerified):
		fmt.Println("Please confirm your email address first.")
	case errors.Is(err, session.ErrRateLimited):
		if said, ok := errors.AsType[*session.AuthError](err); ok {
			fmt.Println("Too many logins; try again in", said.RetryAfter)
		}
	}
	s, err := svc.Login(ctx, "@alice:matrix.example", "alice@example.com", "secret")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("Welcome,", s.Email)
	// Output:
	// That is not your password.
	// Welcome, alice@example.com
}

func ExampleService_Logout() {
	auth := exampleServer()
	auth.Link("@alice:matrix.example", "alice@example.com")
	svc := exampleService(auth)
	defer svc.Close()
	ctx := context.Background()

	loggedIn := func() bool {
		in, err := svc.LoggedIn(ctx, "@alice:matrix.example")
		if err != nil {
			log.Fatal(err)
		}
		return in
	}
	fmt.Println(loggedIn())
	if err := svc.Logout(ctx, "@alice:matrix.example"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(loggedIn(), "because the link stays")
	if err := svc.Logout(ctx, "@alice:matrix.example", session.AndUnlink()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(loggedIn())
	// Output:
	// true
	// true because the link stays
	// false
}

func ExampleService_Session() {
	svc := exampleService(exampleServer())
	defer svc.Close()
	ctx := context.Background()
	if _, err := svc.Login(ctx, "@alice:matrix.example", "alice@example.com", "secret"); err != nil {
		log.Fatal(err)
	}
	s, err := svc.Session(ctx, "@alice:matrix.example")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Email, time.Until(s.ExpiresAt).Round(time.Hour))
	email, err := svc.Email(ctx, "@alice:matrix.example")
	fmt.Println(email, err)
	// Output:
	// alice@example.com 168h0m0s
	// alice@example.com <nil>
}

func ExampleService_Refresh() {
	auth := exampleServer()
	auth.Link("@alice:matrix.example", "alice@example.com")
	svc := exampleService(auth)
	defer svc.Close()
	ctx := context.Background()

	rejected, _ := svc.Token(ctx, "@alice:matrix.example")
	auth.RotateSigningKey() // the backends do not know the old key any more
	renewed, err := svc.Refresh(ctx, "@alice:matrix.example", rejected)
	fmt.Println(renewed != rejected, err)
	// Output: true <nil>
}

func ExampleService_SetData() {
	svc := exampleService(exampleServer())
	defer svc.Close()
	ctx := context.Background()
	const alice = "@alice:matrix.example"
	if _, err := svc.Login(ctx, alice, "alice@example.com", "secret"); err != nil {
		log.Fatal(err)
	}

	type settings struct{ Language string }
	if err := svc.SetData(ctx, alice, "settings", settings{"de"}); err != nil {
		log.Fatal(err)
	}
	var s settings
	found, err := svc.Data(ctx, alice, "settings", &s)
	fmt.Println(s.Language, found, err)
	if err := svc.DeleteData(ctx, alice, "settings"); err != nil {
		log.Fatal(err)
	}
	found, err = svc.Data(ctx, alice, "settings", &s)
	fmt.Println(found, err)
	// Output:
	// de true <nil>
	// false <nil>
}

func ExampleDataAs() {
	svc := exampleService(exampleServer())
	defer svc.Close()
	ctx := context.Background()
	const alice = "@alice:matrix.example"
	if _, err := svc.Login(ctx, alice, "alice@example.com", "secret"); err != nil {
		log.Fatal(err)
	}
	if err := svc.SetData(ctx, alice, "page", 3); err != nil {
		log.Fatal(err)
	}
	page, found, err := session.DataAs[int](ctx, svc, alice, "page")
	fmt.Println(page, found, err)
	// Output: 3 true <nil>
}

func ExampleService_Client() {
	auth := exampleServer()
	auth.Link("@alice:matrix.example", "alice@example.com")
	svc := exampleService(auth)
	defer svc.Close()

	backend := world.RoundTripper(func(r *http.Request) (*http.Response, error) { // stands for a backend
		fmt.Println("Bearer token sent:", len(r.Header.Get("Authorization")) > 300)
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
	})
	client := &http.Client{Transport: svc.Transport("@alice:matrix.example", backend)}
	resp, err := client.Get("https://todo.example.com/lists")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	fmt.Println(resp.StatusCode, err)
	// Output:
	// Bearer token sent: true
	// 200 <nil>
}

// A generated API client is built once, and each request says whose it is.
func ExampleService_HTTPClient() {
	auth := exampleServer()
	auth.Link("@alice:matrix.example", "alice@example.com")
	svc := exampleService(auth)
	defer svc.Close()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "token sent: ", r.Header.Get("Authorization") != "")
	}))
	defer backend.Close()

	client := svc.HTTPClient(session.AllowHosts(strings.TrimPrefix(backend.URL, "http://")))
	ctx := session.WithUser(context.Background(), "@alice:matrix.example")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, backend.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))
	// Output: token sent: true
}

func ExampleService_Users() {
	auth := exampleServer()
	auth.Link("@alice:matrix.example", "alice@example.com")
	svc := exampleService(auth)
	defer svc.Close()
	ctx := context.Background()
	if _, err := svc.Token(ctx, "@alice:matrix.example"); err != nil {
		log.Fatal(err)
	}
	for user, err := range svc.Users(ctx) {
		fmt.Println(user, err)
	}
	dropped, err := svc.Cleanup(ctx)
	fmt.Println(dropped, err)
	// Output:
	// @alice:matrix.example <nil>
	// 0 <nil>
}

func ExampleService_Stats() {
	auth := exampleServer()
	auth.Link("@alice:matrix.example", "alice@example.com")
	svc := exampleService(auth)
	defer svc.Close()
	ctx := context.Background()
	if _, err := svc.Token(ctx, "@alice:matrix.example"); err != nil {
		log.Fatal(err)
	}
	stats, err := svc.Stats(ctx)
	fmt.Println(stats.Active, stats.StorageMode, stats.RefreshesByLink, err)
	h := svc.Health(ctx)
	fmt.Println(h.Store.OK, h.Auth.OK, h.Degraded)
	// Output:
	// 1 memory 1 <nil>
	// true true false
}
