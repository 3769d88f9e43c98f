//go:build goolm

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
	"github.com/mana/session/botcmd"
	"github.com/mana/session/internal/homeserver"
	"github.com/mana/session/sessiontest"
)

var server *homeserver.Server // one for all tests, each of which has users of its own

func TestMain(m *testing.M) { os.Exit(withHomeserver(m.Run)) }

func withHomeserver(run func() int) (status int) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "homeserver-")
	if err == nil {
		defer os.RemoveAll(dir)
		var program string
		if program, err = homeserver.Build(ctx, os.Stderr); err == nil {
			server, err = homeserver.Start(ctx, program, dir)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}()
	return run()
}

// patience bounds every wait; nothing takes a tenth of it.
const patience = 30 * time.Second

const (
	email    = "alice@example.com"
	password = `correct "horse"  battery staple` // with spaces and quotes
)

// A place is where a bot lives: its account, its users' sessions and what they
// depend on.
type place struct {
	t        *testing.T
	ctx      context.Context
	auth     *sessiontest.AuthServer
	owner    sessiontest.User
	backend  *backend
	sessions *session.MemoryStore
	account  account
	settings settings
	bot      id.UserID
}

var places atomic.Int32

func newPlace(t *testing.T) *place {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	p := &place{t: t, ctx: ctx, auth: sessiontest.NewAuthServer(t), sessions: session.NewMemoryStore()}
	p.owner = p.auth.AddUser(email, password)
	p.backend = newBackend(p.auth.PublicKey())
	t.Cleanup(p.backend.Close)
	p.account = account{
		homeserver: server.URL, user: p.name("todo"), password: "the bot's own",
		database: filepath.Join(t.TempDir(), "bot.db"), pickleKey: "the bot's key",
	}
	p.settings = settings{backend: p.backend.URL, language: botcmd.English()}
	p.bot = id.NewUserID(p.account.user, homeserver.Name)
	require.NoError(t, register(ctx, p.account))
	return p
}

// name makes a user's name one that no other test has.
func (p *place) name(name string) string { return fmt.Sprintf("%s%d", name, places.Add(1)) }

// start starts the bot; what it returns stops it and waits until it has stopped.
func (p *place) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.ctx))
	ended := make(chan error, 1)
	go func() {
		ended <- start(ctx, p.account, p.settings, zerolog.Nop(), session.WithAuthURL(p.auth.URL),
			session.WithStore(p.sessions), session.WithLoginLimit(0, 0))
	}()
	var stopped bool
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(p.t, <-ended)
		}
	}
	p.t.Cleanup(stop)
	return stop
}

// A visitor is a person in a room with the bot, for whom what fails fails the test.
type visitor struct {
	*person
	p    *place
	room id.RoomID
}

// visitor is somebody whose room the bot has joined, where it may delete messages or
// may not.
func (p *place) visitor(encrypted, mayDelete bool, others ...id.UserID) *visitor {
	p.t.Helper()
	v := p.person()
	v.invite(encrypted, mayDelete, others...)
	require.NoError(p.t, v.joined(p.ctx, v.room, p.bot))
	return v
}

func (p *place) person() *visitor {
	p.t.Helper()
	who, err := newPerson(p.ctx, server.URL, p.name("alice"), p.t.TempDir())
	require.NoError(p.t, err)
	p.t.Cleanup(func() { require.NoError(p.t, who.Close()) })
	return &visitor{person: who, p: p}
}

func (v *visitor) invite(encrypted, mayDelete bool, others ...id.UserID) {
	v.p.t.Helper()
	var err error
	v.room, err = v.person.invite(v.p.ctx, encrypted, mayDelete, append([]id.UserID{v.p.bot}, others...)...)
	require.NoError(v.p.t, err)
}

// asks sends a message and returns the bot's reply.
func (v *visitor) asks(text string) string {
	v.p.t.Helper()
	_, reply, err := v.ask(v.p.ctx, v.room, text)
	require.NoError(v.p.t, err, text)
	return reply
}

func (v *visitor) says(text string) id.EventID {
	v.p.t.Helper()
	sent, err := v.say(v.p.ctx, v.room, text)
	require.NoError(v.p.t, err, text)
	return sent
}

// edits replaces what a message of the visitor's says.
func (v *visitor) edits(message id.EventID, text string) id.EventID {
	v.p.t.Helper()
	edit := &event.MessageEventContent{MsgType: event.MsgText, Body: text}
	edit.SetEdit(message)
	sent, err := v.client.SendMessageEvent(v.p.ctx, v.room, event.EventMessage, edit)
	require.NoError(v.p.t, err)
	return sent.EventID
}

func (v *visitor) hears(to id.EventID) string {
	v.p.t.Helper()
	reply, err := v.answer(v.p.ctx, v.room, to)
	require.NoError(v.p.t, err)
	return reply
}

// stored is a message as the homeserver has it now.
func (v *visitor) stored(message id.EventID) *event.Event {
	v.p.t.Helper()
	evt, err := v.client.GetEvent(v.p.ctx, v.room, message)
	require.NoError(v.p.t, err)
	return evt
}

// logsIn logs in and returns the ID of the message that held the password.
func (v *visitor) logsIn() id.EventID {
	v.p.t.Helper()
	message, reply, err := v.ask(v.p.ctx, v.room, "!login "+email+" "+password)
	require.NoError(v.p.t, err)
	require.Equal(v.p.t, "You are logged in as "+email+".", reply)
	return message
}

const (
	mayDelete    = true
	mayNotDelete = false
)

// eachKind runs a test in a plain room and in an encrypted one.
func eachKind(t *testing.T, test func(t *testing.T, encrypted bool)) {
	t.Run("plain", func(t *testing.T) { test(t, false) })
	t.Run("encrypted", func(t *testing.T) { test(t, true) })
}
