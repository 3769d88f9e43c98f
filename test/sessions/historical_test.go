package sessions_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// Users whose IDs no homeserver would give out today, and others that differ
// from them by what might get lost on the way.
func TestHistoricalUserIDsAreUsersLikeOthers(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		ids := []string{"@a b:h", "@a+b:h", "@ab:h", "@a  b:h", "@:h", "@ :h", "@a\u200db:h", "@a\u00a0b:h", "@a{b}:h", "@a:h:8448", "@a:[::1]:80"}
		for i, id := range ids {
			account := strings.Repeat("x", i+1) + "@example.com"
			w.Auth.AddUser(account, world.Password)
			w.Auth.Link(id, account)
			world.MustToken(t, w.Svc, id)
			require.NoError(t, w.Svc.SetData(t.Context(), id, "k", i))
		}
		other := w.Service()
		for i, id := range ids {
			got, err := other.Email(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("x", i+1)+"@example.com", got, "%q", id)
			k, _, err := session.DataAs[int](t.Context(), other, id, "k")
			require.NoError(t, err)
			require.Equal(t, i, k, "%q", id)
		}
		var listed []string
		for id, err := range other.Users(t.Context()) {
			require.NoError(t, err)
			listed = append(listed, id)
		}
		require.ElementsMatch(t, ids, listed)
		for _, id := range ids {
			require.NoError(t, other.Logout(t.Context(), id, session.AndUnlink()))
			_, err := other.Token(t.Context(), id)
			require.ErrorIs(t, err, session.ErrNotLoggedIn, "%q", id)
		}
		for _, r := range w.Auth.Requests() {
			require.NotContains(t, r.Path, "+", "a space is no plus sign in a path")
		}
		require.Equal(t, len(ids), w.Auth.Calls(sessiontest.LinkRemove))
	})
}
