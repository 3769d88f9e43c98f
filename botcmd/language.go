package botcmd

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/mana/session"
)

// A Language is a table of everything that the commands say. [English] and
// [German] are ready; another language is another table. A sentence that is empty
// is said in English.
//
// Sentences may hold placeholders, of which each field's comment names its own.
// In all of them {prefix} is what commands begin with, such as "!".
type Language struct {
	// What [Language.Reply] says, by the error.
	NotLoggedIn        string // session.ErrNotLoggedIn
	InvalidCredentials string // session.ErrInvalidCredentials
	EmailNotVerified   string // session.ErrEmailNotVerified
	RateLimited        string // session.ErrRateLimited; {wait}
	AuthUnavailable    string // session.ErrAuthUnavailable; {wait}
	StoreUnavailable   string // session.ErrStoreUnavailable; {wait}
	ServiceKeyRejected string // session.ErrServiceKeyRejected
	TooLarge           string // session.ErrTooLarge
	InvalidUserID      string // session.ErrInvalidUserID
	Closed             string // session.ErrClosed, and a bot that is stopping
	LoginExpired       string // session.ErrLoginExpired
	TookTooLong        string // context.DeadlineExceeded
	Failed             string // anything else

	// What the commands answer.
	LoggedIn       string // {email}
	LoggedInQuiet  string // LoggedIn where others can read, or without an email address
	LoggedOut      string
	LoggedOutHere  string // the store is away: elsewhere later
	LoginUsage     string
	CodeUsage      string
	NoArguments    string // {command} takes none
	UnknownCommand string
	OpenLink       string // {link}
	NoLinkHere     string // others can read, and the link is for the user alone
	WrongCode      string // not the code, not this room's, or not this user's

	// What is said about passwords in rooms.
	OthersCanRead  string // so the password was not used
	MayNotDelete   string // the homeserver does not let the bot delete the message
	NotDeleted     string // deleting it failed otherwise
	NoPasswords    string // WithoutPasswords
	EditDeleted    string // an edit held a password; edits are not carried out
	EditNotDeleted string // an edit held a password and is still there

	// What is said about commands that are not carried out.
	TooOld  string // from a time when the bot was away
	TooMany string // more are waiting than the bot accepts

	// Wait says how long to wait, as it stands in a sentence for {wait}: "30
	// seconds". It is called with a duration above 0.
	Wait func(time.Duration) string
}

const defaultWait = time.Minute // when nobody knows how long

// Reply is the sentence for the user about an error that a [session.Service], or
// a context, returned: what to do and how long to wait. It is "" for nil. The
// text is plain: it holds nothing from the error but times.
func (l Language) Reply(err error) string { return l.reply(err, "!") }

func (l Language) reply(err error, prefix string) string {
	e := English()
	var sentence, fallback string
	switch {
	case err == nil:
		return ""
	case errors.Is(err, session.ErrNotLoggedIn):
		sentence, fallback = l.NotLoggedIn, e.NotLoggedIn
	case errors.Is(err, session.ErrInvalidCredentials):
		sentence, fallback = l.InvalidCredentials, e.InvalidCredentials
	case errors.Is(err, session.ErrEmailNotVerified):
		sentence, fallback = l.EmailNotVerified, e.EmailNotVerified
	case errors.Is(err, session.ErrRateLimited):
		sentence, fallback = l.RateLimited, e.RateLimited
	case errors.Is(err, session.ErrLoginExpired):
		sentence, fallback = l.LoginExpired, e.LoginExpired
	case errors.Is(err, session.ErrServiceKeyRejected):
		sentence, fallback = l.ServiceKeyRejected, e.ServiceKeyRejected
	case errors.Is(err, session.ErrAuthUnavailable):
		sentence, fallback = l.AuthUnavailable, e.AuthUnavailable
	case errors.Is(err, session.ErrStoreUnavailable):
		sentence, fallback = l.StoreUnavailable, e.StoreUnavailable
	case errors.Is(err, session.ErrTooLarge):
		sentence, fallback = l.TooLarge, e.TooLarge
	case errors.Is(err, session.ErrInvalidUserID):
		sentence, fallback = l.InvalidUserID, e.InvalidUserID
	case errors.Is(err, session.ErrClosed), errors.Is(err, context.Canceled):
		sentence, fallback = l.Closed, e.Closed
	case errors.Is(err, context.DeadlineExceeded):
		sentence, fallback = l.TookTooLong, e.TookTooLong
	default:
		sentence, fallback = l.Failed, e.Failed
	}
	wait := defaultWait
	if auth, ok := errors.AsType[*session.AuthError](err); ok && auth.RetryAfter > 0 {
		wait = auth.RetryAfter
	}
	words := l.Wait
	if words == nil {
		words = e.Wait
	}
	return fill(sentence, fallback, "{prefix}", prefix, "{wait}", words(wait))
}

// fill replaces the placeholders of a sentence, or of the fallback if it is empty.
func fill(sentence, fallback string, placeholders ...string) string {
	if sentence == "" {
		sentence = fallback
	}
	return strings.NewReplacer(placeholders...).Replace(sentence)
}

// count is a duration in the largest unit that tells it well, rounded up: a wait
// that is named too short is in vain.
func count(d time.Duration) (n int, unit time.Duration) {
	unit = time.Second
	switch {
	case d > 90*time.Minute:
		unit = time.Hour
	case d >= time.Minute && d%time.Minute == 0, d > 90*time.Second:
		unit = time.Minute
	}
	return int((d + unit - 1) / unit), unit
}
