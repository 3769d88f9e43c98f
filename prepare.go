package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// pendingLoginFor is how long a login may wait to be completed.
const pendingLoginFor = 10 * time.Minute

// PendingLogin is a login that the auth server has granted and that has not
// taken effect: [Service.PrepareLogin] makes it, [Service.CompleteLogin] uses
// it. It holds the user's tokens, but not the password, and means nothing for
// another Matrix user.
//
// It prints nothing of what it holds. MarshalBinary is the one way to what has
// to be kept when another process is to complete the login: sealed with the
// Service's key under [WithEncryption], in plain text without, as records are.
// It is immutable but for UnmarshalBinary.
type PendingLogin struct {
	hidden
	value *string
}

// MarshalBinary implements [encoding.BinaryMarshaler]. Whoever has the result
// has the user's tokens, unless it is sealed.
func (p *PendingLogin) MarshalBinary() ([]byte, error) {
	if p == nil || p.value == nil {
		return nil, errors.New("session: no pending login")
	}
	return []byte(*p.value), nil
}

// UnmarshalBinary implements [encoding.BinaryUnmarshaler]. What is not a pending
// login is found out by [Service.CompleteLogin].
func (p *PendingLogin) UnmarshalBinary(data []byte) error {
	if len(data) == 0 || len(data) > maxRecord {
		return fmt.Errorf("session: a pending login has 1 to %d bytes, not %d", maxRecord, len(data))
	}
	value := string(data)
	p.value = &value
	return nil
}

// prepared is what a PendingLogin holds.
type prepared struct {
	grant grant
	at    time.Time // by the wall clock
	since time.Time // when the session began that the user had then; zero if none
}

// wirePrepared is the layout of a pending login. No record is like it.
type wirePrepared struct {
	PendingFor string `json:"pendingFor"`
	Granted    string `json:"granted"` // the access token; not "token", as in a record
	Email      string `json:"email"`
	Refresh    string `json:"refreshToken,omitempty"`
	At         int64  `json:"at"` // microseconds since 1970, as all times
	Since      int64  `json:"began,omitempty"`
}

// PrepareLogin is the first half of a [Service.Login] whose second half comes
// later, up to 10 minutes, and possibly in another process: it asks the auth
// server about email and password, under the same limits as Login and with the
// same errors, and writes nothing. The user stays logged in or out as they are
// until [Service.CompleteLogin].
//
// A pending login that nobody completes leaves no session and nothing to clean
// up here. But its refresh token stays good at the auth server for as long as
// unused ones do there, 7 days, because that server has no call that revokes
// one. So keep the result where only the Service's processes read it, for 10
// minutes at the most, and then drop it: nobody has the token after that.
func (s *Service) PrepareLogin(ctx context.Context, userID, email, password string) (*PendingLogin, error) {
	if err := s.enter(ctx, userID); err != nil {
		return nil, err
	}
	defer s.life.end()
	if err := s.checkLogin(userID, email, password); err != nil {
		return nil, err
	}
	p := prepared{at: time.Now()}
	p.since = p.at // if the store cannot tell
	if now, err := s.known(ctx, userID); err == nil {
		p.since = now.sinceOrZero()
	}
	var err error
	if p.grant, err = s.askLogin(ctx, email, password); err != nil {
		return nil, err
	}
	if err = s.records.verify.granted(ctx, p.grant.token); err != nil {
		s.count.loginFailures.Add(1)
		return nil, err
	}
	value, err := s.records.codec.encodePrepared(userID, p)
	if err != nil {
		return nil, err
	}
	s.logger.Info("session: a login is prepared, and waits to be completed", "user", userID)
	return &PendingLogin{value: &value}, nil
}

