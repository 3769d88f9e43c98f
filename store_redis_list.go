package session

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Records are listed a few MiB at a time, so that neither Redis nor this process
// has to hold many large ones at once: of each record of a page the beginning
// is read, which is all there is to most, and then the large ones whole.
const (
	scanCount      = 500
	smallRecord    = 4 << 10 // bytes
	largeRecords   = 2       // at a time; they have up to maxRecord bytes
	recordsAtATime = 500     // SCAN may return more than it was asked for
)

// All implements [Store]: SCAN over every master, with the values of each page
// fetched in a few pipelines. Expired records are the server's to drop.
func (s *RedisStore) All(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		masters, err := s.masters(ctx)
		if err != nil {
			yield(Record{}, err)
			return
		}
		seen := make(map[string]struct{}) // SCAN may return a key twice
		fresh := func(rec Record) bool {
			before := len(seen)
			seen[rec.UserID] = struct{}{}
			return len(seen) > before
		}
		for _, master := range masters {
			for rec, err := range s.onMaster(ctx, master) {
				if err != nil {
					yield(Record{}, err)
					return
				}
				if fresh(rec) && !yield(rec, nil) {
					return
				}
			}
		}
	}
}

// onMaster walks over the records of one master. An error ends the walk.
func (s *RedisStore) onMaster(ctx context.Context, master redis.Cmdable) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for cursor := uint64(0); ; {
			page, next, err := s.page(ctx, master, cursor)
			if err != nil {
				yield(Record{}, err)
				return
			}
			for len(page) > 0 {
				n := min(len(page), recordsAtATime)
				large, more := s.yieldValues(ctx, master, page[:n], smallRecord, yield)
				for more && len(large) > 0 {
					n := min(len(large), largeRecords)
					_, more = s.yieldValues(ctx, master, large[:n], maxRecord+1, yield)
					large = large[n:]
				}
				if !more {
					return
				}
				page = page[n:]
			}
			if cursor = next; cursor == 0 {
				return
			}
		}
	}
}

func (s *RedisStore) page(ctx context.Context, master redis.Cmdable, cursor uint64) ([]string, uint64, error) {
	type answer struct {
		keys []string
		next uint64
	}
	got, err := await(ctx, s, func(ctx context.Context) (got answer, err error) {
		got.keys, got.next, err = master.Scan(ctx, cursor, s.keys.Pattern(), scanCount).Result()
		return got, err
	})
	return got.keys, got.next, err
}

// yieldValues reads the records under the given keys and yields those of less
// than size bytes, or all if size is beyond what a record has. It returns the
// keys of the others, and whether to go on.
func (s *RedisStore) yieldValues(ctx context.Context, master redis.Cmdable, keys []string, size int64, yield func(Record, error) bool) (large []string, more bool) {
	values, err := await(ctx, s, func(ctx context.Context) ([]*redis.StringCmd, error) {
		values := make([]*redis.StringCmd, len(keys))
		pipe := master.Pipeline()
		for i, key := range keys {
			values[i] = pipe.GetRange(ctx, key, 0, size-1)
		}
		if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
			return nil, err
		}
		return values, nil
	})
	if err != nil {
		yield(Record{}, err)
		return nil, false
	}
	for i, cmd := range values {
		value, err := cmd.Result()
		switch {
		case err != nil || value == "": // gone since the SCAN, moved to another node, or not a string
		case int64(len(value)) == size && size <= maxRecord:
			large = append(large, keys[i])
		case !yield(Record{UserID: s.keys.UserID(keys[i]), Value: value}, nil):
			return nil, false
		}
	}
	return large, true
}

// masters returns a client per master: a key is on exactly one of them.
func (s *RedisStore) masters(ctx context.Context) ([]*redis.Client, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		return []*redis.Client{c}, nil
	case *redis.ClusterClient:
		return await(ctx, s, func(ctx context.Context) ([]*redis.Client, error) {
			var mu sync.Mutex
			var masters []*redis.Client
			err := c.ForEachMaster(ctx, func(_ context.Context, master *redis.Client) error {
				mu.Lock()
				defer mu.Unlock()
				masters = append(masters, master)
				return nil
			})
			return masters, err
		})
	default:
		return nil, fmt.Errorf("session: cannot list the servers behind a %T", s.client)
	}
}
