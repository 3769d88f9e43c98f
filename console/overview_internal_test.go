package console

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

// A counter that is added to the Service has to have its line here.
func TestEveryCounterIsShown(t *testing.T) {
	var c session.Counters
	fields := reflect.ValueOf(&c).Elem()
	for i := range fields.NumField() {
		fields.Field(i).SetInt(int64(i + 1))
	}
	var shown []string
	for _, t := range tallies(c) {
		shown = append(shown, t.Count)
	}
	for i := range fields.NumField() {
		if name := fields.Type().Field(i).Name; name != "Queued" { // has a card
			require.Contains(t, shown, count(int64(i+1)), name)
		}
	}
}
