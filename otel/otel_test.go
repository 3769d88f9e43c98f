package otel_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/mana/session"
	"github.com/mana/session/internal/telemetry"
	"github.com/mana/session/otel"
	"github.com/mana/session/sessiontest"
)

const (
	alice    = "@alice:matrix.example"
	bob      = "@bob:matrix.example"
	email    = "alice@example.com"
	password = "correct horse"
)

// fixture is an auth server that knows alice, and an SDK that keeps what it is given.
type fixture struct {
	t         *testing.T
	auth      *sessiontest.AuthServer
	reader    *sdkmetric.ManualReader
	exporter  *tracetest.InMemoryExporter
	tracers   *sdktrace.TracerProvider
	telemetry *otel.Telemetry
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		t: t, auth: sessiontest.New(sessiontest.WithLoginLimit(0)),
		reader: sdkmetric.NewManualReader(), exporter: tracetest.NewInMemoryExporter(),
	}
	t.Cleanup(f.auth.Close)
	f.auth.AddUser(email, password)
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(f.reader))
	f.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(f.exporter))
	t.Cleanup(func() {
		require.NoError(t, meters.Shutdown(context.WithoutCancel(t.Context())))
		require.NoError(t, f.tracers.Shutdown(context.WithoutCancel(t.Context())))
	})
	var err error
	f.telemetry, err = otel.New(otel.WithMeterProvider(meters), otel.WithTracerProvider(f.tracers))
	require.NoError(t, err)
	return f
}

// service is a Service that is observed under the name "shop".
func (f *fixture) service(opts ...session.Option) *session.Service {
	f.t.Helper()
	opts = append(append(f.auth.Options(), session.WithObserver(f.telemetry.Observer("shop"))), opts...)
	svc, err := session.New(opts...)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { require.NoError(f.t, svc.Close()) })
	return svc
}

// register shows a Service's counters until the test ends.
func (f *fixture) register(bot string, svc *session.Service) {
	f.t.Helper()
	registration, err := f.telemetry.Register(bot, svc)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { require.NoError(f.t, registration.Unregister()) })
}

// collect is all that is measured: by name, and by attributes in the form
// "key=value,key=value", in alphabetical order.
func (f *fixture) collect() map[string]map[string]float64 {
	f.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(f.t, f.reader.Collect(f.t.Context(), &all))
	values := make(map[string]map[string]float64)
	set := func(name string, set attribute.Set, value float64) {
		if values[name] == nil {
			values[name] = make(map[string]float64)
		}
		values[name][set.Encoded(attribute.DefaultEncoder())] = value
	}
	for _, scope := range all.ScopeMetrics {
		require.Equal(f.t, "github.com/mana/session/otel", scope.Scope.Name)
		for _, m := range scope.Metrics {
			require.NotEmpty(f.t, m.Description, m.Name)
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				require.True(f.t, data.IsMonotonic)
				for _, p := range data.DataPoints {
					set(m.Name, p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					set(m.Name, p.Attributes, float64(p.Value))
				}
			case metricdata.Histogram[float64]:
				require.Equal(f.t, "s", m.Unit)
				for _, p := range data.DataPoints {
					set(m.Name, p.Attributes, float64(p.Count))
				}
			default:
				f.t.Errorf("%s is a %T", m.Name, data)
			}
		}
	}
	return values
}

// live brings about much that is counted, timed and traced.
func (f *fixture) live(svc *session.Service) {
	f.t.Helper()
	ctx := f.t.Context()
	_, err := svc.Login(ctx, alice, email, "wrong")
	require.ErrorIs(f.t, err, session.ErrInvalidCredentials)
	_, err = svc.Login(ctx, alice, email, password)
	require.NoError(f.t, err)
	for range 3 {
		_, err = svc.Token(ctx, alice)
		require.NoError(f.t, err)
	}
	_, err = svc.Token(ctx, bob)
	require.ErrorIs(f.t, err, session.ErrNotLoggedIn)
	f.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(500, "no session of "+bob))
	_, err = svc.Token(ctx, "@carol:matrix.example")
	require.ErrorIs(f.t, err, session.ErrAuthUnavailable)
	require.NoError(f.t, svc.Logout(ctx, alice))
}

