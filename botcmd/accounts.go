package botcmd

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"

	"github.com/mana/session"
)

// accounts logs users in and out.
type accounts struct {
	config
	client *mautrix.Client
	svc    *session.Service
}

func (a *accounts) login(ctx context.Context, m message) {
	args := strings.TrimSpace(m.args)
	code, isCode := a.codeIn(args)
	switch {
	case args == "" && a.web != nil:
		a.link(ctx, m)
	case args == "":
		a.sentence(ctx, m, func(l Language) string { return l.LoginUsage })
	case isCode:
		a.complete(ctx, m, code)
	default:
		a.password(ctx, m, args)
	}
}

// password logs in with what follows !login. Whatever its form, it may hold a
// password, so the message goes first.
func (a *accounts) password(ctx context.Context, m message, args string) {
	if err := a.deletePassword(ctx, m); err != nil {
		logAbout(ctx, a.client, m.Event).Warn().Err(err).Msg("Password in a room not deleted")
		a.sentence(ctx, m, func(l Language) string {
			if errors.Is(err, mautrix.MForbidden) {
				return l.MayNotDelete
			}
			return l.NotDeleted
		})
		return
	}
	// From here on nobody who joins can read the message: who could are those
	// who are here now.
	alone, err := a.alone(ctx, m)
	email, password, ok := credentialsIn(args)
	switch {
	case a.noPasswords:
		a.sentence(ctx, m, func(l Language) string { return l.NoPasswords })
	case err != nil:
		a.fail(ctx, m, err)
	case !alone:
		a.sentence(ctx, m, func(l Language) string { return l.OthersCanRead })
	case !ok:
		a.sentence(ctx, m, func(l Language) string { return l.LoginUsage })
	default:
		s, err := a.svc.Login(ctx, m.Sender.String(), email, password)
		a.loggedIn(ctx, m, s, err)
	}
}

// credentialsIn takes the arguments of !login apart: an email address, white
// space, and the password to the end of the one line, as it is.
func credentialsIn(args string) (email, password string, ok bool) {
	at := strings.IndexFunc(args, unicode.IsSpace)
	if at < 0 || strings.ContainsFunc(args, func(r rune) bool { return r == '\n' || r == '\r' || r == '\u2028' || r == '\u2029' }) {
		return "", "", false
	}
	email, password = visible(args[:at]), strings.TrimSpace(args[at:])
	return email, password, strings.Contains(email, "@") && password != ""
}

// codeIn is the code in the arguments of !login: 6 to 8 letters and digits, which
// may stand in groups.
func (a *accounts) codeIn(args string) (code string, ok bool) {
	if a.web == nil {
		return "", false
	}
	code = visible(strings.Join(strings.Fields(args), ""))
	digits := strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Pd, r) { // keyboards make dashes of hyphens
			return -1
		}
		return r
	}, code)
	plain := !strings.ContainsFunc(digits, func(r rune) bool {
		return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	})
	return code, plain && 6 <= len(digits) && len(digits) <= 8
}

// link answers with a link to the page. Whoever else opened it could log in there
// as themselves, and talk the user into sending the code.
func (a *accounts) link(ctx context.Context, m message) {
	alone, err := a.alone(ctx, m)
	if err != nil {
		a.fail(ctx, m, err)
		return
	}
	if !alone {
		a.sentence(ctx, m, func(l Language) string { return l.NoLinkHere })
		return
	}
	link, err := a.web.Link(ctx, m.Sender.String(), m.RoomID.String())
	if err != nil {
		a.fail(ctx, m, err)
		return
	}
	a.sentence(ctx, m, func(l Language) string { return l.OpenLink }, "{link}", link)
}

func (a *accounts) code(ctx context.Context, m message) {
	code := visible(strings.Join(strings.Fields(m.args), ""))
	if code == "" {
		a.sentence(ctx, m, func(l Language) string { return l.CodeUsage })
		return
	}
	a.complete(ctx, m, code)
}

func (a *accounts) complete(ctx context.Context, m message, code string) {
	s, err := a.web.Complete(ctx, m.Sender.String(), m.RoomID.String(), code)
	if err != nil { // it may have been a password, sent without an email address
		if err := a.deletePassword(ctx, m); err != nil {
			logAbout(ctx, a.client, m.Event).Info().Err(err).Msg("Wrong code in a room not deleted")
		}
	}
	if errors.Is(err, session.ErrInvalidCredentials) {
		a.sentence(ctx, m, func(l Language) string { return l.WrongCode })
		return
	}
	a.loggedIn(ctx, m, s, err)
}

