//go:build !linux

package realredis

import "os/exec"

// dieWithParent has no counterpart here: a test binary that is killed leaves
// its servers behind.
func dieWithParent(*exec.Cmd) {}
