package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
)

// level is how bad a finding is.
type level string

const (
	fine    level = "ok"
	warning level = "warning" // works, but not as it should
	fault   level = "error"
)

// finding is what doctor found out about one thing.
type finding struct {
	Check  string `json:"check"`
	Level  level  `json:"level"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`

	code int // of a fault
}

// examined is the JSON of doctor.
type examined struct {
	Findings []finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
}

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Look for faults of the setup, each with a remedy",
		Long: "Look for faults of the setup, each with a remedy: Redis (reachable, version, permissions, memory, eviction, Cluster,\n" +
			"change feed, clock), records that cannot be read, the auth server (URL, service key, clock). It changes nothing.\n" +
			"Exit code 4 or 5: Redis, or the auth server, cannot be used; 1: another error. Warnings are no errors.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.doDoctor(cmd.Context()) },
	}
}

func (a *app) doDoctor(ctx context.Context) error {
	d, err := a.config.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.close()
	e := examined{Findings: d.examineRedis(ctx)}
	e.Findings = append(e.Findings, a.config.examineAuth(ctx)...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	code := exitOK
	for _, f := range e.Findings {
		switch f.Level {
		case warning:
			e.Warnings++
		case fault:
			e.Errors++
			if code == exitOK {
				code = max(f.code, exitFailed)
			}
		}
	}
	if err := a.print(e, func() { a.doctorText(e) }); err != nil {
		return err
	}
	if code != exitOK {
		return &exit{code: code}
	}
	return nil
}

func (a *app) doctorText(e examined) {
	colors := map[level]string{fine: green, warning: yellow, fault: red}
	for _, f := range e.Findings {
		a.printf("%s  %s: %s\n", a.colored(colors[f.Level], fmt.Sprintf("%-7s", f.Level)), f.Check, clean(f.Found))
		if f.Remedy != "" {
			a.printf("         %s\n", clean(f.Remedy))
		}
	}
	a.printf("\n%d errors, %d warnings\n", e.Errors, e.Warnings)
}

// patience is how long doctor waits for one answer.
const patience = 4 * time.Second

// examineRedis is everything about the store. Without a connection there is one finding.
func (d *deployment) examineRedis(ctx context.Context) []finding {
	reached := d.examineConnection(ctx)
	found := []finding{reached}
	if reached.Level == fault {
		return found
	}
	found = append(found, d.examinePermissions(ctx))
	found = append(found, d.examineServers(ctx)...)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	bots, botsErr := d.running(limited) // before the feed below, which counts as one
	found = append(found, d.examineFeed(limited), d.examineRecords(ctx))
	if botsErr == nil {
		found = append(found, finding{Check: "bots", Level: fine, Found: fmt.Sprintf("%d with a change feed under %s", bots, d.keys.Prefix())})
	}
	return found
}

// slow is more than a Redis nearby takes to answer, whatever it does.
const slow = 200 * time.Millisecond

const lookAtLoad = "Look at its load (SLOWLOG GET, LATENCY LATEST, INFO commandstats), and at the network."

// ping is the shortest of a few round trips, less what the first takes to connect.
func (d *deployment) ping(ctx context.Context) (shortest time.Duration, err error) {
	shortest = patience
	for range 3 {
		began := time.Now()
		err := d.client.Ping(ctx).Err()
		if err != nil && !strings.HasPrefix(err.Error(), "NOPERM") {
			return 0, err
		}
		shortest = min(shortest, time.Since(began))
	}
	return shortest, nil
}

func (d *deployment) examineConnection(ctx context.Context) finding {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	took, err := d.ping(limited)
	if single, ok := d.client.(*redis.Client); ok && err == nil {
		if fields, _ := serverInfo(limited, single); fields["redis_mode"] == "sentinel" {
			return finding{Check: "Redis", Level: fault, code: exitStore, Found: d.name + " is a Sentinel", Remedy: "Name the master that it looks after: --sentinel-master NAME."}
		}
	}
	if err == nil {
		f := finding{Check: "Redis", Level: fine, Found: fmt.Sprintf("%s answers in %.1f ms", d.name, took.Seconds()*1000)}
		if took > slow {
			f.Level, f.Remedy = warning, "That is slow: logins, misses and refreshes wait for it several times. "+lookAtLoad
		}
		return f
	}
	f := finding{Check: "Redis", Level: fault, Found: d.name + ": " + plain(err), code: exitStore}
	switch text := err.Error(); {
	case strings.Contains(text, "NOAUTH"), strings.Contains(text, "WRONGPASS"):
		f.Remedy = "Redis wants other credentials: REDIS_URL=redis://user:password@host, REDIS_PASSWORD or --redis-password-file, as the bots have them."
	case strings.Contains(text, "LOADING"):
		f.Remedy = "Redis is reading its data from disk: wait. Bots serve what they know meanwhile."
	case strings.Contains(text, "refused"), strings.Contains(text, "no such host"):
		f.Remedy = "Is Redis running, and are host and port right? Bots serve what they know, and keep what they write until it is back."
	case strings.Contains(text, "cluster support disabled"):
		f.Remedy = "This Redis is no Cluster: leave --cluster out."
	case strings.Contains(text, "unknown command 'sentinel'"):
		f.Remedy = "There is no Sentinel at that address: name one, or leave --sentinel-master out."
	case strings.Contains(text, "all sentinels"):
		f.Remedy = "No Sentinel there knows a master of that name (redis-cli -p 26379 SENTINEL MASTERS lists them), or none of them can be reached."
	case strings.Contains(text, "tls:"), strings.Contains(text, "x509:"):
		f.Remedy = "Redis speaks no TLS, or has a certificate that this machine does not trust: redis:// is without, rediss:// with TLS."
	case limited.Err() != nil, errors.Is(err, context.DeadlineExceeded), strings.Contains(text, "timeout"):
		f.Remedy = "Redis takes connections and does not answer, or a firewall swallows them, or one of the two expects TLS (rediss://) and the other does not. " +
			lookAtLoad + " And see whether it is frozen."
	case errors.Is(err, io.EOF), strings.Contains(text, "reset by peer"):
		f.Remedy = "Something answers there that is no Redis, or one with TLS: rediss:// then."
	default:
		f.Remedy = "Try the same address with redis-cli."
	}
	return f
}

// examineFeed tries the change feed as a bot does.
func (d *deployment) examineFeed(ctx context.Context) finding {
	switch feed := d.feedKind(ctx); feed.Kind {
	case "tracking":
		return finding{Check: "change feed", Level: fine, Found: "CLIENT TRACKING works: bots serve from memory"}
	case "pubsub":
		return finding{Check: "change feed", Level: warning,
			Found:  "CLIENT TRACKING is refused or swallowed: bots believe what they hold for 1 s at most, and read Redis the more often",
			Remedy: "Permit it (+client|tracking in the ACL), and connect to Redis itself rather than through a proxy that speaks RESP2 alone."}
	default:
		return finding{Check: "change feed", Level: fault, Found: "no feed: " + feed.Error,
			Remedy: "Bots read Redis at every call. See what else is wrong here."}
	}
}

// sampled is how many records doctor reads.
const sampled = 1000

// examineRecords reads a sample of the records as a bot does that has this program's
// keys.
func (d *deployment) examineRecords(ctx context.Context) finding {
	var read, sealed, otherwise int
	unread := make(map[string]int)
	for rec, err := range d.store.All(ctx) {
		if err != nil {
			f := finding{Check: "records", Level: fault, Found: plain(err), code: exitStore, Remedy: "They cannot be listed: see what else is wrong here."}
			if strings.Contains(f.Found, "NOPERM") {
				f.Remedy = "Counting and listing take +scan and +getrange."
			}
			return f
		}
		read++
		changed, err := d.svc.Reseal(ctx, rec, false)
		switch {
		case err != nil:
			unread[plain(err)]++
		case changed:
			otherwise++
		case isSealed(rec):
			sealed++
		}
		if read == sampled {
			break
		}
	}
	f := finding{Check: "records", Level: fine, Found: fmt.Sprintf("%d read, all are sessions; %d sealed with the current key", read, sealed)}
	switch {
	case read == 0:
		return finding{Check: "records", Level: warning, Found: "there is no record under " + d.keys.Prefix(),
			Remedy: "If there should be, compare database and key prefix (--key-prefix) with the bots'."}
	case len(unread) > 0:
		f.Level, f.Found = fault, fmt.Sprintf("of %d read, some are no sessions to this program:", read)
		for reason, n := range unread {
			f.Found += fmt.Sprintf(" %d (%s)", n, reason)
		}
		f.Remedy = "Give this program and all bots the same SESSION_ENCRYPTION_KEYS. What is sealed with none of them, or was written by other software, is lost: its user logs in again."
	case otherwise > 0:
		f.Level, f.Found = warning, fmt.Sprintf("of %d read, %d are not sealed as this program's keys say", read, otherwise)
		f.Remedy = "When all bots have taken step 2 of docs/encryption.md: mana-session migrate encrypt, rotate or decrypt."
	}
	return f
}