// loggedIn says as whom a user is logged in, if nobody else can read it.
func (a *accounts) loggedIn(ctx context.Context, m message, s *session.Session, err error) {
	if err != nil {
		a.fail(ctx, m, err)
		return
	}
	alone, err := a.alone(ctx, m)
	a.sentence(ctx, m, func(l Language) string {
		if err != nil || !alone || s.Email == "" {
			return l.LoggedInQuiet
		}
		return l.LoggedIn
	}, "{email}", oneLine(s.Email))
}

func (a *accounts) logout(ctx context.Context, m message) {
	if a.takesNone(ctx, m, "logout") {
		return
	}
	err := a.svc.Logout(ctx, m.Sender.String(), a.config.logout...)
	switch {
	case err == nil:
		a.sentence(ctx, m, func(l Language) string { return l.LoggedOut })
	case errors.Is(err, session.ErrStoreUnavailable):
		a.sentence(ctx, m, func(l Language) string { return l.LoggedOutHere })
	default:
		a.fail(ctx, m, err)
	}
}

func (a *accounts) whoami(ctx context.Context, m message) {
	if a.takesNone(ctx, m, "whoami") {
		return
	}
	s, err := a.svc.Session(ctx, m.Sender.String())
	a.loggedIn(ctx, m, s, err)
}

// takesNone answers a command that takes no arguments and has some.
func (a *accounts) takesNone(ctx context.Context, m message, command string) bool {
	if strings.TrimSpace(m.args) == "" {
		return false
	}
	a.sentence(ctx, m, func(l Language) string { return l.NoArguments }, "{command}", command)
	return true
}

// unknown keeps silent where the command may be another bot's.
func (a *accounts) unknown(ctx context.Context, m message) {
	if !a.othersMay(ctx, m) {
		a.sentence(ctx, m, func(l Language) string { return l.UnknownCommand })
	}
}

// othersMay reports whether the command may be another bot's.
func (a *accounts) othersMay(ctx context.Context, m message) bool {
	if !m.unknown {
		return false
	}
	alone, err := a.alone(ctx, m)
	return err != nil || !alone
}

// tooMany refuses a command because too many of the user's are waiting.
func (a *accounts) tooMany(ctx context.Context, m message) {
	if a.othersMay(ctx, m) {
		return
	}
	if m.login {
		_ = a.deletePassword(ctx, m) // or it stands there like any that nobody answered
	}
	a.sentence(ctx, m, func(l Language) string { return l.TooMany })
}

// tooOld answers a command from a time when the bot was away. Who wrote when the
// bot was not in the room yet did not mean it.
func (a *accounts) tooOld(ctx context.Context, m message) {
	me, err := a.client.FullStateEvent(persistent(ctx), m.RoomID, event.StateMember, a.client.UserID.String())
	if err != nil || joins(me) && time.UnixMilli(me.Timestamp).After(time.UnixMilli(m.Timestamp)) {
		return
	}
	if a.othersMay(ctx, m) {
		return
	}
	if m.login {
		_ = a.deletePassword(ctx, m) // as in tooMany
	}
	a.sentence(ctx, m, func(l Language) string { return l.TooOld })
}

// joins reports whether a membership is new, and not that of a member who has
// changed their name or picture.
func joins(membership *event.Event) bool {
	before := membership.Unsigned.PrevContent
	return before == nil || before.Raw["membership"] != string(event.MembershipJoin)
}

// fail says what there is to say about an error, and logs what is not the user's
// matter.
func (a *accounts) fail(ctx context.Context, m message, err error) {
	users := []error{
		session.ErrNotLoggedIn, session.ErrInvalidCredentials, session.ErrEmailNotVerified,
		session.ErrRateLimited, session.ErrLoginExpired, session.ErrTooLarge,
	}
	isUsers := false
	for _, e := range users {
		isUsers = isUsers || errors.Is(err, e)
	}
	if !isUsers {
		logAbout(ctx, a.client, m.Event).Error().Err(err).Msg("Command failed")
	}
	a.say(ctx, m, a.language(ctx, m.Sender).reply(err, m.prefix))
}

// alone reports whether nobody but the sender and the bot is in the room, or has
// been invited and can read it later.
func (a *accounts) alone(ctx context.Context, m message) (bool, error) {
	members, err := a.client.Members(persistent(ctx), m.RoomID)
	if err != nil {
		return false, err
	}
	for _, member := range members.Chunk {
		switch member.Content.AsMember().Membership {
		case event.MembershipLeave, event.MembershipBan:
			continue
		}
		if who := member.GetStateKey(); who != m.Sender.String() && who != a.client.UserID.String() {
			return false, nil
		}
	}
	return true, nil
}

// visible drops the characters that nobody sees, which come along when a text is
// copied.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, s)
}

// oneLine keeps what comes from elsewhere on the line where it is shown, and in the
// order of its letters.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, visible(s))
}
