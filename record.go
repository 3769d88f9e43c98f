package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// maxRecord bounds a record, in bytes; something larger under a user's key is
// not a session. Data may fill maxDataRecord of it: a refresh whose tokens are
// longer than those before must always fit.
const (
	maxRecord     = maxDataRecord + 64<<10
	maxDataRecord = 1 << 20
)

// login is what one login left behind: the decoded form of a record. It is
// immutable once it is shared.
type login struct {
	userID  string
	token   token
	email   string
	refresh secret    // single-use; empty when there is none
	expires time.Time // of the session; zero: unknown, the store's expiry rules
	since   time.Time // when the session began; zero: see began
	data    string    // a JSON object, or empty

	stored Record // what the store holds, to compare-and-swap against
}

// wireRecord is the layout shared with the TypeScript service, in its field
// order. Fields behind data are ours: that service ignores them when it reads
// and drops them when it rewrites the record.
type wireRecord struct {
	Token     string          `json:"token"`
	Email     string          `json:"email"`
	ExpiresAt string          `json:"expiresAt"`
	Data      json.RawMessage `json:"data"`
	Refresh   string          `json:"refreshToken,omitempty"`
	Since     int64           `json:"since,omitempty"` // microseconds since 1970
}

// plainText writes l as the TypeScript service would, plus the refresh token.
// What goes to the store is codec.encode of it.
func (l *login) plainText() (string, error) {
	w := wireRecord{
		Token:     l.token.raw.reveal(),
		Email:     l.email,
		ExpiresAt: l.expires.UTC().Format("2006-01-02T15:04:05.000Z"), // as Date.toISOString
		Data:      json.RawMessage(l.data),
		Refresh:   l.refresh.reveal(),
	}
	if !l.since.IsZero() {
		w.Since = l.since.UnixMicro()
	}
	if l.data == "" {
		w.Data = json.RawMessage("{}")
	}
	b, err := json.Marshal(w)
	if err != nil {
		return "", fmt.Errorf("session: encode record: %w", err)
	}
	if len(b) > maxRecord {
		return "", fmt.Errorf("%w: a record of %d bytes, at most %d are allowed", ErrTooLarge, len(b), maxRecord)
	}
	return string(b), nil
}

// size is about how long the record of l is, in bytes; not shorter.
func (l *login) size() int {
	const rest = 256 // names of fields, times, and what sealing adds
	return rest + len(l.token.raw.reveal()) + len(l.email) + len(l.refresh.reveal()) + len(l.data)
}

// readPlainText reads a record written by us or by the TypeScript service. The
// error says why it is not a session, without quoting it. Records come from the
// store by way of codec.decode.
func readPlainText(r Record) (*login, error) {
	if len(r.Value) > maxRecord {
		return nil, fmt.Errorf("larger than %d bytes", maxRecord)
	}
	// Every read of the store decodes a record, so this is gjson's work, which
	// slices the strings out of the value; encoding/json takes 4 times as long.
	if tooDeep(r.Value) {
		return nil, errors.New("nested too deep")
	}
	if !gjson.Valid(r.Value) {
		return nil, errors.New("not JSON")
	}
	l := &login{userID: r.UserID, stored: r}
	var err error
	gjson.Parse(r.Value).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "token":
			if value.Type != gjson.String {
				err = errors.New("the token is not a string")
				return false
			}
			l.token = parseToken(value.Str)
		case "email":
			l.email = value.Str
		case "expiresAt":
			l.expires = sessionEnd(value)
		case "data":
			if value.IsObject() {
				l.data = value.Raw
			}
		case "refreshToken":
			l.refresh = newSecret(value.Str)
		case "since":
			if us := value.Int(); us > 0 {
				l.since = time.UnixMicro(us)
			}
		}
		return true
	})
	if err == nil && l.token.raw.empty() {
		err = errors.New("no token in it")
	}
	return l, err
}

// sessionEnd reads expiresAt as JavaScript's Date would: a date in any zone and
// precision, or milliseconds since 1970. What is missing or unreadable is the
// zero time and never expires by itself, as in the TypeScript service.
func sessionEnd(value gjson.Result) time.Time {
	if value.Type == gjson.Number {
		return time.UnixMilli(int64(value.Num))
	}
	for _, layout := range [...]string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if at, err := time.Parse(layout, value.Str); err == nil {
			return at
		}
	}
	return time.Time{}
}

// live reports whether the session, as opposed to its token, has time left.
func (l *login) live(now time.Time) bool {
	return l.expires.IsZero() || l.expires.After(now)
}

// withoutToken is l with its token not to be served.
func (l *login) withoutToken() *login {
	without := *l
	without.token.readable = false
	return &without
}

// halfSpent is when half of the life is gone that a session has after use: from
// then on, use extends it.
func (l *login) halfSpent(ttl time.Duration) time.Time { return l.expires.Add(-ttl / 2) }

// sinceOrZero is since, also of no session.
func (l *login) sinceOrZero() time.Time {
	if l == nil {
		return time.Time{}
	}
	return l.since
}

// unknownSince is when a session began of which that cannot be told: before any
// logout.
var unknownSince = time.UnixMicro(1)

// began is when the session began, or the zero time if that cannot be told. The
// TypeScript service does not keep it, but leaves an email only in a session
// that a login began, or that it changed without giving it another end.
func (l *login) began() time.Time {
	switch {
	case !l.since.IsZero():
		return l.since
	case l.email != "" && !l.expires.IsZero():
		return l.expires.Add(-defaultSessionTTL)
	}
	return time.Time{}
}

// sameEmail compares addresses as the auth server does, without regard to case.
func sameEmail(a, b string) bool { return strings.EqualFold(a, b) }
