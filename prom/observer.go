package prom

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mana/session"
	"github.com/mana/session/internal/telemetry"
)

// Native histograms, for servers that scrape them, have buckets that are 10 % wide.
const (
	nativeFactor  = 1.1
	nativeBuckets = 100 // beyond which they become coarser
	nativeReset   = time.Hour
)

// histogram makes a histogram of durations, with classic buckets and native ones.
func histogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:     nativeFactor,
		NativeHistogramMaxBucketNumber:  nativeBuckets,
		NativeHistogramMinResetDuration: nativeReset,
	}, []string{botLabel, "operation", "outcome"})
}

// Observer returns what [session.WithObserver] takes, to show the durations of the
// Service's operations and whether its store and auth server are up, under the bot's
// name. Two observers of one name are shown together.
func (m *Metrics) Observer(bot string) session.Observer {
	bot = labelValue(bot)
	m.mu.Lock()
	defer m.mu.Unlock()
	up := m.up[bot]
	if up == nil {
		up = new(telemetry.Up)
		m.up[bot] = up
	}
	return &observer{metrics: m, bot: bot, up: up}
}

type observer struct {
	metrics *Metrics
	bot     string
	up      *telemetry.Up
}

// Begin implements [session.Observer].
func (o *observer) Begin(ctx context.Context, op session.Operation) (context.Context, func(error)) {
	started := time.Now()
	return ctx, func(err error) {
		took := time.Since(started)
		o.up.Observe(op, err)
		histogram, name := o.metrics.of(op)
		histogram.WithLabelValues(o.bot, name, telemetry.Outcome(err)).Observe(took.Seconds())
	}
}

// of is where the durations of an operation go, and its name there.
func (m *Metrics) of(op session.Operation) (*prometheus.HistogramVec, string) {
	split := telemetry.Split(op)
	switch split.Kind {
	case telemetry.Store:
		return m.storeDurations, split.Name
	case telemetry.Auth:
		return m.authDurations, split.Name
	default:
		return m.operations, split.Name
	}
}
