package session_test

import (
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestTokenFromACacheIsGoodForMoreThanAMinute(t *testing.T) {
	for name, left := range map[string]time.Duration{
		"61 s": 61 * time.Second, "60 s": 60 * time.Second, "30 s": 30 * time.Second, "run out": -time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := session.NewMemoryStore()
				defer store.Close()
				w := world.New(t, store, session.WithRefreshAhead(0))
				w.Auth.Link(world.Alice, world.Email)
				cached := w.Auth.MintToken(world.Email, time.Now().Add(left))
				w.Put(world.Alice, world.TsRecord(cached, world.Email, "{}"))
				token := world.MustToken(t, w.Svc, world.Alice)
				require.Equal(t, left > time.Minute, token == cached)
				require.Equal(t, token, world.MustToken(t, w.Svc, world.Alice), "the second time from the near cache")
			})
		})
	}
}

func TestDeadTokenIsReplacedByTheLink(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		old := w.LoginDead()
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "list", "shopping"))
		w.Auth.Link(world.Alice, world.Email)

		token := world.MustToken(t, w.Svc, world.Alice)
		require.NotEqual(t, old.Token(), token)
		require.Equal(t, token, world.MustToken(t, w.Svc, world.Alice))
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Any), "one call, and none for the refresh token")

		s, err := w.Svc.Session(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, world.Email, s.Email)
		require.Equal(t, old.Subject, s.Subject)
		list, found, err := session.DataAs[string](t.Context(), w.Svc, world.Alice, "list")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "shopping", list)
		require.Contains(t, w.Stored(world.Alice), `"refreshToken"`)
	})
}

func TestDeadTokenIsReplacedByTheRefreshTokenWithoutALink(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "n", 1))
		for range 3 { // each refresh needs the successor that the last one stored
			world.MustToken(t, w.Svc, world.Alice)
			w.Auth.SetTokenTTL(30 * time.Second)
			current := world.MustToken(t, w.Svc, world.Alice)
			_, err := w.Svc.Refresh(t.Context(), world.Alice, current)
			require.NoError(t, err)
			w.Auth.SetTokenTTL(15 * time.Minute)
		}
		world.MustToken(t, w.Svc, world.Alice)
		found, err := w.Svc.Data(t.Context(), world.Alice, "n", new(int))
		require.NoError(t, err)
		require.True(t, found)
		got, err := w.Svc.Email(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, world.Email, got)
	})
}

func TestLinkedUserNeedsNoLogin(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		token := world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, token, world.MustToken(t, w.Service(), world.Alice), "the session is shared")
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkFetch))
		got, err := w.Svc.Email(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, world.Email, got, "the link call returns the email")
	})
}

func TestUnlinkedUserCostsOneCallPer30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		ask := func() error {
			_, err := w.Svc.Token(t.Context(), world.Alice)
			return err
		}
		for range 5 {
			require.ErrorIs(t, ask(), session.ErrNotLoggedIn)
		}
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Any))
		time.Sleep(31 * time.Second)
		require.ErrorIs(t, ask(), session.ErrNotLoggedIn)
		require.Equal(t, 2, w.Auth.Calls(sessiontest.Any))
		// What appears in the store overrides what is remembered.
		w.Login(w.Service())
		require.NoError(t, ask())
		// And so does a login here.
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		require.ErrorIs(t, ask(), session.ErrNotLoggedIn)
		w.Login(w.Svc)
		require.NoError(t, ask())
	})
}

func TestClearNoEndsTheSession(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.Empty(t, w.Stored(world.Alice))
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkFetch))
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkCheck), "a 404 is confirmed before it counts")
		in, err := w.Svc.LoggedIn(t.Context(), world.Alice)
		require.NoError(t, err)
		require.False(t, in)
	})
}

