package main

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// How things are allowed to take time.
const (
	// staleness is how long after a logout another process that reaches the
	// store may still hand out what it knows: the near cache's promise of a
	// second, and room for a loaded machine.
	staleness = 1300 * time.Millisecond

	// wayBack is how long after Redis is back a bot may still behave as if it
	// were not. A call that was under way may take 2 s to fail, and for a second
	// after a failure a Service goes by what it knows; meanwhile the queue is
	// drained and the change feed built. The rest is for a loaded machine.
	wayBack = 4 * time.Second

	// leaseTime is how long a process that was killed or cut off may hold the
	// lease on a user. Making a record takes the lease, so a login of a user who
	// had none is written back that much later.
	leaseTime = 15 * time.Second

	// straggling is how long a write whose caller was told an error may stay on
	// the way, in a connection that stands still or in a queue, if nothing that is
	// acknowledged overtakes it.
	straggling = 20 * time.Second

	// refreshLimit bounds the time from the spending of a refresh token to the
	// storing of its successor, Redis being away included.
	refreshLimit = 20 * time.Second
)

// Why a session was lost that nobody could have kept, and other reasons for not
// judging something.
const (
	lostAnswer   = "refresh token spent, the answer destroyed by a fault"
	lostHolder   = "refresh token spent by a bot that was killed before it could store the successor"
	lostFrozen   = "refresh token spent by an auth server that was frozen or restarted, and answered when nobody waited any more"
	queuedKilled = "login queued in a bot that was killed, or closed, while it could not write to Redis"
	notYetBack   = "login of a bot that did not reach Redis, not written back yet"
	lateBack     = "login of a bot that did not reach Redis, written back late: another process had died with the lease or held it"
	ownQueued    = "told by a bot that did not reach Redis, and had itself logged the user out before somebody else logged in"
	lateLogout   = "earlier logout that had reported an error took effect late"
)

// deed is something that was done about a user. Deeds of a user come one after
// the other; what comes with them, such as refreshes, does not.
type deed struct {
	do         string
	bot, life  int
	start, end int64
	outcome    outcome
	err        string
	email      string
	sid        string // of a login that is done
	key        string
	value      int
}

type outcome int

const (
	done    outcome = iota
	nothing         // failed, and has changed nothing
	unclear         // failed, and may take effect, now or later
)

// ledger holds what was done about every user and what the bots observed.
type ledger struct {
	users  []account
	damage *damage
	books  *books

	mu    sync.Mutex
	deeds [][]deed         // guarded by mu: by user, in their order
	lives map[string]int64 // guarded by mu: when "bot.life" was killed
	heard []heard          // guarded by mu
}

// heard is an observation and who made it.
type heard struct {
	message
	bot, life int
}

func newLedger(users []account, d *damage, b *books) *ledger {
	return &ledger{users: users, damage: d, books: b, deeds: make([][]deed, len(users)), lives: make(map[string]int64)}
}

func (l *ledger) add(user int, d deed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deeds[user] = append(l.deeds[user], d)
}

func (l *ledger) of(user int) []deed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.deeds[user])
}

func (l *ledger) hear(m message, bot, life int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, heard{m, bot, life})
}

func (l *ledger) killed(bot, life int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives[fmt.Sprintf("%d.%d", bot, life)] = now()
}

// closed notes that a bot was closed, from a time on. If it could not write to
// Redis meanwhile it is as good as killed; otherwise nothing may be lost.
func (l *ledger) closed(bot, life int, from int64) {
	if l.damage.unwritable(bot, from, now()) {
		l.killed(bot, life)
	}
}

func (l *ledger) killedAt(bot string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lives[bot]
}

// standing is what the deeds of a user say about a time.
type standing int

const (
	unknown standing = iota
	in               // logged in, for sure
	out              // logged out, for sure
)

