package main

import (
	"slices"
	"testing"
	"time"
)

// story is a ledger with one user, in seconds.
type story struct{ *ledger }

func newStory(linked bool) story {
	return story{newLedger([]account{{ID: "@a:h", Emails: []string{"a@h", "b@h"}, Subjects: []string{"A", "B"}, Linked: linked}},
		newDamage(), newBooks())}
}

const second = int64(time.Second)

func (s story) did(do string, at int64, o outcome, more ...func(*deed)) {
	d := deed{do: do, life: 1, start: at * second, end: at*second + second/2, outcome: o, email: "a@h", sid: "sid"}
	for _, f := range more {
		f(&d)
	}
	s.add(0, d)
}

func (s story) broke(bot int, from, to int64) {
	s.damage.store = append(s.damage.store, window{Bot: bot, From: from * second, To: to * second})
}

func at(t int64, bot int) heard {
	return heard{message{Start: t * second, End: t*second + second/10, Sub: "A"}, bot, 1}
}

func as(email string) func(*deed) { return func(d *deed) { d.email = email } }

func writing(value int) func(*deed) { return func(d *deed) { d.key, d.value = "list", value } }

func TestALossIsToldFromWhatHadToBe(t *testing.T) {
	lost, fine := verdict{violation: true}, verdict{}
	for _, c := range []struct {
		name   string
		linked bool
		tell   func(story)
		want   verdict
	}{
		{"logged in", false, func(s story) { s.did(doLogin, 1, done) }, lost},
		{"never logged in", false, func(story) {}, fine},
		{"logged out", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, done) }, fine},
		{"log-out attempted", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, unclear) }, fine},
		{"log-out refused", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, nothing) }, lost},
		{"logged in again", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, done); s.did(doLogin, 7, done) }, lost},
		{"second log-in unclear", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 5, unclear) }, lost},
		{"only log-in unclear", false, func(s story) { s.did(doLogin, 1, unclear) }, fine},
		{"late log-out", false, func(s story) { s.did(doLogout, 1, unclear); s.did(doLogin, 5, done) }, verdict{true, lateLogout}},
		{"logged out by a bot that is cut off", false, func(s story) {
			s.broke(2, 50, 101)
			s.did(doLogout, 80, unclear, func(d *deed) { d.bot = 2 })
			s.did(doLogin, 90, done)
		}, verdict{excused: ownQueued}},
		{"logged out by a bot that is back", false, func(s story) {
			s.broke(2, 50, 90)
			s.did(doLogout, 60, unclear, func(d *deed) { d.bot = 2 })
			s.did(doLogin, 90, done)
		}, lost},
		{"linked", true, func(story) {}, lost},
		{"linked, long after a log-out", true, func(s story) { s.did(doLogout, 1, done) }, lost},
		{"linked, during a log-out", true, func(s story) { s.did(doLogout, 100, done) }, fine},
		{"bot of the log-in still cut off", false, func(s story) { s.broke(0, 0, 99); s.did(doLogin, 1, done) }, verdict{excused: notYetBack}},
		{"bot of the log-in back for long", false, func(s story) { s.broke(0, 0, 50); s.did(doLogin, 1, done) }, lost},
		{"bot of the log-in back for less than a lease, over an older session", false, func(s story) {
			s.broke(0, 60, 90)
			s.did(doLogin, 1, done)
			s.did(doLogin, 61, done)
		}, lost},
		{"bot of the log-in back for less than a lease, after a log-out", false, func(s story) {
			s.broke(0, 60, 90)
			s.did(doLogout, 1, done)
			s.did(doLogin, 61, done)
		}, verdict{excused: lateBack}},
		{"bot of the log-in killed while cut off", false, func(s story) {
			s.broke(0, 0, 50)
			s.did(doLogin, 1, done)
			s.lives["0.1"] = 40 * second
		}, verdict{excused: queuedKilled}},
		{"bot of the log-in killed when it was back for long", false, func(s story) {
			s.broke(0, 0, 50)
			s.did(doLogin, 1, done)
			s.lives["0.1"] = 60 * second
		}, lost},
		{"another bot cut off", false, func(s story) { s.broke(1, 0, 99); s.did(doLogin, 1, done) }, lost},
		{"answer to the refresh destroyed", false, func(s story) {
			s.did(doLogin, 1, done)
			s.books.chains["sid"] = &chain{last: &issue{destroyed: true, bot: "0.1"}, refused: 90 * second}
		}, verdict{excused: lostAnswer}},
		{"answer destroyed, but nobody came with the old token", false, func(s story) {
			s.did(doLogin, 1, done)
			s.books.chains["sid"] = &chain{last: &issue{destroyed: true, bot: "0.1"}}
		}, lost},
		{"refresher killed", false, func(s story) {
			s.did(doLogin, 1, done)
			s.books.chains["sid"] = &chain{last: &issue{at: 80 * second, bot: "0.1"}, refused: 90 * second}
			s.lives["0.1"] = 81 * second
		}, verdict{excused: lostHolder}},
		{"refresher lived", false, func(s story) {
			s.did(doLogin, 1, done)
			s.books.chains["sid"] = &chain{last: &issue{at: 80 * second, bot: "0.1"}, refused: 90 * second}
		}, lost},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(c.linked)
			c.tell(s)
			if got := s.judgeRefusal(at(100, 2)); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestATokenAfterALogOutIsFound(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  bool
		tell func(story)
	}{
		{"logged out", true, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, done) }},
		{"never logged in", true, func(story) {}},
		{"logged out a moment ago", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 99, done) }},
		{"logged in", false, func(s story) { s.did(doLogin, 1, done) }},
		{"log-out attempted", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, unclear) }},
		{"log-in attempted after it", false, func(s story) { s.did(doLogout, 5, done); s.did(doLogin, 6, unclear) }},
		{"log-in attempted just before it", false, func(s story) { s.did(doLogin, 4, unclear); s.did(doLogout, 5, done) }},
		{"log-in attempted long before it", true, func(s story) { s.did(doLogin, 4, unclear); s.did(doLogout, 50, done) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(false)
			c.tell(s)
			if got := s.judgeToken(at(100, 2)); got.violation != c.bad {
				t.Errorf("%+v, want %t", got, c.bad)
			}
		})
	}
}