// Everything the auth server may do but a clear no.
func TestFailureNeverEndsTheSession(t *testing.T) {
	clear404 := sessiontest.Status(404, "No link found for this Matrix user")
	for name, c := range map[string]struct {
		link, refresh, check sessiontest.Fault
		want                 error
	}{
		"500":                      {link: sessiontest.Status(500, "Internal server error"), want: session.ErrAuthUnavailable},
		"503":                      {link: sessiontest.Status(503, "unavailable"), want: session.ErrAuthUnavailable},
		"429":                      {link: sessiontest.Status(429, "slow down", "Retry-After", "60"), want: session.ErrAuthUnavailable},
		"database down":            {link: sessiontest.Status(500, "connect ECONNREFUSED 127.0.0.1:5432"), want: session.ErrAuthUnavailable},
		"reset":                    {link: sessiontest.Reset(), want: session.ErrAuthUnavailable},
		"HTML":                     {link: sessiontest.HTML(), want: session.ErrAuthUnavailable},
		"204":                      {link: sessiontest.Raw(204, "", ""), want: session.ErrAuthUnavailable},
		"no token":                 {link: sessiontest.JSON(map[string]any{"email": world.Email}), want: session.ErrAuthUnavailable},
		"opaque token":             {link: sessiontest.JSON(map[string]any{"token": "opaque"}), want: session.ErrAuthUnavailable},
		"truncated":                {link: sessiontest.TruncateJSON(20), want: session.ErrAuthUnavailable},
		"broken off":               {link: sessiontest.CutBody(20), want: session.ErrAuthUnavailable},
		"too large":                {link: sessiontest.Oversize(2 << 20), want: session.ErrAuthUnavailable},
		"gzip bomb":                {link: sessiontest.GzipBomb(64 << 20), want: session.ErrAuthUnavailable},
		"redirect":                 {link: sessiontest.Redirect(302, "http://elsewhere.test/"), refresh: sessiontest.Reset(), want: session.ErrAuthUnavailable},
		"route missing":            {link: sessiontest.Status(404, "Cannot GET /api"), refresh: sessiontest.Status(401, "Invalid refresh token"), want: session.ErrAuthUnavailable},
		"wrong service key":        {link: sessiontest.Status(401, "Valid service key required"), refresh: sessiontest.Status(401, "Invalid refresh token"), want: session.ErrServiceKeyRejected},
		"refresh fails":            {link: clear404, refresh: sessiontest.Status(500, "Failed to generate access token"), want: session.ErrAuthUnavailable},
		"refresh 401 of a proxy":   {link: clear404, refresh: sessiontest.Raw(401, "text/html", "<h1>401</h1>"), want: session.ErrAuthUnavailable},
		"check says linked":        {link: clear404, refresh: sessiontest.Status(401, "Invalid refresh token"), check: sessiontest.JSON(map[string]bool{"linked": true}), want: session.ErrAuthUnavailable},
		"check fails":              {link: clear404, refresh: sessiontest.Status(401, "Invalid refresh token"), check: sessiontest.Reset(), want: session.ErrAuthUnavailable},
		"check makes no sense":     {link: clear404, refresh: sessiontest.Status(401, "Invalid refresh token"), check: sessiontest.JSON(map[string]bool{}), want: session.ErrAuthUnavailable},
		"check lost its own route": {link: clear404, refresh: sessiontest.Status(401, "Invalid refresh token"), check: sessiontest.Status(404, "Cannot GET /x"), want: session.ErrAuthUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.LoginDead()
				for op, fault := range map[sessiontest.Op]sessiontest.Fault{
					sessiontest.LinkFetch: c.link, sessiontest.Refresh: c.refresh, sessiontest.LinkCheck: c.check,
				} {
					if fault != nil {
						w.Auth.Inject(op, -1, fault)
					}
				}
				_, err := w.Svc.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, c.want)
				require.NotErrorIs(t, err, session.ErrNotLoggedIn)
				require.ErrorAs(t, err, new(*session.AuthError))
				require.NotEmpty(t, w.Stored(world.Alice), "the session is kept")
				in, err := w.Svc.LoggedIn(t.Context(), world.Alice)
				require.NoError(t, err)
				require.True(t, in, "logged in, though there is no token just now")

				w.Auth.ClearFaults()
				w.Auth.Link(world.Alice, world.Email)
				time.Sleep(60 * time.Second) // past the back-off, the breaker, and what the server asked for
				world.MustToken(t, w.Svc, world.Alice)
			})
		})
	}
}

func TestHangingAuthServerCostsNobodyTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.LoginDead()
		w.Auth.Inject(sessiontest.LinkFetch, -1, w.Auth.Hang())
		started := time.Now()
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.LessOrEqual(t, time.Since(started), 12*time.Second)
		require.NotEmpty(t, w.Stored(world.Alice))
	})
}

func TestRefreshTokenStandsInForARejectedServiceKey(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		w.Auth.SetServiceKey("changed")
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestRejectedServiceKeyOfAnUnknownUser(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.SetServiceKey("changed")
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrServiceKeyRejected)
	})
}

func TestBotThatCannotAskEndsNothing(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(10*time.Second)), world.Email, `{"a":1}`))
		before := w.Stored(world.Alice)
		keyless := w.Service(session.WithServiceKey(""))
		_, err := keyless.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.Equal(t, before, w.Stored(world.Alice))
		require.Zero(t, w.Auth.Calls(sessiontest.Any))
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestKeylessBotKeepsTheSessionForOthersWhenItsRefreshTokenIsSpent(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		keyless := w.Service(session.WithServiceKey(""))
		for range 3 {
			_, err := keyless.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		}
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh), "a spent token is not tried again")
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestUserIDWithPercentNeverReachesALinkCall(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		const tricky = "@a%2Fb:matrix.example" // which the server would read as @a/b
		w.Auth.Link("@a/b:matrix.example", "bob@example.com")
		_, err := w.Svc.Token(t.Context(), tricky)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.NoError(t, w.Svc.Logout(t.Context(), tricky, session.AndUnlink()))
		require.Zero(t, w.Auth.Calls(sessiontest.Any))
		// Such a user can still log in, and is kept in by the refresh token.
		w.Auth.SetTokenTTL(30 * time.Second)
		_, err = w.Svc.Login(t.Context(), tricky, world.Email, world.Password)
		require.NoError(t, err)
		w.Auth.SetTokenTTL(time.Hour)
		world.MustToken(t, w.Svc, tricky)
		require.Equal(t, 2, w.Auth.Calls(sessiontest.Any), "login and refresh")
	})
}

func TestSlashInAUserIDIsEncoded(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link("@a/b:matrix.example", world.Email)
		world.MustToken(t, w.Svc, "@a/b:matrix.example")
		require.Contains(t, w.Auth.Requests()[0].Path, "%2F")
	})
}

func TestTokenOfAnotherAccountStartsACleanSession(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "diary", "private"))
		w.Auth.Link(world.Alice, "bob@example.com") // the link changed owner
		w.Auth.RevokeRefreshTokens(world.Email)     // and alice's own login is over
		world.MustToken(t, w.Svc, world.Alice)
		s, err := w.Svc.Session(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, "bob@example.com", s.Email)
		found, err := w.Svc.Data(t.Context(), world.Alice, "diary", new(string))
		require.NoError(t, err)
		require.False(t, found)
		require.NotContains(t, w.Stored(world.Alice), "refreshToken")
		require.Contains(t, w.Log.String(), "another account")
	})
}

func TestTokenFromTheServerIsReturnedAsItIs(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.SetTokenTTL(20 * time.Second) // or a clock that is behind ours
		world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Any))
	})
}

func TestAgingTokenIsHandedOutWhileOneRefreshRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		first := world.MustToken(t, w.Svc, world.Alice)
		w.Auth.ResetCalls()
		time.Sleep(11 * time.Minute) // 4 of 15 left
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(5*time.Second))
		started := time.Now()
		for range 100 {
			require.Equal(t, first, world.MustToken(t, w.Svc, world.Alice))
		}
		require.Zero(t, time.Since(started), "nobody waits")
		time.Sleep(6 * time.Second)
		require.NotEqual(t, first, world.MustToken(t, w.Svc, world.Alice))
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Any))
		stats, err := w.Svc.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, stats.RefreshesAhead)
	})
}

