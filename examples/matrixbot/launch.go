//go:build !goolm

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
)

// main runs the bot as it is to be built, because no file can ask for a tag.
func main() {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt) // the terminal tells the bot as well, which ends by it
	fmt.Fprintln(os.Stderr, "Running go run -tags goolm . (the first build takes a minute)")
	err := tagged(append([]string{"run", "-tags", "goolm", "."}, os.Args[1:]...)...).Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "matrixbot: built without the tag goolm, it needs the go command to run itself with it:", err)
		os.Exit(1)
	}
}

// tagged is a go command without cgo, on this terminal.
func tagged(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}
