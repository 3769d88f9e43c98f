package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

// fleet is a few Services of a kind, each with its own way to their Redis.
type fleet struct {
	kind     kind
	store    *storeFaults
	services []*station
}

// station is a Service, and what is seen of its writes.
type station struct {
	svc    *session.Service
	client *redis.Client
	http   *http.Transport
	store  *watchedStore
}

func (l *linear) newFleet(k kind) (*fleet, error) {
	f := &fleet{kind: k, store: &storeFaults{
		damage: newDamage(), redis: redistest.Start(l.tb, redistest.WithPersistence()),
		longest: 2 * time.Second, kills: true, gap: k.gap,
	}}
	f.store.admin = redis.NewClient(&redis.Options{Addr: f.store.redis.Addr})
	for i := range servicesEach {
		proxy := redistest.NewProxy(l.tb, f.store.redis.Addr)
		f.store.proxies = append(f.store.proxies, proxy)
		s := &station{
			client: redis.NewClient(&redis.Options{Addr: proxy.Addr, ContextTimeoutEnabled: true, ReadTimeout: time.Duration(i) * 400 * time.Millisecond}),
			http:   &http.Transport{IdleConnTimeout: 4 * time.Second, MaxIdleConnsPerHost: 32},
		}
		redisStore, err := session.NewRedisStore(s.client)
		if err != nil {
			return nil, err
		}
		s.store = &watchedStore{RedisStore: redisStore, stored: make(map[string]int64), failed: make(map[string]int64)}
		s.svc, err = session.New(session.WithAuthURL(l.server.URL), session.WithServiceKey(sessiontest.DefaultServiceKey),
			session.WithHTTPClient(&http.Client{Transport: sidTaker{signed{s.http, botConfig{Number: i}}}}),
			session.WithStore(s.store), session.WithNearCache(k.near), session.WithRefreshAhead(k.ahead), session.WithLoginLimit(0, 0))
		if err != nil {
			return nil, err
		}
		f.services = append(f.services, s)
	}
	return f, nil
}

func (f *fleet) close() error {
	errs := []error{f.store.admin.Close()}
	for _, s := range f.services {
		errs = append(errs, s.svc.Close(), s.store.Close(), s.client.Close())
		s.http.CloseIdleConnections()
	}
	return errors.Join(errs...)
}

// watchedStore notes which log-ins have been stored, and which users' writes
// have failed: what a Service could not store it holds to for itself for a
// while, which is not for others to see.
type watchedStore struct {
	*session.RedisStore

	mu     sync.Mutex
	stored map[string]int64 // guarded by mu: when, by SID
	failed map[string]int64 // guarded by mu: when last, by user
}

func (s *watchedStore) note(userID string, value string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil && value != "":
		var record struct{ Token string }
		_ = json.Unmarshal([]byte(value), &record)
		if c, err := readClaims(record.Token); err == nil && s.stored[c.SID] == 0 {
			s.stored[c.SID] = now()
		}
	case err != nil && !errors.Is(err, session.ErrConflict):
		s.failed[userID] = now()
	}
}

func (s *watchedStore) Swap(ctx context.Context, old, next session.Record) (session.Record, error) {
	rec, err := s.RedisStore.Swap(ctx, old, next)
	s.note(next.UserID, next.Value, err)
	return rec, err
}

func (s *watchedStore) SwapLeased(ctx context.Context, owner string, old, next session.Record) (session.Record, error) {
	rec, err := s.RedisStore.SwapLeased(ctx, owner, old, next)
	s.note(next.UserID, next.Value, err)
	return rec, err
}

func (s *watchedStore) Delete(ctx context.Context, old session.Record) error {
	err := s.RedisStore.Delete(ctx, old)
	s.note(old.UserID, "", err)
	return err
}

func (s *watchedStore) Entomb(ctx context.Context, userID string, at time.Time) error {
	err := s.RedisStore.Entomb(ctx, userID, at)
	s.note(userID, "", err)
	return err
}

// Get and Acquire count too: a Service that cannot read goes on by what it knows.
func (s *watchedStore) Get(ctx context.Context, userID string) (session.Record, error) {
	rec, err := s.RedisStore.Get(ctx, userID)
	if !errors.Is(err, session.ErrNotFound) {
		s.note(userID, "", err)
	}
	return rec, err
}

func (s *watchedStore) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (session.Lease, session.Record, error) {
	lease, rec, err := s.RedisStore.Acquire(ctx, userID, owner, ttl)
	s.note(userID, "", err)
	return lease, rec, err
}

// storedAt is when a log-in was first stored by this Service; 0: never.
func (s *watchedStore) storedAt(sid string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored[sid]
}

func (s *watchedStore) failedAt(userID string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[userID]
}

// sidTaker tells who logs in which log-in they were granted, also when they do
// not hear of it.
type sidTaker struct{ http.RoundTripper }

type sidKey struct{}

func (t sidTaker) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	sid, ok := req.Context().Value(sidKey{}).(*takenSID)
	if !ok || err != nil || !strings.HasSuffix(req.URL.Path, "/login") {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	var answer struct{ AccessToken string }
	_ = json.Unmarshal(body, &answer)
	if c, err := readClaims(answer.AccessToken); err == nil {
		sid.set(c.SID)
	}
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp, nil
}

type takenSID struct {
	mu  sync.Mutex
	sid string // guarded by mu
}

func (s *takenSID) set(sid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sid = sid
}

func (s *takenSID) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sid
}
