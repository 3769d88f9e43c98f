package grpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mana/session"
	sessiongrpc "github.com/mana/session/grpc"
	"github.com/mana/session/sessiontest"
)

const (
	alice    = "@alice:matrix.example"
	bob      = "@bob:matrix.example"
	password = "correct horse"
)

// backend is a health service that asks accept about each call's token.
type backend struct {
	grpc_health_v1.UnimplementedHealthServer
	accept func(token string) error

	mu     sync.Mutex
	tokens []string // guarded by mu
}

func (b *backend) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if err := b.admit(ctx); err != nil {
		return nil, err
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// admit decides about a call by its token.
func (b *backend) admit(ctx context.Context) error {
	in, _ := metadata.FromIncomingContext(ctx)
	got := in.Get("authorization")
	b.mu.Lock()
	b.tokens = append(b.tokens, got...)
	b.mu.Unlock()
	if len(got) != 1 {
		return status.Errorf(codes.InvalidArgument, "%d tokens", len(got))
	}
	return b.accept(got[0])
}

func (b *backend) calls() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.tokens)
}

type fixture struct {
	auth *sessiontest.AuthServer
	svc  *session.Service
	*backend
	conn   *grpc.ClientConn
	client grpc_health_v1.HealthClient
	plain  string // the address of the same service without TLS
}

// newFixture serves the backend over TLS, and a client of it that sends the
// tokens of a Service to which alice and bob are linked.
func newFixture(t *testing.T, accept func(string) error, opts ...session.Option) *fixture {
	t.Helper()
	f := &fixture{auth: sessiontest.New(), backend: &backend{accept: accept}}
	t.Cleanup(f.auth.Close)
	for user, email := range map[string]string{alice: "alice@example.com", bob: "bob@example.com"} {
		f.auth.AddUser(email, password)
		f.auth.Link(user, email)
	}
	opts = append([]session.Option{
		session.WithAuthURL(f.auth.URL), session.WithHTTPClient(f.auth.Client()), session.WithServiceKey(sessiontest.DefaultServiceKey),
	}, opts...)
	svc, err := session.New(opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = svc.Close() })
	f.svc = svc

	certified := httptest.NewUnstartedServer(nil) // for its certificate
	certified.StartTLS()
	certificate, roots := certified.TLS.Certificates[0], x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	certified.Close()
	address := f.serve(t, credentials.NewServerTLSFromCert(&certificate))
	f.plain = f.serve(t, insecure.NewCredentials())
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "example.com"})),
		grpc.WithPerRPCCredentials(sessiongrpc.Credentials(svc)),
		grpc.WithUnaryInterceptor(sessiongrpc.UnaryClientInterceptor(svc)),
		grpc.WithStreamInterceptor(sessiongrpc.StreamClientInterceptor(svc)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	f.conn, f.client = conn, grpc_health_v1.NewHealthClient(conn)
	return f
}

func (f *fixture) serve(t *testing.T, creds credentials.TransportCredentials) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(grpc.Creds(creds), grpc.UnknownServiceHandler(f.talk))
	grpc_health_v1.RegisterHealthServer(server, f.backend)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func (f *fixture) check(ctx context.Context, user string) error {
	_, err := f.client.Check(session.WithUser(ctx, user), new(grpc_health_v1.HealthCheckRequest))
	return err
}

func anyToken(string) error { return nil }

func TestOneConnectionSendsTheTokenOfEachCallsUser(t *testing.T) {
	f := newFixture(t, anyToken)
	for _, user := range []string{alice, bob} {
		require.NoError(t, f.check(t.Context(), user))
		token, err := f.svc.Token(t.Context(), user)
		require.NoError(t, err)
		require.Equal(t, "Bearer "+token, f.tokens[len(f.tokens)-1])
	}
}

func TestRefusedTokenIsReplacedOnceAndTheCallMadeAgain(t *testing.T) {
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
	require.NoError(t, f.check(t.Context(), alice))
	require.Equal(t, 2, f.calls())
	require.NoError(t, f.check(t.Context(), alice))
	require.Equal(t, 3, f.calls(), "the new token is kept")
}

func TestServerThatRefusesEveryTokenIsAskedTwiceAtTheMost(t *testing.T) {
	f := newFixture(t, func(string) error { return status.Error(codes.Unauthenticated, "I know nobody") })
	for range 5 {
		err := f.check(t.Context(), alice)
		require.Equal(t, codes.Unauthenticated, status.Code(err))
		require.ErrorContains(t, err, "I know nobody", "the server's own word")
		require.NotErrorIs(t, err, session.ErrNotLoggedIn)
	}
	require.LessOrEqual(t, f.calls(), 6, "a token made moments ago is not replaced again")
}