// standingAt tells how a user without a link stands throughout [from, to], and
// by which deed. For deeds that were going on meanwhile, or may have been, it is
// unknown.
func (l *ledger) standingAt(deeds []deed, from, to int64) (standing, int) {
	s, by := out, -1 // nobody has logged in yet
	for i, d := range deeds {
		if d.start > to {
			break
		}
		if d.do == doSet || d.outcome == nothing {
			continue
		}
		switch {
		case d.do == doLogin && d.outcome == done && d.end < from:
			s, by = in, i
		case d.do == doLogin && s == in:
			// The user stays logged in, by the one or the other.
		case d.do == doLogin:
			s, by = unknown, i
		case d.do == doLogout && d.outcome == done && d.end < from:
			s, by = out, i // for good: what was given up before has no effect after it
		case d.do == doLogout:
			s, by = unknown, i
		}
	}
	return s, by
}

// verdict is what an observation amounts to.
type verdict struct {
	violation bool
	excused   string // why a loss is not one; with neither: nothing is wrong
}

// judgeRefusal says whether a user may have been told to log in.
func (l *ledger) judgeRefusal(h heard) verdict {
	deeds := l.of(h.User)
	if l.users[h.User].Linked {
		// Only a logout in the middle of the call may make a linked user look
		// logged out.
		return verdict{violation: !slices.ContainsFunc(deeds, func(d deed) bool {
			end := d.end
			if d.outcome == unclear {
				end += int64(straggling)
			}
			return d.do == doLogout && d.outcome != nothing && d.start <= h.End && end >= h.Start
		})}
	}
	s, by := l.standingAt(deeds, h.Start, h.End)
	if s != in {
		return verdict{}
	}
	login := deeds[by]
	// What a bot did while it did not reach Redis others learn when it does.
	if back, away := l.damage.backBy(login.bot, login.start, login.end); away {
		killed := l.killedAt(fmt.Sprintf("%d.%d", login.bot, login.life))
		if killed != 0 && killed <= back {
			return verdict{excused: queuedKilled}
		}
		switch {
		case h.Start <= back:
			return verdict{excused: notYetBack}
		case h.Start <= back+int64(leaseTime) && l.hadNoRecord(deeds[:by]):
			return verdict{excused: lateBack}
		}
	}
	// A bot that does not reach Redis goes by its own logout.
	if l.damage.unwritable(h.bot, h.Start, h.End) && slices.ContainsFunc(deeds[:by], func(d deed) bool {
		return d.do == doLogout && d.outcome == unclear && d.bot == h.bot && d.life == h.life
	}) {
		return verdict{excused: ownQueued}
	}
	emails := l.users[h.User].Emails
	for _, sid := range append(l.books.granted(emails, login.end), login.sid) {
		if why := l.books.broken(sid, h.End, l.killedAt); why != "" {
			return verdict{excused: why}
		}
	}
	for _, d := range deeds[:by] {
		if d.do == doLogout && d.outcome == unclear && login.end-d.end < int64(straggling) {
			return verdict{violation: true, excused: lateLogout}
		}
	}
	return verdict{violation: true}
}

// hadNoRecord reports whether a user had no session in the store after what was
// done, for all that is known.
func (l *ledger) hadNoRecord(deeds []deed) bool {
	for _, d := range slices.Backward(deeds) {
		if d.do != doSet && d.outcome != nothing {
			return d.do == doLogout || d.outcome == unclear
		}
	}
	return true
}

// judgeToken says whether a user without a link may have been given a token by
// a bot that reached Redis.
func (l *ledger) judgeToken(h heard) verdict {
	if l.users[h.User].Linked {
		return verdict{}
	}
	s, _ := l.standingAt(l.of(h.User), h.Start-int64(staleness), h.End)
	return verdict{violation: s == out}
}

// queuedLogout reports whether the last thing that happened to a user is a
// logout which a bot could not carry out at once and, not having been killed
// since, has to have carried out by the end.
func (l *ledger) queuedLogout(user int) bool {
	last, straggler := deed{}, int64(0)
	for _, d := range l.of(user) {
		if d.do == doSet || d.outcome == nothing {
			continue
		}
		if last = d; d.do == doLogin && d.outcome == unclear {
			straggler = d.end
		}
	}
	return last.do == doLogout && last.err == "ErrStoreUnavailable" &&
		l.killedAt(fmt.Sprintf("%d.%d", last.bot, last.life)) == 0 && last.start-straggler > int64(straggling)
}

