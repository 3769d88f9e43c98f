package otel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/mana/session"
	"github.com/mana/session/internal/telemetry"
)

// Observer returns what [session.WithObserver] takes, to show the durations of the
// Service's operations under the bot's name and a span for each, which is the child
// of the span in the caller's context. Calls of the store and the auth server are
// children of the login, logout or refresh that makes them; what an instrumented HTTP
// or Redis client reports are theirs.
//
// error.type tells how an operation ended, if not well: with a word such as
// "conflict" or "auth_unavailable", never with an error's text. The status of the
// span is Error only for what is an operator's matter.
func (t *Telemetry) Observer(bot string) session.Observer {
	bot = attributeValue(bot)
	t.upMu.Lock()
	defer t.upMu.Unlock()
	up := t.up[bot]
	if up == nil {
		up = new(telemetry.Up)
		t.up[bot] = up
	}
	return &observer{telemetry: t, bot: botKey.String(bot), up: up}
}

type observer struct {
	telemetry *Telemetry
	bot       attribute.KeyValue
	up        *telemetry.Up
}

// Begin implements [session.Observer].
func (o *observer) Begin(ctx context.Context, op session.Operation) (context.Context, func(error)) {
	operation := operationKey.String(string(op))
	ctx, span := o.telemetry.tracer.Start(ctx, prefix+string(op), trace.WithAttributes(o.bot, operation))
	started := time.Now()
	return ctx, func(err error) {
		took := time.Since(started)
		o.up.Observe(op, err)
		attributes := []attribute.KeyValue{o.bot, operation}
		if outcome := telemetry.Outcome(err); outcome != telemetry.OK {
			failure := errorTypeKey.String(outcome)
			attributes = append(attributes, failure)
			span.SetAttributes(failure)
			if telemetry.Failed(outcome) {
				span.SetStatus(codes.Error, "")
			}
		}
		// Recorded before the span ends, whose trace it is an example of; and also if
		// the operation ended with its context.
		o.telemetry.durations[telemetry.Split(op).Kind].Record(context.WithoutCancel(ctx), took.Seconds(), metric.WithAttributes(attributes...))
		span.End()
	}
}
