package sessiontest

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"
)

// Fault is served instead of the server's answer. It may call answer to have
// the server do its work.
type Fault func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc)

type injected struct {
	op    Op
	times int // left; negative: until cleared
	fault Fault
}

// Inject serves fault to the next calls of a kind; with negative times, until
// ClearFaults. Faults of a kind are served in the order of injection.
func (s *AuthServer) Inject(op Op, times int, fault Fault) {
	s.set(func() { s.faults = append(s.faults, injected{op, times, fault}) })
}

// ClearFaults ends all faults.
func (s *AuthServer) ClearFaults() { s.set(func() { s.faults = nil }) }

// fault takes the next fault for a call. It is called with s.mu held.
func (s *AuthServer) fault(op Op) Fault {
	for i := range s.faults {
		f := &s.faults[i]
		if (f.op == op || f.op == Any) && f.times != 0 {
			f.times--
			return f.fault
		}
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
		writeJSON(w, status, map[string]any{"statusCode": status, "message": message, "path": r.URL.RequestURI()})
	}
}

// Raw answers with a status, a content type and a body as given.
func Raw(status int, contentType, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Type", contentType)
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

// Delay answers late.
func Delay(d time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		late := time.NewTimer(d)
		defer late.Stop()
		select {
		case <-late.C:
			answer(w, r)
		case <-r.Context().Done():
		}
	}
}

// Hang does not answer until the client gives up or the server is closed.
func (s *AuthServer) Hang() Fault {
	return func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		select {
		case <-r.Context().Done():
		case <-s.done:
		}
		panic(http.ErrAbortHandler)
	}
}

// Reset cuts the connection without an answer.
func Reset() Fault {
	return func(http.ResponseWriter, *http.Request, http.HandlerFunc) { panic(http.ErrAbortHandler) }
}

// LoseAnswer lets the server do its work and then cuts the connection.
func LoseAnswer() Fault {
	return func(_ http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		answer(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
}

// CutBody cuts the connection after n bytes of the answer's body.
func CutBody(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := record(r, answer)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
		_, _ = io.WriteString(w, whole[:min(n, len(whole))])
		flush(w)
		panic(http.ErrAbortHandler)
	}
}

// TruncateJSON answers with the first n bytes as if they were all.
func TruncateJSON(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := record(r, answer)
		Raw(http.StatusOK, "application/json", whole[:min(n, len(whole))])(w, r, answer)
	}
}

// Trickle answers byte by byte, one each interval.
func Trickle(interval time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := record(r, answer)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for i := range len(whole) {
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
			if _, err := io.WriteString(w, whole[i:i+1]); err != nil {
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

// GzipBomb answers 200 with n bytes of valid JSON, compressed.
func GzipBomb(n int64) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		writeLong(z, n)
		_ = z.Close()
	}
}

// writeLong ends early when the client is gone.
func writeLong(w io.Writer, n int64) {
	chunk := strings.Repeat("a", 64<<10)
	_, err := io.WriteString(w, `{"token":"`)
	for ; n > 0 && err == nil; n -= int64(len(chunk)) {
		_, err = io.WriteString(w, chunk[:min(n, int64(len(chunk)))])
	}
	_, _ = io.WriteString(w, `"}`)
}

func record(r *http.Request, answer http.HandlerFunc) string {
	recorder := httptest.NewRecorder()
	answer(recorder, r)
	return recorder.Body.String()
}

func flush(w http.ResponseWriter) {
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

// Without answers as the server does, less the named fields: for answers of
// other deployments.
func Without(fields ...string) Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		var body map[string]any
		if err := json.Unmarshal([]byte(record(r, answer)), &body); err != nil {
			panic(err)
		}
		for _, field := range fields {
			delete(body, field)
		}
		writeJSON(w, http.StatusOK, body)
	}
}
