package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/auth"
	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"
	"golang.org/x/oauth2"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// BenchmarkHit is a token that is at hand: in memory, or in a cache in front of
// Redis. The peers without keys hold one value for all.
func BenchmarkHit(b *testing.B) {
	keys := ids()
	ctx := context.Background()
	server := redistest.Start(b)
	value := record(authServer())

	memory := session.NewMemoryStore()
	b.Cleanup(func() { must(b, memory.Close()) })
	fill(b, memory, value)
	inMemory := service(b, session.WithStore(memory))
	warm(b, inMemory)
	run(b, "session memory", keys, func(id string) error {
		_, err := inMemory.Token(ctx, id)
		return err
	})

	client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
	b.Cleanup(func() { client.Close() })
	onRedis, err := session.NewRedisStore(client)
	must(b, err)
	b.Cleanup(func() { must(b, onRedis.Close()) })
	fill(b, onRedis, value)
	near := service(b, session.WithStore(onRedis))
	warm(b, near)
	run(b, "session near cache", keys, func(id string) error {
		_, err := near.Token(ctx, id)
		return err
	})

	credentials := aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "key", SessionToken: value, CanExpire: true, Expires: time.Now().Add(24 * time.Hour)}, nil
	}))
	run(b, "aws CredentialsCache (one value)", keys, func(string) error {
		_, err := credentials.Retrieve(ctx)
		return err
	})

	oneSource := oauth2.ReuseTokenSource(nil, tokenSource(value))
	run(b, "oauth2 ReuseTokenSource (one value)", keys, func(string) error {
		_, err := oneSource.Token()
		return err
	})
	var sources sync.Map
	for _, id := range keys {
		sources.Store(id, oauth2.ReuseTokenSource(nil, tokenSource(value)))
	}
	run(b, "oauth2 ReuseTokenSource in sync.Map", keys, func(id string) error {
		source, ok := sources.Load(id)
		if !ok {
			return errors.New("no source")
		}
		_, err := source.(oauth2.TokenSource).Token()
		return err
	})

	google := auth.NewCachedTokenProvider(googleProvider(value), nil)
	run(b, "google CachedTokenProvider (one value)", keys, func(string) error {
		_, err := google.Token(ctx)
		return err
	})

	scs := memstore.NewWithCleanupInterval(0)
	for _, id := range keys {
		must(b, scs.Commit(id, []byte(value), time.Now().Add(24*time.Hour)))
	}
	run(b, "scs memstore", keys, func(id string) error {
		_, found, err := scs.Find(id)
		return errors.Join(err, missing(found))
	})

	aside, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr}})
	must(b, err)
	b.Cleanup(aside.Close)
	runWarm(b, "rueidis DoCache", redisKeys(keys), func(key string) error {
		return aside.DoCache(ctx, aside.B().Get().Key(key).Cache(), time.Hour).Error()
	})

	tracking := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 3,
		ClientSideCacheConfig: &redis.ClientSideCacheConfig{MaxEntries: 2 * users}})
	b.Cleanup(func() { tracking.Close() })
	runWarm(b, "go-redis client-side cache", redisKeys(keys), func(key string) error {
		return tracking.Get(ctx, key).Err()
	})
}

// BenchmarkRedis is a read that goes to Redis each time.
func BenchmarkRedis(b *testing.B) {
	keys := ids()
	ctx := context.Background()
	server := redistest.Start(b)
	value := record(authServer())
	client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
	b.Cleanup(func() { client.Close() })
	store, err := session.NewRedisStore(client)
	must(b, err)
	b.Cleanup(func() { must(b, store.Close()) })
	fill(b, store, value)
	svc := service(b, session.WithStore(store), session.WithNearCache(0))

	run(b, "plain GET", redisKeys(keys), func(key string) error { return client.Get(ctx, key).Err() })
	run(b, "session without near cache", keys, func(id string) error {
		_, err := svc.Token(ctx, id)
		return err
	})
	cancellable, cancel := context.WithCancel(ctx)
	b.Cleanup(cancel)
	run(b, "session without near cache, cancellable context", keys, func(id string) error {
		_, err := svc.Token(cancellable, id)
		return err
	})
	scs := goredisstore.NewWithPrefix(client, prefix)
	run(b, "scs goredisstore", keys, func(id string) error {
		_, found, err := scs.FindCtx(ctx, id)
		return errors.Join(err, missing(found))
	})
}

// BenchmarkAuth is what takes a call to the auth server, which is in this
// process and answers at once: the cost of everything around the call.
func BenchmarkAuth(b *testing.B) {
	ctx := context.Background()
	server := redistest.Start(b)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
	b.Cleanup(func() { client.Close() })
	for _, on := range []string{"memory", "redis"} {
		fake := authServer()
		opts := []session.Option{
			session.WithAuthURL(fake.URL), session.WithHTTPClient(fake.Client()),
			session.WithServiceKey(sessiontest.DefaultServiceKey),
		}
		if on == "redis" {
			opts = append(opts, session.WithRedis(client))
		}
		svc := service(b, opts...)
		var fresh atomic.Int64 // every call is about a user not seen before
		link := func() string {
			id := "@" + strconv.FormatInt(fresh.Add(1), 10) + ":" + on
			fake.Link(id, email)
			return id
		}
		none := []string{""}
		run(b, "session miss, linked user/"+on, none, func(string) error {
			_, err := svc.Token(ctx, link())
			return err
		})
		run(b, "session login/"+on, none, func(string) error {
			_, err := svc.Login(ctx, "@"+strconv.FormatInt(fresh.Add(1), 10)+":login."+on, email, password)
			return err
		})
		b.Run("session refresh/"+on+"/sequential", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer() // a token that was replaced just now is not replaced again
				id := link()
				token, err := svc.Token(ctx, id)
				must(b, err)
				b.StartTimer()
				_, err = svc.Refresh(ctx, id, token)
				must(b, err)
			}
		})
		fake.ResetCalls()
	}

	fake := authServer()
	loader := fake.Client()
	aside, err := rueidisaside.NewClient(rueidisaside.ClientOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{server.Addr}}, ClientTTL: 10 * time.Second,
	})
	must(b, err)
	b.Cleanup(aside.Close)
	var fresh atomic.Int64
	run(b, "rueidisaside miss", []string{""}, func(string) error {
		_, err := aside.Get(ctx, time.Hour, "aside:"+strconv.FormatInt(fresh.Add(1), 10), func(ctx context.Context, _ string) (string, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, fake.URL+"/api/v1/auth/jwks", nil)
			if err != nil {
				return "", err
			}
			resp, err := loader.Do(req)
			if err != nil {
				return "", err
			}
			return "value", resp.Body.Close()
		})
		return err
	})
}

func redisKeys(ids []string) []string {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = prefix + id
	}
	return keys
}

func missing(found bool) error {
	if found {
		return nil
	}
	return errors.New("missing")
}

type tokenSource string

func (s tokenSource) Token() (*oauth2.Token, error) {
	return &oauth2.Token{AccessToken: string(s), Expiry: time.Now().Add(24 * time.Hour)}, nil
}

type googleProvider string

func (p googleProvider) Token(context.Context) (*auth.Token, error) {
	return &auth.Token{Value: string(p), Expiry: time.Now().Add(24 * time.Hour)}, nil
}
