//go:build goolm

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
	"github.com/mana/session/botcmd"
)

// A bot keeps its users' todo lists in their sessions.
type bot struct {
	sessions *session.Service
	backend  string // where !publish sends a list
	cmds     *botcmd.Commands[*bot]
}

type command = *commands.Event[*bot]

// listKey is where a user's list is in their data.
const listKey = "todo"

// listen answers until ctx ends. The options say which language it speaks and how
// users log in.
func (b *bot) listen(ctx context.Context, client *mautrix.Client, opts ...botcmd.Option) (err error) {
	proc := commands.NewProcessor[*bot](client)
	proc.Register(
		&commands.Handler[*bot]{Name: "add", Func: b.add},
		&commands.Handler[*bot]{Name: "list", Func: b.list},
		&commands.Handler[*bot]{Name: "done", Func: b.done},
		&commands.Handler[*bot]{Name: "publish", Func: b.publish},
	)
	if b.cmds, err = botcmd.New(proc, b.sessions, opts...); err != nil {
		return err
	}
	return b.cmds.Run(ctx)
}

func (b *bot) add(c command) {
	item := strings.TrimSpace(c.RawArgs)
	if item == "" {
		b.cmds.Reply(c, "What is to be done? !add call mum")
		return
	}
	b.change(c, func(todo []string) ([]string, error) { return append(todo, item), nil })
}

func (b *bot) list(c command) {
	todo, _, err := session.DataAs[[]string](c.Ctx, b.sessions, c.Sender.String(), listKey)
	b.show(c, todo, err)
}

var errNoSuchItem = errors.New("no such item")

func (b *bot) done(c command) {
	b.change(c, func(todo []string) ([]string, error) {
		n, err := strconv.Atoi(strings.TrimSpace(c.RawArgs))
		if err != nil || n < 1 || n > len(todo) {
			return nil, errNoSuchItem
		}
		return append(todo[:n-1:n-1], todo[n:]...), nil
	})
}

// change replaces the user's list. Another bot of theirs may change it at the
// same time, so change can be called more than once.
func (b *bot) change(c command, change func(todo []string) ([]string, error)) {
	var todo []string
	err := session.UpdateDataAs(c.Ctx, b.sessions, c.Sender.String(), listKey, func(old []string) (_ []string, err error) {
		todo, err = change(old)
		return todo, err
	})
	b.show(c, todo, err)
}

// publish sends the list to the backend as the user.
func (b *bot) publish(c command) {
	todo, _, err := session.DataAs[[]string](c.Ctx, b.sessions, c.Sender.String(), listKey)
	if err != nil {
		b.cmds.ReplyError(c, err)
		return
	}
	list := strings.NewReader(strings.Join(todo, "\n"))
	req, err := http.NewRequestWithContext(c.Ctx, http.MethodPut, b.backend+"/todo", list)
	if err != nil {
		b.cmds.ReplyError(c, err)
		return
	}
	resp, err := b.sessions.Client(c.Sender.String()).Do(req)
	if err != nil {
		b.cmds.ReplyError(c, err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b.cmds.Reply(c, "The backend did not take your list ("+resp.Status+"). Please try again later.")
		return
	}
	b.cmds.Reply(c, fmt.Sprintf("Published, %d to do.", len(todo)))
}

// show shows a list, or says why there is none.
func (b *bot) show(c command, todo []string, err error) {
	switch {
	case errors.Is(err, errNoSuchItem):
		b.cmds.Reply(c, "There is no such item. !list shows their numbers: !done 1")
	case err != nil:
		b.cmds.ReplyError(c, err)
	case len(todo) == 0:
		b.cmds.Reply(c, "Nothing to do.")
	default:
		var text strings.Builder
		for i, item := range todo {
			fmt.Fprintf(&text, "%d. %s\n", i+1, item)
		}
		b.cmds.Reply(c, strings.TrimSuffix(text.String(), "\n"))
	}
}