func TestCountersAreShownFromRegisterToUnregister(t *testing.T) {
	f := newFixture(t)
	svc := f.service()
	f.live(svc)
	require.NotContains(t, f.collect(), "mana.session.logins")

	registration, err := f.telemetry.Register("shop", svc)
	require.NoError(t, err)
	values, counted := f.collect(), svc.Counters()
	shown := 0
	for _, c := range telemetry.Counters() {
		for _, s := range c.Series {
			attributes := "mana.session.bot=shop"
			if c.Label != "" {
				attributes += ",mana.session." + c.Label + "=" + s.Value
			}
			require.Contains(t, values["mana.session."+c.Name], attributes, c.Name)
			require.Equal(t, float64(s.Of(counted)), values["mana.session."+c.Name][attributes], c.Name)
			shown++
		}
	}
	require.Equal(t, 20, shown)
	require.Equal(t, 1.0, values["mana.session.logins"]["mana.session.bot=shop"])
	require.Equal(t, 1.0, values["mana.session.refresh_failures"]["mana.session.bot=shop,mana.session.reason=not_linked"])
	require.Zero(t, values["mana.session.queue.length"]["mana.session.bot=shop"])

	require.NoError(t, registration.Unregister())
	require.NoError(t, registration.Unregister(), "a second time changes nothing")
	require.NotContains(t, f.collect(), "mana.session.logins")
}

func TestNamesAreRegisteredOnce(t *testing.T) {
	f := newFixture(t)
	svc := f.service()
	registration, err := f.telemetry.Register("shop", svc)
	require.NoError(t, err)
	_, err = f.telemetry.Register("shop", svc)
	require.Error(t, err, "the name is taken")
	_, err = f.telemetry.Register("none", nil)
	require.Error(t, err)
	f.register("support", svc)
	require.Len(t, f.collect()["mana.session.logins"], 2)
	require.NoError(t, registration.Unregister())
	f.register("shop", svc)
	require.NoError(t, registration.Unregister(), "of what has ended")
	_, err = f.telemetry.Register("shop", svc)
	require.Error(t, err, "the name is taken again")
}

func TestDurationsAreShownByOperationAndErrorType(t *testing.T) {
	f := newFixture(t)
	f.live(f.service())
	values := f.collect()
	for _, want := range []struct {
		name, errorType, operation string
	}{
		{"operation", "", "login"},
		{"operation", "invalid_credentials", "login"},
		{"operation", "", "logout"},
		{"operation", "not_logged_in", "refresh"},
		{"operation", "auth_unavailable", "refresh"},
		{"auth.operation", "", "auth.login"},
		{"auth.operation", "invalid_credentials", "auth.login"},
		{"auth.operation", "auth_unavailable", "auth.link_fetch"},
		{"store.operation", "", "store.write"},
		{"store.operation", "", "store.delete"},
	} {
		attributes := "mana.session.bot=shop,mana.session.operation=" + want.operation
		if want.errorType != "" {
			attributes = "error.type=" + want.errorType + "," + attributes
		}
		require.Equal(t, 1.0, values["mana.session."+want.name+".duration"][attributes], "%v", want)
	}
}

func TestOperationThatEndedWithItsContextIsShown(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	_, end := f.telemetry.Observer("shop").Begin(ctx, session.OpAuthLogin)
	end(ctx.Err())
	require.Equal(t, map[string]float64{
		"error.type=timeout,mana.session.bot=shop,mana.session.operation=auth.login": 1,
	}, f.collect()["mana.session.auth.operation.duration"])
	require.Len(t, f.exporter.GetSpans(), 1)
}

func TestAuthServerIsShownAsDownWhileItFails(t *testing.T) {
	f := newFixture(t)
	svc := f.service()
	f.register("shop", svc)
	up := func(of string) float64 {
		require.Contains(t, f.collect()["mana.session."+of+".up"], "mana.session.bot=shop")
		return f.collect()["mana.session."+of+".up"]["mana.session.bot=shop"]
	}
	require.Equal(t, 1.0, up("auth"))
	f.auth.Stop()
	_, err := svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	require.Zero(t, up("auth"))
	require.Equal(t, 1.0, up("store"))
	require.NoError(t, f.auth.Resume())
	_, err = svc.Token(t.Context(), bob)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Equal(t, 1.0, up("auth"), "a no is an answer")
}

