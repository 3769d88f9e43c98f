package sessions_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

func trail(t *testing.T, svc *session.Service) []session.TrailEvent {
	t.Helper()
	events, err := svc.Trail(t.Context(), world.Alice)
	require.NoError(t, err)
	return events
}

// story is alice's trail in short, the newest event first.
func story(t *testing.T, svc *session.Service) string {
	t.Helper()
	var parts []string
	for _, e := range trail(t, svc) {
		part := fmt.Sprintf("%s by %s", e.Kind, e.By)
		if e.Count > 1 {
			part += fmt.Sprintf(" %d times", e.Count)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

func TestTrailTellsTheLifeOfASession(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		require.Empty(t, trail(t, w.Svc))
		other := w.Service(session.WithBotName("calendar"))
		w.LoginDead()
		require.Equal(t, "began by login", story(t, w.Svc))
		world.MustToken(t, other, world.Alice)
		require.Equal(t, "refreshed by refresh token, began by login", story(t, w.Svc))
		require.NoError(t, other.SetData(t.Context(), world.Alice, "k", 1))
		require.NoError(t, other.Logout(t.Context(), world.Alice))
		require.Equal(t, "ended by logout, refreshed by refresh token, began by login", story(t, w.Svc))
		require.NoError(t, other.Logout(t.Context(), world.Alice), "of nobody")
		w.Auth.Link(world.Alice, "bob@example.com")
		world.MustToken(t, w.Service(), world.Alice)
		w.Login(w.Svc)
		require.Equal(t, "replaced by login, began by link, ended by logout, refreshed by refresh token, began by login", story(t, w.Svc))

		events := trail(t, w.Svc)
		require.Equal(t, "calendar", events[2].Bot)
		require.Zero(t, events[2].SessionEnds)
		require.Empty(t, events[0].Bot)
		require.WithinDuration(t, time.Now().Add(7*24*time.Hour), events[0].SessionEnds, time.Minute)
		require.WithinDuration(t, time.Now(), events[0].First, time.Minute)
		printed, err := json.Marshal(events)
		require.NoError(t, err)
		require.NotContains(t, string(printed), "eyJ")
		require.NotContains(t, string(printed), world.Email)
	})
}

func TestTrailCountsRefreshesAndExtensions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Login(w.Svc)
		for range 200 { // 33 hours of use
			time.Sleep(10 * time.Minute)
			world.MustToken(t, w.Svc, world.Alice)
			synctest.Wait()
		}
		events := trail(t, w.Svc)
		require.Len(t, events, 2)
		require.Equal(t, session.TrailRefreshed, events[0].Kind)
		require.Greater(t, events[0].Count, 100)
		require.Greater(t, events[0].Last.Sub(events[0].First), 30*time.Hour)
		require.Equal(t, session.TrailBegan, events[1].Kind)
	})
}

func TestTrailTellsThatUseExtendedASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore(), session.WithSessionTTL(20*time.Minute))
		w.Auth.SetTokenTTL(time.Hour)
		w.Login(w.Svc)
		for range 5 {
			time.Sleep(11 * time.Minute)
			world.MustToken(t, w.Svc, world.Alice)
			synctest.Wait()
		}
		require.Regexp(t, `extended by use`, story(t, w.Svc))
	})
}

// Each cause reads differently.
func TestTrailSaysWhyTheAuthServerEndedASession(t *testing.T) {
	reasons := make(map[string]string)
	for name, cause := range map[string]func(w *world.World){
		"token used elsewhere": func(w *world.World) { w.Auth.RevokeRefreshTokens(world.Email) },
		"account deleted": func(w *world.World) {
			w.Auth.Inject(sessiontest.Refresh, -1, sessiontest.Status(401, "User not found"))
		},
		"token ran out": func(w *world.World) {
			w.Auth.Inject(sessiontest.Refresh, -1, sessiontest.Status(401, "Refresh token expired"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.LoginDead()
			cause(w)
			_, err := w.Svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
			var said *session.AuthError
			require.ErrorAs(t, err, &said)
			require.Equal(t, 401, said.StatusCode)
			require.Equal(t, "ended by auth server, began by login", story(t, w.Svc))
			reason := trail(t, w.Svc)[0].Reason
			require.Contains(t, reason, "refresh: auth server answered 401: ")
			require.Contains(t, reason, said.Message)
			require.Contains(t, w.Log.String(), "ended by the auth server")
			require.NotContains(t, reasons, reason)
			reasons[reason] = name
		})
	}
}

func TestTrailTellsThatARefreshTokenWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Login(w.Svc)
		w.Auth.RevokeRefreshTokens(world.Email)
		time.Sleep(11 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice) // refreshes ahead
		synctest.Wait()
		require.Equal(t, "weakened by auth server, began by login", story(t, w.Svc))
		require.Contains(t, trail(t, w.Svc)[0].Reason, "401")
	})
}

