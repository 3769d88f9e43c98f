package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mana/session"
)

// facts are what the store tells about a user, and nothing else: no auth server is
// asked, and nothing is written.
type facts struct {
	userID    string
	record    session.Record
	sealed    bool
	reseal    bool             // sealed, or not, in another way than this program's keys say
	session   *session.Session // nil if the record is none, or is past its end
	unread    string           // why the record is no session
	trail     []session.TrailEvent
	loggedOut time.Time // as the fence has it, which is kept also without trails
}

// look asks the store about a user.
func (d *deployment) look(ctx context.Context, userID string) (f facts, err error) {
	if f.trail, err = d.svc.Trail(ctx, userID); err != nil { // which checks the user ID first
		return f, err
	}
	f.userID = userID
	if f.record, f.loggedOut, err = d.store.LoggedOutAt(ctx, userID); err != nil {
		return f, storeError(err)
	}
	if !f.record.Exists() {
		return f, nil
	}
	f.sealed = isSealed(f.record)
	if f.reseal, err = d.svc.Reseal(ctx, f.record, false); err != nil {
		f.unread = strings.TrimPrefix(plain(err), "the record is no session: ")
		return f, ctx.Err()
	}
	f.session, err = d.svc.Session(ctx, userID)
	if errors.Is(err, session.ErrNotLoggedIn) {
		err = nil
	}
	return f, err
}

// isSealed reports whether a record is meant to be opened with a key.
func isSealed(r session.Record) bool { return strings.HasPrefix(r.Value, "sealed") }

// claimsOf are the claims of a token, unchecked, or nil if it is no JWT.
func claimsOf(token string) map[string]any {
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(token, claims); err != nil {
		return nil
	}
	return claims
}
