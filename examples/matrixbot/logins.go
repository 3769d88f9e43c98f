package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/commands"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
)

const (
	commandTimeout = time.Minute
	// oldestCommand bounds how long a command may have waited for a bot that
	// was away. Older ones are told to be too old, not carried out.
	oldestCommand = 10 * time.Minute
)

// logins has the commands !login, !logout and !whoami, and runs them and those
// registered with it apart from the sync loop, those of one user one by one.
type logins struct {
	*commands.Processor[*session.Service]

	resumed bool // the bot has been here before: what waited was written for it

	mu      sync.Mutex
	waiting map[id.UserID][]*event.Event // guarded by mu; a key for each user that has a worker
	working sync.WaitGroup
}

func newLogins(client *mautrix.Client, svc *session.Service) *logins {
	l := &logins{
		Processor: commands.NewProcessor[*session.Service](client),
		waiting:   make(map[id.UserID][]*event.Event),
	}
	l.Meta = svc
	l.Register(
		&commands.Handler[*session.Service]{Name: "login", Func: login},
		&commands.Handler[*session.Service]{Name: "logout", Func: logout},
		&commands.Handler[*session.Service]{Name: "whoami", Func: whoami},
	)
	return l
}

// run answers until ctx ends, and then until what has begun is done.
func (l *logins) run(ctx context.Context) error {
	defer l.working.Wait()
	since, err := l.Client.Store.LoadNextBatch(ctx, l.Client.UserID)
	if err != nil {
		return err
	}
	l.resumed = since != ""
	syncer := l.Client.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnEventType(event.EventMessage, func(_ context.Context, evt *event.Event) {
		if evt.Sender != l.Client.UserID && evt.Content.AsMessage().MsgType == event.MsgText {
			l.enqueue(ctx, evt)
		}
	})
	syncer.OnEventType(event.StateMember, func(_ context.Context, evt *event.Event) {
		if evt.GetStateKey() == l.Client.UserID.String() && evt.Content.AsMember().Membership == event.MembershipInvite {
			if _, err := l.Client.JoinRoomByID(ctx, evt.RoomID); err != nil {
				l.Client.Log.Warn().Err(err).Stringer("room", evt.RoomID).Msg("Invitation not followed")
			}
		}
	})
	return l.Client.SyncWithContext(ctx)
}

func (l *logins) enqueue(ctx context.Context, evt *event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue, working := l.waiting[evt.Sender]
	l.waiting[evt.Sender] = append(queue, evt)
	if !working {
		l.working.Go(func() { l.work(context.WithoutCancel(ctx), evt.Sender) })
	}
}

// work carries out a user's commands until there are no more.
func (l *logins) work(ctx context.Context, user id.UserID) {
	for {
		l.mu.Lock()
		queue := l.waiting[user]
		if len(queue) == 0 {
			delete(l.waiting, user)
			l.mu.Unlock()
			return
		}
		l.waiting[user] = queue[1:]
		l.mu.Unlock()
		l.one(ctx, queue[0])
	}
}

func (l *logins) one(ctx context.Context, evt *event.Event) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	content := evt.Content.AsMessage()
	switch {
	case content.NewContent != nil: // an edit is no command, but repeats what it edits
		if strings.HasPrefix(content.NewContent.Body, "!login ") {
			_, _ = l.Client.RedactEvent(ctx, evt.RoomID, evt.ID) // as the message it edits was, or could not be
		}
	case time.Since(time.UnixMilli(evt.Timestamp)) > oldestCommand:
		// One of a time before the bot first came is nobody's disappointment.
		if strings.HasPrefix(content.Body, "!") && l.resumed {
			c := commands.RawTextToEvent[*session.Service](ctx, evt, content.Body)
			c.Proc = l.Processor
			c.Reply("I was away when you wrote this. Please send it again.")
		}
	default:
		l.Process(ctx, evt)
	}
}

func login(c command) {
	email, password, ok := strings.Cut(strings.TrimSpace(c.RawArgs), " ")
	if !ok {
		c.Reply("`!login email password`, in a room with nobody but us.")
		return
	}
	alone, err := alone(c)
	if err == nil {
		_, err = c.Proc.Client.RedactEvent(c.Ctx, c.RoomID, c.ID)
	}
	switch {
	case errors.Is(err, mautrix.MForbidden):
		c.Reply("I may not delete your password from this room, so I have not used it. Please delete your message, and make me a moderator before you try again.")
		return
	case err != nil:
		c.Reply("I could not delete your password from this room, so I have not used it. Please delete your message.")
		return
	case !alone:
		c.Reply("Others can read this room. I have deleted your message and not used the password: please change it, and log in where we are alone.")
		return
	}
	s, err := c.Meta.Login(c.Ctx, c.Sender.String(), email, password)
	if err != nil {
		c.Reply("%s", explain(err))
		return
	}
	c.Reply("You are logged in as %s.", s.Email)
}

// alone reports whether nobody but the sender and the bot is in the room, or has
// been invited and can read it later.
func alone(c command) (bool, error) {
	members, err := c.Proc.Client.Members(c.Ctx, c.RoomID)
	if err != nil {
		return false, err
	}
	for _, m := range members.Chunk {
		there := m.Content.AsMember().Membership
		if there == event.MembershipLeave || there == event.MembershipBan {
			continue
		}
		if who := m.GetStateKey(); who != c.Sender.String() && who != c.Proc.Client.UserID.String() {
			return false, nil
		}
	}
	return true, nil
}

func logout(c command) {
	if err := c.Meta.Logout(c.Ctx, c.Sender.String()); err != nil {
		c.Reply("%s", explain(err))
		return
	}
	c.Reply("You are logged out.")
}

func whoami(c command) {
	s, err := c.Meta.Session(c.Ctx, c.Sender.String())
	if err != nil {
		c.Reply("%s", explain(err))
		return
	}
	c.Reply("You are logged in as %s.", s.Email)
}

// explain is what to say to the user about an error.
func explain(err error) string {
	var auth *session.AuthError
	switch {
	case errors.Is(err, session.ErrNotLoggedIn):
		return "Please log in: !login email password"
	case errors.Is(err, session.ErrInvalidCredentials):
		return "That email or password is wrong."
	case errors.Is(err, session.ErrEmailNotVerified):
		return "Please confirm your email address first."
	case errors.Is(err, session.ErrRateLimited) && errors.As(err, &auth):
		return fmt.Sprintf("Too many logins. Please try again in %s.", auth.RetryAfter.Round(time.Second))
	case errors.Is(err, session.ErrAuthUnavailable), errors.Is(err, session.ErrStoreUnavailable):
		return "That does not work just now. Please try again in a minute."
	case errors.Is(err, session.ErrTooLarge):
		return "Your list is too long."
	default:
		return "That did not work. Please tell the operator."
	}
}
