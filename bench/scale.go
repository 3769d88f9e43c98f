package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mana/session/sessiontest"
)

// scale measures what sessions, refreshes, writes and processes cost as there are more
// of them, and where one Redis ends.
func scale(args []string) error {
	flags := flag.NewFlagSet("scale", flag.ExitOnError)
	sessions := flags.String("sessions", "1000,10000,100000,1000000", "numbers of sessions")
	processes := flags.String("processes", "1,10,50", "numbers of bot processes")
	writes := flags.Int("writes", 200, "writes a second")
	pause := flags.Duration("for", 10*time.Second, "how long each measurement takes")
	jsonFile := flags.String("json", "", "write the figures here as well")
	_ = flags.Parse(args)
	var findings []finding
	fmt.Println("| scenario | figure | value |\n|---|---|---|")
	counts, err := numbers(*sessions)
	if err != nil {
		return err
	}
	for _, n := range counts {
		err := withBench(fmt.Sprintf("%d sessions", n), func(b *bench) error {
			defer func() { findings = append(findings, b.findings...) }()
			return b.ofSessions(n)
		})
		if err != nil {
			return err
		}
	}
	counts, err = numbers(*processes)
	if err != nil {
		return err
	}
	for _, held := range []bool{false, true} {
		for _, n := range counts {
			name := fmt.Sprintf("%d processes, all changes told", n)
			if held {
				name = fmt.Sprintf("%d processes, held sessions alone", n)
			}
			err := withBench(name, func(b *bench) error {
				defer func() { findings = append(findings, b.findings...) }()
				return b.ofProcesses(n, held, *writes, *pause)
			})
			if err != nil {
				return err
			}
		}
	}
	return writeJSON(*jsonFile, findings)
}

func numbers(list string) (ns []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		ns = append(ns, n)
	}
	return ns, nil
}

// ofSessions measures what does not depend on how many processes there are.
func (b *bench) ofSessions(n int) error {
	ctx := context.Background()
	empty := b.redisMemory()
	if err := b.load(ctx, n); err != nil {
		return err
	}
	b.found("memory of Redis for a session", "%d bytes", (b.redisMemory()-empty)/n)

	began := time.Now()
	w, err := startWorkers(1, workerConfig{AuthURL: b.auth.URL, Redis: b.redis.Addr})
	if err != nil {
		return err
	}
	b.Cleanup(w.kill)
	first, err := w.do(order{User: fmt.Sprintf("@user%d:matrix.example", n/2), Callers: 1})
	if err != nil || len(first.Waits) != 1 {
		return fmt.Errorf("no first token: %w, %v", err, first.Errors)
	}
	b.found("process started → its first token, from a cold near cache", "%s, of which the call %s",
		time.Since(began).Round(time.Millisecond), first.Waits[0].Round(10*time.Microsecond))

	// Users who have no session yet get one by their link, which is a refresh and a write.
	const refreshes = 2000
	for i := range refreshes {
		b.auth.Link(fmt.Sprintf("@new%d:matrix.example", i), user0Email)
	}
	before, used, own := b.redisMemory(), b.redisCPU(), w[0].cpu()
	r, err := w.do(order{User: "@new%d:matrix.example", Callers: 4, Each: true, Users: refreshes})
	if err != nil || len(r.Errors) > 0 {
		return fmt.Errorf("refreshes: %w, %v", err, r.Errors)
	}
	if asked := b.auth.Calls(sessiontest.LinkFetch); asked != refreshes {
		return fmt.Errorf("%d calls of the auth server for %d refreshes", asked, refreshes)
	}
	b.found("CPU of Redis for a refresh", "%.0f µs", per(b.redisCPU()-used, refreshes))
	b.found("CPU of the bot for a refresh", "%.0f µs", per(w[0].cpu()-own, refreshes))
	b.found("memory of Redis for a session with its trail", "%d bytes", (b.redisMemory()-before)/refreshes)
	return nil
}

