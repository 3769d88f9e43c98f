package prom_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/telemetry"
	"github.com/mana/session/prom"
	"github.com/mana/session/sessiontest"
)

const (
	alice    = "@alice:matrix.example"
	bob      = "@bob:matrix.example"
	email    = "alice@example.com"
	password = "correct horse"
)

// fixture is an auth server that knows alice, and metrics in a registry.
type fixture struct {
	t        testing.TB
	auth     *sessiontest.AuthServer
	metrics  *prom.Metrics
	registry *prometheus.Registry
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, auth: sessiontest.New(sessiontest.WithLoginLimit(0)), metrics: prom.New(), registry: prometheus.NewPedanticRegistry()}
	t.Cleanup(f.auth.Close)
	f.auth.AddUser(email, password)
	require.NoError(t, f.registry.Register(f.metrics))
	return f
}

// service is an observed Service whose counters are shown under the bot's name.
func (f *fixture) service(bot string, opts ...session.Option) *session.Service {
	f.t.Helper()
	opts = append(append(f.auth.Options(), session.WithObserver(f.metrics.Observer(bot))), opts...)
	svc, err := session.New(opts...)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = svc.Close() }) // some are closed with their store away
	require.NoError(f.t, f.metrics.Add(bot, svc))
	return svc
}

// gather is a scrape.
func (f *fixture) gather() []*dto.MetricFamily {
	f.t.Helper()
	families, err := f.registry.Gather()
	require.NoError(f.t, err)
	return families
}

// find returns the series of a metric that has the labels, written "name=value", or
// nil.
func (f *fixture) find(name string, labels ...string) *dto.Metric {
	f.t.Helper()
	for _, family := range f.gather() {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			found := make(map[string]bool)
			for _, l := range metric.GetLabel() {
				found[l.GetName()+"="+l.GetValue()] = true
			}
			has := true
			for _, l := range labels {
				has = has && found[l]
			}
			if has {
				return metric
			}
		}
	}
	return nil
}

// value is that of a counter or gauge, or how often a histogram was observed.
func (f *fixture) value(name string, labels ...string) float64 {
	f.t.Helper()
	metric := f.find(name, labels...)
	require.NotNil(f.t, metric, "%s %v", name, labels)
	return metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
}

// live brings about all that is counted or timed in memory.
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
	f.auth.Link(bob, email)
	f.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(500, "no session of "+bob))
	_, err = svc.Token(ctx, "@carol:matrix.example")
	require.ErrorIs(f.t, err, session.ErrAuthUnavailable)
	f.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(401, "Valid service key required"))
	_, err = svc.Token(ctx, "@dora:matrix.example")
	require.ErrorIs(f.t, err, session.ErrServiceKeyRejected)
	require.NoError(f.t, svc.Logout(ctx, alice))
}

func TestCountersAreShown(t *testing.T) {
	f := newFixture(t)
	svc := f.service("shop")
	f.live(svc)
	counted := svc.Counters()
	shown := 0
	for _, c := range telemetry.Counters() {
		for _, s := range c.Series {
			labels := []string{"bot=shop"}
			if c.Label != "" {
				labels = append(labels, c.Label+"="+s.Value)
			}
			require.Equal(t, float64(s.Of(counted)), f.value("mana_session_"+c.Name+"_total", labels...), "%s %v", c.Name, labels)
			shown++
		}
	}
	require.Equal(t, 20, shown)
	require.GreaterOrEqual(t, f.value("mana_session_token_requests_total", "result=hit"), 2.0)
	require.Equal(t, 1.0, f.value("mana_session_logins_total"))
	require.Equal(t, 1.0, f.value("mana_session_login_failures_total"))
	require.Equal(t, 1.0, f.value("mana_session_refresh_failures_total", "reason=service_key_rejected"))
	require.Zero(t, f.value("mana_session_queue_length"))
}

