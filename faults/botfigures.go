package main

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
)

func (b *bot) count(op, outcome string) {
	if outcome == "" {
		outcome = "ok"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.figures[op] == nil {
		b.figures[op] = make(map[string]int64)
	}
	b.figures[op][outcome]++
}

// reportFigures says again and again what was done since the last time: a bot
// may be killed at any moment.
func (b *bot) reportFigures(stop <-chan struct{}) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-stop:
			last = true
		}
		b.mu.Lock()
		figures := b.figures
		b.figures = make(map[string]map[string]int64)
		b.mu.Unlock()
		b.say(message{Kind: sawFigures, Figures: figures})
	}
}

// canaryWait is how long Redis may take to answer before it counts as out of
// reach: less than a Service waits that has something else to go by.
const canaryWait = 150 * time.Millisecond

// listen reports when Redis does not answer, apart from the Service and what it
// makes of it: on a loaded machine there is more silence than faults.
func (b *bot) listen(canary *redis.Client, stop <-chan struct{}) {
	for silent := now(); sleep(stop, 50*time.Millisecond); {
		asked := now()
		ctx, cancel := context.WithTimeout(context.Background(), canaryWait)
		err := canary.Ping(ctx).Err()
		cancel()
		if err != nil || time.Duration(now()-asked) > canaryWait {
			b.say(message{Kind: sawSilence, Start: silent, End: now()})
		}
		silent = now()
	}
}

// sentinel names what a bot decides by.
func sentinel(err error) string {
	if err == nil {
		return ""
	}
	for _, s := range []struct {
		err  error
		name string
	}{
		{session.ErrNotLoggedIn, "ErrNotLoggedIn"},
		{session.ErrInvalidCredentials, "ErrInvalidCredentials"},
		{session.ErrEmailNotVerified, "ErrEmailNotVerified"},
		{session.ErrRateLimited, "ErrRateLimited"},
		{session.ErrServiceKeyRejected, "ErrServiceKeyRejected"},
		{session.ErrStoreUnavailable, "ErrStoreUnavailable"},
		{session.ErrAuthUnavailable, "ErrAuthUnavailable"},
		{session.ErrClosed, "ErrClosed"},
		{context.DeadlineExceeded, "DeadlineExceeded"},
		{context.Canceled, "Canceled"},
	} {
		if errors.Is(err, s.err) {
			return s.name
		}
	}
	return "other: " + err.Error()
}