// ofProcesses measures what a write costs that all processes, or those that hold the
// session, are told of. Each user is served by 3 of the processes.
func (b *bench) ofProcesses(n int, held bool, rate int, d time.Duration) error {
	const users, holders = 2000, 3
	ctx := context.Background()
	if err := b.load(ctx, users); err != nil {
		return err
	}
	used := b.redisCPU()
	if err := b.write(ctx, users, rate, d); err != nil {
		return err
	}
	alone := b.redisCPU() - used
	ws, err := startWorkers(n, workerConfig{AuthURL: b.auth.URL, Redis: b.redis.Addr, Held: held})
	if err != nil {
		return err
	}
	b.Cleanup(ws.kill)
	if _, err := ws.do(order{User: "@nobody:matrix.example", Callers: 1, At: time.Now().Add(2 * time.Second)}); err != nil {
		return err
	}
	serve := func() error {
		share := min(users, users*holders/n)
		for i, w := range ws {
			o := order{User: "@user%d:matrix.example", Callers: 4, Each: true, First: i * users / n, Users: share, Of: users}
			if err := w.in.Encode(o); err != nil {
				return err
			}
		}
		r, err := ws.collect()
		if err == nil && len(r.Errors) > 0 {
			err = fmt.Errorf("errors: %v", r.Errors)
		}
		return err
	}
	if err := serve(); err != nil { // so that the sessions are held
		return err
	}
	used = b.redisCPU()
	time.Sleep(d)
	idle := b.redisCPU() - used
	used = b.redisCPU()
	if err := b.write(ctx, users, rate, d); err != nil {
		return err
	}
	told := b.redisCPU() - used - idle - alone
	used = b.redisCPU()
	began := time.Now()
	if err := serve(); err != nil {
		return err
	}
	again := b.redisCPU() - used - time.Duration(float64(idle)*time.Since(began).Seconds()/d.Seconds())
	writes := rate * int(d/time.Second)
	rss := 0
	for _, w := range ws {
		rss += w.rss()
	}
	b.found("CPU of Redis for a write, nobody told", "%.0f µs", per(alone, writes))
	b.found(fmt.Sprintf("for telling them, at %d writes/s", rate), "%.0f µs a write, %.1f %% of a core", per(told, writes), 100*told.Seconds()/d.Seconds())
	b.found("for reading all sessions again afterwards", "%.0f µs a session and holder", per(again, min(n, holders)*users))
	b.found("for the heartbeats", "%.1f %% of a core", 100*idle.Seconds()/d.Seconds())
	b.found("memory of a process", "%.1f MB", float64(rss)/float64(n)/1e6)
	return nil
}

// write changes sessions of some users at a rate.
func (b *bench) write(ctx context.Context, users, rate int, d time.Duration) error {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	token := b.auth.MintToken(user0Email, time.Now().Add(time.Hour))
	for i := range rate * int(d/time.Second) {
		<-tick.C
		value := fmt.Sprintf(`{"token":%q,"email":%q,"expiresAt":%q,"data":{"n":%d}}`, token, user0Email,
			time.Now().Add(24*time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"), i)
		if err := b.client.Set(ctx, fmt.Sprintf("bot:session:@user%d:matrix.example", rand.N(users)), value, 24*time.Hour).Err(); err != nil {
			return err
		}
	}
	return nil
}

func per(d time.Duration, n int) float64 { return float64(d.Microseconds()) / float64(n) }

func (b *bench) redisMemory() int {
	for line := range strings.Lines(b.redis.MustDo("INFO", "memory")) {
		if text, ok := strings.CutPrefix(line, "used_memory:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(text))
			return n
		}
	}
	return 0
}

// rss is the worker's resident memory in bytes.
func (w *worker) rss() int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", w.cmd.Process.Pid))
	fields := strings.Fields(string(status))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * syscall.Getpagesize()
}

// cpu is what the worker has used so far.
func (w *worker) cpu() time.Duration {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // the kernel counts in hundredths
}
