package main

import (
	"slices"
	"testing"
	"time"
)

// story is a ledger with one user, in seconds.
type story struct{ *ledger }

func newStory(linked bool) story {
	damage := newDamage()
	return story{newLedger([]account{{ID: "@a:h", Emails: []string{"a@h", "b@h"}, Subjects: []string{"A", "B"}, Linked: linked}},
		damage, newBooks(damage))}
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

// filled says when there was no room in Redis.
func (s story) filled(from, to int64) {
	s.damage.full = append(s.damage.full, window{Bot: everybody, From: from * second, To: to * second})
}

func at(t int64, bot int) heard {
	return heard{message{Start: t * second, End: t*second + second/10, Sub: "A"}, bot, 1}
}

func asB(d *deed) { d.email = "b@h" }

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
		{"logout attempted", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, unclear) }, fine},
		{"logout refused", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, nothing) }, lost},
		{"logged in again", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, done); s.did(doLogin, 7, done) }, lost},
		{"second login unclear", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 5, unclear) }, lost},
		{"only login unclear", false, func(s story) { s.did(doLogin, 1, unclear) }, fine},
		{"late logout", false, func(s story) { s.did(doLogout, 1, unclear); s.did(doLogin, 5, done) }, verdict{true, lateLogout}},
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
		{"linked, long after a logout", true, func(s story) { s.did(doLogout, 1, done) }, lost},
		{"linked, during a logout", true, func(s story) { s.did(doLogout, 100, done) }, fine},
		{"bot of the login still cut off", false, func(s story) { s.broke(0, 0, 99); s.did(doLogin, 1, done) }, verdict{excused: notYetBack}},
		{"bot of the login back for long", false, func(s story) { s.broke(0, 0, 50); s.did(doLogin, 1, done) }, lost},
		{"bot of the login back for less than a lease, over an older session", false, func(s story) {
			s.broke(0, 60, 90)
			s.did(doLogin, 1, done)
			s.did(doLogin, 61, done)
		}, lost},
		{"bot of the login back for less than a lease, after a logout", false, func(s story) {
			s.broke(0, 60, 90)
			s.did(doLogout, 1, done)
			s.did(doLogin, 61, done)
		}, verdict{excused: lateBack}},
		{"bot of the login killed while cut off", false, func(s story) {
			s.broke(0, 0, 50)
			s.did(doLogin, 1, done)
			s.lives["0.1"] = 40 * second
		}, verdict{excused: queuedKilled}},
		{"bot of the login killed when it was back for long", false, func(s story) {
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
		{"given-up logout before it", false, func(s story) {
			s.did(doLogin, 1, done)
			s.did(doLogout, 80, unclear)
			s.did(doLogin, 90, done)
		}, verdict{true, lateLogout}},
		{"given-up login before it", false, func(s story) { s.did(doLogin, 1, unclear); s.did(doLogin, 5, done) }, lost},
		{"bot of the login without room in Redis", false, func(s story) { s.filled(50, 99); s.did(doLogin, 60, done) }, verdict{excused: notYetBack}},
		{"room in Redis for long", false, func(s story) { s.filled(50, 80); s.did(doLogin, 60, done) }, lost},
		{"bot of the login closed without room in Redis", false, func(s story) {
			s.filled(50, 80)
			s.did(doLogin, 60, done)
			s.lives["0.1"] = 70 * second
		}, verdict{excused: queuedKilled}},
		{"own logout without room in Redis", false, func(s story) {
			s.filled(50, 101)
			s.did(doLogout, 80, unclear, func(d *deed) { d.bot = 2 })
			s.did(doLogin, 90, done, func(d *deed) { d.bot = 1 })
		}, verdict{excused: notYetBack}},
		{"answer of a frozen auth server to nobody", false, func(s story) {
			s.did(doLogin, 1, done)
			s.books.chains["sid"] = &chain{last: &issue{abandoned: true, bot: "0.1"}, refused: 90 * second}
		}, verdict{excused: lostFrozen}},
		{"bot closed during the refresh", false, func(s story) {
			s.did(doLogin, 1, done)
			s.books.chains["sid"] = &chain{last: &issue{at: 80 * second, bot: "0.1"}, refused: 90 * second}
			s.closed(0, 1, 81*second)
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

func TestATokenAfterALogoutIsFound(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  bool
		tell func(story)
	}{
		{"logged out", true, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, done) }},
		{"never logged in", true, func(story) {}},
		{"logged out a moment ago", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 99, done) }},
		{"logged in", false, func(s story) { s.did(doLogin, 1, done) }},
		{"logout attempted", false, func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 5, unclear) }},
		{"login attempted after it", false, func(s story) { s.did(doLogout, 5, done); s.did(doLogin, 6, unclear) }},
		{"login given up just before it", true, func(s story) { s.did(doLogin, 4, unclear); s.did(doLogout, 5, done) }},
		{"login given up long before it", true, func(s story) { s.did(doLogin, 4, unclear); s.did(doLogout, 50, done) }},
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

