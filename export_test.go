package session

import "time"

// SetMaxQueued bounds how many writes wait for the store, before any does.
func SetMaxQueued(s *Service, n int) { s.outbox.max = n }

// Seal returns the value that WithEncryption(key) stores for a user's record.
func Seal(key []byte, userID, plain string) string {
	k, err := newSealKey(key)
	if err != nil {
		panic(err)
	}
	return k.seal(userID, plain)
}

// StepClock makes the process see what it would see after its wall clock was
// stepped by d: every wall time that it or others noted before is d further in
// the past. (A test cannot step the machine's clock, and the clock of synctest
// only goes on. What is measured by the monotonic clock, timers, back-offs,
// leases in memory, does not take part in a step.)
func StepClock(s *Service, d time.Duration) {
	s.refresher.clock.last.Add(-d.Microseconds())
	for _, p := range s.outbox.all() {
		p.event.user.turn <- struct{}{} // nobody else looks at it
		p.since = p.since.Add(-d)
		if p.login != nil {
			l := *p.login
			l.since = l.since.Add(-d)
			p.login = &l
		}
		<-p.event.user.turn
	}
	s.near.StepClock(d, func(k known) known {
		l := *k.login
		l.expires, l.token.expires = l.expires.Add(-d), l.token.expires.Add(-d)
		return known{k.raw, &l}
	})

}

// Hits is how many calls of Token the near cache answered.
func Hits(s *Service) int64 { return s.count.hits.sum() }

// Believed reports whether the near cache would answer for the user.
func Believed(s *Service, userID string) bool {
	_, ok := s.near.Fresh(userID, time.Now())
	return ok
}
