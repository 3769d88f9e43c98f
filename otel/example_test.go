package otel_test

import (
	"context"
	"fmt"
	"log"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/mana/session"
	"github.com/mana/session/otel"
	"github.com/mana/session/sessiontest"
)

// The program says where metrics and spans go; by default, to the global providers.
func Example() {
	auth := sessiontest.New()
	defer auth.Close()
	auth.AddUser("alice@example.com", "secret")
	spans := tracetest.NewInMemoryExporter() // a real program exports them
	telemetry, err := otel.New(otel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))))
	if err != nil {
		log.Fatal(err)
	}
	svc, err := session.New(append(auth.Options(), session.WithObserver(telemetry.Observer("todo")))...)
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
	registration, err := telemetry.Register("todo", svc)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = registration.Unregister() }()

	if _, err := svc.Login(context.Background(), "@alice:matrix.example", "alice@example.com", "secret"); err != nil {
		log.Fatal(err)
	}
	for _, span := range spans.GetSpans() {
		fmt.Println(span.Name)
	}
	// Output:
	// mana.session.auth.login
	// mana.session.store.read
	// mana.session.store.write
	// mana.session.auth.link_create
	// mana.session.login
}
