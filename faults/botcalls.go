package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/mana/session"
)

// traffic starts the callers.
func (b *bot) traffic() {
	for i := range b.config.Callers {
		random := rand.New(rand.NewPCG(b.config.Seed, uint64(b.config.Number)<<32|uint64(b.config.Life)<<16|uint64(i)))
		b.callers.Go(func() {
			for {
				select {
				case <-b.quiet:
					return
				case <-time.After(b.config.Pause/2 + time.Duration(random.Int64N(int64(b.config.Pause)))):
				}
				b.call(random)
			}
		})
	}
}

// call does what a bot does at a command: mostly it asks for a token.
func (b *bot) call(random *rand.Rand) {
	ctx, cancel := context.Background(), func() {}
	if patience, ok := givesUp(random); ok {
		ctx, cancel = context.WithTimeout(ctx, patience)
	}
	defer cancel()
	user := random.IntN(len(b.users))
	switch p := random.IntN(100); {
	case p < 94:
		_, _ = b.token("token", user, func() (string, error) { return b.svc.Token(ctx, b.users[user].ID) })
	case p < 96:
		token, err := b.token("token", user, func() (string, error) { return b.svc.Token(ctx, b.users[user].ID) })
		if err == nil {
			_, _ = b.token("refresh", user, func() (string, error) { return b.svc.Refresh(ctx, b.users[user].ID, token) })
		}
	case p < 98:
		var value int
		_, err := b.svc.Data(ctx, b.users[user].ID, dataKeys[random.IntN(len(dataKeys))], &value)
		b.count("data", sentinel(err))
	default:
		start := now()
		in, err := b.svc.LoggedIn(ctx, b.users[user].ID)
		b.count("logged in", sentinel(err))
		if err == nil && !in {
			b.say(message{Kind: sawRefused, User: user, Start: start, End: now(), Detail: "logged in: false"})
		}
	}
}

// token makes a call that returns a token, and looks at what comes of it.
func (b *bot) token(op string, user int, call func() (string, error)) (string, error) {
	start := now()
	token, err := call()
	end := now()
	b.count(op, sentinel(err))
	switch {
	case err == nil:
		b.inspect(op, user, token, start, end)
	case errors.Is(err, session.ErrNotLoggedIn):
		b.say(message{Kind: sawRefused, User: user, Start: start, End: end, Detail: op + ": " + err.Error()})
	}
	return token, err
}

// inspect reports a token that is not as it should be.
func (b *bot) inspect(op string, user int, token string, start, end int64) {
	m := message{User: user, Start: start, End: end, Detail: op}
	c, err := readClaims(token)
	if err != nil {
		m.Kind, m.Detail = sawWrong, op+": "+err.Error()
		b.say(m)
		return
	}
	m.SID, m.Sub = c.SID, c.Subject
	if !slices.Contains(b.users[user].Subjects, c.Subject) {
		m.Kind = sawWrong
		b.say(m)
	}
	if o, ok := b.account.Load(user); ok && start > o.(order).From && c.Subject != o.(order).Sub {
		m.Kind = sawAccount
		b.say(m)
	}
	left := time.Duration(c.Expires*int64(time.Second) - end)
	if left <= time.Minute {
		m.Kind, m.Detail = sawShort, left.String()
		b.say(m)
	}
	if over, ok := b.ended.Load(c.SID); ok && start > over.(int64) {
		health := b.svc.Health(context.Background())
		m.Kind, m.Detail = sawGhost, fmt.Sprintf("%s; then: store ok %t, %q, queued %d", op, health.Store.OK, health.Store.LastError, health.Queued)
		b.say(m)
	}
}

// each calls f for every user, many at a time.
func (b *bot) each(f func(user int)) {
	var all sync.WaitGroup
	next := make(chan int)
	for range sweepCallers {
		all.Go(func() {
			for user := range next {
				f(user)
			}
		})
	}
	for user := range b.users {
		next <- user
	}
	close(next)
	all.Wait()
}

// sweep asks for everybody's token until there is one or a no.
func (b *bot) sweep() []message {
	answers := make([]message, len(b.users))
	limit := time.Now().Add(sweepLimit)
	b.each(func(user int) {
		m := &answers[user]
		for {
			m.Start = now()
			token, err := b.svc.Token(context.Background(), b.users[user].ID)
			m.End, m.Err, m.User = now(), sentinel(err), user
			b.count("token", m.Err)
			if err == nil {
				b.inspect("sweep", user, token, m.Start, m.End)
				c, _ := readClaims(token)
				m.SID, m.Sub, m.Detail = c.SID, c.Subject, ""
				return
			}
			m.Detail = "sweep: " + err.Error()
			if errors.Is(err, session.ErrNotLoggedIn) || time.Now().After(limit) {
				return
			}
			time.Sleep(100 * time.Millisecond) // the breaker closes, the server recovers
		}
	})
	return answers
}

// allData reads everybody's data; a user without a session has nil.
func (b *bot) allData() []map[string]int {
	answers := make([]map[string]int, len(b.users))
	b.each(func(user int) {
		data := make(map[string]int)
		for _, key := range dataKeys {
			var value int
			found, err := b.svc.Data(context.Background(), b.users[user].ID, key, &value)
			b.count("data", sentinel(err))
			if err != nil {
				return
			}
			if found {
				data[key] = value
			}
		}
		answers[user] = data
	})
	return answers
}
