package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/mana/session"
)

// migration is what the migrate commands share.
type migration struct {
	*app
	what    string
	write   bool
	workers int
	force   bool
	perSec  int

	d     *deployment
	limit *rate.Limiter // nil: none
	bar   *progressbar.ProgressBar

	mu     sync.Mutex
	result migrated // guarded by mu
}

// migrated is the JSON of migrate.
type migrated struct {
	Migration string         `json:"migration"` // encrypt, rotate, decrypt or prefix
	Written   bool           `json:"written"`   // false: a dry run
	Records   int            `json:"records"`   // that were looked at
	Changed   int            `json:"changed"`   // or would be
	Already   int            `json:"already"`   // as they are to be
	Gone      int            `json:"gone"`      // before their turn came
	Left      int            `json:"left"`      // as they were, for the reasons below
	Reasons   map[string]int `json:"reasons"`
	Trails    int            `json:"trails"` // of users without a record, moved with a prefix
	Seconds   float64        `json:"seconds"`
}

// outcome is what became of a record.
type outcome int

const (
	done outcome = iota // or to be done
	already
	gone
	left
)

// How many records are under way at a time. Beside running bots few, so that Redis has
// time for them; without, as many as it takes to wait for a Redis on another machine.
const (
	besideBots  = 4
	withoutBots = 16
)

func (a *app) migrate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "migrate", Short: "Seal all records, seal them with another key, or move them to another key prefix",
		Long: "Seal all records, seal them with another key, or move them to another key prefix. Without --write nothing is\n" +
			"changed: it says what would be. Each record is compared and swapped, so what a bot writes meanwhile stays.\n" +
			"It can be interrupted or killed at any time, and run again. docs/cli.md has the order of steps.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage(errors.New("migrate what? encrypt, rotate, decrypt or prefix"))
		},
	}
	cmd.AddCommand(
		a.reseal("encrypt", "Seal the records that are in plain text, or sealed with an older key, with the current one",
			"The first of the encryption keys seals. All bots must write with it already (step 2 of docs/encryption.md).",
			func(current []byte, _ [][]byte) error {
				if current == nil {
					return errors.New("there is no current key: it is the first of SESSION_ENCRYPTION_KEYS")
				}
				return nil
			}),
		a.reseal("rotate", "Seal all records with the current key, so that the older ones can go",
			"The first of the encryption keys seals, the others open. All bots must write with it already (step 2 of\ndocs/encryption.md).",
			func(current []byte, older [][]byte) error {
				if current == nil || len(older) == 0 {
					return errors.New("rotating takes two keys: SESSION_ENCRYPTION_KEYS=new,old")
				}
				return nil
			}),
		a.reseal("decrypt", "Write all records in plain text, so that encryption can be switched off",
			"The encryption keys open. All bots must write plain text already (step 2 of docs/encryption.md).",
			func(current []byte, older [][]byte) error {
				if current != nil || len(older) == 0 {
					return errors.New("decrypting takes keys that are not current, as the bots have them: SESSION_ENCRYPTION_KEYS=,key")
				}
				return nil
			}),
		a.prefix(),
	)
	return cmd
}

// flags are those of all migrations.
func (m *migration) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&m.write, "write", false, "do it; without, it is a dry run")
	cmd.Flags().BoolVar(&m.force, "force", false, "do it although the running bots seem not to be ready for it")
	cmd.Flags().IntVar(&m.perSec, "rate", 0, "look at no more than this `number` of records a second; 0: as many as go")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// reseal is a migration that changes how records are sealed.
func (a *app) reseal(what, short, long string, check func(current []byte, older [][]byte) error) *cobra.Command {
	m := &migration{app: a, what: what, workers: besideBots}
	return m.flags(&cobra.Command{
		Use: what, Short: short, Long: short + ".\n" + long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			current, older, err := a.config.encryptionKeys()
			if err == nil {
				err = check(current, older)
			}
			if err != nil {
				return usage(err)
			}
			return m.run(cmd.Context(), func(ctx context.Context) error {
				if err := m.ready(ctx); err != nil {
					return err
				}
				return m.each(ctx, m.d.store.All(ctx), m.resealOne)
			})
		},
	})
}

// run opens everything, does what is to be done, and says what came of it, also if
// it was interrupted.
func (m *migration) run(ctx context.Context, do func(ctx context.Context) error) (err error) {
	if m.perSec < 0 {
		return usage(fmt.Errorf("--rate %d is negative", m.perSec))
	}
	if m.d, err = m.config.open(ctx, false); err != nil {
		return err
	}
	defer m.d.close()
	if m.perSec > 0 {
		m.limit = rate.NewLimiter(rate.Limit(m.perSec), 1)
	}
	m.result = migrated{Migration: m.what, Written: m.write, Reasons: map[string]int{}}
	began := time.Now()
	err = do(ctx)
	if m.bar != nil {
		_ = m.bar.Clear()
	}
	m.result.Seconds = time.Since(began).Seconds()
	if err != nil {
		if m.result.Records > 0 && !m.json {
			m.text(m.onErrOut())
		}
		if ctx.Err() != nil {
			return &exit{exitFailed, errors.New("interrupted: run it again to go on")}
		}
		return storeError(err)
	}
	if err := m.print(m.result, func() { m.text(m.app) }); err != nil {
		return err
	}
	if m.result.Left > 0 {
		return &exit{code: exitFailed}
	}
	return nil
}

