package order_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// A flight that a logout elsewhere overtakes says so to those who asked before
// the logout. Who asks after it begins a new session by the link, although the
// flight is still under way.
func TestLinkedUserWhoAsksAfterALogoutDoesNotLandWithTheFlightBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, world.NewLink(t))
		other := w.Service()
		w.LoginDead()
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(time.Second))
		before := make(chan error, 1)
		go func() {
			_, err := w.Svc.Token(t.Context(), world.Alice)
			before <- err
		}()
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, other.Logout(t.Context(), world.Alice))
		world.MustToken(t, w.Svc, world.Alice)
		require.ErrorContains(t, <-before, "logged out meanwhile")
	})
}
