package session

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// A refresh that failed leaves a note in the place of its lease: for a moment it
// speaks for everybody, and other processes need not ask the failing server in
// turn.

// maxNote bounds a note, in bytes; other software may have left something else.
const maxNote = 1 << 10

// note is an AuthError on its way to other processes.
type note struct {
	Op      string `json:"op"`
	Status  int    `json:"status,omitempty"`
	Message string `json:"message"`
	Until   int64  `json:"until,omitempty"` // when the server may be asked again, in milliseconds since 1970
}

// noteOf puts a failure of the auth server into words for other processes, or
// returns "" for one that is this process's own, such as a wrong service key.
// The words hold no secret because no error does.
func (r *refresher) noteOf(err error) string {
	e, ok := errors.AsType[*AuthError](err)
	if !ok || !errors.Is(err, ErrAuthUnavailable) || wasNotAsked(err) || isRefused(err) || isTokenCheck(err) || r.life.ctx.Err() != nil {
		return ""
	}
	n := note{Op: e.Op, Status: e.StatusCode, Message: e.Message}
	if e.cause != nil {
		n.Message = printable(n.Message + ": " + e.cause.Error())
	}
	if e.RetryAfter > 0 {
		n.Until = time.Now().Add(e.RetryAfter).UnixMilli()
	}
	text, err := json.Marshal(n)
	if err != nil || len(text) > maxNote {
		return ""
	}
	return string(text)
}

// errorOf is the error that a note tells of. Whoever can write to the store can
// write notes, so nothing in one is taken for more than words.
func errorOf(text string) error {
	e := &AuthError{Op: opRefresh, kind: ErrAuthUnavailable}
	var n note
	if len(text) > maxNote || tooDeep(text) || json.Unmarshal([]byte(text), &n) != nil {
		n = note{Message: "another process failed"}
	}
	switch n.Op {
	case opRefresh, opLinkFetch, opLinkCheck, opLease:
		e.Op = n.Op
	}
	if n.Status >= http.StatusContinue && n.Status <= 599 {
		e.StatusCode = n.Status
	}
	if n.Until > 0 {
		e.RetryAfter = min(max(0, wholeSeconds(time.Until(time.UnixMilli(n.Until)))), maxRetryAfter)
	}
	e.Message = redactor{}.clean("tried a moment ago: " + n.Message)
	return e
}
