// Package grpc sends a user's token with gRPC calls.
//
//	conn, err := grpc.NewClient("dns:///todo.example.com",
//		grpc.WithTransportCredentials(credentials.NewTLS(nil)),
//		grpc.WithPerRPCCredentials(sessiongrpc.Credentials(svc)),
//		grpc.WithUnaryInterceptor(sessiongrpc.UnaryClientInterceptor(svc)),
//		grpc.WithStreamInterceptor(sessiongrpc.StreamClientInterceptor(svc)))
//	…
//	ctx = session.WithUser(ctx, "@alice:matrix.example")
//	lists, err := todo.NewTodoClient(conn).Lists(ctx, &todo.ListsRequest{})
//
// One connection serves all users: whose call it is stands in its context.
package grpc

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/mana/session"
)

// Credentials adds "authorization: Bearer" with the token of the user whom
// session.WithUser put into the call's context. They demand TLS: a call over a
// connection without it fails, and so does grpc.NewClient.
//
// A call for which there is no token is not sent. Its error is one of
// session.Service.Token for errors.Is, and for gRPC a status:
//
//	session.ErrNotLoggedIn                                  Unauthenticated
//	session.ErrAuthUnavailable, session.ErrStoreUnavailable Unavailable
//	session.ErrServiceKeyRejected                           Unavailable
//	session.ErrInvalidUserID (no user in the context, too)  Internal
//	session.ErrClosed                                       Unavailable
//	the end of the context                                  Canceled, DeadlineExceeded
//	anything else                                           Internal
//
// A stream gets its token when it begins and keeps it. When a server ends it with
// Unauthenticated later on, open another.
func Credentials(svc *session.Service) credentials.PerRPCCredentials { return perRPC{svc} }

type perRPC struct{ svc *session.Service }

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (perRPC) RequireTransportSecurity() bool { return true }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c perRPC) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, _ := credentials.RequestInfoFromContext(ctx)
	if err := credentials.CheckSecurityLevel(info.AuthInfo, credentials.PrivacyAndIntegrity); err != nil {
		return nil, status.Errorf(codes.Internal, "session: the token is for TLS alone: %v", err)
	}
	token, err := c.svc.Token(ctx, session.UserFrom(ctx))
	if err != nil {
		return nil, withStatus(err)
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Value); ok {
		sent.Store(token)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// sentKey is where the interceptor learns which token a call was sent with.
type sentKey struct{}

// UnaryClientInterceptor makes a call once more, with a new token, when the server
// answers Unauthenticated to the one that [Credentials] added. The answer is
// passed on when session.Service.Refresh has no other token; if it turns out that
// the session has ended, the error is session.ErrNotLoggedIn for errors.Is, and
// Unauthenticated.
//
// What a server refuses it has not carried out, so calls that are not idempotent
// are made again as well.
func UnaryClientInterceptor(svc *session.Service) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		sent := new(atomic.Value)
		watched := context.WithValue(ctx, sentKey{}, sent)
		err := invoke(watched, method, req, reply, cc, opts...)
		if status.Code(err) != codes.Unauthenticated {
			return err
		}
		again, err := renew(ctx, svc, sent, err)
		if !again {
			return err
		}
		return invoke(watched, method, req, reply, cc, opts...)
	}
}

// renew replaces the token that a server has refused, if it was one of ours. It
// reports whether there is another to try, and returns what to tell the caller if
// they do not.
func renew(ctx context.Context, svc *session.Service, sent *atomic.Value, refusal error) (again bool, err error) {
	token, ok := sent.Load().(string)
	if !ok || errors.Is(refusal, session.ErrNotLoggedIn) {
		return false, refusal
	}
	renewed, err := svc.Refresh(ctx, session.UserFrom(ctx), token)
	switch {
	case errors.Is(err, session.ErrNotLoggedIn), err != nil && ctx.Err() != nil:
		return false, withStatus(err)
	case err != nil, renewed == token:
		return false, refusal // the server's answer says more than ours
	}
	return true, refusal
}

// statusError is an error of the session package that gRPC sees a status in.
type statusError struct {
	error
	code codes.Code
}

func (e statusError) Unwrap() error { return e.error }

// GRPCStatus is what package status looks for.
func (e statusError) GRPCStatus() *status.Status { return status.New(e.code, e.Error()) }

// withStatus gives err the code for it. gRPC does not take InvalidArgument and the
// like from credentials: https://github.com/grpc/proposal/blob/master/A54-restrict-control-plane-status-codes.md
func withStatus(err error) error {
	for _, known := range []struct {
		err  error
		code codes.Code
	}{
		{session.ErrNotLoggedIn, codes.Unauthenticated},
		{session.ErrAuthUnavailable, codes.Unavailable},
		{session.ErrServiceKeyRejected, codes.Unavailable},
		{session.ErrStoreUnavailable, codes.Unavailable},
		{session.ErrClosed, codes.Unavailable},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		if errors.Is(err, known.err) {
			return statusError{err, known.code}
		}
	}
	return statusError{err, codes.Internal}
}
