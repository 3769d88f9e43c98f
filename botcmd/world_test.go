package botcmd_test

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/commands"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
	"github.com/mana/session/botcmd"
	"github.com/mana/session/sessiontest"
)

const (
	bot      = id.UserID("@bot:matrix.example")
	alice    = id.UserID("@alice:matrix.example")
	bob      = id.UserID("@bob:matrix.example")
	room     = id.RoomID("!alice:matrix.example")
	bobsRoom = id.RoomID("!bob:matrix.example")
	email    = "alice@example.com"
	password = `correct "horse"  battery's staple`
	login    = "!login " + email + " " + password
)

// A world is a bot with the commands of this package, on a homeserver that is a
// double, all in one synctest bubble.
type world struct {
	*homeserver
	t     *testing.T
	auth  *sessiontest.AuthServer
	store session.Store
	svc   *session.Service
	proc  *commands.Processor[*session.Service]
	cmds  *botcmd.Commands[*session.Service]
	log   *logBuffer
	stop  func() error // stops the bot and returns what Run returned
}

// inWorld runs a test in a bubble, in which time passes only when nothing else
// does.
func inWorld(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

func newWorld(t *testing.T, opts ...botcmd.Option) *world {
	t.Helper()
	return newWorldOn(t, session.NewMemoryStore(), opts...)
}

func newWorldOn(t *testing.T, store session.Store, opts ...botcmd.Option) *world {
	t.Helper()
	w := &world{homeserver: newHomeserver(bot), t: t, auth: sessiontest.New(), store: store, log: new(logBuffer)}
	w.auth.AddUser(email, password)
	w.members[room] = map[id.UserID]event.Membership{bot: event.MembershipJoin, alice: event.MembershipJoin}
	w.members[bobsRoom] = map[id.UserID]event.Membership{bot: event.MembershipJoin, bob: event.MembershipJoin}
	svc, err := session.New(append(w.auth.Options(), session.WithStore(store))...)
	require.NoError(t, err)
	w.svc = svc
	t.Cleanup(func() { require.NoError(t, svc.Close()) })

	client, err := mautrix.NewClient("http://homeserver.example", bot, "the bot's token")
	require.NoError(t, err)
	client.Client = &http.Client{Transport: w.homeserver}
	client.Log = zerolog.New(w.log).Level(zerolog.TraceLevel)
	w.proc = commands.NewProcessor[*session.Service](client)
	w.proc.LogArgs = true
	w.proc.Meta = svc
	w.cmds, err = botcmd.New(w.proc, svc, opts...)
	require.NoError(t, err)
	return w
}

// start lets the bot run, which has been there before.
func (w *world) start() *world {
	w.t.Helper()
	w.post(textEvent(room, bot, "Hello!"))
	require.NoError(w.t, w.proc.Client.Store.SaveNextBatch(w.t.Context(), bot, "1"))
	return w.startAfresh()
}

// startAfresh lets the bot run that has no memory of an earlier time.
func (w *world) startAfresh() *world {
	ctx, cancel := context.WithCancel(w.proc.Client.Log.WithContext(context.Background()))
	ended := make(chan error, 1)
	go func() { ended <- w.cmds.Run(ctx) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	w.t.Cleanup(func() { _ = w.stop() })
	return w
}

// say posts alice's message and waits until the bot has done what it can without
// time passing.
func (w *world) say(text string) id.EventID {
	message := w.post(textEvent(room, alice, text))
	synctest.Wait()
	return message
}

// ask is say, and returns the bot's answer.
func (w *world) ask(text string) string { return w.said(w.say(text)) }

// loggedIn reports whether alice is.
func (w *world) loggedIn() bool {
	in, err := w.svc.LoggedIn(w.t.Context(), alice.String())
	require.NoError(w.t, err)
	return in
}

// has makes somebody a member of alice's room.
func (w *world) has(user id.UserID, membership event.Membership) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.members[room][user] = membership
}

func (w *world) register(name string, run func(*commands.Event[*session.Service])) {
	w.proc.Register(&commands.Handler[*session.Service]{Name: name, Func: run})
}

// A logBuffer holds what the bot and mautrix have logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// english and german are the tables that answers are compared with.
var (
	english = botcmd.English()
	german  = botcmd.German()
)
