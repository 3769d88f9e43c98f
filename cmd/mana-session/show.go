package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mana/session"
)

// shown is the JSON of show.
type shown struct {
	User     string     `json:"user"`
	LoggedIn bool       `json:"loggedIn"`
	Unread   string     `json:"unreadable,omitempty"` // why the record is no session
	Email    string     `json:"email,omitempty"`
	Subject  string     `json:"subject,omitempty"`
	EndsAt   *time.Time `json:"endsAt"`
	EndsIn   *int64     `json:"endsInSeconds"`
	Sealed   bool       `json:"sealed"`

	Token *shownToken          `json:"token"`
	Trail []session.TrailEvent `json:"trail"`
}

type shownToken struct {
	Readable  bool           `json:"readable"` // it is a JWT
	ExpiresAt *time.Time     `json:"expiresAt"`
	ExpiresIn *int64         `json:"expiresInSeconds"`
	Claims    map[string]any `json:"claims"`
	Value     string         `json:"value,omitempty"` // with --reveal
}

func (a *app) show() *cobra.Command {
	var reveal bool
	cmd := user("show USER", "Show a user's session",
		"Show email, subject, when the session ends, what is left of the token and what it claims, and what\n"+
			"happened lately. The token itself is shown with --reveal alone. Exit code 3: there is no session.",
		func(ctx context.Context, userID string) error { return a.doShow(ctx, userID, reveal) })
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show the access token, too")
	return cmd
}

func (a *app) doShow(ctx context.Context, userID string, reveal bool) error {
	d, err := a.config.open(ctx, false)
	if err != nil {
		return err
	}
	defer d.close()
	f, err := d.look(ctx, userID)
	if err != nil {
		return err
	}
	s := shown{User: userID, Unread: f.unread, Sealed: f.sealed, Trail: trailInUTC(f.trail)}
	if f.session != nil {
		claims := claimsOf(f.session.Token())
		s.LoggedIn, s.Email, s.Subject = true, f.session.Email, f.session.Subject
		s.EndsAt, s.EndsIn = timeOrNull(f.session.ExpiresAt), secondsUntil(f.session.ExpiresAt)
		s.Token = &shownToken{
			Readable: claims != nil, Claims: claims,
			ExpiresAt: timeOrNull(f.session.TokenExpiresAt), ExpiresIn: secondsUntil(f.session.TokenExpiresAt),
		}
		if reveal {
			s.Token.Value = f.session.Token()
		}
	}
	if err := a.print(s, func() { a.showText(s) }); err != nil {
		return err
	}
	if !s.LoggedIn {
		return &exit{code: exitNothing}
	}
	return nil
}

// orEmpty has JSON show an empty list as one.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (a *app) showText(s shown) {
	a.table(func(row func(...string)) {
		row("user", clean(s.User))
		switch {
		case s.Unread != "":
			row("session", a.colored(red, "unreadable")+": "+clean(s.Unread))
		case !s.LoggedIn:
			row("session", a.colored(red, "none"))
		default:
			row("email", clean(orNone(s.Email)))
			row("subject", clean(orNone(s.Subject)))
			row("session", a.ends("ends", s.EndsAt))
			row("token", a.tokenText(*s.Token))
			for _, name := range slices.Sorted(maps.Keys(s.Token.Claims)) {
				value, _ := json.Marshal(s.Token.Claims[name])
				row("  "+clean(name), clean(string(value)))
			}
			if s.Token.Value != "" {
				row("access token", clean(s.Token.Value))
			}
			row("at rest", map[bool]string{true: "sealed", false: "plain text"}[s.Sealed])
		}
	})
	a.trailText(s.Trail)
	if !s.LoggedIn {
		a.printf("\nmana-session why %s says why, and what to do.\n", quoted(s.User))
	}
}

// quoted is a user ID as a shell takes it, and runs nothing that is in it.
func quoted(userID string) string {
	if strings.ContainsFunc(userID, unprintable) { // as bash, ksh and zsh spell it
		return "$'" + clean(strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(userID)) + "'"
	}
	return "'" + strings.ReplaceAll(userID, "'", `'\''`) + "'"
}

func orNone(s string) string {
	if s == "" {
		return "(not known)"
	}
	return s
}

// ends says when something ends.
func (a *app) ends(verb string, at *time.Time) string {
	if at == nil {
		return "never " + verb + " by itself"
	}
	left := time.Until(*at)
	if left <= 0 {
		return a.colored(red, fmt.Sprintf("ended %s ago", length(-left))) + ", " + moment(*at)
	}
	return fmt.Sprintf("%s in %s, %s", verb, a.colored(green, length(left)), moment(*at))
}

// handOut is what a token must have left to be handed out.
const handOut = time.Minute

func (a *app) tokenText(t shownToken) string {
	switch {
	case !t.Readable:
		return a.colored(yellow, "not a JWT") + ": it is replaced when it is next asked for"
	case t.ExpiresAt == nil:
		return "has no expiry"
	case time.Until(*t.ExpiresAt) <= handOut:
		return fmt.Sprintf("%s at %s: it is replaced when it is next asked for", a.colored(yellow, "has run out"), moment(*t.ExpiresAt))
	}
	return a.ends("runs out", t.ExpiresAt)
}

func (a *app) trailText(trail []session.TrailEvent) {
	if len(trail) == 0 {
		a.printf("\nNo trail is kept of this user.\n")
		return
	}
	a.printf("\nWhat happened, the newest first:\n")
	a.table(func(row func(...string)) {
		for _, e := range trail {
			row("  "+moment(e.Last), eventText(e))
		}
	})
}

// eventText is an event of a trail in a few words.
func eventText(e session.TrailEvent) string {
	text := string(e.Kind)
	if e.By != "" {
		text += " by " + e.By
	}
	if e.Count > 1 {
		text += fmt.Sprintf(", %d times since %s", e.Count, moment(e.First))
	}
	if e.Bot != "" {
		text += ", on " + e.Bot
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return clean(text)
}