// CompleteLogin makes the login that [Service.PrepareLogin] has prepared take
// effect for the user. From here on it is a [Service.Login] to which the auth
// server has said yes, with the same errors and the same place in the order of
// the user's logins and logouts: the one counts that is made last, and this one
// is made when CompleteLogin begins. To complete a login again, after an error or
// an answer that was lost, returns the session that the first time made.
//
// It returns [ErrLoginExpired] for a pending login that is older than 10
// minutes, of another user, or not to be read: sealed with a key that this
// Service lacks, or changed.
func (s *Service) CompleteLogin(ctx context.Context, userID string, pending *PendingLogin) (_ *Session, err error) {
	if err := s.enter(ctx, userID); err != nil {
		return nil, err
	}
	defer s.life.end()
	ctx, told := observed(ctx, s.records.observer, OpLogin)
	defer func() { told(err) }()
	e, begun := s.order.begin(userID, true), s.refresher.clock.now()
	p, err := s.records.codec.decodePrepared(userID, pending, time.Now())
	if err != nil {
		e.end()
		return nil, err
	}
	if made := s.completed(ctx, userID, p); made != nil {
		e.end()
		return made.session(), nil
	}
	return s.commitLogin(ctx, e, begun, p.grant)
}

// completed returns the session that p has made already, or nil. It stays: its
// refresh token may have been replaced since, and p's is spent then.
func (s *Service) completed(ctx context.Context, userID string, p *prepared) *login {
	now, err := s.known(ctx, userID)
	if err != nil || now == nil || !now.since.After(p.since) || now.refresh.empty() || !now.sameAccount(s.granted(userID, p.grant)) {
		return nil
	}
	return now
}

// pendingOwner is whom a pending login is sealed for. It is no user ID, so that
// nobody who can write to the store can make a session of a pending login.
func pendingOwner(userID string) string { return "pending login " + userID }

func (c codec) encodePrepared(userID string, p prepared) (string, error) {
	plain, err := json.Marshal(wirePrepared{
		PendingFor: userID,
		Granted:    p.grant.token, Email: p.grant.email, Refresh: p.grant.refresh,
		At: p.at.UnixMicro(), Since: unixMicroOrZero(p.since),
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("session: encode pending login: %w", err)
	case len(plain)+sealedExtra > maxRecord:
		return "", fmt.Errorf("%w: a pending login of %d bytes", ErrTooLarge, len(plain))
	case c.seals:
		return c.keys[0].seal(pendingOwner(userID), string(plain)), nil
	}
	return string(plain), nil
}

func (c codec) decodePrepared(userID string, pending *PendingLogin, now time.Time) (*prepared, error) {
	if pending == nil || pending.value == nil {
		return nil, fmt.Errorf("%w: there is none", ErrLoginExpired)
	}
	plain, isSealed := strings.CutPrefix(*pending.value, sealedPrefix)
	switch {
	case isSealed:
		opened := false
		for _, key := range c.keys {
			if p, ok := key.open(pendingOwner(userID), plain); ok {
				plain, opened = p, true
				break
			}
		}
		if !opened {
			return nil, fmt.Errorf("%w: sealed with another key, for another user, or changed since", ErrLoginExpired)
		}
	case c.sealedOnly:
		return nil, fmt.Errorf("%w: in plain text, though encryption is required", ErrLoginExpired)
	}
	var w wirePrepared
	decoder := json.NewDecoder(bytes.NewReader([]byte(plain)))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&w) != nil || w.Granted == "" { // whose error may quote a token
		return nil, fmt.Errorf("%w: not a pending login", ErrLoginExpired)
	}
	p := &prepared{
		grant: grant{token: w.Granted, email: w.Email, refresh: w.Refresh},
		at:    time.UnixMicro(w.At), since: timeOrZero(w.Since),
	}
	switch age := now.Sub(p.at); {
	case w.PendingFor != userID:
		return nil, fmt.Errorf("%w: of another user", ErrLoginExpired)
	case age.Abs() > pendingLoginFor: // a time in the future is another clock's, or made up
		return nil, fmt.Errorf("%w: prepared %s ago", ErrLoginExpired, age.Round(time.Second))
	}
	return p, nil
}

func unixMicroOrZero(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixMicro()
}

func timeOrZero(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros)
}
