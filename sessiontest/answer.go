package sessiontest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
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
		Role  string `json:"role,omitempty"` // of a refresh only
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
	errLogin        = refuse(http.StatusInternalServerError, "Invalid email or password")
	errEmail        = refuse(http.StatusInternalServerError, "Invalid email")
	errUnverified   = refuse(http.StatusInternalServerError, "Email not verified")
	errRefresh      = refuse(http.StatusUnauthorized, "Invalid refresh token")
	errRefreshOld   = refuse(http.StatusUnauthorized, "Refresh token expired")
	errLinkFields   = refuse(http.StatusBadRequest, []string{"property matrixUserId should not exist", "property email should not exist"})
	errUnauthorized = refuse(http.StatusUnauthorized, "Unauthorized")
	errNoBearer     = refuse(http.StatusBadRequest, "Authorization header required") // recorded is only the status
	errNotSigned    = refuse(http.StatusInternalServerError, "Failed to generate access token")
	errTooLarge     = refuse(http.StatusInternalServerError, "request entity too large")
	errMalformedURI = refuse(http.StatusInternalServerError, "URI malformed")
	errNotJSON      = refuse(http.StatusBadRequest, "Expected property name or '}' in JSON at position 1")
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
