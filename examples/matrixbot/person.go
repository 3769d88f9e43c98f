//go:build goolm

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// A person is a user of the homeserver who talks to the bot.
type person struct {
	client *mautrix.Client

	helper *cryptohelper.CryptoHelper
	stop   context.CancelFunc
	synced chan struct{} // closed when syncing has ended

	mu      sync.Mutex
	heard   []*event.Event // guarded by mu
	changed chan struct{}  // guarded by mu; closed when something was heard
}

// newPerson registers a user, with keys in dir, who listens until Close.
func newPerson(ctx context.Context, homeserver, name, dir string) (*person, error) {
	a := account{
		homeserver: homeserver, user: name, password: name + "'s password",
		database: filepath.Join(dir, name+".db"), pickleKey: name,
	}
	if err := register(ctx, a); err != nil {
		return nil, err
	}
	client, helper, err := connect(ctx, a, zerolog.Nop())
	if err != nil {
		return nil, err
	}
	p := &person{client: client, helper: helper, synced: make(chan struct{}), changed: make(chan struct{})}
	syncer := client.Syncer.(*mautrix.DefaultSyncer)
	for _, kind := range []event.Type{event.EventMessage, event.StateMember} {
		syncer.OnEventType(kind, p.hear)
	}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(p.synced)
		_ = client.SyncWithContext(ctx) // ends with its context
	}()
	return p, nil
}

func register(ctx context.Context, a account) error {
	client, err := mautrix.NewClient(a.homeserver, "", "")
	if err != nil {
		return err
	}
	_, err = client.RegisterDummy(ctx, &mautrix.ReqRegister[any]{
		Username: a.user, Password: a.password, InhibitLogin: true,
	})
	return err
}

// Close stops listening.
func (p *person) Close() error {
	p.stop()
	<-p.synced
	return p.helper.Close()
}

func (p *person) hear(_ context.Context, evt *event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, evt)
	close(p.changed)
	p.changed = make(chan struct{})
}

// await returns the first event that the person has heard, or hears before ctx
// ends, and that ok accepts.
func (p *person) await(ctx context.Context, ok func(*event.Event) bool) (*event.Event, error) {
	for next := 0; ; {
		p.mu.Lock()
		heard, changed := p.heard, p.changed
		p.mu.Unlock()
		for ; next < len(heard); next++ {
			if ok(heard[next]) {
				return heard[next], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// invite makes a room of the person's and invites others. The first of them, the
// bot, may delete messages there if mayDelete is set.
func (p *person) invite(ctx context.Context, encrypted, mayDelete bool, others ...id.UserID) (id.RoomID, error) {
	power := map[id.UserID]int{p.client.UserID: 100}
	if mayDelete {
		power[others[0]] = 50
	}
	req := &mautrix.ReqCreateRoom{
		Preset: "private_chat", Invite: others, IsDirect: true,
		PowerLevelOverride: &event.PowerLevelsEventContent{Users: power},
	}
	if encrypted {
		req.InitialState = []*event.Event{{
			Type:    event.StateEncryption,
			Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}},
		}}
	}
	room, err := p.client.CreateRoom(ctx, req)
	if err != nil {
		return "", err
	}
	return room.RoomID, nil
}

// joined waits until another user is in a room with the person.
func (p *person) joined(ctx context.Context, room id.RoomID, user id.UserID) error {
	_, err := p.await(ctx, func(evt *event.Event) bool {
		return evt.RoomID == room && evt.Type == event.StateMember && evt.GetStateKey() == user.String() &&
			evt.Content.AsMember().Membership == event.MembershipJoin
	})
	return err
}

// say sends a message and returns its ID.
func (p *person) say(ctx context.Context, room id.RoomID, text string) (id.EventID, error) {
	sent, err := p.client.SendText(ctx, room, text)
	if err != nil {
		return "", err
	}
	return sent.EventID, nil
}

// answer waits for the reply to a message.
func (p *person) answer(ctx context.Context, room id.RoomID, to id.EventID) (string, error) {
	reply, err := p.await(ctx, func(evt *event.Event) bool {
		return evt.RoomID == room && evt.Type == event.EventMessage && evt.Sender != p.client.UserID &&
			evt.Content.AsMessage().RelatesTo.GetReplyTo() == to
	})
	if err != nil {
		return "", fmt.Errorf("no answer to %s: %w", to, err)
	}
	return reply.Content.AsMessage().Body, nil
}

// ask sends a message and returns its ID and the reply to it.
func (p *person) ask(ctx context.Context, room id.RoomID, text string) (id.EventID, string, error) {
	sent, err := p.say(ctx, room, text)
	if err != nil {
		return "", "", err
	}
	reply, err := p.answer(ctx, room, sent)
	return sent, reply, err
}
