package jwks

import (
	"fmt"
	"strings"
	"testing"
)

func TestUnknownKeyIDsTakeBoundedMemory(t *testing.T) {
	v := &Verifier{unknown: make(map[string]int)}
	for i := range 10 * maxUnknown {
		v.firstAsked(fmt.Sprint(i))
		v.firstAsked(strings.Repeat("x", maxUnknownID+1+i))
	}
	if len(v.unknown) != maxUnknown {
		t.Fatalf("%d are remembered, not %d", len(v.unknown), maxUnknown)
	}
	for kid := range v.unknown {
		if len(kid) > maxUnknownID {
			t.Fatalf("one of %d bytes is remembered", len(kid))
		}
	}
	// Once they are decided they make room.
	v.begun, v.succeeded = 1, 1
	v.firstAsked("new")
	if since, ok := v.unknown["new"]; !ok || since != 1 || len(v.unknown) != 1 {
		t.Fatalf("%d are remembered", len(v.unknown))
	}
}
