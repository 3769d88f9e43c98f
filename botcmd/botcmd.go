// Package botcmd gives a Matrix bot the commands !login, !logout and !whoami, and
// a sentence for its users about every error of package session. It stands on the
// commands package of mautrix:
//
//	proc := commands.NewProcessor[*session.Service](client)
//	proc.Meta = svc
//	proc.Register(&commands.Handler[*session.Service]{Name: "invoices", Func: invoices})
//
//	cmds, err := botcmd.New(proc, svc)
//	if err != nil { … }
//	err = cmds.Run(ctx) // joins rooms, answers, and returns when ctx has ended
//
// A command of the bot's own reports an error like this:
//
//	func invoices(c *commands.Event[*session.Service]) {
//		token, err := c.Meta.Token(c.Ctx, c.Sender.String())
//		if err != nil {
//			cmds.ReplyError(c, err) // "Please log in first: !login"
//			return
//		}
//		…
//	}
//
// # Logging in
//
// A user sends
//
//	!login alice@example.com correct "horse" battery
//
// There is no quoting: the password is everything behind the email address on the
// same line, quotes and inner spaces included, without white space at its ends. It
// is taken from the message as typed, not from the form with markup that many
// clients send beside it.
//
// The message is deleted (redacted) before the password is used, and so are its
// edits, which repeat it, earlier and later ones alike. If it cannot be deleted,
// because the bot has no power to do so, because the homeserver refuses, or
// because it says yes and the message is still there, the password is not used and
// the user is told. Neither is it used in a room where anybody but the user and the
// bot has joined or is invited.
//
// Where passwords should stay out of rooms altogether, [WithWebLogin] makes !login
// answer with a link to a page, in rooms with nobody else, and [WithoutPasswords]
// refuses passwords.
//
// # How commands run
//
// Commands run beside the sync loop, those of one user one after the other, each
// with a deadline. Requests that the homeserver answers with 429, or with a
// passing failure, are repeated until that deadline. A command from more than ten
// minutes ago is not carried out, but answered with the request to send it again;
// mautrix's DontProcessOldEvents must not be used beside this package, because it
// loses what is sent right after an invitation. A command that old from before the bot
// was in the room gets no answer, and neither does what was sent before it ever ran.
//
// mautrix saves its place in the conversation before it hands messages over, so a
// bot that is killed can lose those at hand, but does not carry them out twice.
// For this the client needs a store that outlives the process, which crypto helpers
// bring.
//
// Encrypted rooms work as soon as client.Crypto is set. Built with the tag goolm it
// needs no cgo.
package botcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"
	"unicode"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/commands"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
)

// maxAge is how old a command may be that is still carried out.
const maxAge = 10 * time.Minute

// A WebLogin logs users in on a web page. Both methods are called with the
// deadline of a command, and must be safe for concurrent use.
type WebLogin interface {
	// Link returns a URL that the user opens in a browser, for one login.
	Link(ctx context.Context, userID, roomID string) (url string, err error)
	// Complete makes the session of the login whose page showed the code. The
	// code is as the user typed it, without what cannot be seen. It returns
	// session.ErrInvalidCredentials for a wrong code, and session.ErrLoginExpired
	// if the user has no login open in that room.
	Complete(ctx context.Context, userID, roomID, code string) (*session.Session, error)
}

// Commands carries out the commands of a bot: those of this package, and those
// registered with its processor. Make one with [New]. All methods are safe for
// concurrent use.
type Commands[M any] struct {
	proc     *commands.Processor[M]
	accounts *accounts
	queue    *queue
	carriers carriers
	login    *commands.Handler[M]
	own      map[*commands.Handler[M]]func(context.Context, message)
	started  time.Time
}

// New registers !login, !logout and !whoami, and !code with [WithWebLogin], with
// the processor, and replaces its answer to unknown commands by one that is given
// only where bot and user are alone, so that several bots can share a room. It
// returns an error for options that make no sense.
//
// The processor's PreValidator says what commands begin with; it must be set
// before the first message, and LogArgs may be on: the arguments of these commands
// and of unknown ones, which may be a misspelt !login, never reach it.
func New[M any](proc *commands.Processor[M], svc *session.Service, opts ...Option) (*Commands[M], error) {
	if proc == nil || proc.Client == nil || svc == nil {
		return nil, errors.New("botcmd: New needs a processor with a client, and a service")
	}
	conf, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	c := &Commands[M]{
		proc:     proc,
		accounts: &accounts{client: proc.Client, svc: svc, config: conf},
		queue:    newQueue(conf.timeout, conf.concurrency),
		own:      make(map[*commands.Handler[M]]func(context.Context, message)),
		started:  time.Now(),
	}
	c.login = c.handler("login", c.accounts.login)
	handlers := []*commands.Handler[M]{
		c.login,
		c.handler("logout", c.accounts.logout),
		c.handler("whoami", c.accounts.whoami),
	}
	if conf.web != nil {
		handlers = append(handlers, c.handler("code", c.accounts.code))
	}
	if unknown := proc.GetHandler(commands.UnknownCommandName); unknown != nil {
		proc.Unregister(unknown)
	}
	handlers = append(handlers, c.handler(commands.UnknownCommandName, c.accounts.unknown))
	for _, h := range handlers {
		if other := proc.GetHandler(h.Name); other != nil {
			return nil, fmt.Errorf("botcmd: there is a command %q already", h.Name)
		}
	}
	proc.Register(handlers...)
	return c, nil
}

