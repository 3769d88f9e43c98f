package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/mana/session"
)

// round records and checks what happens to one user in a few seconds.
type round struct {
	l     *linear
	fleet *fleet
	user  account
	link  string // SID; empty: not linked
	began int64

	mu      sync.Mutex
	history []porcupine.Operation // guarded by mu
	unclear int                   // guarded by mu
	values  int                   // guarded by mu
	logins  []login               // guarded by mu
	leftOut map[string]int64      // guarded by mu
}

// login is where in the history a login is, who made it, and what was granted.
type login struct {
	at      int
	station *station
	sid     *takenSID
}

func (l *linear) round(f *fleet, random *rand.Rand) {
	r := &round{l: l, fleet: f, began: now(), leftOut: make(map[string]int64)}
	l.mu.Lock()
	l.users++
	r.user.ID = fmt.Sprintf("@user%d:matrix.example", l.users)
	for n := range 2 {
		r.user.Emails = append(r.user.Emails, fmt.Sprintf("user%d.%d@example.com", l.users, n))
	}
	l.mu.Unlock()
	for _, email := range r.user.Emails {
		r.user.Subjects = append(r.user.Subjects, l.server.AddUser(email, password).ID)
	}
	// With a link, calls that are told nothing make sessions: a refresh ahead that
	// comes after a logout. And old tokens of the link look like new ones.
	if f.kind.near == 0 && random.IntN(2) == 0 {
		l.server.Link(r.user.ID, r.user.Emails[0])
		c, err := readClaims(l.server.MintToken(r.user.Emails[0], time.Now().Add(time.Hour)))
		if err != nil {
			panic(err)
		}
		r.link = c.SID
		r.history = append(r.history, porcupine.Operation{Input: event{Do: doLink}, Call: r.began, Return: r.began})
	}

	over := make(chan struct{})
	var clients sync.WaitGroup
	for i, s := range f.services {
		for n := range f.kind.clients {
			c := &client{round: r, station: s, number: i*f.kind.clients + n, bot: i, random: rand.New(rand.NewPCG(random.Uint64(), 0))}
			clients.Go(func() {
				for sleep(over, between(c.random, f.kind.pause/2, 2*f.kind.pause)) && r.goesOn() {
					c.act()
				}
			})
		}
	}
	time.Sleep(roundLength)
	close(over)
	clients.Wait()
	r.check()
}

// goesOn reports whether the checker can take more.
func (r *round) goesOn() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unclear < maxUnclear
}

// client is somebody who uses a Service for the user, one call at a time.
type client struct {
	round   *round
	station *station
	number  int
	bot     int // of the station, for what is broken
	random  *rand.Rand
	token   string // the last one

	settled int64 // when the Service last had nothing to store for the user
}

func (c *client) act() {
	r, svc, user := c.round, c.station.service(), c.round.user
	sid := &takenSID{}
	ctx, cancel := context.WithValue(context.Background(), sidKey{}, sid), func() {}
	if patience, ok := givesUp(c.random); ok {
		ctx, cancel = context.WithTimeout(ctx, patience)
	}
	defer cancel()
	call := now()
	what := c.random.IntN(100)
	if r.fleet.kind.near > 0 && c.bot == 0 {
		// What changes is for this Service to be told, not to find out.
		if what = max(what, 30); what >= 45 {
			what = 99
		}
	}
	if c.station.store.failedAt(user.ID) > c.settled {
		what = 20 // find out whether all is stored
	}
	switch {
	case what < 10:
		as := c.random.IntN(2)
		_, err := svc.Login(ctx, user.ID, user.Emails[as], password)
		if sid.get() == "" && ctx.Err() == nil { // the auth server gave nothing
			return
		}
		c.recordLogin(event{Do: doLogin, Account: as, Unclear: err != nil}, call, sid)
	case what == 10 && r.link != "": // the user signs in to Matrix
		r.l.server.Link(user.ID, user.Emails[0])
		c.record(event{Do: doLink}, call)
	case what >= 14 && what < 18 && r.link != "":
		err := svc.Logout(ctx, user.ID, session.AndUnlink())
		c.record(event{Do: doUnlink, Unclear: err != nil}, call)
		c.record(event{Do: doLogout, Unclear: err != nil}, call)
	case what < 18:
		err := svc.Logout(ctx, user.ID)
		c.record(event{Do: doLogout, Unclear: err != nil}, call)
	case what < 30:
		key, value := c.random.IntN(keys), r.nextValue()
		err := svc.SetData(ctx, user.ID, dataKeys[key], value)
		e := event{Do: doSet, Key: key, Value: value, Refused: errors.Is(err, session.ErrNotLoggedIn)}
		e.Unclear = err != nil && !e.Refused
		c.record(e, call)
		if !e.Unclear {
			c.settled = call
		}
	case what < 45:
		var value int
		key := c.random.IntN(keys)
		_, err := svc.Data(ctx, user.ID, dataKeys[key], &value)
		e := event{Do: doGet, Key: key, Value: value, Refused: errors.Is(err, session.ErrNotLoggedIn)}
		if err == nil || e.Refused {
			c.read(e, call)
		}
	default:
		var token string
		var err error
		if what < 55 && c.token != "" {
			token, err = svc.Refresh(ctx, user.ID, c.token)
		} else {
			token, err = svc.Token(ctx, user.ID)
		}
		e := event{Do: doToken, Refused: errors.Is(err, session.ErrNotLoggedIn)}
		switch {
		case err == nil:
			c.token = token
			claims, err := readClaims(token)
			if err != nil {
				panic(err)
			}
			e.SID, e.Account = claims.SID, slices.Index(user.Subjects, claims.Subject)
			c.read(e, call)
		case e.Refused:
			c.read(e, call)
		case r.link != "": // may make a session yet
			e.Unclear = true
			c.record(e, call)
		}
	}
}

func (r *round) nextValue() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values++
	return r.values
}

// read records what the user was told, if it is about what all processes share.
func (c *client) read(e event, call int64) {
	r := c.round
	why := ""
	switch {
	case c.station.store.failedAt(r.user.ID) > c.settled:
		// The Service may go by what waits in it for the store.
		why = "told by a Service that could not read or write the user's record, and may hold to its own"
	case r.fleet.kind.near > 0 && r.fleet.store.damage.away(c.bot, call, now()):
		why = "told by a Service with a near cache that did not reach Redis"
	}
	if why != "" {
		r.mu.Lock()
		r.leftOut[why]++
		r.mu.Unlock()
		if e.Do == doToken && r.link != "" && e.SID == r.link {
			c.record(e, r.began) // whenever it was, it may have made a session
		}
		return
	}
	c.record(e, call-int64(r.fleet.kind.stale))
}

// record adds to the history. What failed may take effect at any later time,
// until something acknowledged overtakes it.
func (c *client) record(e event, call int64) {
	r := c.round
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(c, e, call)
}

func (c *client) recordLogin(e event, call int64, sid *takenSID) {
	r := c.round
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logins = append(r.logins, login{len(r.history), c.station, sid})
	r.add(c, e, call)
}

// add is called with r.mu held.
func (r *round) add(c *client, e event, call int64) {
	op := porcupine.Operation{ClientId: c.number, Call: call, Return: now()}
	e.At = call
	if e.Unclear {
		e.At, op.Return = op.Return, math.MaxInt64
		r.unclear++
	}
	op.Input = e
	r.history = append(r.history, op)
}
