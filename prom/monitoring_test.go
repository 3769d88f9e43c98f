package prom_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/mana/session/internal/telemetry"
)

// The files of the directory monitoring, and the page that goes with them.
const (
	alertsFile    = "../monitoring/alerts.yml"
	testsFile     = "../monitoring/alerts_test.yml"
	dashboardFile = "../monitoring/dashboard.json"
	page          = "../docs/monitoring.md"

	runbooks = "https://github.com/mana/session/blob/main/docs/monitoring.md#"
)

type alert struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, into), path)
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alert }
	}
	readYAML(t, alertsFile, &file)
	var all []alert
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	require.NotEmpty(t, all)
	return all
}

// panel is a panel of the dashboard, and its queries.
type panel struct {
	Title, Description, Type string
	Targets                  []struct{ Expr string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	var dashboard struct{ Panels []panel }
	require.NoError(t, json.Unmarshal(text, &dashboard))
	require.NotEmpty(t, dashboard.Panels)
	return dashboard.Panels
}

// queries are all expressions of alerts and dashboard, by where they stand, with
// values for Grafana's variables.
func queries(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, a := range alerts(t) {
		found["alert "+a.Alert] = a.Expr
	}
	fill := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$bot", ".*")
	for _, p := range panels(t) {
		for i, target := range p.Targets {
			found["panel "+p.Title+" "+string(rune('A'+i))] = fill.Replace(target.Expr)
		}
	}
	return found
}

// exported are the names that a scrape shows, with the values of each label. The
// series of histograms are under their own names. nil is any value.
func exported(t *testing.T) map[string]map[string][]string {
	t.Helper()
	f := newFixture(t)
	f.live(f.service("shop"))
	observer := f.metrics.Observer("shop")
	for _, op := range telemetry.Operations() {
		_, end := observer.Begin(t.Context(), op)
		end(nil)
	}
	shown := make(map[string]map[string][]string)
	for _, family := range f.gather() {
		labels := map[string][]string{"job": nil, "instance": nil}
		for _, metric := range family.GetMetric() {
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
		}
		labels["bot"] = nil
		if family.GetType() != dto.MetricType_HISTOGRAM {
			shown[family.GetName()] = labels
			continue
		}
		labels["outcome"] = telemetry.Outcomes()
		for _, suffix := range []string{"_sum", "_count", "_bucket"} {
			own := maps.Clone(labels)
			if suffix == "_bucket" {
				own["le"] = nil
			}
			shown[family.GetName()+suffix] = own
		}
	}
	return shown
}

var (
	selector   = regexp.MustCompile(`\b([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^}]*)\})?(?:\[[^\]]*\])?`)
	matcher    = regexp.MustCompile(`([a-zA-Z_]+)\s*(=|!=|=~|!~)\s*"([^"]*)"`)
	grouping   = regexp.MustCompile(`\b(?:by|without)\s*\(([^)]*)\)`)
	function   = regexp.MustCompile(`\b[a-z_]+\s*\(`)
	binaryWord = regexp.MustCompile(`\b(and|or|unless)\b`)
)

// series are the names of the series in a query, each with its matchers.
func series(query string) (found [][2]string) {
	for _, other := range []*regexp.Regexp{grouping, binaryWord} {
		query = other.ReplaceAllString(query, " ")
	}
	query = function.ReplaceAllString(query, "(")
	for _, match := range selector.FindAllStringSubmatch(query, -1) {
		found = append(found, [2]string{match[1], match[2]})
	}
	return found
}

func TestAlertsAndDashboardNameWhatIsExported(t *testing.T) {
	shown := exported(t)
	named := make(map[string]bool)
	for where, query := range queries(t) {
		require.NotEmpty(t, series(query), "%s: %s", where, query)
		for _, s := range series(query) {
			name := s[0]
			require.True(t, shown[name] != nil, "%s: %s is not exported", where, name)
			named[name] = true
			for _, m := range matcher.FindAllStringSubmatch(s[1], -1) {
				values, ok := shown[name][m[1]]
				require.True(t, ok, "%s: %s has no label %s", where, name, m[1])
				if values != nil && (m[2] == "=" || m[2] == "!=") {
					require.Contains(t, values, m[3], "%s: %s of %s", where, m[1], name)
				}
			}
			for _, by := range grouping.FindAllStringSubmatch(query, -1) {
				for label := range strings.SplitSeq(by[1], ",") {
					require.Contains(t, shown[name], strings.TrimSpace(label), "%s: %s", where, query)
				}
			}
		}
	}
	// Whatever is exported is also looked at.
	for name := range shown {
		if !strings.HasSuffix(name, "_sum") && !strings.HasSuffix(name, "_count") {
			require.Contains(t, slices.Collect(maps.Keys(named)), name)
		}
	}
}

func TestEverySeriesOfAQueryIsLookedAt(t *testing.T) {
	for query, want := range map[string][][2]string{
		`sum by (job) (rate(a_total{bot="a"}[5m])) > 0`:                                 {{"a_total", `bot="a"`}},
		`histogram_quantile(0.99, sum by (le) (rate(b_bucket{a!="b", le="2.5"}[10m])))`: {{"b_bucket", `a!="b", le="2.5"`}},
		"up == 0\nand\n  rate(x[5m]) > 1e3 * y{}":                                       {{"up", ""}, {"x", ""}, {"y", ""}},
	} {
		require.Equal(t, want, series(query), query)
	}
}

func TestEveryAlertSaysWhatToDo(t *testing.T) {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	anchors := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^### (Session[A-Za-z]+)$`).FindAllStringSubmatch(string(text), -1) {
		anchors[strings.ToLower(heading[1])] = true
	}
	for _, a := range alerts(t) {
		anchor, ok := strings.CutPrefix(a.Annotations["runbook_url"], runbooks)
		require.True(t, ok, "%s links to %q", a.Alert, a.Annotations["runbook_url"])
		require.Equal(t, strings.ToLower(a.Alert), anchor)
		require.True(t, anchors[anchor], "%s has no section", a.Alert)
		delete(anchors, anchor)
		require.NotEmpty(t, a.Annotations["summary"])
		require.Contains(t, []string{"critical", "warning"}, a.Labels["severity"], a.Alert)
	}
	require.Empty(t, anchors, "sections of no alert")
}

