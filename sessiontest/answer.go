package sessiontest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bodies of answers, their fields in the server's order.
type (
	tokensAnswer struct {
		User         accountAnswer `json:"user"`
		AccessToken  string        `json:"accessToken"`
		RefreshToken string        `json:"refreshToken"`
		ExpiresIn    int           `json:"expiresIn"`
		TokenType    string        `json:"tokenType,omitempty"` // of a refresh only
	}
	accountAnswer struct {
		ID    string `json:"id"`
		Email string `json:"email"`
		Name  string `json:"name"`
	}
	linkAnswer struct {
		Token string `json:"token"`
		Email string `json:"email"`
	}
	checkAnswer struct {
		Linked bool `json:"linked"`
	}
	doneAnswer struct {
		Success bool   `json:"success"`
		Message string `json:"message"`
	}
	keysAnswer struct {
		Keys []jwk `json:"keys"`
	}
	errorAnswer struct {
		StatusCode int    `json:"statusCode"`
		Message    any    `json:"message"` // a string or a list of strings
		Timestamp  string `json:"timestamp"`
		Path       string `json:"path"`
	}
)

func newErrorAnswer(status int, message any, at time.Time, r *http.Request) errorAnswer {
	return errorAnswer{status, message, at.UTC().Format("2006-01-02T15:04:05.000Z"), r.URL.RequestURI()}
}

// refusal is an error answer of a handler. message is a string or a list of
// strings.
type refusal struct {
	status     int
	message    any
	retryAfter string
}

func refuse(status int, message any) *refusal { return &refusal{status: status, message: message} }

var (
	errNoDatabase   = refuse(http.StatusInternalServerError, "connect ECONNREFUSED 127.0.0.1:5432")
	errNoLink       = refuse(http.StatusNotFound, "No link found for this Matrix user")
	errNoKey        = refuse(http.StatusUnauthorized, "Valid service key required")
	errUnauthorized = refuse(http.StatusUnauthorized, "Unauthorized")
	errNotSigned    = refuse(http.StatusInternalServerError, "Failed to generate access token")
	errTooLarge     = refuse(http.StatusInternalServerError, "request entity too large")
	errMalformedURI = refuse(http.StatusInternalServerError, "URI malformed")
	errNotJSON      = refuse(http.StatusBadRequest, "Expected property name or '}' in JSON at position 1")
	errTooMany      = &refusal{http.StatusTooManyRequests, "ThrottlerException: Too Many Requests", "60"}
)

// encodeJSON encodes as JavaScript does: <, > and & stay as they are. It panics
// if value is not JSON.
func encodeJSON(value any) []byte {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic("sessiontest: " + err.Error())
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	body := encodeJSON(value)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// parseFields validates a body of string fields as the server does: unknown
// fields are refused, and all complaints come in one list. An empty body is an
// object without fields.
func parseFields(body []byte, names ...string) (map[string]string, *refusal) {
	raw := make(map[string]any)
	if len(body) > 0 {
		if err := json.Unmarshal(body, &raw); err != nil || raw == nil {
			return nil, errNotJSON
		}
	}
	var complaints []string
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if !slices.Contains(names, name) {
			complaints = append(complaints, fmt.Sprintf("property %s should not exist", name))
		}
	}
	fields := make(map[string]string)
	for _, name := range names {
		value, ok := raw[name].(string)
		switch {
		case name == "email" && !isEmail(value):
			complaints = append(complaints, "email must be an email")
		case !ok:
			complaints = append(complaints, name+" must be a string")
		}
		fields[name] = value
	}
	if complaints != nil {
		return nil, refuse(http.StatusBadRequest, complaints)
	}
	return fields, nil
}

// emailPattern is what the server's validator takes for an e-mail address, less
// what nobody has: quoted local parts, comments.
var emailPattern = regexp.MustCompile(`^[^\s@"(),:;<>\[\]\\]{1,64}@([\pL\pN]([\pL\pN-]*[\pL\pN])?\.)+(\pL{2,}|xn--[a-z0-9-]+)$`)

func isEmail(s string) bool {
	local, _, _ := strings.Cut(s, "@")
	return len(s) <= 254 && emailPattern.MatchString(s) &&
		!strings.HasPrefix(local, ".") && !strings.HasSuffix(local, ".") && !strings.Contains(local, "..")
}