// judgeAccount says whether a token may be of the account that it is of: that of
// the last acknowledged login; for a linked user who has not logged in since the
// last logout, that of the link. While something else is going on, or was given
// up since, the token may be of either.
func (l *ledger) judgeAccount(h heard) verdict {
	user, deeds := l.users[h.User], l.of(h.User)
	from := h.Start - int64(staleness)
	may := make(map[string]bool) // emails; empty: not known
	if user.Linked {
		may[user.Emails[0]] = true
	}
	excused := ""
	for _, d := range deeds {
		if d.start > h.End {
			break
		}
		if d.do == doSet || d.outcome == nothing {
			continue
		}
		sure := d.outcome == done && d.end < from
		if sure {
			clear(may)
			excused = l.notStored(d, h)
		}
		switch {
		case d.do == doLogin:
			may[d.email] = true
			if user.Linked && l.books.wasRefused(d.sid, h.End) {
				may[user.Emails[0]] = true // the link is followed after a clear no
			}
		case user.Linked:
			may[user.Emails[0]] = true
		}
	}
	at := slices.Index(user.Subjects, h.Sub)
	switch {
	case len(may) == 0, at >= 0 && may[user.Emails[at]]:
		return verdict{}
	case excused != "":
		return verdict{excused: excused}
	}
	return verdict{violation: true}
}

// notStored says why others may not know yet of what a bot did, or never will,
// or "".
func (l *ledger) notStored(d deed, h heard) string {
	back, away := l.damage.backBy(d.bot, d.start, d.end)
	killed := l.killedAt(fmt.Sprintf("%d.%d", d.bot, d.life))
	switch {
	case away && killed != 0 && killed <= back:
		return queuedKilled
	case away && h.Start <= back+int64(leaseTime):
		return notYetBack
	}
	return ""
}

// wantedData says what a user's data under a key may be at the end: the value
// last acknowledged, or one that came to nothing or not after it. ok is false
// for a user whose session ended or may have ended after it.
func (l *ledger) wantedData(user int, key string) (values []int, ok bool) {
	if u := l.users[user]; u.Linked && len(u.Emails) > 1 {
		return nil, false // the link may have changed the account
	}
	ending := int64(0)              // until when a logout, or login as another, may still take effect that was not acknowledged
	emails := make(map[string]bool) // of the session, for all that is known
	for _, d := range l.of(user) {
		another := d.do == doLogin && len(emails) > 0 && (len(emails) > 1 || !emails[d.email])
		if d.outcome == done && d.do != doSet || d.outcome == unclear && another {
			back, away := l.damage.backBy(d.bot, d.start, d.end)
			switch waits := back + int64(leaseTime); {
			case away && d.outcome == unclear: // it waits for the store, though nobody waits for it
				ending = max(ending, waits)
			case away && (ending > 0 || another): // alone or together with the logout
				ending = waits
			case d.outcome == done:
				ending = 0
			}
		}
		switch {
		case d.outcome == nothing:
		case d.do == doLogout && d.outcome == unclear:
			values, ok, ending = nil, false, math.MaxInt64
		case d.do == doLogout, another:
			values, ok = nil, false
		case d.start < ending: // what is written meanwhile goes when the logout takes effect
		case d.do == doSet && d.key == key && d.outcome == done:
			values, ok = []int{d.value}, true
		case d.do == doSet && d.key == key:
			values = append(values, d.value)
		}
		if d.do == doLogin && d.outcome != nothing {
			if d.outcome == done {
				clear(emails)
			}
			emails[d.email] = true
		}
	}
	return values, ok
}

// lostExcusably reports whether a login of the user broke off for a reason that
// no client could have helped, and the data with it.
func (l *ledger) lostExcusably(user int) bool {
	for _, sid := range l.books.granted(l.users[user].Emails, 0) {
		if l.books.broken(sid, now(), l.killedAt) != "" {
			return true
		}
	}
	for _, d := range l.of(user) {
		if d.do != doLogin || d.outcome != done {
			continue
		}
		back, away := l.damage.backBy(d.bot, d.start, d.end)
		if killed := l.killedAt(fmt.Sprintf("%d.%d", d.bot, d.life)); away && killed != 0 && killed <= back {
			return true
		}
	}
	return false
}