func TestAQueuedLogoutHasToTakeEffect(t *testing.T) {
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

func TestTheLastAcknowledgedLoginDecidesTheAccount(t *testing.T) {
	wrong, fine := verdict{violation: true}, verdict{}
	b := asB
	refused := func(s story) { s.books.chains["sid"] = &chain{last: &issue{}, refused: 90 * second} }
	for _, c := range []struct {
		name   string
		linked bool // to A
		sub    string
		tell   func(story)
		want   verdict
	}{
		{"A after A", false, "A", func(s story) { s.did(doLogin, 1, done) }, fine},
		{"B after A", false, "B", func(s story) { s.did(doLogin, 1, done) }, wrong},
		{"A after B", false, "A", func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 50, done, b) }, wrong},
		{"A a moment after B", false, "A", func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 99, done, b) }, fine},
		{"B a moment after B", false, "B", func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 99, done, b) }, fine},
		{"B before B", false, "B", func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 200, done, b) }, wrong},
		{"B given up after A", false, "B", func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 50, unclear, b) }, fine},
		{"A, B given up after it", false, "A", func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 50, unclear, b) }, fine},
		{"B given up just before A", false, "B", func(s story) { s.did(doLogin, 89, unclear, b); s.did(doLogin, 90, done) }, wrong},
		{"B given up before a logout and A", false, "B", func(s story) {
			s.did(doLogin, 85, unclear, b)
			s.did(doLogout, 86, done)
			s.did(doLogin, 90, done)
		}, wrong},
		{"B after A and a logout given up", false, "B", func(s story) { s.did(doLogin, 1, done); s.did(doLogout, 50, unclear) }, wrong},
		{"B that came to nothing", false, "B", func(s story) { s.did(doLogin, 1, done); s.did(doLogin, 50, nothing, b) }, wrong},
		{"A after B of a bot that is cut off", false, "A", func(s story) {
			s.broke(0, 40, 99)
			s.did(doLogin, 1, done)
			s.did(doLogin, 50, done, b)
		}, verdict{excused: notYetBack}},
		{"A after B of a bot that was killed without room in Redis", false, "A", func(s story) {
			s.filled(40, 60)
			s.did(doLogin, 1, done)
			s.did(doLogin, 50, done, b)
			s.lives["0.1"] = 55 * second
		}, verdict{excused: queuedKilled}},
		{"link", true, "A", func(story) {}, fine},
		{"not the link's", true, "B", func(story) {}, wrong},
		{"link's after B", true, "A", func(s story) { s.did(doLogin, 50, done, b) }, wrong},
		{"B, linked to A", true, "B", func(s story) { s.did(doLogin, 50, done, b) }, fine},
		{"link's after the auth server's no to B", true, "A", func(s story) { s.did(doLogin, 50, done, b); refused(s) }, fine},
		{"link's after B and a logout", true, "A", func(s story) { s.did(doLogin, 50, done, b); s.did(doLogout, 60, done) }, fine},
		{"B after a logout, linked to A", true, "B", func(s story) { s.did(doLogin, 50, done, b); s.did(doLogout, 60, done) }, wrong},
		{"link's after B and a logout given up", true, "A", func(s story) { s.did(doLogin, 50, done, b); s.did(doLogout, 60, unclear) }, fine},
		{"B after B and a logout given up", true, "B", func(s story) { s.did(doLogin, 50, done, b); s.did(doLogout, 60, unclear) }, fine},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(c.linked)
			c.tell(s)
			h := at(100, 2)
			h.Sub = c.sub
			if got := s.judgeAccount(h); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestABotThatIsClosedMayLoseOnlyWhatItCouldNotStore(t *testing.T) {
	s := newStory(false)
	s.closed(0, 1, now())
	if s.killedAt("0.1") != 0 {
		t.Error("excused though Redis was there")
	}
	defer s.damage.begin(&s.damage.full, everybody, "redis full")()
	s.closed(0, 2, now())
	if s.killedAt("0.2") == 0 {
		t.Error("not excused though there was no room")
	}
}

