package botcmd

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

const reasonPassword = "It held a password."

// deletePassword redacts a message that holds a password, and the edits that repeat
// it. Without an error they are gone.
func (a *accounts) deletePassword(ctx context.Context, m message) error {
	ctx = persistent(ctx)
	edits, err := a.edits(ctx, m)
	if err != nil {
		return err
	}
	for _, message := range append(edits, m.ID) {
		if err := a.delete(ctx, m.RoomID, message); err != nil {
			return err
		}
	}
	return nil
}

// edits are those of a message that the homeserver knows, and the edits of these,
// which some clients make. Later ones come by sync.
func (a *accounts) edits(ctx context.Context, m message) ([]id.EventID, error) {
	all := []id.EventID{m.ID}
	for i := 0; i < len(all); i++ {
		edits, err := a.editsOf(ctx, m, all[i])
		if err != nil {
			return nil, err
		}
		all = append(all, edits...)
	}
	return all[1:], nil
}

// editsOf are the edits by the sender of m, one of whose events edited is.
func (a *accounts) editsOf(ctx context.Context, m message, edited id.EventID) ([]id.EventID, error) {
	req := &mautrix.ReqGetRelations{RelationType: event.RelReplace, Limit: 100}
	var edits []id.EventID
	for {
		page, err := a.client.GetRelations(ctx, m.RoomID, edited, req)
		switch {
		case errors.Is(err, mautrix.MUnrecognized): // an old homeserver
			return nil, nil
		case err != nil:
			return nil, err
		}
		for _, evt := range page.Chunk {
			if evt.Sender == m.Sender { // only these are edits
				edits = append(edits, evt.ID)
			}
		}
		if req.From = page.NextBatch; req.From == "" || len(page.Chunk) == 0 {
			return edits, nil
		}
	}
}

var errStillThere = errors.New("botcmd: the homeserver accepted a redaction and did not carry it out")

// delete redacts an event and looks whether it is gone: a homeserver may accept a
// redaction that has no effect, and one of many processes may lag behind.
func (a *accounts) delete(ctx context.Context, room id.RoomID, message id.EventID) error {
	if _, err := a.client.RedactEvent(ctx, room, message, mautrix.ReqRedact{Reason: reasonPassword}); err != nil {
		return err
	}
	for _, pause := range []time.Duration{0, 300 * time.Millisecond, time.Second, 3 * time.Second} {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		evt, err := a.client.GetEvent(ctx, room, message)
		switch {
		case errors.Is(err, mautrix.MNotFound):
			return nil
		case err != nil:
			return err
		case len(evt.Content.Raw) == 0:
			return nil
		}
	}
	return errStillThere
}

// deleteEdit redacts an edit that holds a password, and what it edits if that is of
// the same sender: it may hold the password as well, behind a misspelt command.
func (a *accounts) deleteEdit(ctx context.Context, m message, edited id.EventID) {
	ctx = persistent(ctx)
	err := a.delete(ctx, m.RoomID, m.ID)
	if err == nil {
		var original *event.Event
		original, err = a.client.GetEvent(ctx, m.RoomID, edited)
		if err == nil && original.Sender == m.Sender && len(original.Content.Raw) > 0 {
			err = a.delete(ctx, m.RoomID, edited)
		}
	}
	if err != nil {
		logAbout(ctx, a.client, m.Event).Warn().Err(err).Msg("Edit with a password not deleted")
		a.sentence(ctx, m, func(l Language) string { return l.EditNotDeleted })
		return
	}
	a.sentence(ctx, m, func(l Language) string { return l.EditDeleted })
}

// carriers remembers the last messages that held a password, so that an edit of one
// is known as such whatever it says.
type carriers struct {
	mu   sync.Mutex
	last []carrier // guarded by mu
}

// A carrier is a message that held a password. Only its sender can edit it.
type carrier struct {
	message id.EventID
	sender  id.UserID
}

const maxCarriers = 1000

func (c *carriers) add(message id.EventID, sender id.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.last) == maxCarriers {
		c.last = slices.Delete(c.last, 0, maxCarriers/10)
	}
	c.last = append(c.last, carrier{message, sender})
}

func (c *carriers) has(message id.EventID, sender id.UserID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.last, carrier{message, sender})
}
