package console

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mana/session"
)

// card is one part of the state of things.
type card struct {
	Name  string
	State string // in a word or two
	Good  bool
	Lines []string
}

type tally struct{ Name, Count, Note string }

func (v visit) serveOverview() {
	state := v.svc.State()
	h, _, ok := v.health.now(v.r.Context())
	counters := v.svc.Counters()
	past := v.history.lastHour()
	page := struct {
		frame
		Query    string
		ByEnd    bool
		Summary  string
		Good     bool
		Cards    []card
		Charts   []chart
		Minutes  []row
		Measured string
		Tallies  []tally
	}{
		frame: v.frame("Overview", "overview"), Good: ok && !h.Degraded && !state.Closed && (state.FeedTrusted || !state.Watches),
		Charts: charts(past), Minutes: rows(past),
		Measured: span(time.Since(past[0].Begin)), Tallies: tallies(counters),
	}
	if ok {
		page.Cards = []card{storeCard(h.Store, state), authCard(h.Auth, state)}
	}
	page.Cards = append(page.Cards, feedCard(state), queueCard(counters))
	page.Summary = summary(page.Cards, state, ok)
	v.show(http.StatusOK, "overview.html", page)
}

func summary(cards []card, state session.State, probed bool) string {
	switch {
	case state.Closed:
		return "The service has been closed: it serves nobody any more."
	case !probed:
		return "The health of the store and the auth server is not known just now."
	}
	var bad []string
	for _, c := range cards {
		if !c.Good {
			bad = append(bad, c.Name)
		}
	}
	if len(bad) == 0 {
		return "All is well."
	}
	return "Degraded: see " + strings.ToLower(strings.Join(bad, ", ")) + ". No session ends over it."
}

func storeCard(h session.ComponentHealth, state session.State) card {
	c := componentCard("Store", h, "Kept in "+map[string]string{"memory": "memory: a restart logs everybody out", "redis": "Redis"}[state.StorageMode])
	if state.StorageMode == "custom" {
		c.Lines[0] = "Kept in a store of the bot's own"
	}
	if !h.OK {
		c.Lines = append(c.Lines, "Users whom this process knows are served from memory, others are turned away")
	}
	return c
}

func authCard(h session.ComponentHealth, state session.State) card {
	link := "The SSO-Link is off"
	if state.SSOLinkEnabled {
		link = "The SSO-Link is on"
	}
	c := componentCard("Auth server", h, link)
	switch {
	case state.BreakerOpen:
		c.Lines = append(c.Lines, "Circuit breaker: open. It is not asked for some seconds, after failures in a row")
	case state.LoginsStopped:
		c.Lines = append(c.Lines, "Circuit breaker: open for logins")
	default:
		c.Lines = append(c.Lines, "Circuit breaker: closed")
	}
	if !h.OK {
		c.Lines = append(c.Lines, "Tokens that live are served; those that have run out cannot be replaced")
	}
	return c
}

func componentCard(name string, h session.ComponentHealth, first string) card {
	c := card{Name: name, State: "Failing", Good: h.OK, Lines: []string{first}}
	if h.OK {
		c.State = "Answers"
	}
	since := moment{h.Since}
	c.Lines = append(c.Lines, fmt.Sprintf("Since %s, %s", since.Human(), since.Away()))
	if h.Latency > 0 {
		c.Lines = append(c.Lines, "Last call: "+latency(h.Latency))
	}
	if h.LastError != "" {
		c.Lines = append(c.Lines, "Last error: "+strings.TrimPrefix(h.LastError, "session: "))
	}
	return c
}

func feedCard(state session.State) card {
	switch {
	case !state.Watches:
		return card{"Change feed", "None", true, []string{"The store has none, or the near cache is off: each token is read from the store"}}
	case state.FeedTrusted:
		return card{"Change feed", "Heard", true, []string{"Tokens are served from memory"}}
	default:
		return card{"Change feed", "Silent", false, []string{"Each token is read from the store, until changes by others are heard of again"}}
	}
}

func queueCard(c session.Counters) card {
	if c.Queued == 0 {
		return card{"Queue", "Empty", true, []string{"No login, logout or refresh waits for the store"}}
	}
	return card{"Queue", some(c.Queued, "write") + " waiting", false, []string{
		"Logins, logouts and refreshes that are stored when the store is back, and lost if this process ends before",
	}}
}

func tallies(c session.Counters) []tally {
	return []tally{
		{"Hits", count(c.Hits), "Tokens served from memory"},
		{"Misses", count(c.Misses), "Tokens that took a read of the store, or a refresh"},
		{"Waits", count(c.Waits), "Callers who waited for a refresh that another had begun"},
		{"Refreshes by link", count(c.RefreshesByLink), "Tokens from the SSO-Link"},
		{"Refreshes by token", count(c.RefreshesByToken), "Tokens from refresh tokens"},
		{"Refreshes ahead", count(c.RefreshesAhead), "Refreshes of both kinds that nobody waited for"},
		{"Refreshes failed: unavailable", count(c.FailedUnavailable), "Outages, time-outs, unusable answers"},
		{"Refreshes failed: service key", count(c.FailedServiceKey), "The auth server does not accept the service key"},
		{"Refreshes failed: not linked", count(c.FailedNotLinked), "Nothing to refresh with: the user is asked to log in"},
		{"Sessions ended", count(c.SessionsEnded), "By the auth server’s clear no"},
		{"Logins", count(c.Logins), ""},
		{"Logins failed", count(c.LoginFailures), "Wrong passwords and too many logins included"},
		{"Logouts", count(c.Logouts), ""},
		{"Store errors", count(c.StoreErrors), ""},
		{"Unreadable records", count(c.Unreadable), "They were no sessions, or sealed with a key that this bot lacks"},
		{"Written back", count(c.WrittenBack), "Logins, logouts and refreshes stored when the store was back"},
		{"Overtaken", count(c.Overtaken), "Of those that waited: of no use, because the store held something newer"},
		{"Dropped", count(c.Dropped), "Of those that waited: lost, see the log"},
		{"Ends told", count(c.EndsTold), "Sessions that ended although their users did not log out, of which the bot was told"},
		{"Ends not told", count(c.EndsDropped), "Of which it was not, see the log"},
	}
}
