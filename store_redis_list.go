package session

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session/internal/keyset"
)

// Records are listed a few MiB at a time, so that neither Redis nor this process
// has to hold many large ones at once: of each record of a page the beginning
// is read, which is all there is to most, and then the large ones whole.
const (
	scanCount   = 1000    // keys that Redis looks at in one go, which takes it less than a millisecond
	valuesRead  = 2 << 20 // bytes of values at a time, or one value
	smallRecord = 4 << 10 // bytes
)

// All implements [Store]: SCAN over every master, with the values of each page
// fetched in a few pipelines. Expired records are the server's to drop.
func (s *RedisStore) All(ctx context.Context) iter.Seq2[Record, error] {
	return s.walk(ctx, func(*redisWalk) error { return nil }, (*redisWalk).yieldValues)
}

// List implements [Lister]: SCAN, and PTTL for the ends, or unless all keys of the
// server have a TTL. Only records without a TTL are read.
func (s *RedisStore) List(ctx context.Context, ends bool) iter.Seq2[Record, error] {
	start := (*redisWalk).lookForEndless
	if ends {
		start = func(w *redisWalk) error { w.askTTL = true; return nil }
	}
	return s.walk(ctx, start, (*redisWalk).yieldUnread)
}

// walk yields the records of every page of keys, each once. While a page is
// yielded, the next one is on its way.
func (s *RedisStore) walk(ctx context.Context, start func(*redisWalk) error, yieldPage func(w *redisWalk, keys []string, yield func(Record, error) bool) bool) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		masters, err := s.masters(ctx)
		if err != nil {
			yield(Record{}, err)
			return
		}
		seen := keyset.New()
		for _, master := range masters {
			w := &redisWalk{RedisStore: s, ctx: ctx, master: master}
			if err := start(w); err != nil {
				yield(Record{}, err)
				return
			}
			for keys, err := range w.scan() {
				if err != nil {
					yield(Record{}, err)
					return
				}
				if !yieldPage(w, seen.Add(keys), yield) {
					return
				}
			}
		}
	}
}

// redisWalk is a walk over the keys of one master.
type redisWalk struct {
	*RedisStore
	ctx    context.Context
	master *redis.Client
	askTTL bool // there may be keys without a TTL, or the ends are wanted
}

// keyPage is what one SCAN returns; cursor is 0 at the end.
type keyPage struct {
	keys   []string
	cursor uint64
}

// scan yields the keys of all records, page by page. The pages come from a
// goroutine that waits for nobody between two of them, so that Redis does not
// either; it ends soon after the walk's context.
func (w *redisWalk) scan() iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		pages := make(chan *call[keyPage], 1)
		go w.sendPages(pages)
		timeout := time.NewTimer(storeTimeout)
		defer timeout.Stop()
		for {
			select {
			case page, ok := <-pages:
				if !ok {
					err := w.ctx.Err() // for which the goroutine ends, too
					if err == nil {
						err = brokenOff(nil)
					}
					yield(nil, err)
					return
				}
				if !yield(page.value.keys, page.err) || page.err != nil || page.value.cursor == 0 {
					return
				}
				timeout.Reset(storeTimeout)
			case <-w.ctx.Done():
				yield(nil, w.ctx.Err())
				return
			case <-timeout.C:
				w.reloadTopology(errTimeout)
				yield(nil, fmt.Errorf("no answer from Redis in %s", storeTimeout))
				return
			}
		}
	}
}

// sendPages sends one page after the other, or an error, until the last one or
// until the walk's context ends.
func (w *redisWalk) sendPages(pages chan<- *call[keyPage]) {
	defer close(pages)
	for cursor, more := uint64(0), true; more; more = cursor != 0 {
		page := new(call[keyPage])
		w.page(page, cursor)
		select {
		case pages <- page:
		case <-w.ctx.Done():
			return
		}
		if page.err != nil {
			return
		}
		cursor = page.value.cursor
	}
}

// page fetches one page. While the caller of a walk dawdles over another, the
// store can be closed.
func (w *redisWalk) page(page *call[keyPage], cursor uint64) {
	if page.err = w.life.begin(); page.err != nil {
		return
	}
	defer w.life.end()
	page.run(w.RedisStore, func(context.Context) (got keyPage, err error) {
		got.keys, got.cursor, err = w.master.Scan(w.ctx, cursor, w.keys.Pattern(), scanCount).Result()
		return got, err
	})
}

