package session

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// ParseKey reads a key for [WithEncryption] as tools print it: 32 bytes in base64
// of either alphabet, with or without padding (openssl rand -base64 32), or in
// hexadecimal (openssl rand -hex 32). White space around it is dropped. The error
// does not quote the text.
func ParseKey(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	if key, err := hex.DecodeString(text); err == nil && len(key) == chacha20poly1305.KeySize {
		return key, nil
	}
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	key, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil || len(key) != chacha20poly1305.KeySize || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("session: ParseKey: want %d bytes in base64 or hexadecimal", chacha20poly1305.KeySize)
	}
	return key, nil
}
