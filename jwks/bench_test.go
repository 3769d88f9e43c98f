package jwks_test

import (
	"context"
	"testing"
	"time"

	"github.com/mana/session"
)

func BenchmarkVerify(b *testing.B) {
	auth := newAuth(b)
	v := newVerifier(b, auth)
	token := auth.MintToken(email, time.Now().Add(24*time.Hour))
	if err := v.Verify(b.Context(), token); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Verify(context.Background(), token); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFill is that of the root module: Token when the near cache has to be
// filled, less the store's round trip.
func BenchmarkFill(b *testing.B) {
	auth := newAuth(b)
	for _, bench := range []struct {
		name string
		opts []session.Option
	}{
		{"unchecked", nil},
		{"checked", []session.Option{session.WithTokenVerifier(newVerifier(b, auth).Verify)}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			store := session.NewMemoryStore()
			defer store.Close()
			bot{store: store}.put(b, auth.MintToken(email, time.Now().Add(24*time.Hour)), `{"list":"shopping"}`)
			svc, err := session.New(append(bench.opts, session.WithStore(store), session.WithNearCache(0))...)
			if err != nil {
				b.Fatal(err)
			}
			defer svc.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := svc.Token(context.Background(), alice); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
