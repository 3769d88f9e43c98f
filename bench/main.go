// Bench measures package session: beside its peers, and over processes.
//
//	go run . peers     [-count 8] [-benchtime 300ms] [-json FILE]
//	go run . processes [-only NAME] [-json FILE]
//	go run . count     [-sessions 1000000] [-runs 5] [-json FILE]
//
// The first runs the Go benchmarks of this folder, interleaved, and prints
// medians and ratios. The second starts its own redis-server, auth server and
// bot processes on loopback and prints what their users would notice. The third
// fills a redis-server of its own and counts and lists its sessions.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if os.Getenv(workerEnv) != "" {
		work()
		return
	}
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case "peers":
		err = peers(os.Args[2:])
	case "processes":
		err = processes(os.Args[2:])
	case "count":
		err = count(os.Args[2:])
	default:
		err = fmt.Errorf("usage: go run . peers|processes|count [flags]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// group is a benchmark function whose results are compared with one of them.
type group struct {
	name, reference string
}

var groups = []group{
	{"Hit", "aws CredentialsCache (one value)"},
	{"Redis", "plain GET"},
	{"Auth", "rueidisaside miss"},
}

// figure is one benchmark: the runs and their median.
type figure struct {
	Group, Name, Mode string
	Runs              []float64 // ns per operation
	Median            float64
	Ratio             float64 // to the group's reference in the same mode; 0: none
	Allocs            int
}

func peers(args []string) error {
	flags := flag.NewFlagSet("peers", flag.ExitOnError)
	count := flags.Int("count", 8, "interleaved runs")
	benchtime := flags.String("benchtime", "300ms", "of each benchmark and run")
	jsonFile := flags.String("json", "", "write the figures here as well")
	_ = flags.Parse(args)

	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "bench.test")
	if out, err := exec.Command("go", "test", "-c", "-o", binary, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var figures []*figure
	for i := range *count {
		for _, g := range groups {
			fmt.Fprintf(os.Stderr, "\rrun %d of %d: %-8s", i+1, *count, g.name)
			cmd := exec.Command(binary, "-test.run", "^$", "-test.bench", "^Benchmark"+g.name+"$", "-test.benchtime", *benchtime)
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				figures = collect(figures, line)
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	compare(figures)
	printTable(figures)
	return writeJSON(*jsonFile, figures)
}

var result = regexp.MustCompile(`^Benchmark(\w+)/(.+)/(sequential|parallel)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op.*?(\d+) allocs/op`)

func collect(figures []*figure, line string) []*figure {
	m := result.FindStringSubmatch(line)
	if m == nil {
		return figures
	}
	name := strings.ReplaceAll(m[2], "_", " ")
	at := slices.IndexFunc(figures, func(f *figure) bool { return f.Group == m[1] && f.Name == name && f.Mode == m[3] })
	if at < 0 {
		figures = append(figures, &figure{Group: m[1], Name: name, Mode: m[3]})
		at = len(figures) - 1
	}
	ns, _ := strconv.ParseFloat(m[4], 64)
	figures[at].Allocs, _ = strconv.Atoi(m[5])
	figures[at].Runs = append(figures[at].Runs, ns)
	return figures
}

func compare(figures []*figure) {
	for _, f := range figures {
		f.Median = quantile(f.Runs, 0.5)
	}
	for _, g := range groups {
		for _, reference := range figures {
			if reference.Group != g.name || reference.Name != g.reference {
				continue
			}
			for _, f := range figures {
				if f.Group == g.name && f.Mode == reference.Mode {
					// Run by run, so that a machine that drifts does not matter.
					var ratios []float64
					for i := range min(len(f.Runs), len(reference.Runs)) {
						ratios = append(ratios, f.Runs[i]/reference.Runs[i])
					}
					f.Ratio = quantile(ratios, 0.5)
				}
			}
		}
	}
}

func quantile[T cmp.Ordered](values []T, q float64) T {
	var none T
	if len(values) == 0 {
		return none
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func printTable(figures []*figure) {
	w := bufio.NewWriter(os.Stdout)
	defer func() { _ = w.Flush() }()
	for _, g := range groups {
		fmt.Fprintf(w, "\n| %s | sequential | ratio | parallel | ratio | allocs |\n|---|---:|---:|---:|---:|---:|\n", g.name)
		for _, f := range figures {
			if f.Group != g.name || f.Mode != "sequential" {
				continue
			}
			parallel := &figure{}
			for _, p := range figures {
				if p.Group == f.Group && p.Name == f.Name && p.Mode == "parallel" {
					parallel = p
				}
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %d |\n", f.Name,
				duration(f.Median), ratio(f.Ratio), duration(parallel.Median), ratio(parallel.Ratio), f.Allocs)
		}
	}
}

func duration(ns float64) string {
	switch {
	case ns == 0:
		return ""
	case ns < 1000:
		return fmt.Sprintf("%.0f ns", ns)
	default:
		return fmt.Sprintf("%.1f µs", ns/1000)
	}
}

func ratio(r float64) string {
	if r == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", r)
}

func writeJSON(file string, value any) error {
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}
