package main

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// scanCount is how many keys Redis looks at in one go.
const scanCount = 1000

// aside is what lies beside the records.
type aside struct {
	Bots   int `json:"bots"` // processes with a change feed, by their heartbeats
	Leases int `json:"leases"`
	Trails int `json:"trails"`
	Fences int `json:"logoutNotes"`
}

// auxPrefix is what the keys beside the records begin with.
func (d *deployment) auxPrefix() string { return strings.TrimSuffix(d.keys.FencePrefix(), "logout:") }

// scan calls do with each page of keys that begin with prefix, of every master.
func (d *deployment) scan(ctx context.Context, prefix string, do func(keys []string) error) error {
	pattern := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(prefix) + "*"
	var mu sync.Mutex
	return d.masters(ctx, func(ctx context.Context, master *redis.Client) error {
		for cursor := uint64(0); ; {
			keys, next, err := master.Scan(ctx, cursor, pattern, scanCount).Result()
			if err != nil {
				return err
			}
			mu.Lock()
			err = do(keys)
			mu.Unlock()
			if err != nil || next == 0 {
				return err
			}
			cursor = next
		}
	})
}

// countAside walks over the keys beside the records.
func (d *deployment) countAside(ctx context.Context) (a aside, err error) {
	if a.Bots, err = d.running(ctx); err != nil {
		return a, err
	}
	err = d.scan(ctx, d.auxPrefix(), func(keys []string) error {
		for _, key := range keys {
			kind, _, _ := strings.Cut(strings.TrimPrefix(key, d.auxPrefix()), ":")
			switch kind {
			case "lock":
				a.Leases++
			case "trail":
				a.Trails++
			case "logout":
				a.Fences++
			}
		}
		return nil
	})
	return a, err
}

// A process writes a heartbeat every 250 ms, for 10 s. One that is younger than this
// is of a process that runs, or did a moment ago.
const (
	heartbeatTTL = 10 * time.Second
	heartbeatAge = 2 * time.Second
)

// running counts the processes that have a change feed, by their heartbeats.
func (d *deployment) running(ctx context.Context) (int, error) {
	prefix := strings.TrimSuffix(d.keys.HeartbeatPrefix(""), ":")
	var heartbeats []string
	err := d.scan(ctx, prefix, func(keys []string) error {
		heartbeats = append(heartbeats, keys...)
		return nil
	})
	bots := make(map[string]bool)
	for _, key := range heartbeats {
		left, ttlErr := d.client.PTTL(ctx, key).Result()
		if err = cmp.Or(err, ttlErr); err != nil {
			return 0, err
		}
		if left > heartbeatTTL-heartbeatAge {
			instance, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, prefix), ":"), ":")
			bots[instance] = true
		}
	}
	return len(bots), err
}
