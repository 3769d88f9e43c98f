package sessiontest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Echo answers with the server's error body, whose message holds the headers
// and the body of the request verbatim: for tests of what becomes of secrets
// that a server sends back.
func Echo(status int) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		writeJSON(w, status, newErrorAnswer(status, dump(r), time.Now(), r))
	}
}

// EchoRaw answers with the headers and the body of the request verbatim, as
// plain text, the way a gateway's debugging page does.
func EchoRaw(status int) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		Raw(status, "text/plain; charset=utf-8", dump(r))(w, r, nil)
	}
}

// EchoMalformed answers with what is no HTTP: the headers and the body of the
// request stand where a header line should. Clients quote such lines in their
// errors.
func EchoMalformed() Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		line := strings.NewReplacer(":", "=", "\r", " ", "\n", " ").Replace(dump(r))
		hijacker, ok := w.(http.Hijacker)
		if !ok {
			panic(malformed(line))
		}
		conn, _, err := hijacker.Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+line+"\r\n\r\n")
	}
}

// malformed is a header line without a colon: what a handler of Client panics
// with in place of writing it.
type malformed string

// Error is what http.Transport says of such a line.
func (m malformed) Error() string {
	return fmt.Sprintf("net/http: HTTP/1.x transport connection broken: malformed MIME header: missing colon: %q", string(m))
}

// dump returns the headers and the body of a request, neither escaped nor cut.
func dump(r *http.Request) string {
	var text strings.Builder
	for name, values := range r.Header {
		for _, value := range values {
			fmt.Fprintf(&text, "%s: %s\n", name, value)
		}
	}
	_, _ = io.Copy(&text, r.Body)
	return text.String()
}
