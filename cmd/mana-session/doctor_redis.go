package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// doctorUser is a user who has nothing on Redis.
const doctorUser = "@doctor.probe:invalid"

// examinePermissions tries what bots do, on the keys of a user who has none, in ways
// that change nothing.
func (d *deployment) examinePermissions(ctx context.Context) finding {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	record, trail := d.keys.Record(doctorUser), d.keys.Trail(doctorUser)
	tries := []struct {
		command string
		args    []any
	}{
		{"getrange", []any{"getrange", record, 0, 0}},
		{"pttl", []any{"pttl", record}},
		{"set", []any{"set", record, "", "xx", "px", 1}}, // only over what is there
		{"set", []any{"set", trail, "", "xx", "px", 1}},
		{"pexpire", []any{"pexpire", record, 1}},
		{"del", []any{"del", d.keys.Lease(doctorUser)}},
		{"del", []any{"del", d.keys.Fence(doctorUser)}},
		{"eval", []any{"eval", "return redis.call('GETRANGE', KEYS[1], 0, 0)", 1, record}},
		{"evalsha", []any{"evalsha", strings.Repeat("0", 40), 0}},
		{"scan", []any{"scan", 0, "match", d.keys.Pattern(), "count", 1}},
		{"publish", []any{"publish", d.keys.Channel(), "changed:" + doctorUser}},
	}
	var missing []string
	patterns := func(sign string) string { return sign + strings.Join(d.keys.Patterns(), " "+sign) }
	pipe := d.client.Pipeline() // one round trip, should Redis be slow
	tried := make([]*redis.Cmd, len(tries))
	for i, try := range tries {
		if _, cluster := d.client.(*redis.ClusterClient); cluster && try.command == "evalsha" {
			tried[i] = redis.NewCmd(limited) // would go to any node
			continue
		}
		tried[i] = pipe.Do(limited, try.args...)
	}
	_, _ = pipe.Exec(limited) // each command is asked for its own error
	for i, try := range tries {
		err := tried[i].Err()
		switch text := fmt.Sprint(err); {
		case err == nil, errors.Is(err, redis.Nil), strings.HasPrefix(text, "NOSCRIPT"), strings.HasPrefix(text, "WRONGTYPE"):
		case strings.HasPrefix(text, "NOPERM") && strings.Contains(text, "channel"):
			missing = append(missing, patterns("&"))
		case strings.HasPrefix(text, "NOPERM") && strings.Contains(text, " key"):
			missing = append(missing, patterns("~"))
		case strings.HasPrefix(text, "NOPERM"):
			missing = append(missing, "+"+try.command)
		case strings.HasPrefix(text, "READONLY"):
			return finding{Check: "permissions", Level: fault, code: exitStore, Found: "this Redis is a replica, which takes no writes",
				Remedy: "Name the master, or let Sentinel find it (--sentinel-master). After a failover, the address may be that of the old master."}
		case strings.HasPrefix(text, "OOM"):
			return finding{Check: "permissions", Level: fault, code: exitStore, Found: "Redis is full, and takes no writes: " + text,
				Remedy: "Give it more memory (CONFIG SET maxmemory). Bots keep what they write until there is room."}
		case strings.HasPrefix(text, "MISCONF"):
			return finding{Check: "permissions", Level: fault, code: exitStore, Found: "Redis takes no writes because it cannot save to disk: " + text,
				Remedy: "Look at its log and the disk."}
		case strings.HasPrefix(text, "MOVED"):
			return finding{Check: "permissions", Level: fault, code: exitStore, Found: "this Redis is a node of a Cluster, and is not treated as one",
				Remedy: "Add --cluster; bots need a redis.ClusterClient."}
		case strings.HasPrefix(text, "CLUSTERDOWN"):
			return finding{Check: "permissions", Level: fault, code: exitStore, Found: "not known: " + text, Remedy: "See what is said of the Cluster."}
		case limited.Err() != nil:
			return finding{Check: "permissions", Level: fault, code: exitStore, Found: fmt.Sprintf("not known: Redis took more than %s for some small commands", patience), Remedy: lookAtLoad}
		case !isReply(err):
			return finding{Check: "permissions", Level: fault, code: exitStore, Found: "not known: " + plain(err), Remedy: "See what is said of the servers, or of the Cluster."}
		default:
			return finding{Check: "permissions", Level: fault, code: exitStore, Found: strings.ToUpper(try.command) + ": " + plain(err),
				Remedy: "Try the command with redis-cli."}
		}
	}
	if len(missing) > 0 {
		return finding{Check: "permissions", Level: fault, Found: "the Redis user may not: " + strings.Join(unique(missing), " "),
			Remedy: "Grant what docs/operations.md lists, for the keys " + patterns("~") + ": ACL SETUSER NAME " + strings.Join(unique(missing), " ")}
	}
	return finding{Check: "permissions", Level: fine, Found: "all commands that bots need are permitted"}
}

