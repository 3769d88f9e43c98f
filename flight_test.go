package session_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

// A flight that a logout elsewhere overtakes says so to those who asked before
// the logout. Who asks after it begins a new session by the link, although the
// flight is still under way.
func TestLinkedUserWhoAsksAfterALogoutDoesNotLandWithTheFlightBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newLink(t))
		other := w.service()
		w.loginDead()
		w.auth.Link(alice, email)
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(time.Second))
		before := make(chan error, 1)
		go func() {
			_, err := w.svc.Token(t.Context(), alice)
			before <- err
		}()
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, other.Logout(t.Context(), alice))
		mustToken(t, w.svc, alice)
		require.ErrorContains(t, <-before, "logged out meanwhile")
	})
}
