package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// complete adds what only shows afterwards.
func (r *round) complete() {
	nothing := make(map[int]bool)
	for _, login := range r.logins {
		op := &r.history[login.at]
		e := op.Input.(event)
		e.SID = login.sid.get() // a login that was given up may have been granted since
		nothing[login.at] = e.SID == ""
		op.Input = e
		if !e.Unclear {
			// Others see it when it is stored.
			stored := login.station.store.storedAt(e.SID)
			if stored == 0 {
				stored = math.MaxInt64
			}
			op.Return = max(op.Return, stored)
		}
	}
	for i := range r.history {
		op := &r.history[i]
		e := op.Input.(event)
		e.LinkSID = r.link
		books := r.l.desk.books
		for _, sid := range books.granted(r.user.Emails, 0) {
			switch {
			case e.Refused && books.broken(sid, op.Return, r.fleet.closedAt) != "",
				e.Do == doToken && r.link != "" && books.wasRefused(sid, op.Return):
				e.Ended = append(e.Ended, sid)
			}
		}
		op.Input = e
	}
	at := -1
	r.history = slices.DeleteFunc(r.history, func(porcupine.Operation) bool { at++; return nothing[at] })
}

func (r *round) check() {
	r.complete()
	result, info := r.explain()
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Histories[r.fleet.kind.name]++
	for _, op := range r.history {
		l.report.Events[r.fleet.kind.name+": "+op.Input.(event).Do]++
	}
	for why, n := range r.leftOut {
		l.report.LeftOut[why] += n
	}
	switch result {
	case porcupine.Unknown:
		l.report.Undecided++
		l.tb.Logf("checker gave up: %s, %d events, %d unclear, linked %t", r.fleet.kind.name, len(r.history), r.unclear, r.link != "")
	case porcupine.Illegal:
		l.report.Violations = append(l.report.Violations, r.show(info))
	}
}

// explain looks for an order. Answers that may be old need not agree about how
// old they are: each is looked at by itself, beside all that changed something.
func (r *round) explain() (porcupine.CheckResult, porcupine.LinearizationInfo) {
	if r.fleet.kind.stale == 0 {
		return porcupine.CheckOperationsVerbose(sessions, r.history, checkLimit)
	}
	var changes, answers []porcupine.Operation
	for _, op := range r.history {
		if e := op.Input.(event); e.Do == doToken || e.Do == doGet {
			answers = append(answers, op)
		} else {
			changes = append(changes, op)
		}
	}
	result, info := porcupine.CheckOperationsVerbose(sessions, changes, checkLimit)
	for _, answer := range answers {
		if result != porcupine.Ok {
			break
		}
		with := append(slices.Clone(changes), answer)
		if result = porcupine.CheckOperationsTimeout(sessions, with, checkLimit); result != porcupine.Ok {
			_, info = porcupine.CheckOperationsVerbose(sessions, with, checkLimit)
		}
	}
	return result, info
}

// show draws a history and writes it down beside the picture.
func (r *round) show(info porcupine.LinearizationInfo) string {
	name := filepath.Join(r.l.config.Dir, fmt.Sprintf("violation-%d-%s", r.l.config.Seed, strings.Trim(strings.SplitN(r.user.ID, ":", 2)[0], "@")))
	if err := porcupine.VisualizePath(sessions, info, name+".html"); err != nil {
		r.l.tb.Log(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %s, link %q\n", r.fleet.kind.name, r.user.ID, r.link)
	history := slices.Clone(r.history)
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, op := range history {
		from := time.Duration(op.Call - history[0].Call).Round(10 * time.Microsecond)
		to := "…"
		if op.Return != math.MaxInt64 {
			to = time.Duration(op.Return - history[0].Call).Round(10 * time.Microsecond).String()
		}
		fmt.Fprintf(&text, "client %d  %12s %12s  %s %s\n", op.ClientId, from, to, op.Input.(event), op.Input.(event).Ended)
	}
	for _, w := range r.fleet.store.damage.windows() {
		fmt.Fprintf(&text, "bot %d  %s  %s  %s\n", w.Bot, time.Duration(w.From-history[0].Call), time.Duration(w.To-history[0].Call), w.What)
	}
	if err := os.WriteFile(name+".txt", []byte(text.String()), 0o644); err != nil {
		r.l.tb.Log(err)
	}
	r.l.tb.Logf("history that cannot be explained: %s.html", name)
	return name + ".html"
}
