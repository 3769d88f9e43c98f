package grpc

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mana/session"
)

// StreamClientInterceptor does for streams what [UnaryClientInterceptor] does for
// calls, as far as a stream can begin again: one on which only the server sends is
// opened once more, with a new token, if the first thing that the server says is
// Unauthenticated. What a client has sent on other streams is not kept, so their
// caller gets the error, and a new token when they open the next.
//
// A stream keeps the token that it began with, whatever becomes of it later.
func StreamClientInterceptor(svc *session.Service) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		sent := new(atomic.Value)
		watched := context.WithValue(ctx, sentKey{}, sent)
		open := func() (grpc.ClientStream, error) { return streamer(watched, desc, cc, method, opts...) }
		first, err := open()
		if err != nil {
			return nil, err
		}
		return &stream{ctx: ctx, svc: svc, sent: sent, open: open, repeats: !desc.ClientStreams, current: first}, nil
	}
}

// A stream is one that may begin again before anything has come from the server.
type stream struct {
	ctx     context.Context // of the call
	svc     *session.Service
	sent    *atomic.Value // the token
	open    func() (grpc.ClientStream, error)
	repeats bool // the client sends one message, which is kept

	mu      sync.Mutex
	current grpc.ClientStream // guarded by mu
	request any               // guarded by mu; what the client has sent
	begun   bool              // guarded by mu; the server has said something
}

func (s *stream) now() grpc.ClientStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Header implements grpc.ClientStream.
func (s *stream) Header() (metadata.MD, error) { return s.now().Header() }

// Trailer implements grpc.ClientStream.
func (s *stream) Trailer() metadata.MD { return s.now().Trailer() }

// CloseSend implements grpc.ClientStream.
func (s *stream) CloseSend() error { return s.now().CloseSend() }

// Context implements grpc.ClientStream.
func (s *stream) Context() context.Context { return s.now().Context() }

// SendMsg implements grpc.ClientStream.
func (s *stream) SendMsg(m any) error {
	if s.repeats {
		s.mu.Lock()
		s.request = m
		s.mu.Unlock()
	}
	return s.now().SendMsg(m)
}

// RecvMsg implements grpc.ClientStream.
func (s *stream) RecvMsg(m any) error {
	err := s.now().RecvMsg(m)
	s.mu.Lock()
	first := !s.begun
	s.begun = true
	s.mu.Unlock()
	if !first || status.Code(err) != codes.Unauthenticated {
		return err
	}
	again, err := renew(s.ctx, s.svc, s.sent, err)
	if !again || !s.repeats {
		return err
	}
	if err := s.again(); err != nil {
		return err
	}
	return s.now().RecvMsg(m)
}

// again opens the stream once more and sends what was sent.
func (s *stream) again() error {
	next, err := s.open()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.current = next
	request := s.request
	s.mu.Unlock()
	if err := next.SendMsg(request); err != nil {
		return nil //nolint:nilerr // io.EOF: RecvMsg says why
	}
	return next.CloseSend()
}
