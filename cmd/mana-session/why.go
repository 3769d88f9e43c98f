package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/mana/session"
)

// explained is the JSON of why.
type explained struct {
	User     string     `json:"user"`
	LoggedIn bool       `json:"loggedIn"`
	Cause    cause      `json:"cause"`
	Because  string     `json:"because"` // the cause in a sentence
	At       *time.Time `json:"at"`      // when it happened; null if that is not known
	Notes    []string   `json:"notes"`   // what else is to be known
	Remedy   string     `json:"remedy"`

	Story []string             `json:"story"` // the trail in sentences, the newest first
	Trail []session.TrailEvent `json:"trail"`
}

func (a *app) why() *cobra.Command {
	return user("why USER", "Say why a user is logged out, or is not",
		"Say why a user is logged out, what to do, and what happened to the session lately. It asks the store alone.\n"+
			"Exit code 0: the user is logged in; 3: they are not.",
		a.doWhy)
}

func (a *app) doWhy(ctx context.Context, userID string) error {
	d, err := a.config.open(ctx, false)
	if err != nil {
		return err
	}
	defer d.close()
	f, err := d.look(ctx, userID)
	if err != nil {
		return err
	}
	found := f.diagnose(time.Now())
	if found.cause == causeRemoved || found.cause == causeUnknown {
		found.blameEviction(d.evictions(ctx))
	}
	e := explained{
		User: userID, LoggedIn: found.cause == causeLoggedIn, Cause: found.cause, Because: found.because,
		At: timeOrNull(found.at), Notes: orEmpty(found.notes), Remedy: found.remedy,
		Story: orEmpty(story(f.trail)), Trail: trailInUTC(f.trail),
	}
	if err := a.print(e, func() { a.whyText(e) }); err != nil {
		return err
	}
	if !e.LoggedIn {
		return &exit{code: exitNothing}
	}
	return nil
}

func (a *app) whyText(e explained) {
	color := red
	if e.LoggedIn {
		color = green
	}
	a.printf("%s %s\n", a.colored(color, clean(e.User)), clean(e.Because))
	for _, note := range e.Notes {
		a.printf("%s\n", clean(note))
	}
	if e.Remedy != "" {
		a.printf("\nWhat to do: %s\n", clean(e.Remedy))
	}
	if len(e.Story) == 0 {
		return
	}
	a.printf("\nWhat happened, the newest first:\n")
	for _, sentence := range e.Story {
		a.printf("  %s\n", clean(sentence))
	}
}