// lookForEndless finds out whether the server has keys without a TTL. If it does
// not tell, it may.
func (w *redisWalk) lookForEndless() error {
	keyspace, err := await(w.ctx, w.RedisStore, func(ctx context.Context) (string, error) {
		keyspace, err := w.master.Info(ctx, "keyspace").Result()
		if isReply(err) {
			err = nil
		}
		return keyspace, err
	})
	w.askTTL = true
	for line := range strings.Lines(keyspace) {
		var db, keys, expires int
		if n, _ := fmt.Sscanf(line, "db%d:keys=%d,expires=%d", &db, &keys, &expires); n == 3 && db == w.master.Options().DB {
			w.askTTL = keys > expires
		}
	}
	return err
}

// yieldUnread yields records without their values, but for those that have no
// TTL. It reports whether to go on.
func (w *redisWalk) yieldUnread(keys []string, yield func(Record, error) bool) bool {
	if !w.askTTL {
		for _, key := range keys {
			if !yield(Record{UserID: w.keys.UserID(key)}, nil) {
				return false
			}
		}
		return true
	}
	asked := time.Now()
	ttls, err := w.ttls(keys)
	if err != nil {
		yield(Record{}, err)
		return false
	}
	var endless []string
	for i, key := range keys {
		const noTTL = -1
		switch ttl, err := ttls[i].Result(); {
		case err == nil && ttl == noTTL:
			endless = append(endless, key)
		case err != nil || ttl < 0: // gone since the SCAN, or moved to another node
		case !yield(Record{UserID: w.keys.UserID(key), Expires: asked.Add(time.Duration(ttl) * time.Millisecond)}, nil):
			return false
		}
	}
	return w.yieldValues(endless, yield)
}

func (w *redisWalk) ttls(keys []string) ([]*redis.IntCmd, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	return await(w.ctx, w.RedisStore, func(ctx context.Context) ([]*redis.IntCmd, error) {
		ttls := make([]*redis.IntCmd, len(keys))
		pipe := w.master.Pipeline()
		for i := range keys {
			ttls[i] = redis.NewIntCmd(ctx, "pttl", &keys[i])
			_ = pipe.Process(ctx, ttls[i])
		}
		if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
			return nil, err
		}
		return ttls, nil
	})
}

// yieldValues yields records with their values. It reports whether to go on.
func (w *redisWalk) yieldValues(keys []string, yield func(Record, error) bool) bool {
	large, more := w.yieldUpTo(smallRecord, keys, yield)
	if more {
		_, more = w.yieldUpTo(maxRecord+1, large, yield)
	}
	return more
}

// yieldUpTo yields the records of less than size bytes, or all if size is beyond
// what a record has. It returns the keys of the others, and whether to go on.
func (w *redisWalk) yieldUpTo(size int64, keys []string, yield func(Record, error) bool) (large []string, more bool) {
	for len(keys) > 0 {
		n := min(len(keys), max(1, valuesRead/int(size)))
		values, err := w.values(keys[:n], size)
		if err != nil {
			yield(Record{}, err)
			return nil, false
		}
		for i, cmd := range values {
			value, err := cmd.Result()
			switch {
			case err != nil || value == "": // gone since the SCAN, moved to another node, or not a string any more
			case int64(len(value)) == size && size <= maxRecord:
				large = append(large, keys[i])
			case !yield(Record{UserID: w.keys.UserID(keys[i]), Value: value}, nil):
				return nil, false
			}
		}
		keys = keys[n:]
	}
	return large, true
}

func (w *redisWalk) values(keys []string, size int64) ([]*redis.StringCmd, error) {
	return await(w.ctx, w.RedisStore, func(ctx context.Context) ([]*redis.StringCmd, error) {
		values := make([]*redis.StringCmd, len(keys))
		pipe := w.master.Pipeline()
		for i, key := range keys {
			values[i] = pipe.GetRange(ctx, key, 0, size-1)
		}
		if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
			return nil, err
		}
		return values, nil
	})
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