func TestOtherAnswersOfTheServerArePassedOn(t *testing.T) {
	f := newFixture(t, func(string) error { return status.Error(codes.PermissionDenied, "not yours") })
	require.Equal(t, codes.PermissionDenied, status.Code(f.check(t.Context(), alice)))
	require.Equal(t, 1, f.calls())
}

func TestSessionThatEndedMeanwhileIsNotLoggedIn(t *testing.T) {
	f := newFixture(t, func(string) error { return status.Error(codes.Unauthenticated, "revoked") })
	_, err := f.svc.Token(t.Context(), alice)
	require.NoError(t, err)
	f.auth.Unlink(alice)
	err = f.check(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}

func TestCallsWithoutATokenAreNotSentAndSayWhy(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, stop := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer stop()
	for name, c := range map[string]struct {
		ctx   context.Context
		user  string
		setUp func(f *fixture)
		want  error
		code  codes.Code
	}{
		"not logged in":          {user: "@carol:matrix.example", want: session.ErrNotLoggedIn, code: codes.Unauthenticated},
		"no user in the context": {user: "", want: session.ErrInvalidUserID, code: codes.Internal},
		"not a user":             {user: "carol", want: session.ErrInvalidUserID, code: codes.Internal},
		"auth server down": {user: alice, want: session.ErrAuthUnavailable, code: codes.Unavailable, setUp: func(f *fixture) {
			f.auth.Inject(sessiontest.Any, -1, sessiontest.Status(500, "down"))
		}},
		"service key rejected": {user: alice, want: session.ErrServiceKeyRejected, code: codes.Unavailable, setUp: func(f *fixture) {
			f.auth.SetServiceKey("another")
		}},
		"closed":    {user: alice, want: session.ErrClosed, code: codes.Unavailable, setUp: func(f *fixture) { _ = f.svc.Close() }},
		"cancelled": {ctx: cancelled, user: alice, code: codes.Canceled},
		"too late":  {ctx: late, user: alice, code: codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, anyToken)
			if c.setUp != nil {
				c.setUp(f)
			}
			ctx := c.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			err := f.check(ctx, c.user)
			require.Equal(t, c.code, status.Code(err), "%v", err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.Zero(t, f.calls())
		})
	}
}

func TestStoreThatIsAwayIsUnavailable(t *testing.T) {
	f := newFixture(t, anyToken, session.WithStore(away{}))
	err := f.check(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.Equal(t, codes.Unavailable, status.Code(err))
}

// away is a store that cannot be reached.
type away struct{ session.Store }

func (away) Get(context.Context, string) (session.Record, error) {
	return session.Record{}, net.ErrClosed
}

func TestTokensAreForTLSAlone(t *testing.T) {
	f := newFixture(t, anyToken)
	require.True(t, sessiongrpc.Credentials(f.svc).RequireTransportSecurity())
	_, err := grpc.NewClient(f.plain, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(sessiongrpc.Credentials(f.svc)))
	require.Error(t, err)
	// As a call's own option they get past NewClient.
	conn, err := grpc.NewClient(f.plain, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(session.WithUser(t.Context(), alice),
		new(grpc_health_v1.HealthCheckRequest), grpc.PerRPCCredentials(sessiongrpc.Credentials(f.svc)))
	require.Error(t, err)
	require.Zero(t, f.calls())
}

func TestInterceptorWithoutTheCredentialsChangesNothing(t *testing.T) {
	f := newFixture(t, anyToken)
	conn, err := grpc.NewClient(f.plain, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(sessiongrpc.UnaryClientInterceptor(f.svc)))
	require.NoError(t, err)
	defer conn.Close()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(session.WithUser(t.Context(), alice), new(grpc_health_v1.HealthCheckRequest))
	require.Equal(t, codes.InvalidArgument, status.Code(err), "no token came")
}

func ExampleCredentials() {
	svc, err := session.New(session.WithAuthURL("https://auth.example.com"))
	if err != nil {
		panic(err)
	}
	defer svc.Close()
	conn, err := grpc.NewClient("dns:///todo.example.com",
		grpc.WithTransportCredentials(credentials.NewTLS(nil)),
		grpc.WithPerRPCCredentials(sessiongrpc.Credentials(svc)),
		grpc.WithUnaryInterceptor(sessiongrpc.UnaryClientInterceptor(svc)),
		grpc.WithStreamInterceptor(sessiongrpc.StreamClientInterceptor(svc)))
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	ctx := session.WithUser(context.Background(), "@alice:matrix.example")
	_ = ctx // for the calls of a generated client over conn
}
