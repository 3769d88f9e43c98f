package botcmd

import (
	"context"
	"strings"
	"time"
	"unicode"

	"maunium.net/go/mautrix/commands"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/format"
)

// answerTime is what an answer has when the command has used up its own time.
const answerTime = 10 * time.Second

// A message is a command of a user's.
type message struct {
	*event.Event
	args   string // what follows the command, as typed
	prefix string // what commands begin with
}

func messageOf[M any](ev *commands.Event[M]) message {
	return message{Event: ev.Event, args: ev.RawArgs, prefix: prefixIn(ev.RawInput, ev.Command)}
}

// prefixIn is what stands before a command.
func prefixIn(input, command string) string {
	input = strings.TrimLeftFunc(input, unicode.IsSpace)
	at := strings.Index(strings.ToLower(input), command)
	if command == "" || at < 0 || at > 32 || at > len(input) || strings.ContainsFunc(input[:at], unicode.IsControl) {
		return "!"
	}
	return input[:at]
}

// say answers a message with a plain text. Nothing in a plain text is markup, and
// it mentions nobody but the sender.
func (a *accounts) say(ctx context.Context, m message, text string) {
	if deadline, ok := ctx.Deadline(); ctx.Err() != nil || ok && time.Until(deadline) < answerTime {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), answerTime)
		defer cancel()
	}
	content := format.TextToContent(text)
	content.MsgType = event.MsgNotice
	if asked, ok := m.Content.Parsed.(*event.MessageEventContent); ok && asked.RelatesTo.GetThreadParent() != "" {
		content.SetThread(m.Event)
	}
	content.SetReply(m.Event)
	if _, err := a.client.SendMessageEvent(discreet(persistent(ctx)), m.RoomID, event.EventMessage, &content); err != nil {
		// The bot may have been kicked out meanwhile, so there is nobody to tell.
		logAbout(ctx, a.client, m.Event).Warn().Err(err).Msg("Answer not sent")
	}
}

// sentence says what the table of the user's language has for them.
func (a *accounts) sentence(ctx context.Context, m message, pick func(Language) string, placeholders ...string) {
	text := fill(pick(a.language(ctx, m.Sender)), pick(English()), append(placeholders, "{prefix}", m.prefix)...)
	a.say(ctx, m, text)
}
