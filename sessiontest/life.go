package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// newContext returns a context whose channel belongs to no synctest bubble,
// unless its caller does.
func newContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	ctx.Done() // or the first call would make the channel, in its own bubble
	return ctx, cancel
}

// NewAuthServer returns a server that listens on a loopback port until the
// test ends.
func NewAuthServer(tb testing.TB, opts ...Option) *AuthServer {
	tb.Helper()
	s := New(opts...)
	if err := s.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// Start listens on a loopback port and sets URL. It can be called once, and
// not after Stop or Close.
func (s *AuthServer) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.address != "" || s.endRun == nil || s.life.Err() != nil {
		return errors.New("sessiontest: server already started, stopped or closed")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("sessiontest: %w", err)
	}
	s.address = listener.Addr().String()
	s.URL = "http://" + s.address
	s.serve(listener)
	return nil
}

// serve is called with s.mu held.
func (s *AuthServer) serve(listener net.Listener) {
	server, served := &http.Server{
		Handler:           s,
		IdleTimeout:       5 * time.Second, // as deployed
		ReadHeaderTimeout: 5 * time.Second,
	}, make(chan struct{})
	s.server, s.served = server, served
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
}

// Stop cuts calls in flight and refuses connections until Resume, as a server
// does that is killed. Calls of Client are cut and refused as well. What the
// server had begun is done all the same, and its answer lost; what a fault was
// still holding back is not.
func (s *AuthServer) Stop() {
	s.mu.Lock()
	endRun, server, served := s.endRun, s.server, s.served
	s.endRun, s.server, s.served = nil, nil, nil
	s.mu.Unlock()
	if endRun != nil {
		endRun()
	}
	if server != nil {
		_ = server.Close()
		<-served
	}
}

// relisten bounds how long Resume tries to get its port back.
const relisten = 2 * time.Second

// Resume ends what Stop began; a server that listened listens on the same
// address again. It fails if the server is closed, or if another program has
// taken the port meanwhile. It does nothing to a server that runs.
func (s *AuthServer) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		return errors.New("sessiontest: server closed")
	}
	if s.endRun != nil {
		return nil
	}
	if s.address != "" {
		listener, err := listenAgain(s.address)
		if err != nil {
			return fmt.Errorf("sessiontest: %w", err)
		}
		s.serve(listener)
	}
	s.run, s.endRun = newContext(s.life)
	return nil
}

// listenAgain tries for a while: a port that connections came from by chance is
// soon free again.
func listenAgain(address string) (net.Listener, error) {
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		listener, err := net.Listen("tcp", address)
		if err == nil || time.Since(began) > relisten {
			return listener, err
		}
	}
}

// Restart stops the server, waits, and resumes it: it returns when the server
// answers again. Close ends it early, with an error.
func (s *AuthServer) Restart(down time.Duration) error {
	s.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), down)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	<-ctx.Done()
	return s.Resume()
}

// Close cuts calls in flight and stops listening, for good. Later calls find
// nobody there, those of Client included.
func (s *AuthServer) Close() {
	s.end()
	s.Stop()
	s.set(s.thawed.Broadcast)
}

// running returns the context of calls that begin now, and whether there is a
// server for them.
func (s *AuthServer) running() (context.Context, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run, s.run.Err() == nil
}
