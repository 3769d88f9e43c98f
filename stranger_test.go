package session_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
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
	for name, fault := range strangers() {
		for _, op := range []sessiontest.Op{sessiontest.Refresh, sessiontest.LinkFetch, sessiontest.LinkCheck} {
			t.Run(fmt.Sprint(op, ": ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, session.NewMemoryStore())
					w.loginDead()
					require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
					before := w.stored(alice)
					switch op {
					case sessiontest.LinkFetch: // of a user who is linked
						w.auth.Link(alice, email)
						w.auth.Inject(sessiontest.Refresh, -1, sessiontest.Raw(503, "text/html", "<h1>503</h1>"))
					case sessiontest.LinkCheck: // which confirms that there is neither link nor login
						w.auth.RevokeRefreshTokens(email)
					}
					w.auth.Inject(op, 3, fault)
					_, err := w.svc.Token(t.Context(), alice)
					require.ErrorIs(t, err, session.ErrAuthUnavailable)
					require.NotErrorIs(t, err, session.ErrNotLoggedIn)
					require.NotErrorIs(t, err, session.ErrServiceKeyRejected)
					if op != sessiontest.LinkCheck {
						require.Equal(t, before, w.stored(alice), "nothing is dropped")
					} else {
						require.Contains(t, w.stored(alice), `"k":1`)
					}
					w.auth.ClearFaults()
					time.Sleep(time.Minute)
					if op != sessiontest.LinkCheck {
						mustToken(t, w.svc, alice)
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
				w := newWorld(t, session.NewMemoryStore())
				w.auth.Link(alice, email)
				w.auth.Inject(sessiontest.LinkFetch, 3, fault)
				_, err := w.svc.Token(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrAuthUnavailable)
				require.NotErrorIs(t, err, session.ErrNotLoggedIn)
				_, err = w.svc.LoggedIn(t.Context(), alice)
				if err != nil {
					require.ErrorIs(t, err, session.ErrAuthUnavailable)
				}
				w.auth.ClearFaults()
				time.Sleep(2 * time.Second)
				mustToken(t, w.svc, alice)
			})
		})
	}
}

func TestStrangersAnswerToALoginSaysNothingOfThePassword(t *testing.T) {
	for name, fault := range strangers() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, session.NewMemoryStore())
			w.auth.Inject(sessiontest.Login, 1, fault)
			_, err := w.svc.Login(t.Context(), alice, email, password)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.NotErrorIs(t, err, session.ErrInvalidCredentials)
			require.NotErrorIs(t, err, session.ErrEmailNotVerified)
			w.login(w.svc)
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
			w := newWorld(t, session.NewMemoryStore())
			w.auth.Link(alice, email)
			w.login(w.svc)
			w.auth.Inject(sessiontest.LinkRemove, 1, fault)
			require.ErrorIs(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()), session.ErrAuthUnavailable)
			require.Empty(t, w.stored(alice), "the session is removed even if the link is not")
		})
	}
	w := newWorld(t, session.NewMemoryStore())
	require.NoError(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()), "there was none")
	w.auth.Link(alice, email)
	require.NoError(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()))
	require.False(t, w.auth.Linked(alice))
}

func TestServersOwnNoIsClearUnderEveryStatus(t *testing.T) {
	for _, status := range []int{400, 401, 403} {
		for _, message := range []string{"Invalid refresh token", "Refresh token expired", "User not found"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, session.NewMemoryStore())
				w.loginDead()
				w.auth.Inject(sessiontest.Refresh, -1, sessiontest.Status(status, message))
				_, err := w.svc.Token(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn, "%d %s", status, message)
				require.Empty(t, w.stored(alice))
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
				w := newWorld(t, session.NewMemoryStore())
				w.loginDead()
				for range 3 {
					w.auth.Inject(sessiontest.Refresh, 1, changed(change))
					mustToken(t, w.svc, alice)
					time.Sleep(15 * time.Minute)
				}
			})
		})
	}
}

func TestInvalidEmailIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(bob, email)
		for range 20 {
			_, err := w.svc.Login(t.Context(), alice, "müller@example.com", password)
			require.ErrorIs(t, err, session.ErrInvalidCredentials)
			w.auth.Inject(sessiontest.Login, 1, sessiontest.Status(500, "something that was typed"))
			_, err = w.svc.Login(t.Context(), alice, email, password)
			require.Error(t, err)
		}
		mustToken(t, w.svc, bob)
		require.True(t, w.svc.Health(t.Context()).Auth.OK)
	})
}
