package botcmd_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix/event"

	"github.com/mana/session"
	"github.com/mana/session/botcmd"
	"github.com/mana/session/sessiontest"
)

// A page is a web login that is open for one user in one room.
type page struct {
	svc  *session.Service
	link string
	err  error

	nameless bool // the account has no email address

	user, room, code string // of the login that is open
	got              string // the last code
}

func (p *page) Link(_ context.Context, user, room string) (string, error) {
	p.user, p.room, p.code = user, room, "482913"
	return p.link, p.err
}

func (p *page) Complete(ctx context.Context, user, room, code string) (*session.Session, error) {
	p.got = code
	switch {
	case user != p.user || room != p.room:
		return nil, fmt.Errorf("page: %w", session.ErrLoginExpired)
	case code != p.code:
		return nil, fmt.Errorf("page: %w", session.ErrInvalidCredentials)
	}
	if p.nameless {
		return &session.Session{MatrixUserID: user}, nil
	}
	return p.svc.Login(ctx, user, email, password)
}

// newPage is a world with a web login.
func newPage(t *testing.T, opts ...botcmd.Option) (*world, *page) {
	p := &page{link: "https://login.example/#s_e_c*r*e*t"}
	w := newWorld(t, append(opts, botcmd.WithWebLogin(p))...).start()
	p.svc = w.svc
	return w, p
}

func TestWebLoginIsCompletedByTheCode(t *testing.T) {
	for _, complete := range []string{"!login 482913", "!code 482913", "!login 482 913", "!code  482 913 ", "!login 482913\n"} {
		t.Run(complete, func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w, p := newPage(t)
				answer := w.ask("!login")
				require.Contains(t, answer, p.link, "the link as it is, no markup")
				require.Contains(t, answer, "!login CODE")
				require.False(t, w.loggedIn())
				require.Equal(t, "You are logged in as "+email+".", w.ask(complete))
				require.Equal(t, "482913", p.got)
				require.True(t, w.loggedIn())
			})
		})
	}
}

func TestAccountWithoutAnEmailAddressIsNotNamed(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, p := newPage(t)
		p.nameless = true
		w.say("!login")
		require.Equal(t, english.LoggedInQuiet, w.ask("!login 482913"))
	})
}

func TestCodeOfSomebodyElseOrAnotherRoomHasItsSentence(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, p := newPage(t)
		expired := english.Reply(session.ErrLoginExpired)
		require.Equal(t, expired, w.ask("!code 482913"), "without a link")
		w.say("!login")
		p.user = bob.String()
		require.Equal(t, expired, w.ask("!login 482913"), "bob's code")
		p.user, p.room = alice.String(), bobsRoom.String()
		require.Equal(t, expired, w.ask("!login 482913"), "the code of another room")
		require.False(t, w.loggedIn())
	})
}

func TestWrongCodeHasItsSentenceAndIsDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, _ := newPage(t)
		w.say("!login")
		for _, code := range []string{"!login 482914", "!code hunter2", "!login hunter22", "!code 482-913"} {
			message := w.say(code)
			require.Contains(t, w.said(message), "That is not the code", code)
			require.True(t, w.isDeleted(message), "it may have been a password")
		}
		require.Contains(t, w.ask("!code"), "!code CODE")
	})
}

func TestWebLoginThatFailsSaysWhy(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, p := newPage(t)
		p.err = fmt.Errorf("page: %w", session.ErrStoreUnavailable)
		require.Equal(t, english.Reply(session.ErrStoreUnavailable), w.ask("!login"))
	})
}

func TestPasswordIsStillAcceptedBesideWebLogin(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, _ := newPage(t)
		require.Equal(t, "You are logged in as "+email+".", w.ask(login))
	})
}

func TestPasswordIsNotAcceptedWithoutPasswords(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, _ := newPage(t, botcmd.WithoutPasswords())
		message := w.say(login)
		require.Contains(t, w.said(message), "I take no passwords here")
		require.True(t, w.isDeleted(message))
		require.Zero(t, w.auth.Calls(sessiontest.Login))
		require.Contains(t, w.ask("!login"), "https://login.example/")
	})
}

func TestLinkIsNotShownToOthers(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, p := newPage(t)
		w.has(bob, event.MembershipInvite)
		require.Contains(t, w.ask("!login"), "in a room with nobody but us")
		require.Empty(t, p.code, "none was made")
	})
}

func TestEmailIsNotShownToOthers(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, _ := newPage(t)
		require.Contains(t, w.ask("!login"), "https://login.example/")
		w.has(bob, event.MembershipInvite)
		require.Equal(t, english.LoggedInQuiet, w.ask("!login 482913"))
		require.Equal(t, english.LoggedInQuiet, w.ask("!whoami"))
		w.has(bob, event.MembershipLeave)
		require.Equal(t, "You are logged in as "+email+".", w.ask("!whoami"))
	})
}
