package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/mana/session"
)

// probeUser is a user without a record, whom the bots' health checks ask for.
const probeUser = "@health.probe:invalid"

// change is the JSON of a line of watch.
type change struct {
	At    time.Time           `json:"at"`
	Event string              `json:"event"` // watching, changed, gone, flushed or lost
	User  string              `json:"user,omitempty"`
	What  *session.TrailEvent `json:"what,omitempty"` // the newest of the trail, if it is of this change
	Ends  *time.Time          `json:"endsAt,omitempty"`
	Feed  string              `json:"feed,omitempty"`  // of watching: tracking or pubsub
	Error string              `json:"error,omitempty"` // of lost
}

func (a *app) watch() *cobra.Command {
	var filter string
	cmd := &cobra.Command{
		Use: "watch", Short: "Show changes of sessions as they come, until interrupted",
		Long: "Show changes of sessions as they come, until it is interrupted: logins, logouts, refreshes, ends, and what\n" +
			"other software writes or removes. Changes of one user that come faster than they can be looked up are one\n" +
			"line. With --json each line is a document.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.doWatch(cmd.Context(), filter) },
	}
	cmd.Flags().StringVar(&filter, "filter", "", "only users whose ID matches the regular `expression`")
	return cmd
}

// again is how long watch waits when the feed is lost.
const again = time.Second

func (a *app) doWatch(ctx context.Context, filter string) error {
	matches, err := matcher(filter)
	if err != nil {
		return err
	}
	d, err := a.config.open(ctx, false)
	if err != nil {
		return err
	}
	defer d.close()
	// Whoever may not read hears of changes all the same, and would learn nothing else.
	switch _, err := d.store.Get(ctx, probeUser); {
	case ctx.Err() != nil:
		return nil
	case err != nil && !errors.Is(err, session.ErrNotFound):
		return storeError(err)
	}
	d.measureClock(ctx)
	f := newFeed(matches)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- a.feed(ctx, d, f) }()
	for {
		select {
		case <-f.ready:
			for _, c := range f.take() {
				if c.User != "" {
					d.lookUp(ctx, &c)
				}
				if err := a.changeLine(c); err != nil {
					cancel()
					<-watched
					return err
				}
			}
		case err := <-watched:
			return err
		}
	}
}

// feed watches until ctx ends. It fails when the store cannot be watched from the
// start.
func (a *app) feed(ctx context.Context, d *deployment, f *feed) error {
	for {
		err := d.store.Watch(ctx, f)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // an interrupt is how watching ends
		case !f.worked():
			return storeError(fmt.Errorf("the store cannot be watched: %w", err))
		}
		f.add(change{At: time.Now(), Event: "lost", Error: plain(err)})
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return nil
		}
	}
}

// measureClock finds out how far this machine's clock is from that of Redis, which will be
// that of the bots, too. A Redis that does not tell is taken to agree.
func (d *deployment) measureClock(ctx context.Context) {
	_ = d.masters(ctx, func(ctx context.Context, master *redis.Client) error {
		began := time.Now()
		at, err := master.Time(ctx).Result()
		if err == nil {
			d.behind.Store(int64(at.Sub(began.Add(time.Since(began) / 2))))
		}
		return err
	})
}

// lookUp adds to a change of a user what the store tells about it.
func (d *deployment) lookUp(ctx context.Context, c *change) {
	rec, _, err := d.store.LoggedOutAt(ctx, c.User)
	if err != nil {
		c.Error = plain(err)
		return
	}
	if !rec.Exists() {
		c.Event = "gone"
	}
	trail, err := d.svc.Trail(ctx, c.User)
	const recent = 5 * time.Second // bots' clocks differ
	happened := c.At.Add(time.Duration(d.behind.Load()))
	if err != nil || len(trail) == 0 || happened.Sub(trail[0].Last).Abs() > recent {
		return
	}
	c.What, c.Ends = &trailInUTC(trail)[0], timeOrNull(trail[0].SessionEnds)
}

func (a *app) changeLine(c change) error {
	if a.json {
		c.At = inUTC(c.At)
		return a.jsonLine(c)
	}
	var text string
	switch {
	case c.Event == "watching":
		text = "watching, by " + c.Feed
	case c.Event == "lost":
		text = a.colored(red, "the feed is lost") + ", and tried again: " + clean(c.Error)
	case c.Event == "flushed":
		text = "anything may have changed unnoticed"
	case c.What != nil:
		color := green
		if c.What.Kind == session.TrailEnded || c.What.Kind == session.TrailWeakened {
			color = red
		}
		text = clean(c.User) + "  " + a.colored(color, eventText(*c.What))
	case c.Event == "gone":
		text = clean(c.User) + "  " + a.colored(red, "gone") + ", and no bot says that it did it: expired, evicted, or removed by other software"
	default:
		text = clean(c.User) + "  changed, and no bot says what"
	}
	_, err := fmt.Fprintf(a.out, "%s  %s\n", moment(c.At), text)
	return err
}

// feed collects notices until they are taken. Of one user it keeps one.
type feed struct {
	matches func(userID string) bool
	ready   chan struct{} // has room for one

	mu      sync.Mutex
	waiting []change       // guarded by mu
	of      map[string]int // guarded by mu; where a user's change waits
	kind    string         // guarded by mu; "" until the feed is trusted
	ever    bool           // guarded by mu; it was trusted
}

var _ session.EndFeed = (*feed)(nil)

func newFeed(matches func(string) bool) *feed {
	return &feed{matches: matches, ready: make(chan struct{}, 1), of: make(map[string]int)}
}

// Changed implements [session.Feed].
func (f *feed) Changed(userID string) {
	if f.matches(userID) && userID != probeUser && userID != doctorUser {
		f.add(change{At: time.Now(), Event: "changed", User: userID})
	}
}

// Ended implements [session.EndFeed].
func (f *feed) Ended(userID string) { f.Changed(userID) }

// Flush implements [session.Feed]. The first is the beginning.
func (f *feed) Flush() {
	if f.worked() {
		f.add(change{At: time.Now(), Event: "flushed"})
	}
}

// Trust implements [session.Feed]: it says that the feed works, and how.
func (f *feed) Trust(_ time.Time, maxAge time.Duration) {
	kind := "tracking"
	if maxAge > 0 {
		kind = "pubsub"
	}
	f.mu.Lock()
	news := f.kind != kind
	f.kind, f.ever = kind, true
	f.mu.Unlock()
	if news {
		f.add(change{At: time.Now(), Event: "watching", Feed: kind})
	}
}

func (f *feed) worked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ever
}

func (f *feed) add(c change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Event == "lost" {
		f.kind = "" // say when it works again
	}
	if at, waits := f.of[c.User]; waits && c.User != "" {
		f.waiting[at] = c
	} else {
		f.of[c.User] = len(f.waiting)
		f.waiting = append(f.waiting, c)
	}
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// take returns what waits.
func (f *feed) take() []change {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.waiting
	f.waiting = nil
	clear(f.of)
	return taken
}

// errWatched ends a watch that has been told enough.
var errWatched = errors.New("watched")

// feedKind finds out which notices of changes there are.
func (d *deployment) feedKind(ctx context.Context) feedState {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := newFeed(func(string) bool { return false })
	go func() {
		select {
		case <-f.ready:
			cancel(errWatched)
		case <-ctx.Done():
		}
	}()
	err := d.store.Watch(ctx, f)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kind != "" {
		return feedState{Kind: f.kind}
	}
	return feedState{Kind: "none", Error: plain(err)}
}
