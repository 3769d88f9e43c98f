// Faults shows what becomes of users' sessions while everything around the bots
// breaks.
//
//	go run . random [-for 60s] [-users 10000] [-processes 4] [-seed N] [-json FILE]
//	go run . linear [-for 1m] [-seed N] [-dir DIR]
//
// The first runs bot processes on one Redis and one auth server, breaks all of
// them at random, and counts wrong tokens, short tokens, lost sessions, sessions
// that came back after a logout, and lost data. The second records what single
// users were told by several bots while faults were injected, and has a checker
// look for an order of events that explains it. Both start their own servers on
// loopback, and end with a status other than 0 if anything was found.
package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	if os.Getenv(botEnv) != "" {
		runBot()
		return
	}
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case "random":
		err = randomCommand(os.Args[2:])
	case "linear":
		err = linearCommand(os.Args[2:])
	default:
		err = errors.New("usage: go run . random|linear [flags]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}
