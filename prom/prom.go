// Package prom shows what a session.Service does as Prometheus metrics.
//
//	metrics := prom.New()
//	prometheus.MustRegister(metrics)
//	svc, err := session.New(session.WithObserver(metrics.Observer("shop")), …)
//	if err != nil { … }
//	err = metrics.Add("shop", svc)
//
// Add brings the counters, Observer the histograms and whether store and auth server
// are up; either works without the other. A scrape makes no call of the store or the
// auth server. No label holds a user ID or a text from outside.
//
// docs/monitoring.md in the repository lists all metrics. Alert rules and a Grafana
// dashboard are in its directory monitoring.
package prom

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mana/session"
	"github.com/mana/session/internal/telemetry"
)

const namespace = "mana_session"

// botLabel tells Services apart.
const botLabel = "bot"

// Metrics is a [prometheus.Collector] of one or several Services, which are told
// apart by the label "bot". Make it with [New]. Safe for concurrent use.
type Metrics struct {
	counters       []family
	queue          *prometheus.Desc
	storeUp        *prometheus.Desc
	authUp         *prometheus.Desc
	operations     *prometheus.HistogramVec
	storeDurations *prometheus.HistogramVec
	authDurations  *prometheus.HistogramVec

	mu       sync.RWMutex
	services map[string]*session.Service // guarded by mu
	up       map[string]*telemetry.Up    // guarded by mu
}

// family is a family of counters, and what describes it.
type family struct {
	telemetry.Counter
	desc *prometheus.Desc
}

// New makes Metrics without a Service. It starts nothing and registers nothing.
func New() *Metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, append([]string{botLabel}, labels...), nil)
	}
	m := &Metrics{
		queue:          desc("queue_length", telemetry.QueueLength),
		storeUp:        desc("store_up", telemetry.StoreUp),
		authUp:         desc("auth_up", telemetry.AuthUp),
		operations:     histogram("operation_duration_seconds", telemetry.OperationDuration, telemetry.OperationBuckets()),
		storeDurations: histogram("store_operation_duration_seconds", telemetry.StoreDuration, telemetry.StoreBuckets()),
		authDurations:  histogram("auth_operation_duration_seconds", telemetry.AuthDuration, telemetry.AuthBuckets()),
		services:       make(map[string]*session.Service),
		up:             make(map[string]*telemetry.Up),
	}
	for _, c := range telemetry.Counters() {
		var labels []string
		if c.Label != "" {
			labels = append(labels, c.Label)
		}
		m.counters = append(m.counters, family{c, desc(c.Name+"_total", c.Help, labels...)})
	}
	return m
}

// Add shows the counters of svc under the bot's name, until [Metrics.Remove]. The
// name may be "" if there is only one. It returns an error if the name is taken or
// svc is nil. The counters of a closed Service stay as they were.
func (m *Metrics) Add(bot string, svc *session.Service) error {
	if svc == nil {
		return errors.New("prom: Add: no Service")
	}
	bot = labelValue(bot)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.services[bot]; taken {
		return fmt.Errorf("prom: Add: there is a Service named %q", bot)
	}
	m.services[bot] = svc
	return nil
}

// Remove drops everything that is shown under the bot's name. Close its Service
// first: what its observer is told later is shown again. It does nothing if there is
// no such bot.
func (m *Metrics) Remove(bot string) {
	bot = labelValue(bot)
	m.mu.Lock()
	delete(m.services, bot)
	delete(m.up, bot)
	m.mu.Unlock()
	for _, h := range m.histograms() {
		h.DeletePartialMatch(prometheus.Labels{botLabel: bot})
	}
}

// labelValue makes of a name what may be a label's value.
func labelValue(bot string) string { return strings.ToValidUTF8(bot, "\uFFFD") }

func (m *Metrics) histograms() []*prometheus.HistogramVec {
	return []*prometheus.HistogramVec{m.operations, m.storeDurations, m.authDurations}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range m.counters {
		ch <- f.desc
	}
	ch <- m.queue
	ch <- m.storeUp
	ch <- m.authUp
	for _, h := range m.histograms() {
		h.Describe(ch)
	}
}

// Collect implements [prometheus.Collector]. It does no I/O.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.RLock()
	services, up := maps.Clone(m.services), maps.Clone(m.up)
	m.mu.RUnlock()
	for bot, svc := range services {
		m.collect(ch, bot, svc.Counters())
	}
	for bot, up := range up {
		ch <- gauge(m.storeUp, oneIf(up.Store()), bot)
		ch <- gauge(m.authUp, oneIf(up.Auth()), bot)
	}
	for _, h := range m.histograms() {
		h.Collect(ch)
	}
}

func (m *Metrics) collect(ch chan<- prometheus.Metric, bot string, counted session.Counters) {
	for _, f := range m.counters {
		for _, s := range f.Series {
			labels := []string{bot}
			if f.Label != "" {
				labels = append(labels, s.Value)
			}
			ch <- prometheus.MustNewConstMetric(f.desc, prometheus.CounterValue, float64(s.Of(counted)), labels...)
		}
	}
	ch <- gauge(m.queue, float64(counted.Queued), bot)
}

func gauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
