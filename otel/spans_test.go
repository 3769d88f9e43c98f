package otel_test

import (
	"testing"

	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// children are the names of the spans that ended whose parent has the name, in the
// order in which they ended. The parent "" is none.
func children(spans tracetest.SpanStubs, parent string) []string {
	names := map[trace.SpanID]string{}
	for _, s := range spans {
		names[s.SpanContext.SpanID()] = s.Name
	}
	var found []string
	for _, s := range spans {
		if names[s.Parent.SpanID()] == parent {
			found = append(found, s.Name)
		}
	}
	return found
}

// attributes are those of the only span of that name.
func (f *fixture) span(name string) (map[attribute.Key]string, codes.Code) {
	f.t.Helper()
	var found []tracetest.SpanStub
	for _, s := range f.exporter.GetSpans() {
		if s.Name == name {
			found = append(found, s)
		}
	}
	require.Len(f.t, found, 1, name)
	attributes := make(map[attribute.Key]string)
	for _, a := range found[0].Attributes {
		attributes[a.Key] = a.Value.AsString()
	}
	return attributes, found[0].Status.Code
}

// redisService is a Service on a server of its own. Without a near cache nothing but
// what the test does is traced.
func (f *fixture) redisService(client *redis.Client, opts ...session.Option) *session.Service {
	f.t.Helper()
	f.t.Cleanup(func() { client.Close() })
	return f.service(append(opts, session.WithRedis(client), session.WithNearCache(0))...)
}

func TestCallsOfARefreshAreChildrenOfItAndItIsAChildOfTheCallersSpan(t *testing.T) {
	f := newFixture(t)
	svc := f.redisService(redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr}))
	f.auth.Link(alice, email)
	ctx, command := f.tracers.Tracer("bot").Start(t.Context(), "command")
	_, err := svc.Token(ctx, alice)
	require.NoError(t, err)
	command.End()

	spans := f.exporter.GetSpans()
	require.Equal(t, []string{"command"}, children(spans, ""))
	require.Equal(t, []string{"mana.session.store.read", "mana.session.refresh"}, children(spans, "command"))
	require.Equal(t, []string{"mana.session.store.lease", "mana.session.auth.link_fetch", "mana.session.store.write"},
		children(spans, "mana.session.refresh"))
	for _, s := range spans {
		require.Equal(t, command.SpanContext().TraceID(), s.SpanContext.TraceID())
		require.Equal(t, codes.Unset, s.Status.Code)
	}
	attributes, _ := f.span("mana.session.store.lease")
	require.Equal(t, map[attribute.Key]string{"mana.session.bot": "shop", "mana.session.operation": "store.lease"}, attributes)
}

func TestCallsOfALoginAndALogoutAreChildrenOfThem(t *testing.T) {
	f := newFixture(t)
	svc := f.redisService(redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr}), session.WithSSOLink(false))
	_, err := svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	require.NoError(t, svc.Logout(t.Context(), alice))
	spans := f.exporter.GetSpans()
	require.Equal(t, []string{"mana.session.login", "mana.session.logout"}, children(spans, ""))
	require.Contains(t, children(spans, "mana.session.login"), "mana.session.auth.login")
	require.Contains(t, children(spans, "mana.session.login"), "mana.session.store.write")
	require.Contains(t, children(spans, "mana.session.logout"), "mana.session.store.delete")
}

// An HTTP client and a Redis client that are instrumented report into the same trace.
func TestInstrumentedClientsReportBelowTheCallsThatTheyCarry(t *testing.T) {
	f := newFixture(t)
	client := redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr})
	require.NoError(t, redisotel.InstrumentTracing(client, redisotel.WithTracerProvider(f.tracers), redisotel.WithDBStatement(false)))
	require.NoError(t, f.auth.Start())
	httpClient := f.auth.Client()
	httpClient.Transport = otelhttp.NewTransport(httpClient.Transport, otelhttp.WithTracerProvider(f.tracers))
	svc := f.redisService(client, session.WithAuthURL(f.auth.URL), session.WithHTTPClient(httpClient))
	f.auth.Link(alice, email)
	_, err := svc.Token(t.Context(), alice)
	require.NoError(t, err)

	spans := f.exporter.GetSpans()
	require.Equal(t, []string{"HTTP GET"}, children(spans, "mana.session.auth.link_fetch"))
	require.NotEmpty(t, children(spans, "mana.session.store.read"))
	require.NotEmpty(t, children(spans, "mana.session.store.write"))
}

func TestSpansTellErrorsByTheirTypeAndAreFailedForAnOperatorAlone(t *testing.T) {
	f := newFixture(t)
	svc := f.service()
	_, err := svc.Token(t.Context(), bob)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	attributes, status := f.span("mana.session.refresh")
	require.Equal(t, "not_logged_in", attributes["error.type"])
	require.Equal(t, codes.Unset, status, "a user who has to log in is no failure")

	f.exporter.Reset()
	f.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(500, "down"))
	_, err = svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	for _, name := range []string{"mana.session.refresh", "mana.session.auth.link_fetch"} {
		attributes, status = f.span(name)
		require.Equal(t, "auth_unavailable", attributes["error.type"])
		require.Equal(t, codes.Error, status)
	}
}

func TestNoSpanTellsAUser(t *testing.T) {
	f := newFixture(t)
	svc := f.service()
	for range 3 {
		f.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(500, alice+" has no session"))
		_, err := svc.Token(t.Context(), alice)
		require.ErrorContains(t, err, alice, "the server says whom it is about")
	}
	f.auth.ClearFaults()
	f.live(svc)
	spans := f.exporter.GetSpans()
	require.Greater(t, len(spans), 20)
	for _, s := range spans {
		require.Regexp(t, `^mana\.session\.[a-z_.]+$`, s.Name)
		require.Empty(t, s.Status.Description)
		require.Empty(t, s.Events)
		for _, a := range s.Attributes {
			require.Regexp(t, `^[a-z_.]+$`, a.Value.AsString(), "%s", a.Key)
		}
	}
}