// text says what came of it.
func (m *migration) text(a *app) {
	r := m.result
	verb := "would be changed; --write does it"
	if m.write {
		verb = "changed"
	}
	a.table(func(row func(...string)) {
		row("records", fmt.Sprint(r.Records))
		row(verb, fmt.Sprint(r.Changed))
		row("in order already", fmt.Sprint(r.Already))
		if r.Gone > 0 {
			row("gone meanwhile", fmt.Sprint(r.Gone))
		}
		if r.Trails > 0 {
			row("trails alone", fmt.Sprint(r.Trails))
		}
		row("left as they are", fmt.Sprint(r.Left))
		for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
			row("  "+clean(reason), fmt.Sprint(r.Reasons[reason]))
		}
		row("seconds", fmt.Sprintf("%.1f", r.Seconds))
	})
}

// onErrOut is the app with what it prints going where errors go.
func (m *migration) onErrOut() *app {
	a := *m.app
	a.out = &checked{w: a.errOut}
	return &a
}

// ready refuses to write what the running bots seem not to be able to read: they
// would take it for no session and write over it.
func (m *migration) ready(ctx context.Context) error {
	if !m.write || m.force {
		return nil
	}
	if err := m.rightKeys(ctx); err != nil {
		return err
	}
	bots, err := m.d.running(ctx)
	if err != nil || bots == 0 {
		return err
	}
	some := false
	for rec, err := range m.d.store.All(ctx) {
		if err != nil {
			return err
		}
		changed, err := m.d.svc.Reseal(ctx, rec, false)
		if err == nil && !changed {
			return nil // a bot writes so, or this is not the first run
		}
		some = some || err == nil
	}
	if !some {
		return nil
	}
	return &exit{exitFailed, fmt.Errorf("bots run (%d), and none has written a record as this would: they seem not to be at that step. "+
		"A bot that cannot read a record takes its user for logged out. Take the steps of docs/encryption.md first, or, "+
		"if all bots are there and have just not written yet, add --force. A mana-session watch counts as a bot", bots)}
}

// rightKeys refuses to seal what is in plain text with keys that open nothing, while
// most is sealed with others: those are the bots'.
func (m *migration) rightKeys(ctx context.Context) error {
	if m.what == "decrypt" {
		return nil
	}
	var read, plain, foreign int
	for rec, err := range m.d.store.All(ctx) {
		if err != nil {
			return err
		}
		switch _, err := m.d.svc.Reseal(ctx, rec, false); {
		case err == nil && isSealed(rec):
			return nil
		case err == nil:
			plain++
		case isSealed(rec):
			foreign++
		}
		if read++; read == sampled {
			break
		}
	}
	if plain == 0 || foreign <= plain {
		return nil
	}
	return &exit{exitFailed, fmt.Errorf("of %d records that were looked at, %d are sealed, none with a key that is given here, and %d are in plain text: "+
		"sealed with these keys, no bot could read them. Give the keys of the bots, or, if these are new and the others are lost, add --force", read, foreign, plain)}
}

// each calls do for all records, several at a time.
func (m *migration) each(ctx context.Context, records func(yield func(session.Record, error) bool), do func(ctx context.Context, rec session.Record) (outcome, string, error)) error {
	if m.shows && !m.json {
		stats, err := m.d.svc.Stats(ctx)
		if err != nil {
			return err
		}
		m.bar = progressbar.NewOptions(stats.Total, m.barOptions()...)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(m.workers)
	for rec, err := range records {
		if err == nil && m.limit != nil {
			err = m.limit.Wait(ctx)
		}
		if err == nil {
			err = ctx.Err() // one of them has failed
		}
		if err != nil {
			return cmp.Or(group.Wait(), err)
		}
		group.Go(func() error {
			what, why, err := do(ctx, rec)
			if err == nil {
				m.count(what, why)
			}
			return err
		})
	}
	return group.Wait()
}

// How wide a terminal must be for what the bar says to stay on one line, whose length
// the bar itself gives up first: with a million records, "rotate 100% || (1000000/1000000,
// 100000 records/s) [1m40s:1m40s]".
const (
	wideBar   = 68
	narrowBar = 48 // without the rate
)

// barOptions leave out what a narrow terminal would break over lines, so that each
// state of the bar stayed on the screen.
func (m *migration) barOptions() []progressbar.Option {
	options := []progressbar.Option{
		progressbar.OptionSetWriter(m.errOut), progressbar.OptionSetDescription(m.what), progressbar.OptionThrottle(100 * time.Millisecond),
	}
	width := widthOf(m.errOut)
	if width >= narrowBar {
		options = append(options, progressbar.OptionShowCount())
	}
	if width >= wideBar {
		options = append(options, progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"))
	}
	return append(options, progressbar.OptionSetPredictTime(width >= narrowBar), progressbar.OptionSetElapsedTime(width >= narrowBar))
}

func (m *migration) count(what outcome, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.result.Records++
	switch what {
	case done:
		m.result.Changed++
	case already:
		m.result.Already++
	case gone:
		m.result.Gone++
	case left:
		m.result.Left++
		m.result.Reasons[why]++
	}
	if m.bar != nil {
		_ = m.bar.Add(1)
	}
}

// resealOne seals one record anew, unless a bot is quicker: what that wrote is then
// looked at instead.
func (m *migration) resealOne(ctx context.Context, rec session.Record) (outcome, string, error) {
	for {
		changed, err := m.d.svc.Reseal(ctx, rec, m.write)
		switch {
		case err == nil && changed:
			return done, "", nil
		case err == nil:
			return already, "", nil
		case errors.Is(err, session.ErrStoreUnavailable), ctx.Err() != nil:
			return 0, "", err
		case !errors.Is(err, session.ErrConflict):
			return left, plain(err), nil
		}
		rec, err = m.d.store.Get(ctx, rec.UserID)
		if errors.Is(err, session.ErrNotFound) {
			return gone, "", nil
		}
		if err != nil {
			return 0, "", err
		}
	}
}