func TestAuthOutageShorterThanTheWindowIsNotNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(10 * time.Minute)
		w.Auth.ResetCalls()
		w.Auth.BreakDatabase(true)
		for range 180 { // three minutes
			world.MustToken(t, w.Svc, world.Alice)
			time.Sleep(time.Second)
		}
		require.Less(t, w.Auth.Calls(sessiontest.Any), 40, "backed off")
		w.Auth.BreakDatabase(false)
		for range 60 {
			world.MustToken(t, w.Svc, world.Alice)
			time.Sleep(time.Second)
		}
		s, err := w.Svc.Session(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Greater(t, time.Until(s.TokenExpiresAt), 10*time.Minute)
	})
}

func TestRefreshAheadDoesNotEndASessionWhoseTokenServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Login(w.Svc)
		w.Auth.RevokeRefreshTokens(world.Email)
		time.Sleep(12 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice)
		synctest.Wait()
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(3 * time.Minute)
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestTokensOfUnusualClaims(t *testing.T) {
	exp := func(v any) map[string]any { return map[string]any{"sub": "u", "exp": v} }
	soon := time.Now().Add(time.Hour).Unix()
	for name, c := range map[string]struct {
		claims map[string]any
		served bool
	}{
		"no exp":               {map[string]any{"sub": "u"}, true},
		"exp as a string":      {exp(strconv.FormatInt(soon, 10)), true},
		"exp in the past":      {exp("946684800"), false},
		"exp 0":                {exp(0), false},
		"exp is no number":     {exp("soon"), false},
		"exp beyond all time":  {exp(1e300), false},
		"exp in milliseconds":  {exp(soon * 1000), false},
		"exp in eleven years":  {exp(time.Now().AddDate(11, 0, 0).Unix()), false},
		"exp in nine years":    {exp(time.Now().AddDate(9, 0, 0).Unix()), true},
		"subject is a number":  {map[string]any{"sub": 7, "exp": soon}, true},
		"exp with a fraction":  {exp(float64(soon) + 0.5), true},
		"negative exp":         {exp(-62135596800), false},
		"exp null, so no exp":  {exp(nil), true},
		"exp is a list, a lie": {exp([]int{1}), false},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			token := w.Auth.Sign(c.claims)
			w.Put(world.Alice, world.TsRecord(token, "", "{}"))
			got, err := w.Svc.Token(t.Context(), world.Alice)
			if c.served {
				require.NoError(t, err)
				require.Equal(t, token, got)
			} else {
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
			}
		})
	}
}

func TestSessionEndsAfterAWeekWithoutUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		w.Login(w.Svc)
		for range 10 { // with use it lives on
			time.Sleep(6 * 24 * time.Hour)
			world.MustToken(t, w.Svc, world.Alice)
		}
		w.Auth.Unlink(world.Alice)
		time.Sleep(7*24*time.Hour + time.Second)
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		time.Sleep(time.Minute) // how often the memory store looks
		stats, err := w.Svc.Stats(t.Context())
		require.NoError(t, err)
		require.Zero(t, stats.Total, "dropped without being asked to")
	})
}

func TestTokensShorterThanTheWindowAreNotRefreshedOverAndOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.SetTokenTTL(3 * time.Minute) // of which 5 are the window
		w.Auth.Link(world.Alice, world.Email)
		for range 60 {
			world.MustToken(t, w.Svc, world.Alice)
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Any), 4)
	})
}

func TestSuccessorOfARefreshTokenOutlastsAShortOutageOfTheStore(t *testing.T) {
	server := redistest.Start(t, redistest.WithPersistence())
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.LoginDead()
	result, release := world.Held(t, w) // with the lease, about to ask
	w.Auth.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		server.Kill()
		answer(rw, r)
	})
	release()
	world.Eventually(t, "the refresh token is spent", func() bool { return w.Auth.Calls(sessiontest.Refresh) == 1 })
	server.Start()
	require.NoError(t, <-result)
	world.MustToken(t, w.Svc, world.Alice)
	current := world.MustToken(t, w.Svc, world.Alice)
	w.Auth.RotateSigningKey()
	_, err := w.Svc.Refresh(t.Context(), world.Alice, current)
	require.NoError(t, err, "by the successor")
}
