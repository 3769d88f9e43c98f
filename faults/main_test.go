package main

import (
	"os"
	"testing"
	"time"
)

// The bots of a test are this test binary, and so have the race detector if it
// has.
func TestMain(m *testing.M) {
	if os.Getenv(botEnv) != "" {
		runBot()
		return
	}
	os.Exit(m.Run())
}

// testSeed is new with every run; a failure names it.
func testSeed() uint64 { return uint64(time.Now().UnixNano()) }

func TestNothingIsLostOrMixedUpWhileEverythingBreaks(t *testing.T) {
	r, err := runRandom(t, randomConfig{
		For: 6 * time.Second, Users: 200, Processes: 3, Seed: testSeed(),
		Callers: 20, Pause: 20 * time.Millisecond, Deeds: 8,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %d operations, faults %v, excluded %v", r.Seed, r.OperationsInAll, r.Faults, r.Excluded)
	for _, finding := range r.Findings {
		t.Error(finding)
	}
	if r.violations() > 0 {
		t.Errorf("%d violations with seed %d: %+v", r.violations(), r.Seed, r)
	}
	// A run that looked at nothing proves nothing.
	for what, n := range map[string]int64{
		"tokens": r.Tokens, "refusals": r.RefusalsChecked, "data": int64(r.DataChecked),
		"users in": int64(r.InAtTheEnd), "users out": int64(r.OutAtTheEnd), "faults": int64(len(r.Faults)),
	} {
		if n == 0 {
			t.Errorf("no %s were looked at", what)
		}
	}
}

func TestHistoriesOfOneUserCanBeExplained(t *testing.T) {
	r, err := runLinear(t, linearConfig{For: 5 * time.Second, Seed: testSeed(), Dir: os.TempDir(), Lanes: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %v histories, %d undecided, %v, left out %v, faults %v", r.Seed, r.Histories, r.Undecided, r.Events, r.LeftOut, r.Faults)
	if len(r.Violations) > 0 {
		t.Errorf("histories that cannot be explained, seed %d: %v", r.Seed, r.Violations)
	}
	for _, k := range kinds {
		if r.Histories[k.name] == 0 {
			t.Errorf("no history of %s", k.name)
		}
	}
}
