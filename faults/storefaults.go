package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session/internal/redistest"
)

// storeFaults breaks Redis and the ways to it, one thing after the other, until
// stop is closed; then everything is whole again.
type storeFaults struct {
	random  *rand.Rand
	damage  *damage
	redis   *redistest.Server
	proxies []*redistest.Proxy // one a bot
	longest time.Duration      // of one fault
	gap     time.Duration      // between two, 1.5 times that at most
	kills   bool               // Redis persists: it may be killed
	admin   *redis.Client      // on Redis itself, for its configuration
}

func (f *storeFaults) run(stop <-chan struct{}) {
	for sleep(stop, between(f.random, f.gap/2, f.gap*3/2)) {
		bot := f.random.IntN(len(f.proxies))
		proxy := f.proxies[bot]
		length := between(f.random, 200*time.Millisecond, f.longest)
		d := f.damage
		switch f.random.IntN(16) {
		case 0, 1:
			over := d.begin(&d.store, everybody, "redis paused")
			f.redis.Pause()
			sleep(stop, length)
			f.redis.Resume()
			over()
		case 2:
			if !f.kills {
				continue
			}
			over := d.begin(&d.store, everybody, "redis killed and restarted")
			f.redis.Kill()
			sleep(stop, length)
			f.redis.Start()
			over()
		case 3, 4:
			over := d.begin(&d.store, bot, "connections blackholed")
			proxy.Blackhole()
			sleep(stop, length)
			proxy.Restore()
			over()
		case 5, 12, 13: // others work, so what comes late meets what was done meanwhile
			over := d.begin(&d.store, bot, "open connections deliver late")
			proxy.BlackholeExisting()
			sleep(stop, length+time.Second)
			proxy.Restore()
			over()
		case 14, 15:
			over := d.begin(&d.full, everybody, "redis full")
			f.room("1")
			sleep(stop, length)
			f.room("0")
			over()
		case 6:
			over := d.begin(&d.store, bot, "connections refused")
			proxy.Refuse(true)
			proxy.Cut()
			sleep(stop, length)
			proxy.Restore()
			over()
		case 7:
			over := d.begin(&d.store, bot, "connections slow")
			proxy.Delay(between(f.random, 5*time.Millisecond, 200*time.Millisecond))
			sleep(stop, length)
			proxy.Restore()
			over()
		case 8, 9:
			d.begin(&d.store, bot, "connections cut")()
			proxy.Cut()
		case 10:
			over := d.begin(&d.store, everybody, "all connections cut")
			for _, p := range f.proxies {
				p.Cut()
			}
			over()
		case 11:
			over := d.begin(&d.store, bot, "cut in a reply")
			proxy.CutAfter(f.random.IntN(200))
			sleep(stop, length/4)
			proxy.Restore()
			over()
		}
	}
}

// room says how much memory Redis may have; 0 is all.
func (f *storeFaults) room(maxMemory string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := f.admin.ConfigSet(ctx, "maxmemory", maxMemory).Err(); err != nil {
		panic(fmt.Sprintf("CONFIG SET maxmemory %s: %v", maxMemory, err))
	}
}

// givesUp is how long a caller waits who does not wait for ever: mostly so short
// that the call is cut in its middle.
func givesUp(random *rand.Rand) (time.Duration, bool) {
	switch random.IntN(12) {
	case 0:
		return between(random, 50*time.Millisecond, 2*time.Second), true
	case 1, 2:
		return between(random, 100*time.Microsecond, 15*time.Millisecond), true
	}
	return 0, false
}

// between is a random time.
func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// sleep waits, or returns false because stop was closed.
func sleep(stop <-chan struct{}, d time.Duration) bool {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-stop:
		return false
	case <-wait.C:
		return true
	}
}
