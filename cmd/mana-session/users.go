package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/mana/session"
)

// listed is the JSON of users, which usersJSON prints.
type listed struct {
	Users []listedUser `json:"users"`
	Found int          `json:"found"` // those that the filter lets through, also beyond the limit
}

type listedUser struct {
	User   string     `json:"user"`
	EndsAt *time.Time `json:"endsAt"`
	EndsIn *int64     `json:"endsInSeconds"`
}

type listing struct {
	filter, sort string
	reverse      bool
	limit        int
}

func (a *app) users() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "users", Short: "List the users with a session, and what is left of it",
		Long: "List the users with a session. It goes by keys and TTLs and reads no records, so that a record which\n" +
			"is no session is listed, too.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.doUsers(cmd.Context(), l) },
	}
	cmd.Flags().StringVar(&l.filter, "filter", "", "only users whose ID matches the regular `expression`")
	cmd.Flags().StringVar(&l.sort, "sort", "ends", "by `what` to sort: ends (the soonest first) or user")
	cmd.Flags().BoolVar(&l.reverse, "reverse", false, "sort the other way round")
	cmd.Flags().IntVar(&l.limit, "limit", 0, "show no more than this `number`; 0: all")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions([]string{"ends", "user"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) doUsers(ctx context.Context, l listing) error {
	matches, err := matcher(l.filter)
	switch {
	case err != nil:
		return err
	case l.sort != "ends" && l.sort != "user":
		return usage(fmt.Errorf("--sort %s: want ends or user", l.sort))
	case l.limit < 0:
		return usage(fmt.Errorf("--limit %d is negative", l.limit))
	}
	d, err := a.config.open(ctx, false)
	if err != nil {
		return err
	}
	defer d.close()
	var found []session.Listed
	for s, err := range d.svc.Sessions(ctx) {
		if err != nil {
			return err
		}
		if matches(s.UserID) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, l.compare)
	shown := found
	if l.limit > 0 {
		shown = found[:min(l.limit, len(found))]
	}
	if a.json {
		return a.usersJSON(shown, len(found))
	}
	a.usersText(shown)
	if len(shown) < len(found) {
		fmt.Fprintf(a.errOut, "%d of %d\n", len(shown), len(found))
	}
	return nil
}

// usersJSON prints a listed, user by user: of a million there is no document in memory.
func (a *app) usersJSON(shown []session.Listed, found int) error {
	out := bufio.NewWriter(a.out)
	separator, end := "\n    ", "]"
	fmt.Fprint(out, "{\n  \"users\": [")
	for _, s := range shown {
		text, err := json.MarshalIndent(listedUser{s.UserID, timeOrNull(s.ExpiresAt), secondsUntil(s.ExpiresAt)}, "    ", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s%s", separator, printableJSON(text))
		separator, end = ",\n    ", "\n  ]"
	}
	fmt.Fprintf(out, "%s,\n  \"found\": %d\n}\n", end, found)
	return out.Flush()
}

// usersText is a table that is not held in memory to be aligned.
func (a *app) usersText(shown []session.Listed) {
	out := bufio.NewWriter(a.out)
	width := len("USER")
	for _, s := range shown {
		width = max(width, utf8.RuneCountInString(clean(s.UserID)))
	}
	const row = "%-*s  %-12s  %s\n" // length is as short as that
	fmt.Fprintf(out, row, width, "USER", "LEFT", "ENDS")
	for _, s := range shown {
		if s.ExpiresAt.IsZero() {
			fmt.Fprintf(out, row, width, clean(s.UserID), "no end", "never")
		} else {
			fmt.Fprintf(out, row, width, clean(s.UserID), length(time.Until(s.ExpiresAt)), moment(s.ExpiresAt))
		}
	}
	_ = out.Flush() // an error of which is checked's
}

// matcher is what a --filter lets through.
func matcher(filter string) (func(string) bool, error) {
	expression, err := regexp.Compile(filter)
	if err != nil {
		return nil, usage(fmt.Errorf("--filter: %w", err))
	}
	return expression.MatchString, nil
}

func (l listing) compare(a, b session.Listed) int {
	order := strings.Compare(a.UserID, b.UserID)
	if l.sort == "ends" {
		order = cmp.Or(compareEnds(a.ExpiresAt, b.ExpiresAt), order)
	}
	if l.reverse {
		return -order
	}
	return order
}

// compareEnds puts what never ends last.
func compareEnds(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	}
	return a.Compare(b)
}