// isReply reports whether a server has answered, if with an error.
func isReply(err error) bool {
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

func unique(list []string) []string {
	var once []string
	seen := make(map[string]bool)
	for _, s := range list {
		if !seen[s] {
			once = append(once, s)
		}
		seen[s] = true
	}
	return once
}

// examineServers looks at each master.
func (d *deployment) examineServers(ctx context.Context) []finding {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var mu sync.Mutex
	var found []finding
	err := d.masters(limited, func(ctx context.Context, master *redis.Client) error {
		findings := d.examineServer(ctx, master)
		mu.Lock()
		defer mu.Unlock()
		found = append(found, findings...)
		return nil
	})
	if err != nil {
		found = append(found, finding{Check: "servers", Level: fault, code: exitStore, Found: err.Error(), Remedy: "Are the addresses those of a Cluster?"})
	}
	if cluster, ok := d.client.(*redis.ClusterClient); ok {
		found = append(found, examineCluster(limited, cluster))
	}
	return found
}

// examineServer looks at one master, which is named if there are several.
func (d *deployment) examineServer(ctx context.Context, master *redis.Client) []finding {
	name := ""
	if _, several := d.client.(*redis.ClusterClient); several {
		name = master.Options().Addr + ": "
		if err := master.Ping(ctx).Err(); err != nil && !strings.HasPrefix(err.Error(), "NOPERM") {
			return []finding{{
				Check: "server", Level: fault, code: exitStore, Found: name + plain(err),
				Remedy: "Is this node running, and can it be reached from here? Until another takes its place, its users are served as in an outage.",
			}}
		}
	}
	findings := []finding{examineClock(ctx, master)}
	if fields, err := serverInfo(ctx, master); err != nil {
		findings = append(findings, finding{Check: "server", Level: warning,
			Found:  "INFO: " + plain(err) + ": version, memory and eviction are not known",
			Remedy: "Permit this program's user +info, or look at INFO memory as another."})
	} else {
		findings = append(findings, d.examineInfo(fields)...)
	}
	for i := range findings {
		findings[i].Found = name + findings[i].Found
	}
	return findings
}

func (d *deployment) examineInfo(fields info) []finding {
	found := []finding{examineVersion(fields), examineEviction(fields)}
	if _, cluster := d.client.(*redis.ClusterClient); !cluster && fields["cluster_enabled"] == "1" {
		found = append(found, finding{Check: "Cluster", Level: fault, code: exitStore, Found: "this Redis is a node of a Cluster, and is not treated as one",
			Remedy: "Add --cluster; bots need a redis.ClusterClient."})
	}
	if fields["role"] == "slave" {
		found = append(found, finding{Check: "role", Level: fault, code: exitStore, Found: "this Redis is a replica",
			Remedy: "Name the master, or let Sentinel find it (--sentinel-master)."})
	}
	return found
}

func examineVersion(fields info) finding {
	version := fields["redis_version"]
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 {
		return finding{Check: "version", Level: fault, Found: "Redis " + version, Remedy: "The package needs Redis 7.0 or later."}
	}
	return finding{Check: "version", Level: fine, Found: "Redis " + version}
}

// nearlyFull is the part of maxmemory from which on it is time to do something.
const nearlyFull = 0.9

func examineEviction(fields info) finding {
	policy, evicted := fields["maxmemory_policy"], fields.int("evicted_keys")
	used, most := fields.int("used_memory"), fields.int("maxmemory")
	const remedy = "CONFIG SET maxmemory-policy noeviction, and in redis.conf: what Redis evicts is a user who has to log in again."
	switch {
	case evicted > 0:
		return finding{Check: "eviction", Level: fault, Found: fmt.Sprintf("Redis has evicted %d keys since its start (maxmemory-policy %s)", evicted, policy),
			Remedy: remedy + " And give it more memory."}
	case policy != "" && policy != "noeviction" && most > 0:
		return finding{Check: "eviction", Level: fault, Found: "maxmemory-policy is " + policy + ": when memory is short, sessions go", Remedy: remedy}
	case policy != "" && policy != "noeviction":
		return finding{Check: "eviction", Level: warning, Found: "maxmemory-policy is " + policy + ", of no effect while maxmemory is 0", Remedy: remedy}
	case most > 0 && float64(used) > nearlyFull*float64(most):
		return finding{Check: "eviction", Level: warning, Found: fmt.Sprintf("%d of %d MiB are in use, and when there is no more, writes are refused", used>>20, most>>20),
			Remedy: "Give Redis more memory (CONFIG SET maxmemory)."}
	}
	return finding{Check: "eviction", Level: fine, Found: "maxmemory-policy noeviction, nothing evicted"}
}

// clocksDiffer is how far clocks may be apart before it is worth a word.
const clocksDiffer = 5 * time.Second

func examineClock(ctx context.Context, server *redis.Client) finding {
	began := time.Now()
	at, err := server.Time(ctx).Result()
	if err != nil {
		return finding{Check: "clock of Redis", Level: warning, Found: "not known: " + err.Error(), Remedy: "Permit this program's user +time, or compare by hand."}
	}
	return judgeRedisClock(at.Sub(began.Add(time.Since(began) / 2)))
}

func judgeRedisClock(apart time.Duration) finding {
	if apart.Abs() > clocksDiffer {
		return finding{Check: "clock of Redis", Level: warning, Found: fmt.Sprintf("%s from this machine's", apart.Round(time.Millisecond)),
			Remedy: "Sessions do not suffer, because TTLs are relative, but one of the two is wrong: if it is the bots' machine, tokens are judged wrongly. Run NTP."}
	}
	return finding{Check: "clock of Redis", Level: fine, Found: fmt.Sprintf("%s from this machine's", apart.Round(time.Millisecond))}
}

func examineCluster(ctx context.Context, cluster *redis.ClusterClient) finding {
	text, err := cluster.ClusterInfo(ctx).Result()
	if err != nil {
		return finding{Check: "Cluster", Level: warning, Found: "not known: " + err.Error(), Remedy: "Permit this program's user +cluster|info."}
	}
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[name] = value
	}
	switch {
	case fields["cluster_state"] != "ok":
		return finding{Check: "Cluster", Level: fault, code: exitStore,
			Found:  fmt.Sprintf("state %s, %s of 16384 slots served, %s failed", fields["cluster_state"], fields["cluster_slots_ok"], fields["cluster_slots_fail"]),
			Remedy: "redis-cli --cluster check HOST:PORT says which master is missing. With cluster-require-full-coverage no the others go on serving."}
	case fields["cluster_slots_ok"] != "16384":
		return finding{Check: "Cluster", Level: fault, code: exitStore, Found: fields["cluster_slots_ok"] + " of 16384 slots are served",
			Remedy: "redis-cli --cluster check HOST:PORT, then --cluster fix."}
	}
	return finding{Check: "Cluster", Level: fine, Found: fmt.Sprintf("state ok, all slots served by %s masters", fields["cluster_size"])}
}