func TestTrailTellsWhatALoginFound(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Put(world.Alice, "no session")
	w.Login(w.Svc)
	require.Contains(t, trail(t, w.Svc)[0].Reason, "cannot be read")
	w.Login(w.Svc)
	require.Equal(t, "over the session that there was", trail(t, w.Svc)[0].Reason)
	require.NoError(t, w.Store.Delete(t.Context(), session.Record{UserID: world.Alice})) // as other software does
	w.Login(w.Svc)
	require.Empty(t, trail(t, w.Svc)[0].Reason)
	require.Len(t, trail(t, w.Svc), 3)
}

func TestTrailTellsWhatWasStoredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		h.Inject(storetest.Away)
		w.Login(w.Svc)
		_, err := w.Svc.Trail(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		h.Clear()
		time.Sleep(time.Minute)
		require.Equal(t, "began by login", story(t, w.Svc))
		require.Equal(t, "stored when the store was back", trail(t, w.Svc)[0].Reason)

		h.Inject(storetest.Away)
		require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
		h.Clear()
		time.Sleep(time.Minute)
		require.Equal(t, "ended by logout, began by login", story(t, w.Svc))
	})
}

func TestTrailTellsThatALoginThatWasStoredLaterReplacedAnotherAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		w.Login(w.Svc)
		h.Inject(storetest.Away)
		_, err := w.Svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
		require.NoError(t, err)
		h.Clear()
		time.Sleep(time.Minute)
		require.Equal(t, "replaced by login, began by login", story(t, w.Svc))
	})
}

func TestTrailOutlivesTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Login(w.Svc)
		time.Sleep(13 * 24 * time.Hour)
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		events := trail(t, w.Svc)
		require.Len(t, events, 1)
		require.True(t, events[0].SessionEnds.Before(time.Now()), "it ran out")
		time.Sleep(2 * 24 * time.Hour)
		require.Empty(t, trail(t, w.Svc))
	})
}

func TestWithoutTrailNothingIsNoted(t *testing.T) {
	w := world.New(t, session.NewMemoryStore(), session.WithTrail(false))
	w.Login(w.Svc)
	require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
	require.Empty(t, trail(t, w.Svc))
}

func TestStoreWithoutTrailsHasNone(t *testing.T) {
	world.OnEveryCapability(t, func(t *testing.T, w *world.World, _ *storetest.FaultStore) {
		w.Login(w.Svc)
		if _, ok := w.Store.(session.TrailLog); !ok {
			require.Empty(t, trail(t, w.Svc))
		} else {
			require.Len(t, trail(t, w.Svc), 1)
		}
	})
}

func TestBotNamesAreShortText(t *testing.T) {
	for _, name := range []string{"a\nb", strings.Repeat("x", 65), "\xff", "a\x00"} {
		_, err := session.New(session.WithBotName(name))
		require.Error(t, err)
	}
}

func TestLoginLogoutAndEndLeaveALineEach(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	lines := func(what string) int { return strings.Count(w.Log.String(), what) }
	w.LoginDead()
	require.Equal(t, 1, lines(`level=INFO msg="session: logged in" user=@alice:matrix.example`))
	require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
	require.Equal(t, 1, lines(`level=INFO msg="session: logged out" user=@alice:matrix.example`))
	w.LoginDead()
	w.Auth.RevokeRefreshTokens(world.Email)
	_, err := w.Svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Equal(t, 1, lines(`level=INFO msg="session: ended by the auth server" user=@alice:matrix.example reason="refresh: auth server answered 401`))
	require.Equal(t, 0, w.Auth.Calls(sessiontest.LinkCreate))
}
