package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/commands"

	"github.com/mana/session"
)

// A bot keeps its users' todo lists in their sessions.
type bot struct {
	sessions *session.Service
	backend  string // where !publish sends a list; "" for nowhere
}

type command = *commands.Event[*session.Service]

// listKey is where a user's list is in their data.
const listKey = "todo"

// listen answers until ctx ends.
func (b *bot) listen(ctx context.Context, client *mautrix.Client) error {
	logins := newLogins(client, b.sessions)
	logins.Register(
		&commands.Handler[*session.Service]{Name: "add", Func: b.add},
		&commands.Handler[*session.Service]{Name: "list", Func: b.list},
		&commands.Handler[*session.Service]{Name: "done", Func: b.done},
		&commands.Handler[*session.Service]{Name: "publish", Func: b.publish},
	)
	err := logins.run(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (b *bot) add(c command) {
	item := strings.TrimSpace(c.RawArgs)
	if item == "" {
		c.Reply("What is to be done? `!add call mum`")
		return
	}
	b.change(c, func(todo []string) ([]string, error) { return append(todo, item), nil })
}

func (b *bot) list(c command) {
	todo, _, err := session.DataAs[[]string](c.Ctx, b.sessions, c.Sender.String(), listKey)
	answer(c, todo, err)
}

func (b *bot) done(c command) {
	b.change(c, func(todo []string) ([]string, error) {
		n, err := strconv.Atoi(c.RawArgs)
		if err != nil || n < 1 || n > len(todo) {
			return nil, fmt.Errorf("%w: %q", errNoSuchItem, c.RawArgs)
		}
		return append(todo[:n-1:n-1], todo[n:]...), nil
	})
}

var errNoSuchItem = errors.New("no such item")

// change replaces the user's list. Another bot of theirs may change it at the
// same time, so change can be called more than once.
func (b *bot) change(c command, change func(todo []string) ([]string, error)) {
	var todo []string
	err := session.UpdateDataAs(c.Ctx, b.sessions, c.Sender.String(), listKey, func(old []string) ([]string, error) {
		var err error
		todo, err = change(old)
		return todo, err
	})
	answer(c, todo, err)
}

// publish sends the list to the backend as the user.
func (b *bot) publish(c command) {
	todo, _, err := session.DataAs[[]string](c.Ctx, b.sessions, c.Sender.String(), listKey)
	if err != nil {
		answer(c, nil, err)
		return
	}
	req, err := http.NewRequestWithContext(c.Ctx, http.MethodPut, b.backend+"/todo", strings.NewReader(strings.Join(todo, "\n")))
	if err != nil {
		c.Reply("The backend's address is wrong: please tell the operator.")
		return
	}
	resp, err := b.sessions.Client(c.Sender.String()).Do(req)
	if err != nil {
		answer(c, nil, err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		c.Reply("The backend did not take your list (%s). Please try again later.", resp.Status)
		return
	}
	c.Reply("Published, %d to do.", len(todo))
}

// answer shows a list, or says why there is none.
func answer(c command, todo []string, err error) {
	switch {
	case errors.Is(err, errNoSuchItem):
		c.Reply("There is no such item. `!list` shows their numbers: `!done 1`")
	case err != nil:
		c.Reply("%s", explain(err))
	case len(todo) == 0:
		c.Reply("Nothing to do.")
	default:
		var text strings.Builder
		for i, item := range todo {
			fmt.Fprintf(&text, "%d. %s\n", i+1, item)
		}
		c.Reply("%s", text.String())
	}
}
