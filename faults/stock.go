package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// takeStock looks at everybody in every process once nothing is broken any more
// and all has had its time, closes the bots, and judges what was observed.
func (r *run) takeStock() (*report, error) {
	fmt.Fprintln(os.Stderr, "all is well again; everybody's token in every process …")
	c := r.config
	rep := &report{Seed: c.Seed, Users: c.Users, Processes: c.Processes, For: c.For.String(), Excluded: make(map[string]int64)}
	if err := r.all(order{Do: doQuiet}, nil); err != nil {
		return nil, err
	}
	time.Sleep(wayBack)
	stocked := now()
	var mu sync.Mutex
	lastErrors := make(map[int]string)
	err := r.all(order{Do: doSweep}, func(p *process, m message) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range m.Sweep {
			h := heard{a, p.config.Number, p.config.Life}
			switch {
			case a.Err == "ErrNotLoggedIn":
				h.Kind = sawRefused
				r.ledger.hear(h.message, h.bot, h.life)
			case a.Err != "":
				lastErrors[a.User] = a.Detail
			default:
				r.judgeAtTheEnd(rep, h)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	err = r.all(order{Do: doData}, func(p *process, m message) {
		mu.Lock()
		defer mu.Unlock()
		r.judgeData(rep, p, m.Data)
	})
	if err != nil {
		return nil, err
	}
	err = r.all(order{Do: doClose}, func(p *process, m message) {
		mu.Lock()
		defer mu.Unlock()
		if m.Err != "" {
			rep.found(&rep.CloseErrors, "%s: Close: %s", p, m.Err)
		}
		if m.Detail != "" {
			rep.found(&rep.GoroutinesLeft, "%s: %s", p, m.Detail)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, s := range r.bots {
		<-s.get().gone
	}
	for user, a := range r.users {
		s, _ := r.ledger.standingAt(r.ledger.of(user), stocked, stocked)
		switch {
		case a.Linked, s == in:
			rep.InAtTheEnd++
			if err, ok := lastErrors[user]; ok {
				rep.found(&rep.WithoutToken, "user %d has no token at the end: %s", user, err)
			}
		case s == out:
			rep.OutAtTheEnd++
		default:
			rep.UnknownAtTheEnd++
		}
	}
	r.judge(rep)
	r.countCalls()
	rep.Operations, rep.Faults, rep.AuthCalls = r.figures, r.damage.kinds(), r.calls
	for op, outcomes := range rep.Operations {
		for outcome, n := range outcomes {
			rep.OperationsInAll += n
			switch outcome {
			case "ok":
				if op == "token" || op == "refresh" {
					rep.Tokens += n
				}
			default:
				rep.OperationsFailed += n
				if len(outcome) > 6 && outcome[:6] == "other:" {
					rep.found(&rep.UnexpectedError, "%s, %d times: %s", op, n, outcome)
				}
			}
		}
	}
	return rep, nil
}

// all gives all bots an order and takes their answers.
func (r *run) all(o order, take func(*process, message)) error {
	var all sync.WaitGroup
	errs := make([]error, len(r.bots))
	for i, s := range r.bots {
		all.Go(func() {
			p := s.get()
			m, err := p.do(o)
			if err == nil && o.Do != doClose && m.Err != "" {
				err = errors.New(m.Err)
			}
			if errs[i] = err; err == nil && take != nil {
				take(p, m)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// judge goes through what was observed.
func (r *run) judge(rep *report) {
	r.ledger.mu.Lock()
	observed := r.ledger.heard
	r.ledger.mu.Unlock()
	slices.SortStableFunc(observed, func(a, b heard) int { return cmp.Compare(a.Start, b.Start) })
	lost := make(map[int]bool) // users, to outages of the auth server
	defer func() { r.judgeOutages(rep, lost) }()
	for _, h := range observed {
		switch h.Kind {
		case sawRefused:
			v := r.ledger.judgeRefusal(h)
			if v.excused != "" {
				rep.Excluded[v.excused]++
			}
			if v.excused == lostFrozen {
				lost[h.User] = true
			}
			if v.violation {
				rep.found(&rep.SessionsLost, "lost: %s %s", r.tell(h), v.excused)
			} else if s, _ := r.ledger.standingAt(r.ledger.of(h.User), h.Start-int64(staleness), h.End); s == out && !r.damage.away(h.bot, h.Start, h.End) {
				rep.RefusalsChecked++
			}
		case sawGhost:
			switch {
			case r.damage.away(h.bot, h.Start, h.End):
				rep.Excluded["token of a login that is over, from a process that did not reach Redis"]++
			case r.damage.wasStopped(h.bot, h.Start-int64(staleness), h.End):
				rep.Excluded["token of a login that is over, from a process that stood still"]++
			case r.damage.silence(h.bot, h.Start, h.End):
				rep.Excluded[fmt.Sprintf("token of a login that is over, from a process that Redis did not answer in %s, though nothing was broken", canaryWait)]++
			default:
				rep.found(&rep.Resurrected, "after a logout: %s", r.tell(h))
			}
		case sawWrong:
			rep.found(&rep.WrongTokens, "wrong token: %s", r.tell(h))
		case sawShort:
			// The bot looks at the clock after the call.
			if r.damage.wasStopped(h.bot, h.Start, h.End) {
				rep.Excluded["token with 60 s or less to go after the process stood still during the call"]++
			} else if left, _ := time.ParseDuration(h.Detail); left > time.Minute-lookSlack && left+time.Duration(h.End-h.Start) > time.Minute {
				rep.Excluded[fmt.Sprintf("token that crossed the 60 s within %s of being handed out", lookSlack)]++
			} else {
				rep.found(&rep.ShortTokens, "short token: %s", r.tell(h))
			}
		case sawAccount:
			switch v := r.ledger.judgeAccount(h); {
			case !v.violation:
				if v.excused != "" {
					rep.Excluded["token of another account: "+v.excused]++
				}
			case r.damage.away(h.bot, h.Start, h.End), r.damage.silence(h.bot, h.Start, h.End):
				rep.Excluded["token of another account, from a process that did not reach Redis"]++
			case r.damage.wasStopped(h.bot, h.Start-int64(staleness), h.End):
				rep.Excluded["token of another account, from a process that stood still"]++
			default:
				rep.found(&rep.WrongAccounts, "another account's token: %s", r.tell(h))
			}
		case sawClosed:
			r.judgeClose(rep, h)
		case sawOwn:
			rep.found(&rep.OwnLogouts, "token right after the logout: %s", r.tell(h))
		}
	}
}

// closeLimit is more than any bound that Close documents.
const closeLimit = 30 * time.Second

// judgeClose goes by how Close went in the middle of everything.
func (r *run) judgeClose(rep *report, h heard) {
	broken := r.damage.unwritable(h.bot, h.Start, h.End) || r.damage.authDown(h.Start, h.End)
	switch {
	case h.Err != "" && broken:
		rep.Excluded["Close with an error while Redis or the auth server was out of reach"]++
	case h.Err != "":
		rep.found(&rep.CloseErrors, "bot %d.%d: Close during refreshes: %s", h.bot, h.life, h.Err)
	case time.Duration(h.End-h.Start) > closeLimit && !r.damage.wasStopped(h.bot, h.Start, h.End):
		rep.found(&rep.CloseErrors, "bot %d.%d: Close during refreshes took %s", h.bot, h.life, time.Duration(h.End-h.Start))
	}
	if h.Detail != "" {
		rep.found(&rep.GoroutinesLeft, "bot %d.%d, closed during refreshes: %s", h.bot, h.life, h.Detail)
	}
}

// judgeOutages compares what was lost to outages of the auth server with what
// may be: of a bot's unlinked users, one in 40 for each.
func (r *run) judgeOutages(rep *report, lost map[int]bool) {
	unlinked := 0
	for _, a := range r.users {
		if !a.Linked && !a.Never {
			unlinked++
		}
	}
	allowed := min((unlinked+39)/40, 4*len(r.bots)) * r.damage.authOutages()
	n := len(lost)
	if rep.LostInOutages = n; n > allowed {
		rep.LostToOutages = n
		rep.found(new(int), "%d sessions lost to %d outages of the auth server, %d may be", n, r.damage.authOutages(), allowed)
	}
}

// lookSlack is how much later than the Service a bot may look at the clock, on
// a machine that has other things to do.
const lookSlack = 50 * time.Millisecond

// tell puts an observation, and what was done about the user, into words.
func (r *run) tell(h heard) string {
	began := h.Start
	at := func(t int64) string { return time.Duration(t - began).Round(time.Millisecond / 10).String() }
	var text strings.Builder
	fmt.Fprintf(&text, "user %d (linked: %t), bot %d.%d, took %s, away: %t, stopped: %t, %s %s; before:", h.User, r.users[h.User].Linked,
		h.bot, h.life, at(h.End), r.damage.away(h.bot, h.Start, h.End), r.damage.wasStopped(h.bot, h.Start, h.End), h.SID, h.Detail)
	deeds := r.ledger.of(h.User)
	for _, d := range deeds[max(0, len(deeds)-8):] {
		fmt.Fprintf(&text, " [%s by %d.%d from %s to %s %s %s%s]", d.do, d.bot, d.life, at(d.start), at(d.end), d.err, d.sid, d.email)
	}
	for _, d := range deeds {
		if d.sid != "" && (d.sid == h.SID || h.SID == "") {
			fmt.Fprintf(&text, " %s: %s;", d.sid, r.desk.books.describe(d.sid, began))
		}
	}
	return text.String() + " broken:" + r.damage.before(h.bot, began, 15*time.Second)
}

func (r *run) judgeAtTheEnd(rep *report, h heard) {
	if r.ledger.judgeToken(h).violation {
		rep.found(&rep.Resurrected, "at the end: %s", r.tell(h))
	}
	if !r.users[h.User].Linked && r.ledger.queuedLogout(h.User) {
		rep.found(&rep.QueuedLogouts, "at the end: %s", r.tell(h))
	}
	if r.ledger.judgeAccount(h).violation {
		rep.found(&rep.WrongAccounts, "at the end: %s", r.tell(h))
	}
}

func (r *run) judgeData(rep *report, p *process, data []map[string]int) {
	for user, got := range data {
		for _, key := range dataKeys {
			wanted, ok := r.ledger.wantedData(user, key)
			if !ok {
				continue
			}
			if r.ledger.lostExcusably(user) {
				rep.Excluded["data of a session that was lost for one of the reasons here"]++
				continue
			}
			rep.DataChecked++
			if value, found := got[key]; !found || !slices.Contains(wanted, value) {
				rep.found(&rep.DataLost, "%s: data of user %d under %s: %v, want one of %v; %s", p, user, key, maps.Clone(got), wanted,
					r.tell(heard{message{User: user, Start: now(), End: now()}, p.config.Number, p.config.Life}))
			}
		}
	}
}
