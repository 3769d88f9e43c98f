package auth_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// strangers answer in the auth server's place: gateways, proxies, web servers.
// None of them knows a user.
func strangers() map[string]sessiontest.Fault {
	faults := map[string]sessiontest.Fault{
		"200 HTML": sessiontest.HTML(), "204": sessiontest.Raw(204, "", ""), "200 empty object": sessiontest.Raw(200, "application/json", "{}"),
		"200 list": sessiontest.Raw(200, "application/json", "[]"), "200 null": sessiontest.Raw(200, "application/json", "null"),
	}
	for _, status := range []int{400, 401, 403, 404, 410, 500, 502} {
		for name, body := range map[string]string{
			"Unauthorized":   `{"message":"Unauthorized"}`,
			"no API key":     `{"message":"No API key found in request"}`,
			"no route":       `{"message":"no Route matched with those values"}`,
			"Not Found":      `{"message":"Not Found"}`,
			"words alone":    `{"message":"Invalid refresh token"}`,
			"link words":     `{"message":"No link found for this Matrix user"}`,
			"login words":    `{"message":"Invalid email or password"}`,
			"key words":      `{"message":"Valid service key required"}`,
			"other status":   `{"statusCode":418,"message":"Invalid refresh token","timestamp":"2026-11-25T00:00:00.000Z","path":"/api/v1/auth/refresh"}`,
			"other path":     `{"statusCode":` + fmt.Sprint(status) + `,"message":"No link found for this Matrix user","timestamp":"2026-11-25T00:00:00.000Z","path":"/somewhere/else"}`,
			"without a time": `{"statusCode":` + fmt.Sprint(status) + `,"message":"Invalid refresh token","path":"/api/v1/auth/refresh"}`,
			"HTML":           "<html><h1>Forbidden</h1></html>",
			"plain to TLS":   "The plain HTTP request was sent to HTTPS port",
			"empty":          "",
		} {
			faults[fmt.Sprint(status, " ", name)] = sessiontest.Raw(status, "application/json", body)
		}
	}
	return faults
}

func TestStrangersNoEndsNoSession(t *testing.T) {
	t.Parallel()
	for name, fault := range strangers() {
		for _, op := range []sessiontest.Op{sessiontest.Refresh, sessiontest.LinkFetch, sessiontest.LinkCheck} {
			t.Run(fmt.Sprint(op, ": ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := world.New(t, session.NewMemoryStore())
					w.LoginDead()
					require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
					before := w.Stored(world.Alice)
					switch op {
					case sessiontest.LinkFetch: // of a user who is linked
						w.Auth.Link(world.Alice, world.Email)
						w.Auth.Inject(sessiontest.Refresh, -1, sessiontest.Raw(503, "text/html", "<h1>503</h1>"))
					case sessiontest.LinkCheck: // which confirms that there is neither link nor login
						w.Auth.RevokeRefreshTokens(world.Email)
					}
					w.Auth.Inject(op, 3, fault)
					_, err := w.Svc.Token(t.Context(), world.Alice)
					require.ErrorIs(t, err, session.ErrAuthUnavailable)
					require.NotErrorIs(t, err, session.ErrNotLoggedIn)
					require.NotErrorIs(t, err, session.ErrServiceKeyRejected)
					if op != sessiontest.LinkCheck {
						require.Equal(t, before, w.Stored(world.Alice), "nothing is dropped")
					} else {
						require.Contains(t, w.Stored(world.Alice), `"k":1`)
					}
					w.Auth.ClearFaults()
					time.Sleep(time.Minute)
					if op != sessiontest.LinkCheck {
						world.MustToken(t, w.Svc, world.Alice)
					}
				})
			})
		}
	}
}