func TestDurationsAreShownByOperationAndOutcome(t *testing.T) {
	f := newFixture(t)
	f.live(f.service("shop"))
	for _, want := range []struct {
		name, operation, outcome string
		count                    float64
	}{
		{"operation", "login", "ok", 1},
		{"operation", "login", "invalid_credentials", 1},
		{"operation", "logout", "ok", 1},
		{"operation", "refresh", "not_logged_in", 1},
		{"operation", "refresh", "auth_unavailable", 1},
		{"operation", "refresh", "service_key_rejected", 1},
		{"auth_operation", "login", "ok", 1},
		{"auth_operation", "login", "invalid_credentials", 1},
		{"auth_operation", "link_fetch", "not_logged_in", 1},
		{"auth_operation", "link_fetch", "auth_unavailable", 1},
		{"auth_operation", "link_fetch", "service_key_rejected", 1},
		{"store_operation", "write", "ok", 1},
		{"store_operation", "delete", "ok", 1},
	} {
		require.Equal(t, want.count, f.value("mana_session_"+want.name+"_duration_seconds",
			"bot=shop", "operation="+want.operation, "outcome="+want.outcome), "%v", want)
	}
}

func TestDurationsAreInSecondsInClassicAndNativeBuckets(t *testing.T) {
	f := newFixture(t)
	svc := f.service("shop")
	f.auth.Inject(sessiontest.Login, 1, sessiontest.Delay(60*time.Millisecond))
	_, err := svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	h := f.find("mana_session_auth_operation_duration_seconds", "operation=login").GetHistogram()
	require.GreaterOrEqual(t, h.GetSampleSum(), 0.06)
	require.Less(t, h.GetSampleSum(), 10.0)
	require.NotEmpty(t, h.GetPositiveSpan(), "native")
	for _, b := range h.GetBucket() {
		require.False(t, b.GetUpperBound() <= 0.05 && b.GetCumulativeCount() > 0, "%v", b)
	}
	require.Len(t, h.GetBucket(), 11)
}

func TestNamesFollowTheConventions(t *testing.T) {
	f := newFixture(t)
	f.live(f.service("shop"))
	problems, err := testutil.GatherAndLint(f.registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Len(t, f.gather(), 19)
}

// Whatever happens to users, and whatever the auth server says about them, is shown
// under a few labels that do not tell who they are.
func TestNoLabelTellsAUser(t *testing.T) {
	f := newFixture(t)
	svc := f.service("shop")
	f.live(svc)
	for i := range 20 {
		f.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(500+i%5, fmt.Sprintf("%s failed %d", alice, i)))
		_, err := svc.Token(t.Context(), fmt.Sprintf("@user%d:matrix.example", i))
		require.Error(t, err)
	}
	allowed := map[string][]string{
		"bot":       {"shop"},
		"outcome":   telemetry.Outcomes(),
		"operation": nil,
		"result":    {"hit", "miss", "written_back", "overtaken", "dropped", "told"},
		"source":    {"link", "refresh_token"},
		"reason":    {"unavailable", "service_key_rejected", "not_linked"},
	}
	for _, op := range telemetry.Operations() {
		allowed["operation"] = append(allowed["operation"], telemetry.Split(op).Name)
	}
	for _, family := range f.gather() {
		require.LessOrEqual(t, len(family.GetMetric()), 30, family.GetName())
		for _, metric := range family.GetMetric() {
			for _, l := range metric.GetLabel() {
				require.Contains(t, allowed[l.GetName()], l.GetValue(), "%s{%s}", family.GetName(), l.GetName())
			}
		}
	}
}

func TestServicesAreToldApartByName(t *testing.T) {
	f := newFixture(t)
	shop, support := f.service("shop"), f.service("support")
	_, err := shop.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	require.Equal(t, 1.0, f.value("mana_session_logins_total", "bot=shop"))
	require.Zero(t, f.value("mana_session_logins_total", "bot=support"))
	require.Error(t, f.metrics.Add("shop", support), "the name is taken")
	require.Error(t, f.metrics.Add("none", nil))

	require.NoError(t, shop.Close())
	require.Equal(t, 1.0, f.value("mana_session_logins_total", "bot=shop"), "a closed Service has its counters still")
	f.metrics.Remove("shop")
	for _, family := range f.gather() {
		require.Nil(t, f.find(family.GetName(), "bot=shop"), family.GetName())
	}
	require.NotNil(t, f.find("mana_session_logins_total", "bot=support"))
	require.NoError(t, f.metrics.Add("shop", shop))
}

