package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"
)

// everybodyLogsIn who has a password to do so, while all is well, and makes the
// bots busy.
func (r *run) everybodyLogsIn() error {
	fmt.Fprintln(os.Stderr, "everybody logs in …")
	var all sync.WaitGroup
	users := make(chan int)
	for range r.config.Deeds {
		all.Go(func() {
			for user := range users {
				r.login(user, r.bots[user%len(r.bots)].get(), r.users[user].Emails[0], 0)
			}
		})
	}
	for user, a := range r.users {
		if !a.Never {
			users <- user
		}
	}
	close(users)
	all.Wait()
	for user, a := range r.users {
		if deeds := r.ledger.of(user); !a.Never && (len(deeds) != 1 || deeds[0].outcome != done) {
			return fmt.Errorf("user %d could not log in though nothing was broken: %+v", user, deeds)
		}
	}
	for _, s := range r.bots {
		if _, err := s.get().do(order{Do: doTraffic}); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) login(user int, p *process, email string, limit time.Duration) {
	d := deed{do: doLogin, bot: p.config.Number, life: p.config.Life, email: email, start: now()}
	m, err := p.do(order{Do: doLogin, User: user, Email: email, Limit: limit})
	d.settle(m, err)
	d.sid = m.SID
	r.ledger.add(user, d)
	if d.outcome == done {
		r.tellAccount(user, email, d.end)
	}
}

// tellAccount has every bot look out for tokens of another of the user's
// accounts. What they see is judged when everything is known.
func (r *run) tellAccount(user int, email string, since int64) {
	if u := r.users[user]; len(u.Emails) > 1 {
		r.tellAll(order{Do: doAccount, User: user, Sub: u.Subjects[slices.Index(u.Emails, email)], From: since + int64(staleness)})
	}
}

func (r *run) tellAll(o order) {
	for _, s := range r.bots {
		if p := s.get(); p != nil {
			p.tell(o)
		}
	}
}

// settle enters how a deed ended. What fails before anything is written has
// changed nothing.
func (d *deed) settle(m message, err error) {
	d.end, d.err = now(), m.Err
	switch {
	case err != nil:
		d.outcome, d.err = unclear, err.Error()
	case m.Err == "":
		d.outcome = done
	case m.GaveUp:
		d.outcome = unclear
	case m.Err == "ErrAuthUnavailable", m.Err == "ErrRateLimited", m.Err == "ErrNotLoggedIn":
		d.outcome = nothing
	default:
		d.outcome = unclear
	}
}

// busy keeps the deeds about a user one after the other.
type busy struct {
	mu    sync.Mutex
	users []bool // guarded by mu
}

func newBusy(n int) *busy { return &busy{users: make([]bool, n)} }

func (b *busy) take(user int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.users[user]
	b.users[user] = true
	return !taken
}

func (b *busy) give(user int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users[user] = false
}

// someDeed lets a user do something.
func (r *run) someDeed(random *rand.Rand, busy *busy) {
	user, p := random.IntN(len(r.users)), r.bots[random.IntN(len(r.bots))].get()
	if p == nil || r.users[user].Never && !r.users[user].Linked || !busy.take(user) {
		return
	}
	defer busy.give(user)
	limit, _ := givesUp(random)
	what := random.IntN(100)
	s, _ := r.ledger.standingAt(r.ledger.of(user), now(), now())
	if s != in && !r.users[user].Linked {
		what = 0 // nobody stays logged out for long
	}
	switch emails := r.users[user].Emails; {
	case what < 20 && !r.users[user].Never:
		r.login(user, p, emails[random.IntN(len(emails))], limit)
	case what < 40:
		r.logout(user, p, limit)
	default:
		d := deed{do: doSet, bot: p.config.Number, life: p.config.Life, key: dataKeys[random.IntN(len(dataKeys))], value: 1 + random.IntN(1e9), start: now()}
		m, err := p.do(order{Do: doSet, User: user, Key: d.key, Value: d.value, Limit: limit})
		d.settle(m, err)
		r.ledger.add(user, d)
		if d.err == "ErrNotLoggedIn" && !r.users[user].Linked {
			r.ledger.hear(message{Kind: sawRefused, User: user, Start: m.Start, End: m.End, Detail: "set data"}, p.config.Number, p.config.Life)
		}
	}
}

// logout logs a user out, and has every bot look out for the logins that are
// over with it.
func (r *run) logout(user int, p *process, limit time.Duration) {
	sids := r.desk.books.granted(r.users[user].Emails, 0)
	d := deed{do: doLogout, bot: p.config.Number, life: p.config.Life, start: now()}
	m, err := p.do(order{Do: doLogout, User: user, Limit: limit})
	d.settle(m, err)
	r.ledger.add(user, d)
	switch {
	case d.outcome != done:
	case r.users[user].Linked:
		r.tellAccount(user, r.users[user].Emails[0], d.end)
	default:
		r.tellAll(order{Do: doEnded, SIDs: sids, From: d.end + int64(staleness)})
	}
}
