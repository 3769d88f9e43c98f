package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

const (
	users    = 10_000
	email    = "alice@example.com"
	password = "secret"
	prefix   = "bot:session:"
)

// ids are the users that the keyed benchmarks go through in turn.
func ids() []string {
	ids := make([]string, users)
	for i := range ids {
		ids[i] = fmt.Sprintf("@user%d:matrix.example", i)
	}
	return ids
}

func authServer() *sessiontest.AuthServer {
	auth := sessiontest.New(sessiontest.WithLoginLimit(0), sessiontest.WithTokenTTL(24*time.Hour))
	auth.AddUser(email, password)
	return auth
}

// record is a session as it lies in the store.
func record(auth *sessiontest.AuthServer) string {
	return fmt.Sprintf(`{"token":%q,"email":%q,"expiresAt":%q,"data":{"list":"shopping"}}`,
		auth.MintToken(email, time.Now().Add(24*time.Hour)), email,
		time.Now().Add(7*24*time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"))
}

func must(b testing.TB, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

// fill gives every user a session.
func fill(b testing.TB, store session.Store, value string) {
	for _, id := range ids() {
		must(b, store.Delete(context.Background(), session.Record{UserID: id}))
		_, err := store.Swap(context.Background(), session.Record{UserID: id},
			session.Record{UserID: id, Value: value, Expires: time.Now().Add(24 * time.Hour)})
		must(b, err)
	}
}

func service(b testing.TB, opts ...session.Option) *session.Service {
	svc, err := session.New(opts...)
	must(b, err)
	b.Cleanup(func() { must(b, svc.Close()) })
	return svc
}

// warm waits until every user is served from memory.
func warm(b testing.TB, svc *session.Service) {
	limit := time.Now().Add(30 * time.Second)
	for {
		before, err := svc.Stats(context.Background())
		must(b, err)
		for _, id := range ids() {
			_, err := svc.Token(context.Background(), id)
			must(b, err)
		}
		after, err := svc.Stats(context.Background())
		must(b, err)
		if after.Hits-before.Hits == users {
			return
		}
		if time.Now().After(limit) {
			b.Fatalf("only %d of %d hits after 30 s", after.Hits-before.Hits, users)
		}
	}
}

// runWarm is run after every key has been read once.
func runWarm(b *testing.B, name string, keys []string, call func(key string) error) {
	for _, key := range keys {
		must(b, call(key))
	}
	run(b, name, keys, call)
}

// run measures a call for every key in turn, sequentially and in parallel.
func run(b *testing.B, name string, keys []string, call func(key string) error) {
	b.Run(name+"/sequential", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if err := call(keys[i]); err != nil {
				b.Fatal(err)
			}
			if i++; i == len(keys) {
				i = 0
			}
		}
	})
	b.Run(name+"/parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			i := 0
			for pb.Next() {
				if err := call(keys[i]); err != nil {
					b.Error(err)
					return
				}
				if i++; i == len(keys) {
					i = 0
				}
			}
		})
	})
}
