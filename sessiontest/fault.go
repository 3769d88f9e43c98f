package sessiontest

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is served instead of the server's answer. It may call answer to have
// the server do its work. A fault that does not call it changes nothing at the
// server, and counts towards no rate limit.
//
// The body of r is there to be read, up to the 100 KiB that the server takes and
// a byte; answer has its own copy. The context of r ends when the client gives up or the server is closed: a
// fault that waits must wait for it too. To cut the connection a fault panics
// with http.ErrAbortHandler. An answer that a stopped server is asked for does
// so by itself.
type Fault func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc)

type injected struct {
	op    Op
	times int // left; negative: until cleared
	fault Fault
}

// Inject serves fault to the next calls of a kind; with negative times, until
// ClearFaults. Faults of a kind are served in the order of injection.
func (s *AuthServer) Inject(op Op, times int, fault Fault) {
	if times == 0 {
		return
	}
	s.set(func() { s.faults = append(s.faults, injected{op, times, fault}) })
}

// ClearFaults ends all faults. Calls that a fault holds already stay with it.
func (s *AuthServer) ClearFaults() { s.set(func() { s.faults = nil }) }

// nextFault takes the next fault for a call, or nil. It is called with s.mu
// held.
func (s *AuthServer) nextFault(op Op) Fault {
	for i := range s.faults {
		f := &s.faults[i]
		if f.op != op && f.op != Any {
			continue
		}
		fault := f.fault
		if f.times > 0 {
			if f.times--; f.times == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		return fault
	}
	return nil
}

// Status answers with a status and the server's error body; message is a
// string or a list of strings. Headers come in pairs.
func Status(status int, message any, headers ...string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		writeJSON(w, status, newErrorAnswer(status, message, time.Now(), r))
	}
}

// Raw answers with a status, a content type and a body as given. Raw(204, "", "")
// is an empty answer.
func Raw(status int, contentType, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// JSON answers 200 with value.
func JSON(value any) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		writeJSON(w, http.StatusOK, value)
	}
}

// HTML answers 200 with a page, as a proxy in front of the server may.
func HTML() Fault { return Raw(http.StatusOK, "text/html", "<!doctype html><title>Welcome</title>") }

// Redirect answers with a redirect.
func Redirect(status int, location string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Location", location)
		w.WriteHeader(status)
	}
}

// Delay answers late. Until then the server does nothing.
func Delay(d time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		late := time.NewTimer(d)
		defer late.Stop()
		select {
		case <-late.C:
			answer(w, r)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// AnswerLate lets the server do its work at once, and answers late.
func AnswerLate(d time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := record(r, answer)
		Delay(d)(w, r, func(w http.ResponseWriter, _ *http.Request) {
			whole.sendHeader(w, len(whole.body))
			_, _ = io.WriteString(w, whole.body)
		})
	}
}

// Hang does not answer until the client gives up or the server is closed.
func (s *AuthServer) Hang() Fault {
	return func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}

// Reset cuts the connection without an answer. Over the network, http.Transport
// silently repeats a GET that meets this on a connection it has used before:
// such a client takes two faults.
func Reset() Fault {
	return func(http.ResponseWriter, *http.Request, http.HandlerFunc) { panic(http.ErrAbortHandler) }
}

// LoseAnswer lets the server do its work and then cuts the connection.
func LoseAnswer() Fault {
	return func(_ http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		record(r, answer)
		panic(http.ErrAbortHandler)
	}
}

// CutBody lets the server do its work and cuts the connection after n bytes of
// the answer's body, of which more were promised.
func CutBody(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := record(r, answer)
		whole.sendHeader(w, max(len(whole.body), n+1))
		_, _ = io.WriteString(w, whole.first(n))
		flush(w)
		panic(http.ErrAbortHandler)
	}
}

// TruncateJSON lets the server do its work and answers 200 with the first n
// bytes of the answer's body, as if they were all.
func TruncateJSON(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := record(r, answer)
		part := whole.first(n)
		whole.status = http.StatusOK
		whole.sendHeader(w, len(part))
		_, _ = io.WriteString(w, part)
	}
}

// Trickle sends the answer's header at once, and then its body byte by byte, one
// each interval.
func Trickle(interval time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := record(r, answer)
		whole.sendHeader(w, len(whole.body))
		flush(w)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for i := range len(whole.body) {
			select {
			case <-tick.C:
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
			if _, err := io.WriteString(w, whole.body[i:i+1]); err != nil {
				return
			}
			flush(w)
		}
	}
}

// Oversize answers 200 with n bytes of valid JSON.
func Oversize(n int64) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Type", "application/json")
		writeLong(w, n)
	}
}

// GzipBomb answers 200 with n bytes of valid JSON, compressed to about a
// thousandth, whether or not the client accepts that.
func GzipBomb(n int64) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		writeLong(z, n)
		_ = z.Close()
	}
}

// writeLong writes n bytes of JSON. It ends early when the client is gone.
func writeLong(w io.Writer, n int64) {
	const before, after = `{"token":"`, `"}`
	chunk := strings.Repeat("a", 64<<10)
	_, err := io.WriteString(w, before)
	for n -= int64(len(before + after)); n > 0 && err == nil; n -= int64(len(chunk)) {
		_, err = io.WriteString(w, chunk[:min(n, int64(len(chunk)))])
	}
	_, _ = io.WriteString(w, after)
}

// Without answers as the server does, less the named fields: for answers of
// other deployments.
func Without(fields ...string) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := record(r, answer)
		var body map[string]any
		if err := json.Unmarshal([]byte(whole.body), &body); err != nil {
			panic(err)
		}
		for _, field := range fields {
			delete(body, field)
		}
		less := string(encodeJSON(body))
		whole.sendHeader(w, len(less))
		_, _ = io.WriteString(w, less)
	}
}

// recorded is the server's answer, held back.
type recorded struct {
	status int
	header http.Header
	body   string
}

func record(r *http.Request, answer http.HandlerFunc) recorded {
	recorder := httptest.NewRecorder()
	answer(recorder, r)
	return recorded{recorder.Code, recorder.Header(), recorder.Body.String()}
}

// sendHeader sends the recorded status and header, with another length.
func (a recorded) sendHeader(w http.ResponseWriter, length int) {
	maps.Copy(w.Header(), a.header)
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.WriteHeader(a.status)
}

// first returns the first n bytes of the body.
func (a recorded) first(n int) string { return a.body[:max(0, min(n, len(a.body)))] }

func flush(w http.ResponseWriter) {
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}
