package session

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// hidden does not print what it is embedded in: not through its methods; and
// not when fmt prints an unexported field by reflection, provided that what is
// hidden is behind a pointer.
type hidden struct{}

func (hidden) String() string               { return redacted }
func (hidden) GoString() string             { return redacted }
func (hidden) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (hidden) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (hidden) Format(f fmt.State, _ rune)   { fmt.Fprint(f, redacted) }

// secret holds a token, a refresh token, a password or a key.
type secret struct {
	hidden
	p *string
}

func newSecret(s string) secret {
	if s == "" {
		return secret{}
	}
	return secret{p: &s}
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
