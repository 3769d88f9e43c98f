package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
)

// errReplayed is why an answer is refused: the transport sent the request again
// or to somewhere else.
var errReplayed = errors.New("the HTTP client's transport follows redirects or repeats requests: it must do neither")

// requestWatch sees to it that a request goes to where it is addressed and that
// one with a password or a refresh token goes there once, whatever the caller's
// transport does. Where the transport ends in net/http it can stop what should
// not be sent; elsewhere it can only tell afterwards.
type requestWatch struct {
	stop context.CancelCauseFunc
	once bool // the request carries what must not be sent again

	mu       sync.Mutex
	wrote    bool // guarded by mu, like what follows
	answered bool
	replayed bool
}

// watchRequest returns ctx for a request that is to be watched. stop ends it.
func watchRequest(ctx context.Context, once bool) (context.Context, *requestWatch) {
	ctx, stop := context.WithCancelCause(ctx)
	w := &requestWatch{stop: stop, once: once}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:              func(string) { w.connecting() },
		GotConn:              func(info httptrace.GotConnInfo) { w.connected(info.Conn) },
		WroteHeaders:         func() { w.note(&w.wrote) },
		GotFirstResponseByte: func() { w.note(&w.answered) },
	}), w
}

func (w *requestWatch) note(what *bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*what = true
}

// connecting is called for every connection that the request is to go out on.
// net/http itself takes another one only if the first did not answer, and then
// not for a request whose body it cannot rewind.
func (w *requestWatch) connecting() {
	w.mu.Lock()
	again := w.answered || w.wrote && w.once
	w.replayed = w.replayed || again
	w.mu.Unlock()
	if again {
		w.stop(errReplayed)
	}
}

// connected cuts a connection that must not be used, before it is.
func (w *requestWatch) connected(conn net.Conn) {
	if w.isReplayed() && conn != nil {
		_ = conn.Close()
	}
}

func (w *requestWatch) isReplayed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.replayed
}

// answersAnother reports whether resp is the answer to another request than
// asked.
func answersAnother(asked *http.Request, resp *http.Response) bool {
	got := resp.Request
	if got == nil || got == asked || got.URL == nil {
		return false
	}
	return got.Response != nil || got.Method != asked.Method && got.Method != "" ||
		!strings.EqualFold(got.URL.Scheme, asked.URL.Scheme) || requestHost(got) != requestHost(asked) ||
		got.URL.EscapedPath() != asked.URL.EscapedPath()
}

func requestHost(req *http.Request) string {
	port := req.URL.Port()
	switch {
	case port != "":
	case strings.EqualFold(req.URL.Scheme, "https"):
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(strings.ToLower(req.URL.Hostname()), port)
}

// singleBody is a request body that can be read once. It is not of a type that
// net/http knows how to rewind.
type singleBody struct {
	mu     sync.Mutex
	left   *bytes.Reader // guarded by mu, like what follows
	sent   bool          // some of it has been read
	closed bool
	again  bool // somebody tried to read it again
}

func newSingleBody(b []byte) *singleBody { return &singleBody{left: bytes.NewReader(b)} }

// Read implements [io.Reader].
func (b *singleBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		b.again = b.again || b.sent
		return 0, errReplayed
	}
	b.sent = true
	return b.left.Read(p)
}

// Close implements [io.Closer].
func (b *singleBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

func (b *singleBody) isSent() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent
}

func (b *singleBody) isReadAgain() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.again
}

var _ io.ReadCloser = (*singleBody)(nil)
