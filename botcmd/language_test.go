package botcmd_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/botcmd"
)

func TestEveryErrorHasASentenceInEachLanguage(t *testing.T) {
	limited := errors.Join(session.ErrRateLimited, &session.AuthError{RetryAfter: 30 * time.Second})
	missing := sentinels(t)
	for _, c := range []struct {
		err    error
		en, de string // parts of the sentences
	}{
		{session.ErrNotLoggedIn, "log in first: !login", "melde dich zuerst an: !login"},
		{session.ErrInvalidCredentials, "email or password is wrong", "Passwort stimmt nicht"},
		{session.ErrEmailNotVerified, "confirm your email", "bestätige zuerst deine E-Mail"},
		{session.ErrRateLimited, "in 1 minute.", "in einer Minute "},
		{limited, "in 30 seconds.", "in 30 Sekunden "},
		{session.ErrAuthUnavailable, "login server does not answer", "Anmeldeserver antwortet"},
		{session.ErrStoreUnavailable, "cannot look that up", "nicht nachsehen"},
		{session.ErrServiceKeyRejected, "tell whoever runs this bot", "sag den Betreibern"},
		{session.ErrTooLarge, "more than I can keep", "mehr, als ich"},
		{session.ErrInvalidUserID, "Matrix ID", "Matrix-ID"},
		{session.ErrClosed, "restarted", "neu gestartet"},
		{session.ErrLoginExpired, "no longer open", "nicht mehr offen"},
		{context.DeadlineExceeded, "took too long", "zu lange gedauert"},
		{context.Canceled, "restarted", "neu gestartet"},
		{errors.New("anything"), "did not work", "nicht geklappt"},
	} {
		err := fmt.Errorf("a bot: %w", c.err)
		require.Contains(t, english.Reply(err), c.en)
		require.Contains(t, german.Reply(err), c.de)
		delete(missing, c.err.Error())
	}
	require.Empty(t, missing, "errors of package session that have no sentence")
	require.Empty(t, english.Reply(nil))
	timeout := errors.Join(session.ErrAuthUnavailable, context.DeadlineExceeded)
	require.Contains(t, english.Reply(timeout), "login server", "who took too long matters more")
}

// sentinels are the texts and names of the errors that package session exports, but
// for those that pass between it and its stores.
func sentinels(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	paths, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		if file.Name.Name != "session" {
			continue
		}
		for _, decl := range file.Decls {
			vars, ok := decl.(*ast.GenDecl)
			if !ok || vars.Tok != token.VAR {
				continue
			}
			for _, spec := range vars.Specs {
				one := spec.(*ast.ValueSpec)
				name := one.Names[0].Name
				if !strings.HasPrefix(name, "Err") || name == "ErrNotFound" || name == "ErrConflict" {
					continue
				}
				text, err := strconv.Unquote(one.Values[0].(*ast.CallExpr).Args[0].(*ast.BasicLit).Value)
				require.NoError(t, err)
				found[text] = name
			}
		}
	}
	require.Contains(t, found, session.ErrNotLoggedIn.Error())
	require.Contains(t, found, session.ErrLoginExpired.Error())
	return found
}

func TestWaitIsRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration][2]string{
		time.Millisecond:                {"1 second", "einer Sekunde"},
		1500 * time.Millisecond:         {"2 seconds", "2 Sekunden"},
		time.Minute:                     {"1 minute", "einer Minute"},
		61 * time.Second:                {"61 seconds", "61 Sekunden"},
		91 * time.Second:                {"2 minutes", "2 Minuten"},
		90 * time.Minute:                {"90 minutes", "90 Minuten"},
		2*time.Hour + 1*time.Nanosecond: {"3 hours", "3 Stunden"},
	} {
		require.Equal(t, want, [2]string{english.Wait(d), german.Wait(d)}, d)
	}
}

var placeholder = regexp.MustCompile(`\{[a-z]+\}`)

func TestLanguagesHaveTheSameSentencesAndPlaceholders(t *testing.T) {
	en, de := reflect.ValueOf(english), reflect.ValueOf(german)
	for i := range en.NumField() {
		field := en.Type().Field(i)
		if field.Type.Kind() != reflect.String {
			continue
		}
		e, g := en.Field(i).String(), de.Field(i).String()
		require.NotEmpty(t, e, field.Name)
		require.NotEmpty(t, g, field.Name)
		require.Equal(t, placeholders(e), placeholders(g), field.Name)
	}
}

func placeholders(s string) []string {
	found := placeholder.FindAllString(s, -1)
	slices.Sort(found)
	return slices.Compact(found)
}

func TestTableOfOnesOwnFallsBackToEnglish(t *testing.T) {
	pirate := botcmd.Language{NotLoggedIn: "Arr! {prefix}login first, matey."}
	require.Equal(t, "Arr! !login first, matey.", pirate.Reply(session.ErrNotLoggedIn))
	require.Equal(t, english.Reply(session.ErrRateLimited), pirate.Reply(session.ErrRateLimited))
}
