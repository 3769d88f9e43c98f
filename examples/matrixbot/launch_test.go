//go:build !goolm

package main

import "testing"

// The bot's tests need the tag, too.
func TestBot(t *testing.T) {
	test := tagged("test", "-tags", "goolm", "-timeout", "15m", ".")
	if err := test.Run(); err != nil {
		t.Fatal(err)
	}
}
