package sessiontest

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
)

// Client returns an HTTP client that calls the server in this process, without
// a network, whatever host the URL names. It has no time-out, and follows
// redirects as any http.Client does. It works inside testing/synctest: nothing
// it starts outlives its request, whose answer has to be closed, but for the
// calls that a frozen database holds.
//
// While the server is stopped or closed, calls fail as dialing a port does that
// nobody listens on: with a *net.OpError whose Op is "dial", and
// syscall.ECONNREFUSED.
func (s *AuthServer) Client() *http.Client {
	return &http.Client{Transport: inProcess{s}}
}

type inProcess struct{ server *AuthServer }

// RoundTrip implements http.RoundTripper.
func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	run, up := t.server.running()
	if !up {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, networkError("dial", "connect", syscall.ECONNREFUSED)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	received, inflate, err := receive(ctx, req)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	body, pipe := io.Pipe()
	w := &pipeWriter{header: make(http.Header), body: pipe, ctx: ctx, method: req.Method, started: make(chan struct{})}
	closed := context.AfterFunc(run, func() { cancel(io.ErrUnexpectedEOF) })
	ended := context.AfterFunc(ctx, func() { _ = pipe.CloseWithError(context.Cause(ctx)) })
	go func() {
		defer received.Body.Close()
		defer func() {
			closed()
			ended()
			cancel(nil)
		}()
		w.serve(t.server, received)
	}()

	select {
	case <-w.started:
	case <-ctx.Done():
	}
	if req.Context().Err() != nil {
		return nil, context.Cause(req.Context()) // as http.Transport does
	}
	select {
	case <-w.started:
		if w.cause != nil {
			return nil, w.cause
		}
	default: // closed in the middle of the call
		return nil, networkError("read", "read", syscall.ECONNRESET)
	}
	resp := &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        w.sent,
		Body:          &answerBody{body, func() { cancel(nil) }},
		ContentLength: w.length,
		Request:       req,
	}
	if inflate && resp.Header.Get("Content-Encoding") == "gzip" {
		resp.Header.Del("Content-Encoding")
		resp.Header.Del("Content-Length")
		resp.ContentLength, resp.Uncompressed = -1, true
		resp.Body = &gzipBody{body: resp.Body}
	}
	return resp, nil
}

// networkError is an error of the network, as http.Transport would pass it on.
func networkError(op, call string, errno syscall.Errno) error {
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	return &net.OpError{Op: op, Net: "tcp", Addr: addr, Err: os.NewSyscallError(call, errno)}
}

// receive makes of a client's request what a server gets, with the headers
// that http.Transport adds. It reports whether the transport owes the client
// the decompression of the answer.
func receive(ctx context.Context, req *http.Request) (*http.Request, bool, error) {
	target, err := url.ParseRequestURI(req.URL.RequestURI())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, false, fmt.Errorf("sessiontest: %w", err)
	}
	r := req.Clone(ctx)
	r.URL, r.RequestURI = target, req.URL.RequestURI()
	r.Host = cmp.Or(req.Host, req.URL.Host)
	r.RemoteAddr = "127.0.0.1:1"
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	if r.Body == nil {
		r.Body = http.NoBody
	}
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", "Go-http-client/1.1")
	}
	inflate := r.Header.Get("Accept-Encoding") == "" && r.Header.Get("Range") == "" && r.Method != http.MethodHead
	if inflate {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	return r, inflate, nil
}

// pipeWriter is an http.ResponseWriter whose body can be read while it is
// written.
type pipeWriter struct {
	header  http.Header
	body    *io.PipeWriter
	ctx     context.Context // of the call; its end is what the client sees of the answer's
	method  string
	written int64
	started chan struct{} // closed with the status line, or when there will be none

	// Set before started is closed, and not changed any more.
	status int // 0: no answer, for the reason in cause
	cause  error
	sent   http.Header
	length int64 // of the body; -1: not known
}

// serve runs the handler and ends the answer as a server does.
func (w *pipeWriter) serve(handler http.Handler, r *http.Request) {
	returned := false
	defer func() {
		p := recover()
		switch {
		case returned:
			w.WriteHeader(http.StatusOK)
			var short error
			if w.bodyAllowed() && w.written < w.length {
				short = io.ErrUnexpectedEOF
			}
			_ = w.body.CloseWithError(cmp.Or(context.Cause(w.ctx), short)) // nil: io.EOF
		case p == nil || isAbort(p): // nil: a test's handler ended its goroutine
			w.cut(networkError("read", "read", syscall.ECONNRESET))
		default:
			if broken, ok := p.(malformed); ok {
				w.cut(broken)
				return
			}
			w.cut(fmt.Errorf("sessiontest: panic: %v: %w", p, syscall.ECONNRESET))
		}
	}()
	handler.ServeHTTP(w, r)
	returned = true
}

func isAbort(p any) bool {
	err, ok := p.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// cut ends the connection: before the answer, or in its middle.
func (w *pipeWriter) cut(cause error) {
	if w.status == 0 {
		w.cause = cause
		close(w.started)
	}
	_ = w.body.CloseWithError(cmp.Or(context.Cause(w.ctx), io.ErrUnexpectedEOF))
}

// Header implements http.ResponseWriter.
func (w *pipeWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *pipeWriter) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status, w.sent, w.length = status, w.header.Clone(), -1
	if n, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil {
		w.length = n
	}
	if !w.bodyAllowed() {
		w.length = max(0, w.length)
	}
	close(w.started)
}

func (w *pipeWriter) bodyAllowed() bool {
	return w.method != http.MethodHead && w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// Write implements io.Writer; it returns when the client has read b.
func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	switch {
	case len(b) == 0: // would wait for a reader
		return 0, nil
	case !w.bodyAllowed():
		return 0, http.ErrBodyNotAllowed
	case w.length >= 0 && w.written+int64(len(b)) > w.length:
		return 0, http.ErrContentLength
	}
	n, err := w.body.Write(b)
	w.written += int64(n)
	return n, err
}

// Flush implements http.Flusher: it sends the header. Bytes of the body are
// never held back.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

// answerBody tells the server that the client is done with the answer.
type answerBody struct {
	*io.PipeReader
	done func()
}

func (b *answerBody) Close() error {
	err := b.PipeReader.Close()
	b.done()
	return err
}

// gzipBody decompresses from the first read on.
type gzipBody struct {
	body   io.ReadCloser
	reader *gzip.Reader
	err    error // of opening reader
}

func (b *gzipBody) Read(p []byte) (int, error) {
	if b.reader == nil && b.err == nil {
		b.reader, b.err = gzip.NewReader(b.body)
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.reader.Read(p)
}

func (b *gzipBody) Close() error { return b.body.Close() }