func TestPageListsTheMetricsThatAreExported(t *testing.T) {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(mana_session_[a-z_]+)` \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, row[1])
	}
	f := newFixture(t)
	f.live(f.service("shop"))
	var shown []string
	for _, family := range f.gather() {
		shown = append(shown, family.GetName())
	}
	require.ElementsMatch(t, shown, listed)
	for _, outcome := range telemetry.Outcomes() {
		require.Contains(t, string(text), "`"+outcome+"`")
	}
	for _, op := range telemetry.Operations() {
		require.Contains(t, string(text), "`"+telemetry.Split(op).Name+"`")
	}
}

func TestPanelsSayWhatTheyShow(t *testing.T) {
	for _, p := range panels(t) {
		require.NotEmpty(t, p.Title)
		if p.Type != "row" {
			require.NotEmpty(t, p.Description, p.Title)
			require.NotEmpty(t, p.Targets, p.Title)
		}
	}
}

func TestEveryAlertIsTestedForFiringAndForSilence(t *testing.T) {
	var file struct {
		Tests []struct {
			Name          string
			AlertRuleTest []struct {
				Alertname string
				ExpAlerts []any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, testsFile, &file)
	fires, silent := make(map[string]bool), make(map[string]bool)
	for _, test := range file.Tests {
		for _, tested := range test.AlertRuleTest {
			if len(tested.ExpAlerts) > 0 {
				fires[tested.Alertname] = true
			} else if test.Name == "healthy" {
				silent[tested.Alertname] = true
			}
		}
	}
	for _, a := range alerts(t) {
		require.True(t, fires[a.Alert], "%s is not tested to fire", a.Alert)
		require.True(t, silent[a.Alert], "%s is not tested to be silent", a.Alert)
	}
}

// promtool runs promtool in the directory of the files.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if errors.Is(err, exec.ErrNotFound) {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not in the PATH")
		}
		t.Skip("needs promtool in the PATH, from Prometheus (CI=true makes this a failure)")
	}
	require.NoError(t, err)
	run := exec.CommandContext(t.Context(), path, args...)
	run.Dir = filepath.Dir(alertsFile)
	out, err := run.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestRulesAreValid(t *testing.T) { promtool(t, "check", "rules", filepath.Base(alertsFile)) }

func TestAlertsFireWhenTheyShould(t *testing.T) {
	promtool(t, "test", "rules", filepath.Base(testsFile))
}

// promtool knows no dashboards, so their queries are checked as rules.
func TestQueriesOfTheDashboardAreValid(t *testing.T) {
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	type group struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	}
	rules := group{Name: "dashboard"}
	for where, query := range queries(t) {
		if strings.HasPrefix(where, "panel ") {
			rules.Rules = append(rules.Rules, rule{"dashboard:" + strings.Repeat("x", len(rules.Rules)+1), query})
		}
	}
	require.Greater(t, len(rules.Rules), 20)
	text, err := yaml.Marshal(map[string][]group{"groups": {rules}})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	promtool(t, "check", "rules", file)
}
