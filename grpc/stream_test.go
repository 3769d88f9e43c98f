package grpc_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mana/session"
)

// Watch tells the service that was asked about, twice, in a stream.
func (b *backend) Watch(req *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	if err := b.admit(stream.Context()); err != nil {
		return err
	}
	if err := stream.SetHeader(metadata.Pairs("asked-about", req.GetService())); err != nil {
		return err
	}
	for range 2 {
		if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}); err != nil {
			return err
		}
	}
	if req.GetService() == "ends" {
		return status.Error(codes.Unauthenticated, "your token has run out")
	}
	return nil
}

// talk is what the backend does on a stream on which both send.
func (b *backend) talk(_ any, stream grpc.ServerStream) error {
	if err := b.admit(stream.Context()); err != nil {
		return err
	}
	m := new(grpc_health_v1.HealthCheckRequest)
	for {
		if err := stream.RecvMsg(m); err != nil {
			return nil //nolint:nilerr // the client is done
		}
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
}

// watch reads a stream of alice's to its end, and returns how many messages came.
func (f *fixture) watch(ctx context.Context, service string) (n int, header metadata.MD, err error) {
	stream, err := f.client.Watch(session.WithUser(ctx, alice), &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		return 0, nil, err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			header, _ := stream.Header()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, header, err
		}
		n++
	}
}

// refusing is a fixture whose backend refuses the token that alice has now.
func refusing(t *testing.T) *fixture {
	t.Helper()
	var refused string
	f := newFixture(t, func(token string) error {
		if token == "Bearer "+refused {
			return status.Error(codes.Unauthenticated, "unknown key")
		}
		return nil
	})
	var err error
	refused, err = f.svc.Token(t.Context(), alice)
	require.NoError(t, err)
	return f
}

func TestStreamOfTheServersBeginsAgainWithANewToken(t *testing.T) {
	f := refusing(t)
	for range 2 {
		n, header, err := f.watch(t.Context(), "todo")
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, []string{"todo"}, header.Get("asked-about"), "the request is sent again")
	}
	require.Equal(t, 3, f.calls(), "the new token is kept")
}

func TestStreamThatHasBegunIsNotRepeated(t *testing.T) {
	f := newFixture(t, anyToken)
	n, _, err := f.watch(t.Context(), "ends")
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	require.Equal(t, 2, n)
	require.Equal(t, 1, f.calls())
}

func TestServerThatRefusesEveryStreamIsAskedTwiceAtTheMost(t *testing.T) {
	f := newFixture(t, func(string) error { return status.Error(codes.Unauthenticated, "I know nobody") })
	for range 5 {
		_, _, err := f.watch(t.Context(), "todo")
		require.Equal(t, codes.Unauthenticated, status.Code(err))
		require.ErrorContains(t, err, "I know nobody")
		require.NotErrorIs(t, err, session.ErrNotLoggedIn)
	}
	require.LessOrEqual(t, f.calls(), 6)
}

func TestStreamOfASessionThatEndedMeanwhileIsNotLoggedIn(t *testing.T) {
	f := refusing(t)
	f.auth.Unlink(alice)
	_, _, err := f.watch(t.Context(), "todo")
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	_, err = f.client.Watch(session.WithUser(t.Context(), "@carol:matrix.example"), new(grpc_health_v1.HealthCheckRequest))
	require.ErrorIs(t, err, session.ErrNotLoggedIn, "without a token it does not begin")
	require.Equal(t, 1, f.calls())
}

// What the client has sent is not kept: the caller hears of it and opens another.
func TestNextStreamOfBothHasANewToken(t *testing.T) {
	f := refusing(t)
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	talk := func() error {
		stream, err := f.conn.NewStream(session.WithUser(t.Context(), alice), both, "/todo/Talk")
		require.NoError(t, err)
		for _, word := range []string{"one", "two"} {
			if err := stream.SendMsg(&grpc_health_v1.HealthCheckRequest{Service: word}); err != nil {
				require.ErrorIs(t, err, io.EOF)
			}
			answer := new(grpc_health_v1.HealthCheckRequest)
			if err := stream.RecvMsg(answer); err != nil {
				return err
			}
			require.Equal(t, word, answer.GetService())
		}
		return stream.CloseSend()
	}
	require.Equal(t, codes.Unauthenticated, status.Code(talk()))
	require.NoError(t, talk())
	require.Equal(t, 2, f.calls())
}
