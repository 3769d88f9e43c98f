// Quickstart shows a user's life with package session, from login to logout.
//
//	go run ./examples/quickstart
//
// needs nothing but Go: it starts an auth server of its own, keeps sessions in
// memory, and lets tokens live a little over a minute. Against real servers:
//
//	go run ./examples/quickstart -auth-url https://auth.example.com \
//		-service-key … -redis localhost:6379 -user @you:matrix.example -email you@example.com
//
// asks for the password on standard input, and leaves out what would need the
// auth server to misbehave.
//
//	go run github.com/mana/session/examples/quickstart -serve localhost:3001
//
// is an auth server to try a bot of your own with, until it is interrupted. It has
// the account alice@example.com with the password "password".
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

func main() {
	d := demo{input: os.Stdin}
	flag.StringVar(&d.authURL, "auth-url", "", "auth server; default: one of its own")
	flag.StringVar(&d.serviceKey, "service-key", "", "service key for the SSO-Link")
	flag.StringVar(&d.redisAddr, "redis", "", "Redis address; default: memory")
	flag.StringVar(&d.user, "user", "@alice:matrix.example", "Matrix user ID")
	flag.StringVar(&d.email, "email", "alice@example.com", "email to log in with")
	address := flag.String("serve", "", "be an auth server at this address instead, to try a bot with")
	flag.Parse()
	run := d.run
	if *address != "" {
		run = func(ctx context.Context) error {
			listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *address)
			if err != nil {
				return err
			}
			return serve(ctx, listener, d.email)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// serve is an auth server with one account until ctx ends.
func serve(ctx context.Context, listener net.Listener, email string) error {
	const password = "password"
	auth := sessiontest.New()
	defer auth.Close()
	auth.AddUser(email, password)
	server := &http.Server{Handler: auth, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Printf("An auth server for tries listens on http://%s. It knows %s with the password %q.\n", listener.Addr(), email, password)
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}

type demo struct {
	authURL, serviceKey, redisAddr, user, email string

	input    io.Reader // where the password of a real account comes from
	password string
	auth     *sessiontest.AuthServer // nil with -auth-url
	svc      *session.Service
}

func (d *demo) run(ctx context.Context) error {
	if err := d.prepare(); err != nil {
		return err
	}
	opts := []session.Option{session.WithAuthURL(d.authURL), session.WithServiceKey(d.serviceKey)}
	if d.redisAddr != "" {
		client := redis.NewClient(&redis.Options{Addr: d.redisAddr})
		defer client.Close()
		opts = append(opts, session.WithRedis(client))
	}
	if d.auth != nil { // show one thing at a time: replace tokens when they are dead, not ahead
		opts = append(opts, session.WithRefreshAhead(0))
	}
	svc, err := session.New(opts...)
	if err != nil {
		return err
	}
	defer svc.Close()
	d.svc = svc

	steps := []func(context.Context) error{d.stranger, d.login, d.hit}
	if d.auth != nil {
		steps = append(steps, d.refresh, d.outage)
	}
	for _, step := range append(steps, d.logout) {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepare starts the auth server, or asks for the password of a real account.
func (d *demo) prepare() error {
	if d.authURL == "" {
		d.password = "correct horse battery staple"
		d.auth = sessiontest.New(sessiontest.WithTokenTTL(63 * time.Second))
		if err := d.auth.Start(); err != nil {
			return err
		}
		d.auth.AddUser(d.email, d.password)
		d.authURL, d.serviceKey = d.auth.URL, sessiontest.DefaultServiceKey
		fmt.Printf("An auth server listens on %s; tokens live 63 s there.\n", d.authURL)
		return nil
	}
	fmt.Printf("Password for %s: ", d.email)
	line, err := bufio.NewReader(d.input).ReadString('\n')
	d.password = strings.TrimRight(line, "\r\n")
	return err
}

func (d *demo) stranger(ctx context.Context) error {
	heading("A user who never logged in, and has no link")
	_, err := d.svc.Token(ctx, "@stranger:matrix.example")
	fmt.Println("  Token:", reply(err))
	if !errors.Is(err, session.ErrNotLoggedIn) {
		return err
	}
	return nil
}

func (d *demo) login(ctx context.Context) error {
	heading("!login " + d.email + " ********")
	s, err := d.svc.Login(ctx, d.user, d.email, d.password)
	if err != nil {
		return err
	}
	fmt.Printf("  logged in as %s until %s\n", s.Email, s.ExpiresAt.Format(time.DateTime))
	return d.svc.SetData(ctx, d.user, "list", "shopping")
}

func (d *demo) hit(ctx context.Context) error {
	heading("Any command of theirs")
	for range 2 {
		started := time.Now()
		token, err := d.svc.Token(ctx, d.user)
		if err != nil {
			return err
		}
		fmt.Printf("  Token after %-8s %s\n", time.Since(started).Round(time.Microsecond), claims(token))
	}
	return nil
}

func (d *demo) refresh(ctx context.Context) error {
	heading("The token runs into its last minute")
	before, err := d.svc.Token(ctx, d.user)
	if err != nil {
		return err
	}
	for token := before; token == before; {
		time.Sleep(time.Second)
		if token, err = d.svc.Token(ctx, d.user); err != nil {
			return err
		}
		fmt.Println("  Token:", claims(token))
	}
	list, _, err := session.DataAs[string](ctx, d.svc, d.user, "list")
	email, emailErr := d.svc.Email(ctx, d.user)
	fmt.Printf("  replaced silently by the refresh token; email is still %s, data still %q\n", email, list)
	return cmp.Or(err, emailErr)
}

func (d *demo) outage(ctx context.Context) error {
	heading("The auth server loses its database, and the token runs out meanwhile")
	d.auth.BreakDatabase(true)
	var err error
	for err == nil {
		time.Sleep(time.Second)
		_, err = d.svc.Token(ctx, d.user)
		fmt.Println("  Token:", reply(err))
	}
	if !errors.Is(err, session.ErrAuthUnavailable) {
		return err
	}
	in, err := d.svc.LoggedIn(ctx, d.user)
	fmt.Println("  still logged in:", in)
	if err != nil {
		return err
	}
	d.auth.BreakDatabase(false)
	fmt.Println("  … and it is back")
	time.Sleep(2 * time.Second) // the back-off after a failure
	token, err := d.svc.Token(ctx, d.user)
	if err != nil {
		return err
	}
	fmt.Println("  Token:", claims(token))
	return nil
}

func (d *demo) logout(ctx context.Context) error {
	heading("!logout")
	if err := d.svc.Logout(ctx, d.user); err != nil {
		return err
	}
	_, err := d.svc.Token(ctx, d.user)
	fmt.Println("  Token:", reply(err))
	stats, err := d.svc.Stats(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("  %d hits, %d misses, %d refreshes, %d sessions left in %s\n",
		stats.Hits, stats.Misses, stats.RefreshesByLink+stats.RefreshesByToken, stats.Total, stats.StorageMode)
	return nil
}

func heading(text string) { fmt.Printf("\n%s\n", text) }

// reply is what a bot would say.
func reply(err error) string {
	switch {
	case err == nil:
		return "fine"
	case errors.Is(err, session.ErrNotLoggedIn):
		return "“Please log in.”"
	case errors.Is(err, session.ErrAuthUnavailable):
		return "“Please try again in a minute.” (" + err.Error() + ")"
	default:
		return err.Error()
	}
}

// claims shows a token by what it says, which is no secret.
func claims(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "a token that is no JWT"
	}
	var c struct {
		Subject string `json:"sub"`
		Expires int64  `json:"exp"`
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return "an unreadable token"
	}
	left := time.Until(time.Unix(c.Expires, 0)).Round(time.Second)
	return fmt.Sprintf("sub %.8s…, %s left", c.Subject, left)
}