func TestAGivenUpCallMayHaveTakenEffect(t *testing.T) {
	for _, c := range []struct {
		m    message
		want outcome
	}{
		{message{}, done},
		{message{Err: "ErrAuthUnavailable"}, nothing},
		{message{Err: "ErrAuthUnavailable", GaveUp: true}, unclear},
		{message{Err: "DeadlineExceeded", GaveUp: true}, unclear},
		{message{Err: "ErrClosed"}, unclear},
	} {
		var d deed
		if d.settle(c.m, nil); d.outcome != c.want {
			t.Errorf("%+v: %d, want %d", c.m, d.outcome, c.want)
		}
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
		{"logout attempted since", nil, func(s story) { s.did(doSet, 1, done, writing(7)); s.did(doLogout, 2, unclear) }},
		{"written before a queued logout took effect", nil, func(s story) { s.did(doLogout, 1, unclear); s.did(doSet, 2, done, writing(7)) }},
		{"logged in again", []int{7}, func(s story) {
			s.did(doLogin, 0, done)
			s.did(doSet, 1, done, writing(7))
			s.did(doLogin, 2, done)
		}},
		{"written before a queued logout and login took effect", nil, func(s story) {
			s.broke(0, 0, 50)
			s.did(doLogout, 1, unclear)
			s.did(doLogin, 2, done)
			s.did(doSet, 40, done, writing(7), func(d *deed) { d.bot = 1 })
		}},
		{"written after a queued logout and login took effect", []int{7}, func(s story) {
			s.broke(0, 0, 50)
			s.did(doLogout, 1, unclear)
			s.did(doLogin, 2, done)
			s.did(doSet, 80, done, writing(7), func(d *deed) { d.bot = 1 })
		}},
		{"logged out by a bot that is away once more", nil, func(s story) {
			s.broke(0, 0, 50)
			s.broke(0, 80, 90)
			s.did(doLogout, 1, unclear)
			s.did(doLogout, 2, done)
			s.did(doSet, 78, done, writing(7), func(d *deed) { d.bot = 1 })
			s.did(doLogout, 81, done)
		}},
		{"login as another given up", nil, func(s story) {
			s.did(doLogin, 0, done)
			s.did(doSet, 1, done, writing(7))
			s.did(doLogin, 2, unclear, asB)
		}},
		{"written after a login as another was given up", []int{8}, func(s story) {
			s.did(doLogin, 0, done)
			s.did(doLogin, 1, unclear, asB)
			s.did(doSet, 2, done, writing(8))
		}},
		{"written before a login as another, which was given up by a bot that is away, took effect", nil, func(s story) {
			s.broke(0, 1, 50)
			s.did(doLogin, 0, done, func(d *deed) { d.bot = 1 })
			s.did(doLogin, 2, unclear, asB)
			s.did(doSet, 40, done, writing(7), func(d *deed) { d.bot = 1 })
		}},
		{"written before a bot that is away gave up a login as another", nil, func(s story) {
			s.broke(0, 5, 50)
			s.did(doLogin, 0, done)
			s.did(doSet, 1, done, writing(7))
			s.did(doLogin, 6, unclear, asB)
		}},
		{"written after it took effect", []int{7}, func(s story) {
			s.broke(0, 1, 50)
			s.did(doLogin, 0, done, func(d *deed) { d.bot = 1 })
			s.did(doLogin, 2, unclear, asB)
			s.did(doSet, 80, done, writing(7), func(d *deed) { d.bot = 1 })
		}},
		{"logged in again after a login as another was given up", nil, func(s story) {
			s.did(doLogin, 0, done)
			s.did(doLogin, 1, unclear, asB)
			s.did(doSet, 2, done, writing(8))
			s.did(doLogin, 3, done, asB)
		}},
		{"logged in as another", nil, func(s story) {
			s.did(doLogin, 0, done)
			s.did(doSet, 1, done, writing(7))
			s.did(doLogin, 2, done, asB)
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