func TestNameThatIsNoTextIsShownAsOne(t *testing.T) {
	f := newFixture(t)
	svc := f.service("shop\xff")
	_, err := svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	require.Equal(t, 1.0, f.value("mana_session_operation_duration_seconds", "bot=shop\uFFFD"))
}

func TestAuthServerIsShownAsDownWhileItFails(t *testing.T) {
	f := newFixture(t)
	svc := f.service("shop")
	f.auth.Link(alice, email)
	f.auth.Stop()
	_, err := svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	require.Zero(t, f.value("mana_session_auth_up"))
	require.Equal(t, 1.0, f.value("mana_session_store_up"))
	require.NoError(t, f.auth.Resume())
	_, err = svc.Token(t.Context(), bob)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Equal(t, 1.0, f.value("mana_session_auth_up"), "a no is an answer")
}

// redisService is a service whose store is on a server of its own.
func (f *fixture) redisService(server *redistest.Server, opts ...session.Option) *session.Service {
	f.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	f.t.Cleanup(func() { client.Close() })
	return f.service("shop", append(opts, session.WithRedis(client))...)
}

func TestStoreIsShownAsDownWhileItIsAwayAndWhatIsQueuedForIt(t *testing.T) {
	f := newFixture(t)
	server := redistest.Start(t, redistest.WithPersistence())
	svc := f.redisService(server)
	_, err := svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	require.Equal(t, 1.0, f.value("mana_session_store_up"))

	server.Stop()
	require.ErrorIs(t, svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
	require.Zero(t, f.value("mana_session_store_up"))
	require.Equal(t, 1.0, f.value("mana_session_queue_length"))
	require.NotNil(t, f.find("mana_session_store_operation_duration_seconds", "outcome=store_unavailable"))

	server.Start()
	require.Eventually(t, func() bool {
		return f.value("mana_session_store_up") == 1 && f.value("mana_session_queue_length") == 0
	}, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, 1.0, f.value("mana_session_queue_writes_total", "result=written_back"))
}

func TestTenThousandScrapesMakeNoCall(t *testing.T) {
	f := newFixture(t)
	server := redistest.Start(t)
	svc := f.redisService(server, session.WithNearCache(0)) // whose feed writes heartbeats
	_, err := svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	calls := f.auth.Calls(sessiontest.Any)
	server.MustDo("CONFIG", "RESETSTAT")
	registry := prometheus.NewRegistry() // which does not look for mistakes at each scrape
	require.NoError(t, registry.Register(f.metrics))
	for range 10_000 {
		families, err := registry.Gather()
		require.NoError(t, err)
		require.Len(t, families, 19)
	}
	require.Equal(t, calls, f.auth.Calls(sessiontest.Any))
	for line := range strings.Lines(server.MustDo("INFO", "commandstats")) {
		if stat, ok := strings.CutPrefix(line, "cmdstat_"); ok {
			require.Regexp(t, `^(config\|resetstat|info|client\|setinfo|hello):`, stat, "the test's own are expected alone")
		}
	}
}

func TestScrapesBesideTrafficAndServicesThatComeAndGo(t *testing.T) {
	f := newFixture(t)
	svc := f.service("shop")
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
			_, end := f.metrics.Observer("guest").Begin(ctx, session.OpStoreRead)
			end(nil)
			if err := f.metrics.Add("guest", svc); err != nil {
				t.Error(err)
			}
			f.metrics.Remove("guest")
		}
	})
	last := 0.0
	for range 100 {
		now := f.value("mana_session_logins_total", "bot=shop")
		require.GreaterOrEqual(t, now, last)
		last = now
	}
	cancel()
	running.Wait()
	require.Equal(t, float64(svc.Counters().Logins), f.value("mana_session_operation_duration_seconds", "bot=shop", "operation=login", "outcome=ok"))
}
