package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mana/session"
)

// loggedOut is the JSON of logout: one for each user, in the order of the arguments.
type loggedOut struct {
	User      string `json:"user"`
	LoggedOut bool   `json:"loggedOut"`
	HadRecord bool   `json:"hadRecord"` // there was something to remove
	Unlinked  bool   `json:"unlinked"`
	Error     string `json:"error,omitempty"`
}

func (a *app) logout() *cobra.Command {
	var unlink, yes bool
	cmd := &cobra.Command{
		Use: "logout USER...", Short: "End the sessions of users, on all bots",
		Long: "End the sessions of users, on all bots. A user with a link at the auth server is logged in again by the\n" +
			"next command, unless the link goes too: --unlink. On a terminal it asks first. A user without a session\n" +
			"is no error.",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes && a.asks && !a.confirmed(cmd.Context(), args, unlink) {
				return &exit{exitFailed, errors.New("nothing was done")}
			}
			return a.doLogout(cmd.Context(), args, unlink)
		},
	}
	cmd.Flags().BoolVar(&unlink, "unlink", false, "remove the link at the auth server, too")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// confirmed asks whoever sits at the terminal. An interrupt is a no.
func (a *app) confirmed(ctx context.Context, users []string, unlink bool) bool {
	what := "Log out " + clean(strings.Join(users, ", "))
	if unlink {
		what += ", and remove their links"
	}
	fmt.Fprint(a.errOut, what+"? [y/N] ")
	answers := make(chan string, 1)
	go func() { // which the end of the program ends, if nothing is typed
		answer, _ := bufio.NewReader(a.in).ReadString('\n')
		answers <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case answer := <-answers:
		return answer == "y" || answer == "yes"
	case <-ctx.Done():
		fmt.Fprint(a.errOut, "\n")
		return false
	}
}

func (a *app) doLogout(ctx context.Context, users []string, unlink bool) error {
	d, err := a.config.open(ctx, unlink)
	if err != nil {
		return err
	}
	defer d.close()
	for _, userID := range users { // all of them are looked at before the first is logged out
		if _, err := d.svc.Trail(ctx, userID); errors.Is(err, session.ErrInvalidUserID) {
			return fmt.Errorf("%q: %w", userID, err)
		} else if err != nil {
			return err
		}
	}
	var results []loggedOut
	var failed error
	for _, userID := range users {
		result, err := d.logout(ctx, userID, unlink)
		results = append(results, result)
		if err != nil {
			failed = err
		}
	}
	err = a.print(results, func() {
		for _, r := range results {
			a.printf("%s: %s\n", clean(r.User), a.logoutText(r, unlink))
		}
	})
	if failed != nil {
		return &exit{code: exitCode(failed)}
	}
	return err
}

func (d *deployment) logout(ctx context.Context, userID string, unlink bool) (loggedOut, error) {
	r := loggedOut{User: userID}
	rec, err := d.store.Get(ctx, userID)
	if err != nil && !errors.Is(err, session.ErrNotFound) {
		r.Error = plain(err)
		return r, storeError(err)
	}
	r.HadRecord = rec.Exists()
	var opts []session.LogoutOption
	if unlink {
		opts = append(opts, session.AndUnlink())
	}
	err = d.svc.Logout(ctx, userID, opts...)
	if err != nil {
		r.Error = plain(err)
	}
	// A link that stays does not keep the session from ending.
	r.LoggedOut = err == nil || unlink && !errors.Is(err, session.ErrStoreUnavailable) && ctx.Err() == nil
	r.Unlinked = unlink && err == nil
	return r, err
}

func (a *app) logoutText(r loggedOut, unlink bool) string {
	switch {
	case !r.LoggedOut:
		return a.colored(red, "not logged out") + ": " + clean(r.Error)
	case r.Error != "":
		return a.colored(yellow, "logged out, but the link is still there") + ": " + clean(r.Error)
	case !r.HadRecord && unlink:
		return "had no session; has no link any more"
	case !r.HadRecord:
		return "had no session"
	case unlink:
		return a.colored(green, "logged out") + ", and unlinked"
	}
	return a.colored(green, "logged out")
}