// handler is what the processor knows of a command of ours.
func (c *Commands[M]) handler(name string, run func(context.Context, message)) *commands.Handler[M] {
	h := &commands.Handler[M]{Name: name, Func: func(ev *commands.Event[M]) { run(ev.Ctx, messageOf(ev)) }}
	c.own[h] = run
	return h
}

// Run lets the bot follow invitations and answer messages until ctx ends, and
// then until what has begun is done, as Close does. It returns nil when ctx was
// the reason. If the homeserver cannot be reached at the start, or refuses the
// access token at any time, it returns the error; a connection that is lost later
// is made again. The client's Syncer has to be a [mautrix.ExtensibleSyncer], as the
// default one is. A client that has an access token and no UserID is given it.
func (c *Commands[M]) Run(ctx context.Context) error {
	client := c.proc.Client
	syncer, ok := client.Syncer.(mautrix.ExtensibleSyncer)
	if !ok {
		return errors.New("botcmd: the client's Syncer has no OnEventType")
	}
	if client.UserID == "" {
		me, err := client.Whoami(ctx)
		if err != nil {
			return fmt.Errorf("botcmd: whose access token it is: %w", err)
		}
		client.UserID = me.UserID
	}
	syncer.OnEventType(event.EventMessage, c.Handle)
	syncer.OnEventType(event.StateMember, c.follow)
	err := client.SyncWithContext(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, c.Close())
}

// Handle takes a message, which may be none of the bot's business, and returns at
// once. It is for bots that do not use Run: register it for event.EventMessage.
// ctx needs to be the one that mautrix passes; its end is not the command's.
func (c *Commands[M]) Handle(ctx context.Context, evt *event.Event) {
	if evt.Sender == c.proc.Client.UserID {
		return
	}
	evt, content, ok := bareMessage(evt)
	if !ok {
		return
	}
	t, ok := c.task(ctx, evt, content)
	if ok && !c.queue.add(ctx, evt.Sender, c.guarded(evt, t)) {
		c.log(ctx, evt).Warn().Msg("Command dropped: too many are waiting, or the bot is stopping")
	}
}

// Close refuses further commands and waits until those at hand are done: 10 s, and
// then up to 5 s for those that have to give up. It returns an error if there were
// any. It closes neither the client nor the service. Calling it again is harmless.
func (c *Commands[M]) Close() error { return c.queue.close() }

// Reply answers a command with a plain text, in which nothing is markup: names and
// whatever else comes from users need no escaping. It tries to even if the
// command's time is over.
func (c *Commands[M]) Reply(ev *commands.Event[M], text string) {
	c.accounts.say(ev.Ctx, messageOf(ev), text)
}

// ReplyError answers a command with the sentence about err, in the user's language:
// see [Language.Reply]. What is not the user's matter is logged as well.
func (c *Commands[M]) ReplyError(ev *commands.Event[M], err error) {
	c.accounts.fail(ev.Ctx, messageOf(ev), err)
}

// follow joins a room that the bot was invited to.
func (c *Commands[M]) follow(ctx context.Context, evt *event.Event) {
	client := c.proc.Client
	if evt.GetStateKey() != client.UserID.String() || evt.Content.AsMember().Membership != event.MembershipInvite {
		return
	}
	join := func(ctx context.Context) {
		if _, err := client.JoinRoomByID(persistent(ctx), evt.RoomID); err != nil {
			c.log(ctx, evt).Warn().Err(err).Msg("Invitation not followed")
		}
	}
	if !c.queue.add(ctx, evt.Sender, c.guarded(evt, task{do: join})) {
		c.log(ctx, evt).Warn().Msg("Invitation dropped: too many commands are waiting, or the bot is stopping")
	}
}

