package prom_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

// BenchmarkTokenHitObserved measures a hit with and without an observer: it is no
// operation, so they cost the same.
func BenchmarkTokenHitObserved(b *testing.B) {
	f := newFixture(b)
	plain, err := session.New(f.auth.Options()...)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, plain.Close()) })
	observed := f.service("shop")
	b.Run("without", func(b *testing.B) { benchHits(b, plain) })
	b.Run("with", func(b *testing.B) { benchHits(b, observed) })
}

func benchHits(b *testing.B, svc *session.Service) {
	ctx := b.Context()
	_, err := svc.Login(ctx, alice, email, password)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := svc.Token(ctx, alice); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOperationObserved is what an observer adds to a refresh or a round trip.
func BenchmarkOperationObserved(b *testing.B) {
	f := newFixture(b)
	observer := f.metrics.Observer("shop")
	b.ReportAllocs()
	for b.Loop() {
		_, end := observer.Begin(b.Context(), session.OpStoreRead)
		end(nil)
	}
}

func BenchmarkScrape(b *testing.B) {
	f := newFixture(b)
	_, err := f.service("shop").Login(b.Context(), alice, email, password)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		f.gather()
	}
}
