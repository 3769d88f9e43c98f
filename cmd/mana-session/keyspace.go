package main

import (
	"context"
	"strings"
	"sync"

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
func (d *deployment) countAside(ctx context.Context) (aside, error) {
	var a aside
	heartbeats := strings.TrimSuffix(d.keys.HeartbeatPrefix(""), ":")
	bots := make(map[string]bool)
	err := d.scan(ctx, d.auxPrefix(), func(keys []string) error {
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
			addBot(bots, heartbeats, key)
		}
		return nil
	})
	if err == nil && !strings.HasPrefix(heartbeats, d.auxPrefix()) { // the prefix has a hash tag, heartbeats have none
		err = d.scan(ctx, heartbeats, func(keys []string) error {
			for _, key := range keys {
				addBot(bots, heartbeats, key)
			}
			return nil
		})
	}
	a.Bots = len(bots)
	return a, err
}

// running counts the processes with a change feed by their heartbeats, which last
// 10 s.
func (d *deployment) running(ctx context.Context) (int, error) {
	heartbeats := strings.TrimSuffix(d.keys.HeartbeatPrefix(""), ":")
	bots := make(map[string]bool)
	err := d.scan(ctx, heartbeats, func(keys []string) error {
		for _, key := range keys {
			addBot(bots, heartbeats, key)
		}
		return nil
	})
	return len(bots), err
}

// addBot adds the process whose heartbeat a key is.
func addBot(bots map[string]bool, heartbeats, key string) {
	if instance, ok := strings.CutPrefix(key, heartbeats); ok {
		instance, _, _ = strings.Cut(strings.TrimPrefix(instance, ":"), ":")
		bots[instance] = true
	}
}
