package sessiontest

import (
	"strings"
	"time"
)

const (
	refreshTokenTTL = 7 * 24 * time.Hour

	// rotationTime is how long the server takes from looking a refresh token up
	// to revoking it.
	rotationTime = 10 * time.Millisecond
)

// tokens mints an access token and a refresh token. It is called with s.mu held.
func (s *AuthServer) tokens(u *user, sid string) tokensAnswer {
	token := opaque(64)
	s.grants++
	s.refresh[token] = &grant{s.grants, u.ID, sid, s.now().Add(refreshTokenTTL)}
	name, _, _ := strings.Cut(u.Email, "@")
	return tokensAnswer{
		User:         accountAnswer{ID: u.ID, Email: u.Email, Name: name},
		AccessToken:  s.mint(u, sid),
		RefreshToken: token,
		ExpiresIn:    int(s.tokenTTL.Seconds()),
	}
}

// selectGrant looks up the refresh token that a body holds. It is called with
// s.mu held.
func (s *AuthServer) selectGrant(body []byte) *grant {
	fields, bad := parseFields(body, "refreshToken")
	if bad != nil {
		return nil
	}
	return s.refresh[fields["refreshToken"]]
}

// spend exchanges a refresh token. There is no lock on it between the look-up
// and the revocation: whoever has looked it up in time gets a successor. It is
// called with s.mu held, and releases it in between.
func (s *AuthServer) spend(c *call) (any, *refusal) {
	fields, bad := parseFields(c.body, "refreshToken")
	if bad != nil {
		return nil, bad
	}
	if bad := s.database(); bad != nil {
		return nil, bad
	}
	token, g := fields["refreshToken"], c.selected
	if c.selected = nil; g == nil {
		g = s.refresh[token]
	}
	u, bad := s.spendable(g)
	if bad != nil {
		return nil, bad
	}

	s.mu.Unlock()
	letOthersArrive()
	s.mu.Lock()

	if bad := s.database(); bad != nil {
		return nil, bad
	}
	delete(s.refresh, token)
	if s.noSigning { // found out too late
		return nil, errNotSigned
	}
	answer := s.tokens(u, g.sid)
	answer.TokenType, answer.User.Role = "Bearer", "user"
	return answer, nil
}

func (s *AuthServer) spendable(g *grant) (*user, *refusal) {
	if g == nil {
		return nil, errRefresh
	}
	u := s.userByID(g.userID)
	switch {
	case u == nil || g.number <= u.revoked:
		return nil, errRefresh
	case !s.now().Before(g.expires):
		return nil, errRefreshOld
	}
	return u, nil
}

// letOthersArrive takes rotationTime; in a synctest bubble, no time, but until
// all its other goroutines are blocked.
func letOthersArrive() {
	began := time.Now()
	// Twice: the first may fire at once, if the bubble is just looking at its
	// timers, as it does when it begins.
	for range 2 {
		idle := make(chan struct{})
		timer := time.AfterFunc(time.Hour, func() { close(idle) })
		timer.Reset(0) // in a bubble, one that was set before fires when all are blocked, a new one at once
		<-idle
	}
	// Only the clock of a bubble stood still meanwhile.
	if passed := time.Since(began); passed > 0 {
		time.Sleep(rotationTime - passed)
	}
}
