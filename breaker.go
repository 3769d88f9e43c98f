package session

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"

	"github.com/sony/gobreaker/v2"
)

// breaker stops calls after outages in a row, until one of them works.
type breaker = gobreaker.CircuitBreaker[struct{}]

// newBreaker returns a breaker that opens on errors for which failed reports an
// outage. Other errors count as a success, except those that excluded ignores.
func newBreaker(name string, changes *breakerLog, failed, excluded func(error) bool) *breaker {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:          name,
		Timeout:       breakerOpen,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerTrips },
		IsSuccessful:  func(err error) bool { return !failed(err) },
		IsExcluded:    func(err error) bool { return err != nil && excluded(err) },
		OnStateChange: changes.add, // under the breaker's lock
	})
}

// isOutage reports whether err is a failure of the server, as opposed to its
// refusing a request.
func isOutage(err error) bool {
	e, ok := errors.AsType[*AuthError](err)
	return ok && errors.Is(err, ErrAuthUnavailable) && (e.StatusCode == 0 || e.StatusCode >= 500)
}

// noDatabase is how the auth server words that its database is away.
var noDatabase = regexp.MustCompile(`^(connect|read|write|getaddrinfo) E[A-Z_]+\b`)

// isLoginOutage is isOutage for a login. Input may make the server, or a filter in
// front of it, fail in ways that look like an outage. So only failures count that
// input cannot cause; else two users could lock out all others.
func isLoginOutage(err error) bool {
	e, ok := errors.AsType[*AuthError](err)
	return ok && isOutage(err) && (e.unsent || !e.stranger && noDatabase.MatchString(e.Message))
}

// breakerLog logs the changes of breakers, apart from whoever makes a call: a
// log handler may be slow, and may ask the Service something.
type breakerLog struct {
	logger *slog.Logger
	life   *lifetime // Close waits for the log handler

	mu      sync.Mutex
	changes []breakerChange // guarded by mu
	running bool            // guarded by mu
}

type breakerChange struct {
	name     string
	from, to gobreaker.State
}

// maxBreakerChanges bounds what waits for a log handler that is stuck.
const maxBreakerChanges = 100

func (l *breakerLog) add(name string, from, to gobreaker.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.changes) < maxBreakerChanges {
		l.changes = append(l.changes, breakerChange{name, from, to})
	}
	if !l.running && l.life.begin() == nil {
		l.running = true
		go func() {
			defer l.life.end()
			l.run()
		}()
	}
}

// run logs until there is nothing left to.
func (l *breakerLog) run() {
	for {
		l.mu.Lock()
		if len(l.changes) == 0 {
			l.running = false
			l.mu.Unlock()
			return
		}
		change := l.changes[0]
		l.changes = l.changes[1:]
		l.mu.Unlock()
		l.say(change)
	}
}

// say survives a panic in a caller's log handler.
func (l *breakerLog) say(change breakerChange) {
	defer func() { _ = recover() }()
	l.logger.Warn(fmt.Sprintf("session: circuit breaker of %s", change.name), "from", change.from.String(), "to", change.to.String())
}