// task is what is to be done about a message, if anything.
func (c *Commands[M]) task(ctx context.Context, evt *event.Event, content *event.MessageEventContent) (task, bool) {
	if edited := content.RelatesTo.GetReplaceID(); edited != "" {
		return c.editTask(ctx, evt, content, edited)
	}
	if content.MsgType == event.MsgNotice {
		return task{}, false
	}
	run := c.accounts.login // past the processor, which may log arguments
	m, isLogin := c.loginIn(ctx, evt, content.Body)
	if !isLogin {
		parsed := c.proc.ParseEvent(ctx, evt)
		if parsed == nil || !c.proc.PreValidator.Validate(parsed) && parsed.StructuredArgs == nil {
			return task{}, false
		}
		m = messageOf(parsed)
		handler := c.proc.GetHandler(parsed.Command)
		if handler == nil {
			return task{}, false
		}
		m.login = handler == c.login // by its markup alone
		m.unknown = handler.Name == commands.UnknownCommandName
		var own bool
		if run, own = c.own[handler]; !own {
			run = func(ctx context.Context, _ message) { c.proc.Process(persistent(ctx), evt) }
		}
	}
	if m.login && m.args != "" {
		c.carriers.add(evt.ID, evt.Sender)
	}
	since, synced := ctx.Value(mautrix.SyncTokenContextKey).(string)
	sent := time.UnixMilli(evt.Timestamp)
	first := synced && since == "" // everything may have been answered before a restart
	switch {
	case first && sent.Before(c.started):
		return task{}, false
	case time.Since(sent) > maxAge:
		return task{do: func(ctx context.Context) { c.accounts.tooOld(ctx, m) }}, true
	}
	return task{
		do:     func(ctx context.Context) { run(ctx, m) },
		refuse: func(ctx context.Context) { c.accounts.tooMany(ctx, m) },
	}, true
}

// editTask is what is to be done about an edit: it goes if it may hold a password.
func (c *Commands[M]) editTask(ctx context.Context, evt *event.Event, content *event.MessageEventContent, edited id.EventID) (task, bool) {
	m := message{Event: evt, prefix: "!"}
	for _, text := range editedTexts(ctx, content) {
		if login, ok := c.loginIn(ctx, evt, text); ok && m.args == "" {
			m = login
		}
	}
	if m.args == "" && !c.carriers.has(edited, evt.Sender) {
		return task{}, false
	}
	c.carriers.add(evt.ID, evt.Sender) // it may be edited in its turn
	del := func(ctx context.Context) { c.accounts.deleteEdit(ctx, m, edited) }
	return task{do: del, refuse: del}, true
}

// loginIn reports whether a text is a !login, with whatever arguments. The message
// that it returns is good for an answer in any case.
func (c *Commands[M]) loginIn(ctx context.Context, evt *event.Event, text string) (message, bool) {
	ev := commands.RawTextToEvent[M](ctx, evt, trimStart(text))
	ev.Proc, ev.Meta = c.proc, c.proc.Meta
	ok := c.proc.PreValidator.Validate(ev)
	spaced := ok && ev.Command == "" && len(ev.Args) > 0
	if spaced { // keyboards put a space behind an exclamation mark
		ev.Command = strings.ToLower(ev.ShiftArg())
	}
	if !ok || c.proc.GetHandler(ev.Command) != c.login {
		return message{Event: evt, prefix: "!"}, false
	}
	m := messageOf(ev)
	m.login = true
	if spaced {
		m.prefix = strings.TrimRightFunc(m.prefix, unicode.IsSpace)
	}
	return m, true
}

// guarded keeps a panic in what runs in our goroutines from ending the bot.
func (c *Commands[M]) guarded(evt *event.Event, t task) task {
	guard := func(run func(context.Context)) func(context.Context) {
		if run == nil {
			return nil
		}
		return func(ctx context.Context) {
			defer func() {
				if p := recover(); p != nil {
					// Its value may hold what the user sent.
					c.log(ctx, evt).Error().Type("panic", p).Bytes(zerolog.ErrorStackFieldName, debug.Stack()).Msg("Panic in a command")
				}
			}()
			run(ctx)
		}
	}
	return task{do: guard(t.do), refuse: guard(t.refuse)}
}

func (c *Commands[M]) log(ctx context.Context, evt *event.Event) *zerolog.Logger {
	return logAbout(ctx, c.proc.Client, evt)
}

// logAbout is the logger of ctx, or else the client's, with the event's names.
func logAbout(ctx context.Context, client *mautrix.Client, evt *event.Event) *zerolog.Logger {
	base := zerolog.Ctx(ctx)
	if base.GetLevel() == zerolog.Disabled {
		base = &client.Log
	}
	log := base.With().Stringer("sender", evt.Sender).Stringer("room_id", evt.RoomID).Stringer("event_id", evt.ID).Logger()
	return &log
}

// persistent has mautrix repeat requests that fail in passing, for as long as the
// deadline of ctx lets it.
func persistent(ctx context.Context) context.Context { return mautrix.WithMaxRetries(ctx, 20) }

// discreet keeps mautrix from logging the body of a request, which may hold a
// one-time link.
func discreet(ctx context.Context) context.Context {
	return zerolog.New(io.Discard).Level(zerolog.FatalLevel).WithContext(ctx)
}
