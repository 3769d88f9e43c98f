package session

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// TrailKind says what happened to a session.
type TrailKind string

// The kinds of events in a user's trail.
const (
	TrailBegan     TrailKind = "began"     // by "login" or "link"
	TrailRefreshed TrailKind = "refreshed" // by "link" or "refresh token"
	TrailExtended  TrailKind = "extended"  // by "use", when half of its life was gone
	TrailWeakened  TrailKind = "weakened"  // by "auth server", which refused the refresh token; the session stays
	TrailReplaced  TrailKind = "replaced"  // by "login", "link" or "refresh token", with a session of another account
	TrailEnded     TrailKind = "ended"     // by "logout", "auth server" or "expiry"
)

// Who or what does it.
const (
	byLogin  = "login"
	byLink   = "link"
	byToken  = "refresh token"
	byUse    = "use"
	byServer = "auth server"
	byLogout = "logout"
	byExpiry = "expiry"
)

// maxReason bounds what is kept of a reason, in bytes.
const maxReason = 240

// TrailEvent is something that happened to a user's session. There are no tokens in
// it, and of the user's details only what the auth server put into a message.
type TrailEvent struct {
	Kind   TrailKind `json:"kind"`
	By     string    `json:"by"`               // see the kinds
	Bot    string    `json:"bot,omitempty"`    // the WithBotName of the bot that did it; not for what is counted
	Reason string    `json:"reason,omitempty"` // what the auth server said (call, status, message), or another reason

	First time.Time `json:"first"` // when it was stored, to the millisecond, by the bot's clock: later than it happened if the store was away
	Last  time.Time `json:"last"`  // when it happened the last time, if Count is above 1
	Count int       `json:"count"`

	// SessionEnds is when the session was to end after this; zero if it never was, or
	// if this ended it. A session that is gone by then without an event was removed by
	// other software, the TypeScript service included, or evicted.
	SessionEnds time.Time `json:"sessionEnds,omitzero"`
}

// counted reports whether equal events in a row are one with a count.
func (e TrailEvent) counted() bool { return e.Kind == TrailRefreshed || e.Kind == TrailExtended }

// reasonOf is what an error that ends or weakens a session says for the trail.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*AuthError](err); ok {
		err = e
	}
	return strings.TrimPrefix(err.Error(), "session: ")
}

// trailEvent is what a refresh does to the session that it was for; same says that it
// is of the same account.
func (r refreshed) trailEvent(same bool) TrailEvent {
	e := TrailEvent{Kind: TrailRefreshed, By: byLink}
	if r.spent {
		e.By = byToken
	}
	switch {
	case r.base == nil:
		e.Kind = TrailBegan
	case !same:
		e.Kind, e.Reason = TrailReplaced, "the account of the session was another"
	}
	return e
}

// loginEvent is what a login does to what is stored; same says that it is of the same
// account as the session that is stored, if one is.
func (s snapshot) loginEvent(same bool) TrailEvent {
	e := TrailEvent{Kind: TrailBegan, By: byLogin}
	switch {
	case !same:
		e.Kind, e.Reason = TrailReplaced, "the account of the session was another"
	case s.login != nil:
		e.Reason = "over the session that there was" // else that had gone, which nobody may have noted
	case s.stored.Exists():
		e.Reason = "the record that was there is no session, or cannot be read"
	}
	return e
}

// trailNote is the form in which an event is stored.
type trailNote struct {
	Kind   TrailKind `json:"k"`
	By     string    `json:"by,omitempty"`
	Bot    string    `json:"bot,omitempty"`
	Reason string    `json:"why,omitempty"`
}

// maxTrailNote bounds an event as a store has it, in bytes: with its times, trailLength of
// them fit into maxTrail.
const maxTrailNote = 440

// note is the event as a store takes it, or "" for none.
func (e TrailEvent) note(bot string) string {
	if e.Kind == "" {
		return ""
	}
	n := trailNote{Kind: e.Kind, By: e.By}
	if e.counted() {
		return string(repeats) + n.line()
	}
	n.Bot, n.Reason = bot, e.Reason[:min(len(e.Reason), maxReason)]
	line := n.line()
	for ; len(line) > maxTrailNote && n.Reason != ""; line = n.line() { // signs that JSON escapes
		n.Reason = n.Reason[:len(n.Reason)*3/4]
	}
	return line
}

func (n trailNote) line() string {
	n.Reason = strings.ToValidUTF8(n.Reason, "")
	var line strings.Builder
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false) // this is no HTML, and "<" in six bytes takes room
	if encoder.Encode(n) != nil {
		return "" // which does not happen: all of it is text
	}
	return strings.TrimSuffix(line.String(), "\n")
}

// trailEvent is what a store has kept of an event.
func trailEvent(entry TrailEntry) (e TrailEvent, ok bool) {
	var n trailNote
	if json.Unmarshal([]byte(strings.TrimPrefix(entry.Event, string(repeats))), &n) != nil || n.Kind == "" {
		return TrailEvent{}, false
	}
	return TrailEvent{
		Kind: n.Kind, By: n.By, Bot: n.Bot, Reason: n.Reason,
		First: entry.First, Last: entry.Last, Count: entry.Count, SessionEnds: entry.Ends,
	}, true
}

// WithTrail with false keeps no trails: see [Service.Trail]. By default each login,
// logout, refresh, extension and end of a session is noted on the store, in the step
// that writes the record.
func WithTrail(on bool) Option {
	return func(c *config) error {
		c.noTrail = !on
		return nil
	}
}

// WithBotName names the bot in the trails that it leaves: at most 64 bytes. The default
// is none.
func WithBotName(name string) Option {
	return func(c *config) error {
		if len(name) > 64 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
			return errors.New("session: WithBotName: want at most 64 bytes of text without control characters")
		}
		c.botName = name
		return nil
	}
}

// Trail returns what has happened to the user's session, the newest event first, over
// all bots that share the store: 8 events at most, where refreshes and extensions in a
// row are one event with a count. It is kept on the store beside the session and a week
// longer, unless [WithTrail] turns it off, and does not tell what other software did.
// A user without a trail has none: that is no error.
//
// It asks the store, in one round trip, and returns [ErrStoreUnavailable] when that is
// away. A store that is no [TrailLog] has no trails.
func (s *Service) Trail(ctx context.Context, userID string) ([]TrailEvent, error) {
	if err := s.enter(ctx, userID); err != nil {
		return nil, err
	}
	defer s.life.end()
	return s.records.trail(ctx, userID)
}

func (r *records) trail(ctx context.Context, userID string) ([]TrailEvent, error) {
	op := r.begin(ctx, OpStoreRead)
	op.aside = true
	entries, err := r.trails.Trail(op.ctx, userID)
	if err = op.end(err); err != nil {
		return nil, err
	}
	var events []TrailEvent
	for _, entry := range entries {
		if e, ok := trailEvent(entry); ok {
			events = append(events, e)
		}
	}
	return events, nil
}

// note is what the store is to note of an event.
func (r *records) note(e TrailEvent) string {
	if !r.keepTrail {
		return ""
	}
	return e.note(r.botName)
}
