package failover_test

import (
	"testing"

	"github.com/mana/session/internal/world"
)

func TestMain(m *testing.M) { world.Main(m) }
