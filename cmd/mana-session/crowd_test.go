package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/race"
)

// A crowd is migrated while bots serve one user from memory, read others from Redis,
// and write. The figures that it logs are in docs/figures.md.
func TestACrowdIsMigratedBesideABot(t *testing.T) {
	crowd := 100_000
	if race.Enabled {
		crowd = 10_000
	}
	w := newWorld(t)
	values := w.seed(crowd)
	before := w.ttls("bot:session:", values)
	t.Setenv("SESSION_ENCRYPTION_KEYS", newKey)

	t.Logf("bots alone: %v", w.beside(crowd, func() {
		<-time.After(2 * time.Second) // nothing is waited for: this is how long it is measured
	}))
	var r migrated
	t.Logf("beside encrypt: %v", w.beside(crowd, func() {
		out, err := w.program("migrate", "encrypt", "--write", "--force", "--json").Output()
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(out, &r))
	}))
	t.Logf("encrypt: %d records in %.1f s", r.Changed, r.Seconds)
	assert.Greater(t, r.Changed, crowd/2, "the bots have written the others")
	for user, ttl := range w.ttls("bot:session:", values) {
		// A bot's own write sets the TTL by the record's end.
		require.InDelta(t, before[user], ttl, float64(crowd), user)
	}
	again := runJSON[migrated](w, exitOK, "migrate", "encrypt", "--write", "--force")
	t.Logf("encrypt, run again: %.1f s", again.Seconds)
	assert.Equal(t, crowd, again.Already)

	r = runJSON[migrated](w, exitOK, "migrate", "prefix", newPrefix, "--write", "--force")
	t.Logf("prefix: %d records in %.1f s", r.Changed, r.Seconds)
	assert.Equal(t, crowd, r.Changed)
}

// beside makes calls of two bots until do returns, and tells how long they took.
func (w *world) beside(crowd int, do func()) fmt.Stringer {
	w.Helper()
	serving := w.bot(withKeys(w, newKey))
	reading := w.bot(withKeys(w, newKey), session.WithNearCache(0))
	ctx, stop := context.WithCancel(w.Context())
	defer stop()
	var calls sync.WaitGroup
	var took noticed
	call := func(into *[]time.Duration, what func(n int) error) {
		calls.Go(func() {
			pace := time.NewTicker(2 * time.Millisecond)
			defer pace.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				began := time.Now()
				if !assert.NoError(w, what(n)) {
					return
				}
				*into = append(*into, time.Since(began))
				<-pace.C
			}
		})
	}
	detached := context.WithoutCancel(ctx)
	call(&took.hits, func(int) error {
		_, err := serving.Token(detached, userID(0))
		return err
	})
	call(&took.reads, func(n int) error {
		_, err := reading.Token(detached, userID(n*7919%crowd))
		return err
	})
	call(&took.writes, func(n int) error {
		return reading.SetData(detached, userID(n*104729%crowd), "n", n)
	})
	do()
	stop()
	calls.Wait()
	require.NoError(w, serving.Close())
	require.NoError(w, reading.Close())
	return took
}

// noticed is how long the calls of bots took.
type noticed struct{ hits, reads, writes []time.Duration }

func (n noticed) String() string {
	return fmt.Sprintf("hit %s; read %s; write %s", spread(n.hits), spread(n.reads), spread(n.writes))
}

func spread(took []time.Duration) string {
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(time.Microsecond) }
	return fmt.Sprintf("p50 %s, p99 %s, longest %s of %d", at(0.5), at(0.99), at(1), len(took))
}
