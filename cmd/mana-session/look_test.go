package main

import (
	"fmt"
	"testing"
)

func TestExplore(t *testing.T) {
	w := newWorld(t)
	bot := w.bot()
	w.login(bot)
	for _, args := range [][]string{{"doctor"}} {
		r := w.run(args...)
		fmt.Println("$", args, r.code)
		fmt.Println(r.out)
		fmt.Println(r.err)
	}
	w.redis.Kill()
	w.auth.SetServiceKey("x")
	for _, args := range [][]string{{"doctor"}, {"show", alice}, {"users"}, {"status"}, {"watch"}, {"why", alice}, {"logout", alice}} {
		r := w.run(args...)
		fmt.Println("$", args, r.code)
		fmt.Println(r.out)
		fmt.Println(r.err)
	}
}
