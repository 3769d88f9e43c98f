// Package otel shows what a session.Service does as OpenTelemetry metrics and spans.
// It uses the API only: which SDK and exporters there are is the program's matter.
//
//	telemetry, err := otel.New()
//	if err != nil { … }
//	svc, err := session.New(session.WithObserver(telemetry.Observer("shop")), …)
//	if err != nil { … }
//	registration, err := telemetry.Register("shop", svc)
//	if err != nil { … }
//	defer registration.Unregister()
//
// Register brings the counters, Observer the histograms and the spans; either works
// without the other. A collection makes no call of the store or the auth server. No
// attribute holds a user ID or a text from outside.
//
// docs/monitoring.md in the repository lists all metrics and spans.
package otel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/mana/session"
	"github.com/mana/session/internal/telemetry"
)

const (
	scope  = "github.com/mana/session/otel"
	prefix = "mana.session."

	botKey       = attribute.Key(prefix + "bot")
	operationKey = attribute.Key(prefix + "operation")
	errorTypeKey = attribute.Key("error.type")
)

// An Option says where metrics and spans go.
type Option func(*config)

type config struct {
	meters  metric.MeterProvider
	tracers trace.TracerProvider
}

// WithMeterProvider takes meters from the provider instead of the global one.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return func(c *config) { c.meters = provider }
}

// WithTracerProvider takes tracers from the provider instead of the global one.
func WithTracerProvider(provider trace.TracerProvider) Option {
	return func(c *config) { c.tracers = provider }
}

// Telemetry makes metrics and spans of what one or several Services do, which are
// told apart by the attribute "mana.session.bot". Make it with [New]. Safe for
// concurrent use.
type Telemetry struct {
	meter    metric.Meter
	tracer   trace.Tracer
	counters []family
	queue    metric.Int64ObservableGauge
	storeUp  metric.Int64ObservableGauge
	authUp   metric.Int64ObservableGauge

	durations map[telemetry.Kind]metric.Float64Histogram

	mu         sync.Mutex      // held across calls of the SDK, so never taken by a callback
	registered map[string]bool // bots; guarded by mu

	upMu sync.Mutex
	up   map[string]*telemetry.Up // by bot; guarded by upMu
}

// family is a family of counters, and the instrument that shows it.
type family struct {
	telemetry.Counter
	instrument metric.Int64ObservableCounter
}

// New makes the instruments. It returns an error if the meter provider refuses one.
func New(opts ...Option) (*Telemetry, error) {
	c := config{meters: otel.GetMeterProvider(), tracers: otel.GetTracerProvider()}
	for _, opt := range opts {
		if opt == nil {
			return nil, errors.New("otel: New: an option is nil")
		}
		opt(&c)
	}
	if c.meters == nil || c.tracers == nil {
		return nil, errors.New("otel: New: a provider is nil")
	}
	t := &Telemetry{
		meter:      c.meters.Meter(scope),
		tracer:     c.tracers.Tracer(scope),
		registered: make(map[string]bool),
		up:         make(map[string]*telemetry.Up),
	}
	if err := t.makeInstruments(); err != nil {
		return nil, fmt.Errorf("otel: New: %w", err)
	}
	return t, nil
}

func (t *Telemetry) makeInstruments() error {
	var errs []error
	for _, c := range telemetry.Counters() {
		counter, err := t.meter.Int64ObservableCounter(prefix+c.Name, metric.WithDescription(c.Help), metric.WithUnit(c.Unit))
		t.counters, errs = append(t.counters, family{c, counter}), append(errs, err)
	}
	gauge := func(name, help, unit string) metric.Int64ObservableGauge {
		g, err := t.meter.Int64ObservableGauge(prefix+name, metric.WithDescription(help), metric.WithUnit(unit))
		errs = append(errs, err)
		return g
	}
	t.queue = gauge("queue.length", telemetry.QueueLength, "{write}")
	t.storeUp = gauge("store.up", telemetry.StoreUp, "")
	t.authUp = gauge("auth.up", telemetry.AuthUp, "")
	histogram := func(name, help string, buckets []float64) metric.Float64Histogram {
		h, err := t.meter.Float64Histogram(prefix+name, metric.WithDescription(help), metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(buckets...))
		errs = append(errs, err)
		return h
	}
	t.durations = map[telemetry.Kind]metric.Float64Histogram{
		telemetry.Service: histogram("operation.duration", telemetry.OperationDuration, telemetry.OperationBuckets()),
		telemetry.Store:   histogram("store.operation.duration", telemetry.StoreDuration, telemetry.StoreBuckets()),
		telemetry.Auth:    histogram("auth.operation.duration", telemetry.AuthDuration, telemetry.AuthBuckets()),
	}
	return errors.Join(errs...)
}

// Register shows the counters of svc under the bot's name and, if an
// [Telemetry.Observer] was made for that name, whether store and auth server are up,
// until Unregister is called on the result. It returns an error if the name is taken,
// svc is nil, or the meter provider refuses the callback.
func (t *Telemetry) Register(bot string, svc *session.Service) (metric.Registration, error) {
	if svc == nil {
		return nil, errors.New("otel: Register: no Service")
	}
	bot = attributeValue(bot)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.registered[bot] {
		return nil, fmt.Errorf("otel: Register: there is a Service named %q", bot)
	}
	observables := []metric.Observable{t.queue, t.storeUp, t.authUp}
	for _, f := range t.counters {
		observables = append(observables, f.instrument)
	}
	made, err := t.meter.RegisterCallback(t.callback(bot, svc), observables...)
	if err != nil {
		return nil, fmt.Errorf("otel: Register: %w", err)
	}
	t.registered[bot] = true
	return &registration{Registration: made, telemetry: t, bot: bot}, nil
}

// attributeValue makes of a name what an exporter can send: OTLP takes no other text, and
// drops all that goes with it.
func attributeValue(bot string) string { return strings.ToValidUTF8(bot, "\uFFFD") }

// callback observes a Service. It does no I/O.
func (t *Telemetry) callback(bot string, svc *session.Service) metric.Callback {
	named := botKey.String(bot)
	own := metric.WithAttributes(named)
	return func(_ context.Context, o metric.Observer) error {
		counted := svc.Counters()
		for _, f := range t.counters {
			for _, s := range f.Series {
				labels := own
				if f.Label != "" {
					labels = metric.WithAttributes(named, attribute.String(prefix+f.Label, s.Value))
				}
				o.ObserveInt64(f.instrument, s.Of(counted), labels)
			}
		}
		o.ObserveInt64(t.queue, int64(counted.Queued), own)
		if up := t.upOf(bot); up != nil {
			o.ObserveInt64(t.storeUp, oneIf(up.Store()), own)
			o.ObserveInt64(t.authUp, oneIf(up.Auth()), own)
		}
		return nil
	}
}

func (t *Telemetry) upOf(bot string) *telemetry.Up {
	t.upMu.Lock()
	defer t.upMu.Unlock()
	return t.up[bot]
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// registration gives the bot's name back when it ends.
type registration struct {
	metric.Registration
	telemetry *Telemetry
	bot       string
	once      sync.Once
}

func (r *registration) Unregister() error {
	err := r.Registration.Unregister()
	r.once.Do(func() {
		r.telemetry.mu.Lock()
		defer r.telemetry.mu.Unlock()
		delete(r.telemetry.registered, r.bot)
	})
	return err
}
