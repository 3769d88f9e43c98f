package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

	mu     sync.Mutex
	closed map[string]int64 // guarded by mu: when, by number and life of a Service that could not write then
}

// station is a place for a Service, and what is seen of its writes. Services
// come and go.
type station struct {
	number int // among all fleets' stations
	open   func(life int) (*session.Service, error)
	client *redis.Client
	http   *http.Transport
	store  *watchedStore

	mu   sync.Mutex
	svc  *session.Service // guarded by mu
	life int              // guarded by mu
}

func (s *station) service() *session.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.svc
}

// replace puts a new Service in the place of the old one, if there is one, and
// returns it and its life.
func (s *station) replace() (old *session.Service, life int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, life = s.svc, s.life
	s.life++
	s.svc, err = s.open(s.life)
	return old, life, err
}

// restart closes Services in the middle of their work, one after the other.
func (f *fleet) restart(stop <-chan struct{}, random *rand.Rand) {
	for sleep(stop, between(random, time.Second, 4*time.Second)) {
		bot := random.IntN(len(f.services))
		s := f.services[bot]
		began := now()
		old, life, err := s.replace()
		if err != nil {
			panic(err)
		}
		f.store.damage.count("Service closed in the middle")
		if err := old.Close(); err != nil {
			f.store.damage.count("Service closed in the middle, with an error")
		}
		if f.store.damage.unwritable(bot, began, now()) {
			f.mu.Lock()
			f.closed[fmt.Sprintf("%d.%d", s.number, life)] = now()
			f.mu.Unlock()
		}
	}
}

// closedAt is when a Service was closed that could not write; 0 if it was not.
func (f *fleet) closedAt(bot string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed[bot]
}

func (l *linear) newFleet(k kind) (*fleet, error) {
	f := &fleet{kind: k, closed: make(map[string]int64), store: &storeFaults{
		damage: newDamage(), redis: redistest.Start(l.tb, redistest.WithPersistence()),
		longest: 2 * time.Second, kills: true, gap: k.gap,
	}}
	f.store.admin = redis.NewClient(&redis.Options{Addr: f.store.redis.Addr})
	for i := range servicesEach {
		proxy := redistest.NewProxy(l.tb, f.store.redis.Addr)
		f.store.proxies = append(f.store.proxies, proxy)
		s := &station{
			number: l.stations,
			client: redis.NewClient(&redis.Options{Addr: proxy.Addr, ContextTimeoutEnabled: true, ReadTimeout: time.Duration(i) * 400 * time.Millisecond}),
			http:   &http.Transport{IdleConnTimeout: 4 * time.Second, MaxIdleConnsPerHost: 32},
		}
		redisStore, err := session.NewRedisStore(s.client)
		if err != nil {
			return nil, err
		}
		s.store = &watchedStore{RedisStore: redisStore, stored: make(map[string]int64), failed: make(map[string]int64)}
		s.open = func(life int) (*session.Service, error) {
			return session.New(session.WithAuthURL(l.server.URL), session.WithServiceKey(sessiontest.DefaultServiceKey),
				session.WithHTTPClient(&http.Client{Transport: sidTaker{signed{s.http, botConfig{Number: s.number, Life: life}}}}),
				session.WithStore(s.store), session.WithNearCache(k.near), session.WithRefreshAhead(k.ahead), session.WithLoginLimit(0, 0))
		}
		if _, _, err := s.replace(); err != nil {
			return nil, err
		}
		l.stations++
		f.services = append(f.services, s)
	}
	return f, nil
}

func (f *fleet) close() error {
	errs := make([]error, len(f.services))
	var all sync.WaitGroup
	for i, s := range f.services {
		all.Go(func() {
			errs[i] = errors.Join(s.service().Close(), s.store.Close(), s.client.Close())
			s.http.CloseIdleConnections()
		})
	}
	all.Wait()
	return errors.Join(append(errs, f.store.admin.Close())...)
}

// watchedStore notes which logins have been stored, and which users' writes
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

func (s *watchedStore) MarkLoggedOut(ctx context.Context, old session.Record, at time.Time, keep time.Duration) error {
	err := s.RedisStore.MarkLoggedOut(ctx, old, at, keep)
	s.note(old.UserID, "", err)
	return err
}

func (s *watchedStore) LoggedOutAt(ctx context.Context, userID string) (session.Record, time.Time, error) {
	rec, at, err := s.RedisStore.LoggedOutAt(ctx, userID)
	s.note(userID, "", err)
	return rec, at, err
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

// storedAt is when a login was first stored by this Service; 0: never.
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

// sidTaker tells who logs in which login they were granted, also when they do
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
