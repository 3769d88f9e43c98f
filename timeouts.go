package session

import (
	"context"
	"math/rand/v2"
	"time"
)

// Every duration of the Service, so that how they bound each other can be seen
// in one place. timeouts_test.go checks that the sums hold.
const (
	// The store. Redis commands are bounded by storeTimeout whatever the client
	// says. While the store is known not to answer, nobody waits longer than
	// storeBrief for it, and one probe finds out when it is back.
	storeTimeout = 2 * time.Second
	storeBrief   = 250 * time.Millisecond
	probeFirst   = 25 * time.Millisecond
	probeLast    = 250 * time.Millisecond

	// How long a read may take when there is a known session to serve in the
	// place of its result: of a store that is known not to answer, of one that
	// answers nobody meanwhile, and of one that answers others; and how long a
	// read that failed speaks for the next.
	knownWaitSilent = 200 * time.Millisecond
	knownWait       = 500 * time.Millisecond
	knownWaitLoaded = storeTimeout
	knownAgain      = time.Second

	// A writer that meets another one tries again after up to this long.
	conflictJitter = 5 * time.Millisecond

	// The lease on a user lasts for leaseTTL and is renewed by its owner while
	// it asks the auth server, so that the lease of a process that died ends
	// soon. Once a refresh token is about to be spent it lasts for as long as it
	// takes to hear what came of it and to store that.
	leaseTTL     = 3 * time.Second
	leaseRenewal = 1 * time.Second
	spendingTTL  = spendPatience + authTimeout + commitTime
	commitTime   = storeTimeout + 1*time.Second

	// What the holder of a lease may take: asking for the link, waiting for its
	// turn to spend a refresh token, spending it, and storing what came of it.
	linkPatience  = 3 * time.Second
	spendPatience = 3 * time.Second
	askTimeout    = linkPatience + spendPatience + authTimeout + commitTime

	// A flight outlives another process's lease, to take it over.
	flightTimeout = spendingTTL + 1*time.Second + askTimeout

	// Waiting for another process to finish a refresh: its change notice ends
	// the wait, and looking again covers for a notice that never comes.
	pollFirst = 5 * time.Millisecond
	pollLast  = 100 * time.Millisecond

	// failureFor is how long a failed refresh speaks for everybody: other
	// processes take its word instead of asking the failing server in turn.
	failureFor = time.Second

	// A refresh that failed is tried again after backoffFirst, doubled each
	// time up to backoffLast, give or take a quarter.
	backoffFirst = time.Second
	backoffLast  = 30 * time.Second

	// noLinkFor is how long a user without a session and without a link is
	// answered from memory. A login or a session in the store overrides it.
	noLinkFor = 30 * time.Second

	// linkTimeout is how long a login may be held up by making the link.
	linkTimeout = 3 * time.Second

	// While writes wait for the store they are tried again after drainPause.
	drainPause       = 100 * time.Millisecond
	writeBackTimeout = 2 * storeTimeout

	// Close waits closeTimeout for calls, spentTimeout for those that have spent
	// a refresh token, and closeTimeout for what is to be written, one after the
	// other; and closeGrace for what it has cancelled.
	closeTimeout = 5 * time.Second
	spentTimeout = authTimeout + commitTime
	closeGrace   = 100 * time.Millisecond

	// maxClockAhead is how far ahead of ours another process's clock may be and
	// be believed.
	maxClockAhead = 24 * time.Hour
)

// pause waits, or returns false because ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// pauseForOthers is a short pause for a random time, after a write that met
// another.
func pauseForOthers(ctx context.Context) bool { return pause(ctx, rand.N(conflictJitter)) }
