package telemetry

import "github.com/mana/session"

// Counter is a family of counters.
type Counter struct {
	Name   string // in snake_case, without prefix and suffix
	Help   string
	Unit   string // what is counted, as OpenTelemetry writes it
	Label  string // tells the series of the family apart; "" if there is only one
	Series []Series
}

// Series is one counter of a family.
type Series struct {
	Value string // of the family's label
	Of    func(session.Counters) int64
}

func single(of func(session.Counters) int64) []Series { return []Series{{Of: of}} }

// What describes the metrics that are no counters.
const (
	QueueLength       = "Logins, logouts and refreshes that wait for the store."
	StoreUp           = "1 if the store answered the last read and the last write of it, else 0."
	AuthUp            = "1 if the auth server answered the last call of it, else 0."
	OperationDuration = "How long logins, logouts and refreshes took, with all that they waited for."
	StoreDuration     = "How long single calls of the store took."
	AuthDuration      = "How long single calls of the auth server took."
)

// Counters are all counters of a Service.
func Counters() []Counter {
	type c = session.Counters
	return []Counter{
		{"token_requests", "Tokens served from memory (hit), or after a read of the store or a refresh (miss).", "{request}", "result", []Series{
			{"hit", func(c c) int64 { return c.Hits }},
			{"miss", func(c c) int64 { return c.Misses }},
		}},
		{"refresh_waits", "Callers who waited for a refresh that another caller had begun.", "{request}", "",
			single(func(c c) int64 { return c.Waits })},
		{"refreshes", "Tokens from the auth server, by the SSO-Link (new sessions included) or a refresh token.", "{refresh}", "source", []Series{
			{"link", func(c c) int64 { return c.RefreshesByLink }},
			{"refresh_token", func(c c) int64 { return c.RefreshesByToken }},
		}},
		{"refreshes_ahead", "Refreshes, of both kinds, that no caller waited for.", "{refresh}", "",
			single(func(c c) int64 { return c.RefreshesAhead })},
		{"refresh_failures", "Refreshes that came to nothing.", "{refresh}", "reason", []Series{
			{"unavailable", func(c c) int64 { return c.FailedUnavailable }},
			{"service_key_rejected", func(c c) int64 { return c.FailedServiceKey }},
			{"not_linked", func(c c) int64 { return c.FailedNotLinked }},
		}},
		{"sessions_ended", "Sessions ended by the auth server's clear no.", "{session}", "",
			single(func(c c) int64 { return c.SessionsEnded })},
		{"logins", "Logins that made a session.", "{login}", "",
			single(func(c c) int64 { return c.Logins })},
		{"login_failures", "Logins that did not, refused for their number included.", "{login}", "",
			single(func(c c) int64 { return c.LoginFailures })},
		{"logouts", "Logouts.", "{logout}", "",
			single(func(c c) int64 { return c.Logouts })},
		{"store_errors", "Calls of the store that failed.", "{error}", "",
			single(func(c c) int64 { return c.StoreErrors })},
		{"unreadable_records", "Records read that were no sessions: damaged, foreign, or sealed with a missing key.", "{record}", "",
			single(func(c c) int64 { return c.Unreadable })},
		{"queue_writes", "Writes that had waited for the store: stored, of no use because the store held something newer, or lost.", "{write}", "result", []Series{
			{"written_back", func(c c) int64 { return c.WrittenBack }},
			{"overtaken", func(c c) int64 { return c.Overtaken }},
			{"dropped", func(c c) int64 { return c.Dropped }},
		}},
		{"end_notices", "Ends of sessions for WithOnSessionEnd: told, or dropped because too many waited.", "{session}", "result", []Series{
			{"told", func(c c) int64 { return c.EndsTold }},
			{"dropped", func(c c) int64 { return c.EndsDropped }},
		}},
	}
}

// The upper bounds of the buckets of the histograms, in seconds.

// OperationBuckets are those for logins, logouts and refreshes.
func OperationBuckets() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// StoreBuckets are those for calls of the store.
func StoreBuckets() []float64 {
	return []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
}

// AuthBuckets are those for calls of the auth server.
func AuthBuckets() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}
