package session

import (
	"fmt"
	"log/slog"
	"time"
)

// watch keeps the store's change feed running, until Close.
func (r *records) watch(watcher Watcher) {
	for attempt := 0; r.life.ctx.Err() == nil; attempt++ {
		started := time.Now()
		err := r.watchOnce(watcher)
		r.near.Doubt()
		if r.life.ctx.Err() != nil {
			return
		}
		r.findOut() // whether the store is away
		if time.Since(started) > time.Minute {
			attempt = 0
		}
		level := slog.LevelDebug
		if attempt == 0 {
			level = slog.LevelWarn
		}
		r.logger.Log(r.life.ctx, level, "session: change feed of the store broke off", "error", err)
		pause(r.life.ctx, min(time.Duration(attempt+1)*100*time.Millisecond, time.Second))
	}
}

// watchOnce survives a panic in a caller's store.
func (r *records) watchOnce(watcher Watcher) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("session: panic in Watch: %T", p)
		}
	}()
	return watcher.Watch(r.life.ctx, r.near)
}
