package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"
)

// Client returns an HTTP client that calls the server in this process, without
// a network, whatever host the URL names. Nothing it starts outlives its
// request, so it works inside testing/synctest.
func (s *AuthServer) Client() *http.Client {
	return &http.Client{Transport: inProcess{s}}
}

type inProcess struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	served := req.Clone(ctx)
	served.RemoteAddr = "127.0.0.1:1"
	served.RequestURI = req.URL.RequestURI()
	if served.Body == nil {
		served.Body = http.NoBody
	}
	body, pipe := io.Pipe()
	w := &pipeWriter{header: make(http.Header), body: pipe, started: make(chan struct{})}
	go func() {
		defer cancel()
		defer served.Body.Close()
		defer func() {
			if p := recover(); p != nil {
				w.cut(p)
			}
			w.start(http.StatusOK)
			_ = pipe.Close()
		}()
		t.handler.ServeHTTP(w, served)
	}()
	select {
	case <-w.started:
	case <-ctx.Done():
		_ = body.CloseWithError(ctx.Err())
		if err := req.Context().Err(); err != nil {
			return nil, err
		}
		<-w.started
	}
	if w.reset {
		cancel()
		return nil, fmt.Errorf("sessiontest: %w", syscall.ECONNRESET)
	}
	stop := context.AfterFunc(req.Context(), func() { _ = body.CloseWithError(req.Context().Err()) })
	return &http.Response{
		Status:        http.StatusText(w.status),
		StatusCode:    w.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        w.header.Clone(),
		Body:          &pipeBody{body, func() { stop(); cancel() }},
		ContentLength: -1,
		Request:       req,
	}, nil
}

type pipeBody struct {
	*io.PipeReader
	done func()
}

func (b *pipeBody) Close() error {
	defer b.done()
	return b.PipeReader.Close()
}

// pipeWriter is an http.ResponseWriter whose body can be read while it is
// written. The handler's goroutine alone uses it until started is closed.
type pipeWriter struct {
	header  http.Header
	status  int
	reset   bool // the connection was cut before anything was written
	body    *io.PipeWriter
	started chan struct{} // closed with the status line
	once    sync.Once
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) { w.start(status) }

func (w *pipeWriter) start(status int) {
	w.once.Do(func() {
		w.status = status
		close(w.started)
	})
}

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.start(http.StatusOK)
	return w.body.Write(b)
}

// Flush implements http.Flusher; writes are never held back.
func (w *pipeWriter) Flush() {}

// cut ends the answer after a panic, which http.ErrAbortHandler does on
// purpose.
func (w *pipeWriter) cut(p any) {
	cause := io.ErrUnexpectedEOF
	if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
		cause = fmt.Errorf("sessiontest: panic: %v", p)
	}
	w.once.Do(func() {
		w.reset = true
		close(w.started)
	})
	_ = w.body.CloseWithError(cause)
}