// A user without a session: the stranger is not remembered for 30 s.
func TestStrangersNoIsNotRemembered(t *testing.T) {
	for name, fault := range strangers() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.Auth.Link(world.Alice, world.Email)
				w.Auth.Inject(sessiontest.LinkFetch, 3, fault)
				_, err := w.Svc.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, session.ErrAuthUnavailable)
				require.NotErrorIs(t, err, session.ErrNotLoggedIn)
				_, err = w.Svc.LoggedIn(t.Context(), world.Alice)
				if err != nil {
					require.ErrorIs(t, err, session.ErrAuthUnavailable)
				}
				w.Auth.ClearFaults()
				time.Sleep(2 * time.Second)
				world.MustToken(t, w.Svc, world.Alice)
			})
		})
	}
}

func TestStrangersAnswerToALoginSaysNothingOfThePassword(t *testing.T) {
	for name, fault := range strangers() {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.Auth.Inject(sessiontest.Login, 1, fault)
			_, err := w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.NotErrorIs(t, err, session.ErrInvalidCredentials)
			require.NotErrorIs(t, err, session.ErrEmailNotVerified)
			w.Login(w.Svc)
		})
	}
}

func TestUnlinkingIsBelievedByTheServersOwnWord(t *testing.T) {
	own := func(status int, message string) sessiontest.Fault { return sessiontest.Status(status, message) }
	faults := strangers()
	faults["not successful"] = sessiontest.JSON(map[string]any{"success": false})
	faults["success is a word"] = sessiontest.JSON(map[string]any{"success": "yes"})
	faults["route missing"] = own(404, "Cannot DELETE /api/v1/api/v1/auth/matrix-user-links/x")
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.Auth.Link(world.Alice, world.Email)
			w.Login(w.Svc)
			w.Auth.Inject(sessiontest.LinkRemove, 1, fault)
			require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()), session.ErrAuthUnavailable)
			require.Empty(t, w.Stored(world.Alice), "the session is removed even if the link is not")
		})
	}
	w := world.New(t, session.NewMemoryStore())
	require.NoError(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()), "there was none")
	w.Auth.Link(world.Alice, world.Email)
	require.NoError(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()))
	require.False(t, w.Auth.Linked(world.Alice))
}

func TestServersOwnNoIsClearUnderEveryStatus(t *testing.T) {
	for _, status := range []int{400, 401, 403} {
		for _, message := range []string{"Invalid refresh token", "Refresh token expired", "User not found"} {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.LoginDead()
				w.Auth.Inject(sessiontest.Refresh, -1, sessiontest.Status(status, message))
				_, err := w.Svc.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn, "%d %s", status, message)
				require.Empty(t, w.Stored(world.Alice))
			})
		}
	}
}

// What is left out or odd in a good answer must not cost the successor of a
// refresh token.
func TestOddButGoodAnswersToARefreshAreUsed(t *testing.T) {
	for name, change := range map[string]func(claims, body map[string]any){
		"user is a string":        func(_, body map[string]any) { body["user"] = "alice" },
		"user is a list":          func(_, body map[string]any) { body["user"] = []any{1} },
		"email is false":          func(_, body map[string]any) { body["email"] = false },
		"expiresIn is a word":     func(_, body map[string]any) { body["expiresIn"] = "soon" },
		"refresh token is number": func(_, body map[string]any) { body["other"] = map[string]any{"a": []any{}} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.LoginDead()
				for range 3 {
					w.Auth.Inject(sessiontest.Refresh, 1, world.Changed(change))
					world.MustToken(t, w.Svc, world.Alice)
					time.Sleep(15 * time.Minute)
				}
			})
		})
	}
}

func TestInvalidEmailIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Bob, world.Email)
		for range 20 {
			_, err := w.Svc.Login(t.Context(), world.Alice, "müller@example.com", world.Password)
			require.ErrorIs(t, err, session.ErrInvalidCredentials)
			w.Auth.Inject(sessiontest.Login, 1, sessiontest.Status(500, "something that was typed"))
			_, err = w.Svc.Login(t.Context(), world.Alice, world.Email, world.Password)
			require.Error(t, err)
		}
		world.MustToken(t, w.Svc, world.Bob)
		require.True(t, w.Svc.Health(t.Context()).Auth.OK)
	})
}
