package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session/sessiontest"
)

// breakEverything for as long as the run lasts, while users do what users do.
func (r *run) breakEverything() error {
	fmt.Fprintf(os.Stderr, "%s of faults …\n", r.config.For)
	stop := make(chan struct{})
	var breaking, doing sync.WaitGroup
	store := &storeFaults{
		random: rand.New(rand.NewPCG(r.config.Seed, 2)), damage: r.damage, redis: r.redis,
		longest: min(r.config.For/4, 5*time.Second), gap: min(r.config.For/20, 800*time.Millisecond), kills: true, admin: redis.NewClient(&redis.Options{Addr: r.redis.Addr}),
	}
	defer store.admin.Close()
	for _, s := range r.bots {
		store.proxies = append(store.proxies, s.proxy)
	}
	breaking.Go(func() { store.run(stop) })
	breaking.Go(func() { r.desk.run(stop, rand.New(rand.NewPCG(r.config.Seed, 3))) })
	var botsErr error
	breaking.Go(func() { botsErr = r.breakBots(stop, rand.New(rand.NewPCG(r.config.Seed, 4))) })
	breaking.Go(func() { r.varyTokens(stop, rand.New(rand.NewPCG(r.config.Seed, 5))) })

	busy := newBusy(len(r.users))
	for i := range r.config.Deeds {
		random := rand.New(rand.NewPCG(r.config.Seed, uint64(100+i)))
		doing.Go(func() {
			for sleep(stop, between(random, 20*time.Millisecond, 150*time.Millisecond)) {
				r.someDeed(random, busy)
			}
		})
	}
	time.Sleep(r.config.For)
	close(stop)
	breaking.Wait()
	doing.Wait()
	return botsErr
}

// breakBots stops and kills bots until stop is closed; then all run.
func (r *run) breakBots(stop <-chan struct{}, random *rand.Rand) error {
	for sleep(stop, between(random, time.Second, 5*time.Second)) {
		number := random.IntN(len(r.bots))
		s := r.bots[number]
		what := random.IntN(4)
		if what < 2 {
			over := r.damage.begin(&r.damage.stopped, number, "bot stopped")
			s.get().signal(syscall.SIGSTOP)
			sleep(stop, between(random, 200*time.Millisecond, 2*time.Second))
			s.get().signal(syscall.SIGCONT)
			over()
			continue
		}
		p := s.get()
		s.mu.Lock()
		s.process = nil
		s.mu.Unlock()
		if what == 2 {
			r.damage.count("bot killed and restarted")
			r.ledger.killed(number, p.config.Life)
			p.kill()
		} else if err := r.closeBot(p, random); err != nil {
			return err
		}
		sleep(stop, between(random, 0*time.Second, time.Second))
		if err := r.startBot(number); err != nil {
			return err
		}
		if _, err := s.get().do(order{Do: doTraffic}); err != nil {
			return err
		}
	}
	return nil
}

// closeBot ends a bot in order, in the middle of its work: not a login may be
// lost, but for what it could not store.
func (r *run) closeBot(p *process, random *rand.Rand) error {
	r.damage.count("bot closed during refreshes")
	o := order{Do: doStop, Limit: between(random, 100*time.Microsecond, 30*time.Millisecond)}
	for range 16 {
		o.Users = append(o.Users, random.IntN(len(r.users)))
	}
	began := now()
	m, err := p.do(o)
	if err != nil {
		return fmt.Errorf("%s did not close: %w", p, err)
	}
	<-p.gone
	r.ledger.closed(p.config.Number, p.config.Life, began)
	m.Kind = sawClosed
	r.ledger.hear(m, p.config.Number, p.config.Life)
	return nil
}

// varyTokens lets tokens live for one time and another, and forgets the calls of
// the auth server, which would fill the memory.
func (r *run) varyTokens(stop <-chan struct{}, random *rand.Rand) {
	for sleep(stop, 500*time.Millisecond) {
		r.server.SetTokenTTL(between(random, shortestToken, longestToken))
		r.countCalls()
	}
	r.countCalls()
}

func (r *run) countCalls() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range append([]sessiontest.Op{sessiontest.LinkCreate}, deskOps...) {
		r.calls[string(op)] += int64(r.server.Calls(op))
	}
	r.server.ResetCalls()
}