func TestAQueuedLogOutHasToTakeEffect(t *testing.T) {
	unavailable := func(d *deed) { d.err = "ErrStoreUnavailable" }
	for _, c := range []struct {
		name string
		want bool
		tell func(story)
	}{
		{"queued", true, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 50, unclear, unavailable) }},
		{"given up by the caller", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 50, unclear) }},
		{"killed", false, func(s story) { s.did(doLogout, 50, unclear, unavailable); s.lives["0.1"] = 60 * second }},
		{"logged in since", false, func(s story) { s.did(doLogout, 50, unclear, unavailable); s.did(doLogin, 60, done) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(false)
			c.tell(s)
			if got := s.queuedLogout(0); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}

func TestTheLastLogInDecidesTheAccount(t *testing.T) {
	s := newStory(false)
	s.did(doLogin, 1, done)
	if s.judgeAccount(at(100, 2)).violation {
		t.Error("A's token after A's log-in")
	}
	s.did(doLogin, 50, done, as("b@h"))
	if !s.judgeAccount(at(100, 2)).violation {
		t.Error("A's token after B's log-in")
	}
}

func TestDataThatHaveToBeThere(t *testing.T) {
	for _, c := range []struct {
		name string
		want []int // nil: anything
		tell func(story)
	}{
		{"written", []int{7}, func(s story) { s.did(doSet, 1, done, writing(7)) }},
		{"written twice", []int{8}, func(s story) { s.did(doSet, 1, done, writing(7)); s.did(doSet, 2, done, writing(8)) }},
		{"second write unclear", []int{7, 8}, func(s story) { s.did(doSet, 1, done, writing(7)); s.did(doSet, 2, unclear, writing(8)) }},
		{"second write refused", []int{7}, func(s story) { s.did(doSet, 1, done, writing(7)); s.did(doSet, 2, nothing, writing(8)) }},
		{"logged out since", nil, func(s story) { s.did(doSet, 1, done, writing(7)); s.did(doLogout, 2, done) }},
		{"log-out attempted since", nil, func(s story) { s.did(doSet, 1, done, writing(7)); s.did(doLogout, 2, unclear) }},
		{"written before a queued log-out took effect", nil, func(s story) { s.did(doLogout, 1, unclear); s.did(doSet, 2, done, writing(7)) }},
		{"logged in again", []int{7}, func(s story) {
			s.did(doLogin, 0, done)
			s.did(doSet, 1, done, writing(7))
			s.did(doLogin, 2, done)
		}},
		{"logged in as another", nil, func(s story) {
			s.did(doLogin, 0, done)
			s.did(doSet, 1, done, writing(7))
			s.did(doLogin, 2, done, as("b@h"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(false)
			c.tell(s)
			if got, ok := s.wantedData(0, "list"); ok != (c.want != nil) || ok && !slices.Equal(got, c.want) {
				t.Errorf("%v %t, want %v", got, ok, c.want)
			}
		})
	}
}
