package session

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxUserID = 255 // bytes, https://spec.matrix.org/v1.11/appendices/#user-identifiers

// checkUserID says why id is not a Matrix user ID that may become part of a
// key or of a URL, or nil. Historical localparts (any printable character but
// ':') are allowed, because homeservers still carry such users.
func checkUserID(id string) error {
	switch reason := userIDFault(id); reason {
	case "":
		return nil
	default:
		return fmt.Errorf("%w: %s", ErrInvalidUserID, reason)
	}
}

func userIDFault(id string) string {
	if len(id) > maxUserID {
		return "longer than 255 bytes"
	}
	if !strings.HasPrefix(id, "@") {
		return "does not start with @"
	}
	if !utf8.ValidString(id) {
		return "not valid UTF-8"
	}
	// Localparts hold no ':', server names may ("host:8448", "[::1]").
	local, domain, found := strings.Cut(id[1:], ":")
	if !found || local == "" || domain == "" {
		return "not of the form @localpart:domain"
	}
	for _, r := range local {
		if unicode.IsControl(r) || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return "unprintable character in the localpart"
		}
	}
	for i := range len(domain) {
		if !isServerNameByte(domain[i]) {
			return "character in the domain that no server name has"
		}
	}
	return ""
}

// isServerNameByte covers DNS names, IPv4, bracketed IPv6 and a port:
// https://spec.matrix.org/v1.11/appendices/#server-name
func isServerNameByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '.' || c == '-' || c == ':' || c == '[' || c == ']'
}
