package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxRecord bounds a record, in bytes; something larger under a user's key is
// not a session.
const maxRecord = 1 << 20

// login is what one log-in left behind: the decoded form of a record. It is
// immutable once it is shared.
type login struct {
	userID  string
	token   token
	email   string
	refresh secret          // single-use; empty when there is none
	expires time.Time       // of the session; zero: unknown, the store's expiry rules
	data    json.RawMessage // a JSON object, or nil

	stored Record // what the store holds, to compare-and-swap against
}

// wireRecord is the layout shared with the TypeScript service, in its field
// order. Fields behind data are ours: that service ignores them when it reads
// and drops them when it rewrites the record.
type wireRecord struct {
	Token     string          `json:"token"`
	Email     string          `json:"email"`
	ExpiresAt wireTime        `json:"expiresAt"`
	Data      json.RawMessage `json:"data"`
	Refresh   string          `json:"refreshToken,omitempty"`
}

// encode writes l as the TypeScript service would, plus the refresh token.
func (l *login) encode() ([]byte, error) {
	w := wireRecord{
		Token:     l.token.raw.reveal(),
		Email:     l.email,
		ExpiresAt: wireTime{l.expires},
		Data:      l.data,
		Refresh:   l.refresh.reveal(),
	}
	if w.Data == nil {
		w.Data = json.RawMessage("{}")
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("session: encode record: %w", err)
	}
	if len(b) > maxRecord {
		return nil, fmt.Errorf("session: record of %d bytes, at most %d are allowed", len(b), maxRecord)
	}
	return b, nil
}

// decodeRecord reads a record written by us or by the TypeScript service. The
// error says why it is not a session, without quoting it.
func decodeRecord(r Record) (*login, error) {
	if len(r.Value) > maxRecord {
		return nil, fmt.Errorf("larger than %d bytes", maxRecord)
	}
	var w wireRecord
	if err := json.Unmarshal(r.Value, &w); err != nil {
		return nil, describeJSON(err)
	}
	if w.Token == "" {
		return nil, errors.New("no token in it")
	}
	l := &login{
		userID:  r.UserID,
		token:   parseToken(w.Token),
		email:   w.Email,
		refresh: newSecret(w.Refresh),
		expires: w.ExpiresAt.Time,
		stored:  r,
	}
	if len(w.Data) > 0 && w.Data[0] == '{' {
		l.data = w.Data
	}
	return l, nil
}

// describeJSON keeps the offset of a JSON error and leaves out its text,
// which may quote what was read.
func describeJSON(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("not JSON from byte %d on", syntax.Offset)
	}
	var typ *json.UnmarshalTypeError
	if errors.As(err, &typ) {
		return fmt.Errorf("unexpected type in field %q", typ.Field)
	}
	return errors.New("not JSON")
}

// wireTime reads expiresAt as JavaScript's Date would: a date in any zone and
// precision, or milliseconds since 1970. What is missing or unreadable stays
// zero and never expires by itself, as in the TypeScript service.
type wireTime struct{ time.Time }

// MarshalJSON writes what JavaScript's Date.toISOString does: UTC with
// milliseconds.
func (t wireTime) MarshalJSON() ([]byte, error) {
	return []byte(t.UTC().Format(`"2006-01-02T15:04:05.000Z"`)), nil
}

func (t *wireTime) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02"} {
		if at, err := time.Parse(layout, text); err == nil {
			t.Time = at
			return nil
		}
	}
	var ms float64
	if json.Unmarshal(b, &ms) == nil && b[0] != 'n' {
		t.Time = time.UnixMilli(int64(ms))
	}
	return nil
}

// live reports whether the session, as opposed to its token, has time left.
func (l *login) live(now time.Time) bool {
	return l.expires.IsZero() || l.expires.After(now)
}

// sameAccount reports whether next belongs to the account that l belongs to.
// Subjects decide; when a token does not tell its subject, e-mails do.
func (l *login) sameAccount(next *login) bool {
	if l.token.subject != "" && next.token.subject != "" {
		return l.token.subject == next.token.subject
	}
	return l.email != "" && strings.EqualFold(l.email, next.email)
}

// succeed returns next as the successor of l: with l's data, and with what
// next does not bring itself, unless next is another account.
func (l *login) succeed(next *login) (*login, bool) {
	if !l.sameAccount(next) {
		return next, false
	}
	merged := *next
	merged.data = l.data
	if merged.email == "" {
		merged.email = l.email
	}
	if merged.refresh.empty() {
		merged.refresh = l.refresh
	}
	return &merged, true
}
