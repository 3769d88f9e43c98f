package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mana/session"
)

// state is the JSON of status.
type state struct {
	Store component `json:"store"`
	Auth  component `json:"auth"`
	Feed  feedState `json:"feed"`

	SSOLink  bool   `json:"ssoLink"` // there is a service key
	Sessions *int   `json:"sessions"`
	Aside    *aside `json:"beside"`
}

type component struct {
	OK      bool    `json:"ok"`
	Address string  `json:"address"`
	Latency float64 `json:"latencyMilliseconds"`
	Error   string  `json:"error,omitempty"`
}

// feedState is which notices of changes there are.
type feedState struct {
	Kind  string `json:"kind"` // tracking, pubsub, or none
	Error string `json:"error,omitempty"`
}

// asking is how long status waits for answers.
const asking = 5 * time.Second

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how the store, the auth server and the change feed are, and count the sessions",
		Long: "Show how the store, the auth server and the change feed are, and count what is on Redis. Writes that wait for\n" +
			"the store wait in the bots (Health.Queued there): they cannot be seen from here. Exit code 4 or 5: the store,\n" +
			"or the auth server, is not well.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.doStatus(cmd.Context()) },
	}
}

func (a *app) doStatus(ctx context.Context) error {
	d, err := a.config.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.close()
	limited, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	key, _ := a.config.serviceKey() // open has read it, too
	health := d.svc.Health(limited)
	s := state{
		Store: componentOf(health.Store, d.name), Auth: componentOf(health.Auth, a.config.authServer()),
		SSOLink: key != "",
		Feed:    feedState{Kind: "none", Error: "the store does not answer"},
	}
	_, err = d.store.Get(limited, probeUser)
	reached := err == nil || errors.Is(err, session.ErrNotFound)
	if reached {
		stats, err := d.svc.Stats(ctx)
		if err == nil {
			s.Sessions = &stats.Active
			var beside aside
			if beside, err = d.countAside(ctx); err == nil {
				s.Aside = &beside
			}
		}
		s.Feed = d.feedKind(limited) // which itself has a heartbeat
		if err != nil {
			s.Store.OK, s.Store.Error = false, plain(err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := a.print(s, func() { a.statusText(s) }); err != nil {
		return err
	}
	switch {
	case !s.Store.OK:
		return &exit{code: exitStore}
	case !s.Auth.OK:
		return &exit{code: exitAuth}
	}
	return nil
}

func componentOf(h session.ComponentHealth, address string) component {
	c := component{OK: h.OK, Address: address, Latency: float64(h.Latency.Microseconds()) / 1000}
	if !h.OK {
		c.Error = plain(errors.New(h.LastError))
	}
	return c
}

func (a *app) statusText(s state) {
	well := func(c component) string {
		if c.OK {
			return fmt.Sprintf("%s, %.1f ms, %s", a.colored(green, "ok"), c.Latency, clean(c.Address))
		}
		return fmt.Sprintf("%s, %s: %s", a.colored(red, "not ok"), clean(c.Address), clean(c.Error))
	}
	a.table(func(row func(...string)) {
		row("store", well(s.Store))
		row("auth server", well(s.Auth))
		switch s.Feed.Kind {
		case "tracking":
			row("change feed", a.colored(green, "tracking")+": bots serve from memory")
		case "pubsub":
			row("change feed", a.colored(yellow, "Pub/Sub")+": bots believe what they hold for 1 s at most; see mana-session doctor")
		default:
			row("change feed", a.colored(red, "none")+": "+clean(s.Feed.Error))
		}
		row("SSO-Link", map[bool]string{true: "on", false: "off: no service key"}[s.SSOLink])
		if s.Sessions != nil {
			row("sessions", fmt.Sprint(*s.Sessions))
		}
		if s.Aside != nil {
			row("bots", fmt.Sprintf("%d with a change feed", s.Aside.Bots))
			row("leases", fmt.Sprintf("%d held, or just released", s.Aside.Leases))
			row("trails", fmt.Sprint(s.Aside.Trails))
			row("logout notes", fmt.Sprint(s.Aside.Fences))
		}
		row("queue", "writes that wait for the store wait in the bots: see Health.Queued there")
	})
}
