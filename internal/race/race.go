//go:build race

// Package race tells tests about crowds that the race detector is on, under
// which everything takes ten times the time and the memory.
package race

// Enabled reports whether the race detector is on.
const Enabled = true
