package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mana/session"
)

func TestExplore(t *testing.T) {
	w := newWorld(t)
	bot := w.bot()
	w.login(bot)
	for _, args := range [][]string{{"status"}, {"show", alice}, {"users"}, {"why", alice}, {"why", bob}, {"logout", alice}, {"why", alice}, {"show", alice}, {"show", "x"}, {"status", "--json"}, {"why", alice, "--json"}, {"show", alice, "--json"}} {
		r := w.run(args...)
		fmt.Println("$", args, r.code)
		fmt.Println(r.out)
		fmt.Println(r.err)
	}
	_ = os.Args
	_ = filepath.Join
	_ = time.Now
	_ = session.ErrClosed
}
