package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// everybody is the number of no bot in particular.
const everybody = -1

// window is a time during which something was broken for a bot.
type window struct {
	Bot      int
	What     string
	From, To int64 // To 0: still
}

// record of what was broken, and when.
type damage struct {
	mu      sync.Mutex
	store   []window         // guarded by mu: Redis out of a bot's reach
	full    []window         // guarded by mu: Redis answers, but has no room for writes
	auth    []window         // guarded by mu: the auth server frozen or down
	stopped []window         // guarded by mu: the bot stood still
	silent  []window         // guarded by mu: Redis did not answer a bot
	counts  map[string]int64 // guarded by mu: by kind
}

func newDamage() *damage { return &damage{counts: make(map[string]int64)} }

func (d *damage) count(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[what]++
}

// begin notes that Redis, or the bot itself, is about to fail; the function that
// it returns notes that this is over.
func (d *damage) begin(windows *[]window, bot int, what string) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[what]++
	*windows = append(*windows, window{Bot: bot, What: what, From: now()})
	at := len(*windows) - 1
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		(*windows)[at].To = now()
	}
}

// away reports whether Redis was out of the bot's reach at some time in
// [from, to], or so shortly before that the bot may still have been finding its
// way back.
func (d *damage) away(bot int, from, to int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return overlap(d.store, bot, from-int64(wayBack), to)
}

// unwritable reports whether the bot could not write to Redis at some time in
// [from, to], or shortly before.
func (d *damage) unwritable(bot int, from, to int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return overlap(d.store, bot, from-int64(wayBack), to) || overlap(d.full, bot, from-int64(wayBack), to)
}

// authDown reports whether the auth server was frozen or down at some time in
// [from, to].
func (d *damage) authDown(from, to int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return overlap(d.auth, everybody, from, to)
}

// authOutages is how often the auth server was frozen or down.
func (d *damage) authOutages() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.auth)
}

// backBy is when a bot whose Redis was away or full in [from, to] had it back for
// good; false if it was neither.
func (d *damage) backBy(bot int, from, to int64) (int64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := false
	broken := slices.Concat(d.store, d.full)
	slices.SortFunc(broken, func(a, b window) int { return cmp.Compare(a.From, b.From) })
	for _, w := range broken {
		if (w.Bot == bot || w.Bot == everybody) && w.From <= to && (w.To == 0 || w.To+int64(wayBack) >= from) {
			found = true
			if w.To == 0 {
				return now(), true
			}
			to = max(to, w.To+int64(wayBack))
		}
	}
	return to, found
}

func (d *damage) wasStopped(bot int, from, to int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return overlap(d.stopped, bot, from, to)
}

// heardNothing notes that Redis did not answer a bot, for whatever reason.
func (d *damage) heardNothing(bot int, from, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent = append(d.silent, window{Bot: bot, What: "Redis silent", From: from, To: to})
}

// silence reports whether Redis did not answer the bot at some time in
// [from, to], or so shortly before that the bot may still go by it.
func (d *damage) silence(bot int, from, to int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return overlap(d.silent, bot, from-int64(wayBack), to)
}

func (d *damage) windows() []window {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.store)
}

// before lists what was broken for a bot in the time before.
func (d *damage) before(bot int, at int64, length time.Duration) (text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range slices.Concat(d.store, d.full, d.auth, d.stopped, d.silent) {
		if overlap([]window{w}, bot, at-int64(length), at) {
			text += fmt.Sprintf(" (%s %s to %s)", w.What, time.Duration(w.From-at).Round(time.Millisecond), time.Duration(w.To-at).Round(time.Millisecond))
		}
	}
	return text
}

func overlap(windows []window, bot int, from, to int64) bool {
	for _, w := range windows {
		if (w.Bot == bot || w.Bot == everybody) && w.From <= to && (w.To == 0 || w.To >= from) {
			return true
		}
	}
	return false
}

func (d *damage) kinds() map[string]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts)
}
