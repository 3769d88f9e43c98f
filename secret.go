package session

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// secret holds a token, a refresh token, a password or a key. It does not
// print: not through its methods, and not when it is an unexported field that
// fmt prints by reflection either, where only a pointer shows.
type secret struct{ p *string }

func newSecret(s string) secret {
	if s == "" {
		return secret{}
	}
	return secret{&s}
}

// reveal is the one way to the value: grep for it to see where secrets go.
func (s secret) reveal() string {
	if s.p == nil {
		return ""
	}
	return *s.p
}

func (s secret) empty() bool             { return s.p == nil }
func (s secret) equal(other secret) bool { return s.reveal() == other.reveal() }

func (s secret) String() string               { return redacted }
func (s secret) GoString() string             { return redacted }
func (s secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (s secret) Format(f fmt.State, _ rune)   { fmt.Fprint(f, redacted) }
