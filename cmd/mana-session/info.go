package main

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// info is what INFO says, by the name of the field.
type info map[string]string

// serverInfo asks one server. A server that forbids INFO says nothing.
func serverInfo(ctx context.Context, server *redis.Client) (info, error) {
	text, err := server.Info(ctx).Result()
	if err != nil {
		return nil, err
	}
	fields := make(info)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields, nil
}

func (i info) int(name string) int64 {
	n, _ := strconv.ParseInt(i[name], 10, 64)
	return n
}

// evictions is how many keys all masters have evicted, and by which policies, as far
// as they tell.
func (d *deployment) evictions(ctx context.Context) (evicted int64, policies []string) {
	var mu sync.Mutex
	seen := make(map[string]bool)
	_ = d.masters(ctx, func(ctx context.Context, master *redis.Client) error {
		fields, err := serverInfo(ctx, master)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			evicted += fields.int("evicted_keys")
			seen[fields["maxmemory_policy"]] = true
		}
		return nil // the others may tell
	})
	return evicted, slices.Sorted(maps.Keys(seen))
}
