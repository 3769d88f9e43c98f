package session

import (
	"time"

	"github.com/mana/session/internal/bounded"
	"golang.org/x/time/rate"
)

// The auth server allows 10 logins a minute for all users of a bot together.
// With these, one user takes 4 of them in a first minute and 2 in any later
// one.
const (
	defaultLoginBurst = 3
	defaultLoginEvery = 30 * time.Second
)

// loginLimit bounds how many logins of one user reach the auth server.
type loginLimit struct {
	burst int // 0: no limit
	every time.Duration
	users *bounded.Map[*rate.Limiter]
}

// newLoginLimit remembers about so many users. A flood of users who try once
// does not give new logins to one who has used theirs up: those who have a login
// left are forgotten first.
func newLoginLimit(burst int, every time.Duration, users int) *loginLimit {
	atLimit := func(limiter *rate.Limiter) bool { return limiter.Tokens() < 1 }
	return &loginLimit{burst, every, bounded.New[*rate.Limiter](users).Sparing(atLimit)}
}

// take counts a login of the user, or returns how long they have to wait for
// one.
func (l *loginLimit) take(userID string, now time.Time) time.Duration {
	if l.burst == 0 {
		return 0
	}
	limiter := l.users.LoadOrMake(userID, func() *rate.Limiter { return rate.NewLimiter(rate.Every(l.every), l.burst) })
	if limiter.AllowN(now, 1) {
		return 0
	}
	missing := 1 - limiter.TokensAt(now)
	return max(wholeSeconds(time.Duration(missing*float64(l.every))), time.Second)
}

// admitLogin refuses a login that the auth server would refuse, or that would
// leave too few for other users. What is refused here, and what the circuit
// breaker is about to refuse, counts for no limit.
func (s *Service) admitLogin(userID string) error {
	now := time.Now()
	if wait := s.auth.pauses.logins.left(now); wait > 0 {
		return tooManyLogins("the auth server takes no more logins just now", wait)
	}
	if s.auth.loginsStopped() {
		return nil
	}
	if wait := s.loginLimit.take(userID, now); wait > 0 {
		s.logger.Debug("session: login not passed on, the user has tried too often", "user", userID)
		return tooManyLogins("too many by this user", wait)
	}
	return nil
}

func tooManyLogins(why string, wait time.Duration) error {
	return &AuthError{Op: opLogin, Message: why, RetryAfter: wait, kind: ErrRateLimited}
}

// wholeSeconds rounds up, to what a person can be told.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}
