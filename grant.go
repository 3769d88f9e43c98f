package session

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// grant is what the auth server hands out for a user.
type grant struct {
	token   string
	email   string
	refresh string

	bad error // why the token is not to be served, which the rest need not share
}

// usable returns nil if the access token may be served, or what is wrong with
// it: an AuthError that wraps ErrAuthUnavailable. The refresh token that came
// with it is good all the same, and must be kept.
func (g grant) usable() error { return g.bad }

// grant reads the tokens of a successful login, refresh or link fetch. An older
// deployment calls the access token "token". What is not needed, or not of the
// type that is expected, is passed over: it must not cost the successor of a
// single-use token.
func (r *authAnswer) grant() (grant, error) {
	fields, err := r.object()
	if err != nil {
		return grant{}, err
	}
	g := grant{token: stringOf(fields["accessToken"]), email: stringOf(fields["email"]), refresh: stringOf(fields["refreshToken"])}
	if g.token == "" {
		g.token = stringOf(fields["token"])
	}
	if g.token == "" && g.refresh == "" {
		return grant{}, r.unusable("no token in the answer")
	}
	var user map[string]json.RawMessage
	if json.Unmarshal(fields["user"], &user) == nil {
		if email := stringOf(user["email"]); email != "" {
			g.email = email
		}
	}
	if why := r.wrongWith(g.token); why != "" {
		g.bad = r.unusable(why)
	}
	return g, nil
}

// servable is grant for an answer of which only a usable token is of use.
func (r *authAnswer) servable() (grant, error) {
	g, err := r.grant()
	if err == nil {
		err = g.usable()
	}
	return g, err
}

// wrongWith says what keeps a token that has just come from being served, or
// "". One that has less than minLife left is not refused: that is a server with
// short-lived tokens, or a clock that is not ours.
func (r *authAnswer) wrongWith(raw string) string {
	t := parseToken(raw)
	switch {
	case raw == "":
		return "no token in the answer"
	case !t.readable && r.call.op == opLinkFetch:
		return "the token is not a JWT"
	case !t.readable:
		return "the access token is not a JWT"
	case !t.endless && !t.expires.After(r.writtenAt(time.Now())):
		return "the token had run out when it came"
	}
	return ""
}

// maxClockSkew is how far apart the auth server's clock and ours may be for the
// difference to be taken for that of two clocks. Beyond, the answer is old.
const maxClockSkew = 24 * time.Hour

// writtenAt is when the answer was written, by the auth server's clock, which
// is the one that tokens go by: with a clock 14 minutes ahead of it, all of its
// tokens seem to have run out, and are good nevertheless. Without a credible
// Date header it is now.
func (r *authAnswer) writtenAt(now time.Time) time.Time {
	at, err := http.ParseTime(r.header.Get("Date"))
	if err != nil {
		return now
	}
	if age, err := strconv.Atoi(r.header.Get("Age")); err == nil && age > 0 { // out of a cache
		at = at.Add(time.Duration(min(age, int(maxClockSkew/time.Second))) * time.Second)
	}
	if at.Sub(now).Abs() > maxClockSkew {
		return now
	}
	return at
}
