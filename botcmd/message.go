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

	login   bool // a !login
	unknown bool // nobody knows the command: it may be another bot's
}

func messageOf[M any](ev *commands.Event[M]) message {
	return message{Event: ev.Event, args: ev.RawArgs, prefix: prefixIn(ev.RawInput, ev.Command)}
}

// bareMessage is a message without what clients put in front of a command: white
// space, characters that nobody sees, and in a reply the text that it replies to.
func bareMessage(evt *event.Event) (*event.Event, *event.MessageEventContent, bool) {
	content, ok := evt.Content.Parsed.(*event.MessageEventContent)
	if !ok {
		return nil, nil, false
	}
	bare, clean := *evt, *content // others may look at it, too
	if content.RelatesTo.GetReplyTo() != "" {
		clean.Body = event.TrimReplyFallbackText(clean.Body)
		clean.FormattedBody = event.TrimReplyFallbackHTML(clean.FormattedBody)
	}
	clean.Body = trimStart(clean.Body)
	bare.Content.Parsed = &clean
	return &bare, &clean, true
}

// trimStart cuts white space off the start, and what is not seen, such as the marks
// of a text that runs from right to left.
func trimStart(text string) string {
	return strings.TrimLeftFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) })
}

// editedTexts are all that an edit may put in the place of a message, by the client
// that shows it.
func editedTexts(ctx context.Context, content *event.MessageEventContent) []string {
	var texts []string
	for _, c := range []*event.MessageEventContent{content.NewContent, content} {
		if c == nil {
			continue
		}
		texts = append(texts, event.TrimReplyFallbackText(c.Body))
		if c.Format == event.FormatHTML {
			html := event.TrimReplyFallbackHTML(c.FormattedBody)
			texts = append(texts, commands.IDHTMLParser.Parse(html, format.NewContext(ctx)))
		}
	}
	for i, text := range texts {
		texts[i] = strings.TrimPrefix(trimStart(text), "* ")
	}
	return texts
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