// The units and names are those that OpenTelemetry asks for: dots between namespaces,
// lower case, and no unit or kind in a name.
func TestNamesFollowTheConventions(t *testing.T) {
	f := newFixture(t)
	svc := f.service()
	f.register("shop", svc)
	f.live(svc)
	values := f.collect()
	require.Len(t, values, 19)
	for name, series := range values {
		require.Regexp(t, `^mana\.session(\.[a-z]+(_[a-z]+)*)+$`, name)
		require.NotRegexp(t, `total|seconds|count$`, name)
		for attributes := range series {
			for part := range strings.SplitSeq(attributes, ",") {
				require.Regexp(t, `^(error\.type|mana\.session\.(bot|operation|result|source|reason))=[a-z_.]+$`, part, name)
			}
		}
	}
}

func TestWithoutAnSDKNothingIsShownAndEverythingWorks(t *testing.T) {
	telemetry, err := otel.New()
	require.NoError(t, err)
	auth := sessiontest.New()
	t.Cleanup(auth.Close)
	auth.AddUser(email, password)
	svc, err := session.New(append(auth.Options(), session.WithObserver(telemetry.Observer("")))...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, svc.Close()) })
	registration, err := telemetry.Register("", svc)
	require.NoError(t, err)
	_, err = svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	require.NoError(t, registration.Unregister())
}

func TestProviderThatIsNilIsRefused(t *testing.T) {
	_, err := otel.New(otel.WithMeterProvider(nil))
	require.Error(t, err)
	_, err = otel.New(otel.WithTracerProvider(nil))
	require.Error(t, err)
}

func TestOptionThatIsNilIsRefused(t *testing.T) {
	_, err := otel.New(nil)
	require.Error(t, err)
}

func TestNameThatIsNoTextIsShownAsOne(t *testing.T) {
	f := newFixture(t)
	svc, err := session.New(append(f.auth.Options(), session.WithObserver(f.telemetry.Observer("shop\xff")))...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, svc.Close()) })
	f.register("shop\xff", svc)
	_, err = svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	values := f.collect()
	for _, name := range []string{"mana.session.logins", "mana.session.store.up", "mana.session.operation.duration"} {
		require.NotEmpty(t, values[name], name)
		for attributes := range values[name] {
			require.Contains(t, attributes, "mana.session.bot=shop\uFFFD", name)
		}
	}
	for _, span := range f.exporter.GetSpans() {
		require.Contains(t, span.Attributes, attribute.String("mana.session.bot", "shop\uFFFD"), span.Name)
	}
}

func TestCollectionsBesideTrafficAndServicesThatComeAndGo(t *testing.T) {
	f := newFixture(t)
	svc := f.service()
	f.register("shop", svc)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i := range 4 {
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				user := fmt.Sprintf("@user%d-%d:matrix.example", i, n)
				if _, err := svc.Login(t.Context(), user, email, password); err != nil {
					t.Error(err)
				}
				if err := svc.Logout(t.Context(), user); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Go(func() {
		for ctx.Err() == nil {
			f.telemetry.Observer("guest")
			registration, err := f.telemetry.Register("guest", svc)
			if err != nil {
				t.Error(err)
				return
			}
			if err := registration.Unregister(); err != nil {
				t.Error(err)
			}
		}
	})
	last := 0.0
	for began := time.Now(); last < 100 && time.Since(began) < 30*time.Second; {
		now := f.collect()["mana.session.logins"]["mana.session.bot=shop"]
		require.GreaterOrEqual(t, now, last)
		last = now
	}
	cancel()
	running.Wait()
	require.Equal(t, float64(svc.Counters().Logins),
		f.collect()["mana.session.operation.duration"]["mana.session.bot=shop,mana.session.operation=login"])
}
