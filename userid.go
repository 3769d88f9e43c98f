package session

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxUserID = 255 // bytes, https://spec.matrix.org/v1.11/appendices/#user-identifiers

// checkUserID says why id is not a Matrix user ID that may become part of a
// key or of a URL, or nil. Historical localparts are allowed, because
// homeservers still carry such users: empty ones, and any character but ':',
// controls and line breaks. Spaces, joiners and characters that this version
// of Unicode does not know are among them.
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
	local, server, found := strings.Cut(id[1:], ":")
	switch {
	case !found:
		return "not of the form @localpart:domain"
	case strings.ContainsFunc(local, breaksLines):
		return "control character or line break in the localpart"
	case !isServerName(server):
		return "no server name after the ':'"
	}
	return ""
}

// breaksLines reports whether r is a control character, or a line or paragraph
// separator.
func breaksLines(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

// isServerName accepts DNS names, IPv4 and bracketed IPv6 addresses, with or
// without a port: https://spec.matrix.org/v1.11/appendices/#server-name
func isServerName(s string) bool {
	host, port, hasPort := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") {
		var rest string
		var closed bool
		host, rest, closed = strings.Cut(s[1:], "]")
		port, hasPort = strings.CutPrefix(rest, ":")
		addr, err := netip.ParseAddr(host)
		if !closed || err != nil || !addr.Is6() || addr.Zone() != "" || !hasPort && rest != "" {
			return false
		}
	} else if host == "" || strings.ContainsFunc(host, notInDNS) {
		return false
	}
	return !hasPort || 1 <= len(port) && len(port) <= 5 && !strings.ContainsFunc(port, notDigit)
}

func notInDNS(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && notDigit(r) && r != '.' && r != '-'
}

func notDigit(r rune) bool { return r < '0' || r > '9' }
