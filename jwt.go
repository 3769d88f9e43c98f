package session

import (
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/golang-jwt/jwt/v5"
	"github.com/tidwall/gjson"
)

// minLife is what must be left of a token for it to be handed out: a token
// from a cache is good for more than this.
const minLife = 60 * time.Second

const (
	// maxToken bounds a token, in bytes; those of the auth server have 373.
	maxToken = 16 << 10

	// maxExpiry is how far ahead an "exp" may be. What is beyond is no time in
	// seconds, but in milliseconds, perhaps.
	maxExpiry = 10 * 365 * 24 * time.Hour
)

// token is a user's access token and what the caller-side needs to know of it.
// The signature is not checked here: the token goes to backends, which do.
type token struct {
	raw      secret
	subject  string
	expires  time.Time
	endless  bool // there is no "exp"
	readable bool // false: not a JWT, or one whose claims cannot be read
}

// parseToken reads the expiry and the subject of a JWT. An "exp" may be a
// number or a number in a string; anything else there makes the token
// unreadable, which counts as dead.
func parseToken(raw string) token {
	t := token{raw: newSecret(raw)}
	if len(raw) > maxToken || strings.ContainsFunc(raw, notInATokens) {
		return t
	}
	_, rest, found := strings.Cut(raw, ".")
	payload, signature, found2 := strings.Cut(rest, ".")
	if !found || !found2 || strings.Contains(signature, ".") {
		return t
	}
	var parser jwt.Parser // only decodes, never verifies
	claims, err := parser.DecodeSegment(payload)
	// Nobody else has the bytes: a string of them spares the copy.
	text := unsafe.String(unsafe.SliceData(claims), len(claims))
	if err != nil || tooDeep(text) || !gjson.Valid(text) {
		return t
	}
	parsed := gjson.Parse(text)
	if !parsed.IsObject() {
		return t
	}
	var exp gjson.Result
	parsed.ForEach(func(key, value gjson.Result) bool { // of two of a name the last counts, as everywhere
		switch key.String() {
		case "sub":
			t.subject = value.String()
		case "exp":
			exp = value
		}
		return true
	})
	switch exp.Type {
	case gjson.Null: // not there, or null
		t.endless = true
	case gjson.Number, gjson.String:
		seconds, err := strconv.ParseFloat(exp.String(), 64)
		if err != nil || !(seconds >= 0 && seconds <= float64(time.Now().Add(maxExpiry).Unix())) {
			return t
		}
		t.expires = time.Unix(int64(seconds), 0) // a fraction is not worth handing out
	default:
		return t
	}
	t.readable = true
	return t
}

// notInATokens reports what no token has in it: its alphabet is that of base64,
// in either form, and the dot. A line break in it would end an HTTP header.
func notInATokens(r rune) bool {
	switch {
	case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("-_.=+/~", r)
}

// outlives reports whether t is good for longer than o.
func (t token) outlives(o token) bool {
	switch {
	case !t.readable || !o.readable:
		return t.readable
	case t.endless || o.endless:
		return t.endless && !o.endless
	}
	return t.expires.After(o.expires)
}

// state is what may be done with a token at a moment.
type state int

const (
	dead  state = iota // 60 s or less, or unreadable: never handed out
	aging              // handed out, and refreshed behind the caller
	fresh              // handed out
)

// state judges by the wall clock: expires carries no monotonic reading.
func (t token) state(now time.Time, ahead time.Duration) state {
	if !t.readable {
		return dead
	}
	if t.endless {
		return fresh
	}
	switch left := t.expires.Sub(now); {
	case left <= minLife:
		return dead
	case left <= ahead:
		return aging
	default:
		return fresh
	}
}
