package session_test

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
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
				w := newWorld(t, store, session.WithRefreshAhead(0))
				w.auth.Link(alice, email)
				cached := w.auth.MintToken(email, time.Now().Add(left))
				w.put(alice, tsRecord(cached, email, "{}"))
				token := mustToken(t, w.svc, alice)
				require.Equal(t, left > time.Minute, token == cached)
				require.Equal(t, token, mustToken(t, w.svc, alice), "the second time from the near cache")
			})
		})
	}
}

func TestDeadTokenIsReplacedByTheLink(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		old := w.loginDead()
		require.NoError(t, w.svc.SetData(t.Context(), alice, "list", "shopping"))
		w.auth.Link(alice, email)

		token := mustToken(t, w.svc, alice)
		require.NotEqual(t, old.Token(), token)
		require.Equal(t, token, mustToken(t, w.svc, alice))
		require.Equal(t, 1, w.auth.Calls(sessiontest.Any), "one call, and none for the refresh token")

		s, err := w.svc.Session(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, email, s.Email)
		require.Equal(t, old.Subject, s.Subject)
		list, found, err := session.DataAs[string](t.Context(), w.svc, alice, "list")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "shopping", list)
		require.Contains(t, w.stored(alice), `"refreshToken"`)
	})
}

func TestDeadTokenIsReplacedByTheRefreshTokenWithoutALink(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		require.NoError(t, w.svc.SetData(t.Context(), alice, "n", 1))
		for range 3 { // each refresh needs the successor that the last one stored
			mustToken(t, w.svc, alice)
			w.auth.SetTokenTTL(30 * time.Second)
			current := mustToken(t, w.svc, alice)
			_, err := w.svc.Refresh(t.Context(), alice, current)
			require.NoError(t, err)
			w.auth.SetTokenTTL(15 * time.Minute)
		}
		mustToken(t, w.svc, alice)
		found, err := w.svc.Data(t.Context(), alice, "n", new(int))
		require.NoError(t, err)
		require.True(t, found)
		got, err := w.svc.Email(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, email, got)
	})
}

func TestLinkedUserNeedsNoLogin(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		token := mustToken(t, w.svc, alice)
		require.Equal(t, token, mustToken(t, w.service(), alice), "the session is shared")
		require.Equal(t, 1, w.auth.Calls(sessiontest.LinkFetch))
		got, err := w.svc.Email(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, email, got, "the link call returns the email")
	})
}

func TestUnlinkedUserCostsOneCallPer30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		ask := func() error {
			_, err := w.svc.Token(t.Context(), alice)
			return err
		}
		for range 5 {
			require.ErrorIs(t, ask(), session.ErrNotLoggedIn)
		}
		require.Equal(t, 1, w.auth.Calls(sessiontest.Any))
		time.Sleep(31 * time.Second)
		require.ErrorIs(t, ask(), session.ErrNotLoggedIn)
		require.Equal(t, 2, w.auth.Calls(sessiontest.Any))
		// What appears in the store overrides what is remembered.
		w.login(w.service())
		require.NoError(t, ask())
		// And so does a login here.
		require.NoError(t, w.svc.Logout(t.Context(), alice))
		require.ErrorIs(t, ask(), session.ErrNotLoggedIn)
		w.login(w.svc)
		require.NoError(t, ask())
	})
}

func TestClearNoEndsTheSession(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		w.auth.RevokeRefreshTokens(email)
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.Empty(t, w.stored(alice))
		require.Equal(t, 1, w.auth.Calls(sessiontest.LinkFetch))
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh))
		require.Equal(t, 1, w.auth.Calls(sessiontest.LinkCheck), "a 404 is confirmed before it counts")
		in, err := w.svc.LoggedIn(t.Context(), alice)
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
		"no token":                 {link: sessiontest.JSON(map[string]any{"email": email}), want: session.ErrAuthUnavailable},
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
				w := newWorld(t, session.NewMemoryStore())
				w.loginDead()
				for op, fault := range map[sessiontest.Op]sessiontest.Fault{
					sessiontest.LinkFetch: c.link, sessiontest.Refresh: c.refresh, sessiontest.LinkCheck: c.check,
				} {
					if fault != nil {
						w.auth.Inject(op, -1, fault)
					}
				}
				_, err := w.svc.Token(t.Context(), alice)
				require.ErrorIs(t, err, c.want)
				require.NotErrorIs(t, err, session.ErrNotLoggedIn)
				require.ErrorAs(t, err, new(*session.AuthError))
				require.NotEmpty(t, w.stored(alice), "the session is kept")
				in, err := w.svc.LoggedIn(t.Context(), alice)
				require.NoError(t, err)
				require.True(t, in, "logged in, though there is no token just now")

				w.auth.ClearFaults()
				w.auth.Link(alice, email)
				time.Sleep(60 * time.Second) // past the back-off, the breaker, and what the server asked for
				mustToken(t, w.svc, alice)
			})
		})
	}
}

func TestHangingAuthServerCostsNobodyTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.loginDead()
		w.auth.Inject(sessiontest.LinkFetch, -1, w.auth.Hang())
		started := time.Now()
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.LessOrEqual(t, time.Since(started), 12*time.Second)
		require.NotEmpty(t, w.stored(alice))
	})
}

func TestRefreshTokenStandsInForARejectedServiceKey(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		w.auth.SetServiceKey("changed")
		mustToken(t, w.svc, alice)
	})
}

func TestRejectedServiceKeyOfAnUnknownUser(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.SetServiceKey("changed")
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrServiceKeyRejected)
	})
}

func TestBotThatCannotAskEndsNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(10*time.Second)), email, `{"a":1}`))
		before := w.stored(alice)
		keyless := w.service(session.WithServiceKey(""))
		_, err := keyless.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.Equal(t, before, w.stored(alice))
		require.Zero(t, w.auth.Calls(sessiontest.Any))
		w.auth.Link(alice, email)
		mustToken(t, w.svc, alice)
	})
}

func TestKeylessBotKeepsTheSessionForOthersWhenItsRefreshTokenIsSpent(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		w.auth.RevokeRefreshTokens(email)
		keyless := w.service(session.WithServiceKey(""))
		for range 3 {
			_, err := keyless.Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		}
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh), "a spent token is not tried again")
		w.auth.Link(alice, email)
		mustToken(t, w.svc, alice)
	})
}

func TestUserIDWithPercentNeverReachesALinkCall(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const tricky = "@a%2Fb:matrix.example" // which the server would read as @a/b
		w.auth.Link("@a/b:matrix.example", "bob@example.com")
		_, err := w.svc.Token(t.Context(), tricky)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.NoError(t, w.svc.Logout(t.Context(), tricky, session.AndUnlink()))
		require.Zero(t, w.auth.Calls(sessiontest.Any))
		// Such a user can still log in, and is kept in by the refresh token.
		w.auth.SetTokenTTL(30 * time.Second)
		_, err = w.svc.Login(t.Context(), tricky, email, password)
		require.NoError(t, err)
		w.auth.SetTokenTTL(time.Hour)
		mustToken(t, w.svc, tricky)
		require.Equal(t, 2, w.auth.Calls(sessiontest.Any), "login and refresh")
	})
}

func TestSlashInAUserIDIsEncoded(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link("@a/b:matrix.example", email)
		mustToken(t, w.svc, "@a/b:matrix.example")
		require.Contains(t, w.auth.Requests()[0].Path, "%2F")
	})
}

func TestTokenOfAnotherAccountStartsACleanSession(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		require.NoError(t, w.svc.SetData(t.Context(), alice, "diary", "private"))
		w.auth.Link(alice, "bob@example.com") // the link changed owner
		w.auth.RevokeRefreshTokens(email)     // and alice's own login is over
		mustToken(t, w.svc, alice)
		s, err := w.svc.Session(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, "bob@example.com", s.Email)
		found, err := w.svc.Data(t.Context(), alice, "diary", new(string))
		require.NoError(t, err)
		require.False(t, found)
		require.NotContains(t, w.stored(alice), "refreshToken")
		require.Contains(t, w.log.String(), "another account")
	})
}

func TestTokenFromTheServerIsReturnedAsItIs(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		w.auth.SetTokenTTL(20 * time.Second) // or a clock that is behind ours
		mustToken(t, w.svc, alice)
		require.Equal(t, 1, w.auth.Calls(sessiontest.Any))
	})
}

func TestAgingTokenIsHandedOutWhileOneRefreshRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		first := mustToken(t, w.svc, alice)
		w.auth.ResetCalls()
		time.Sleep(11 * time.Minute) // 4 of 15 left
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(5*time.Second))
		started := time.Now()
		for range 100 {
			require.Equal(t, first, mustToken(t, w.svc, alice))
		}
		require.Zero(t, time.Since(started), "nobody waits")
		time.Sleep(6 * time.Second)
		require.NotEqual(t, first, mustToken(t, w.svc, alice))
		require.Equal(t, 1, w.auth.Calls(sessiontest.Any))
		stats, err := w.svc.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, stats.RefreshesAhead)
	})
}

func TestAuthOutageShorterThanTheWindowIsNotNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		mustToken(t, w.svc, alice)
		time.Sleep(10 * time.Minute)
		w.auth.ResetCalls()
		w.auth.BreakDatabase(true)
		for range 180 { // three minutes
			mustToken(t, w.svc, alice)
			time.Sleep(time.Second)
		}
		require.Less(t, w.auth.Calls(sessiontest.Any), 40, "backed off")
		w.auth.BreakDatabase(false)
		for range 60 {
			mustToken(t, w.svc, alice)
			time.Sleep(time.Second)
		}
		s, err := w.svc.Session(t.Context(), alice)
		require.NoError(t, err)
		require.Greater(t, time.Until(s.TokenExpiresAt), 10*time.Minute)
	})
}

func TestRefreshAheadDoesNotEndASessionWhoseTokenServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.login(w.svc)
		w.auth.RevokeRefreshTokens(email)
		time.Sleep(12 * time.Minute)
		mustToken(t, w.svc, alice)
		synctest.Wait()
		mustToken(t, w.svc, alice)
		time.Sleep(3 * time.Minute)
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestManyCallersOfADeadTokenShareOneCall(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		services := []*session.Service{w.svc, w.service(), w.service(), w.service()}
		for range 50 {
			w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(time.Second)), email, "{}"))
			for _, svc := range services {
				eventually(t, "the dead token is known", func() bool {
					s, err := svc.Session(t.Context(), alice)
					return err == nil && time.Until(s.TokenExpiresAt) < time.Minute
				})
			}
			w.auth.ResetCalls()
			tokens := make(chan string, len(services)*64)
			var callers sync.WaitGroup
			for _, svc := range services {
				for range 64 {
					callers.Go(func() {
						token, err := svc.Token(context.WithoutCancel(t.Context()), alice)
						if err != nil {
							t.Error(err)
						}
						tokens <- token
					})
				}
			}
			callers.Wait()
			close(tokens)
			first := <-tokens
			for token := range tokens {
				require.Equal(t, first, token)
			}
			require.Equal(t, 1, w.auth.Calls(sessiontest.Any))
		}
	})
}

func TestTwoProcessesNeverSpendOneRefreshTokenTwice(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		other := w.service()
		var callers sync.WaitGroup
		for _, svc := range []*session.Service{w.svc, other} {
			for range 8 {
				callers.Go(func() {
					_, err := svc.Token(context.WithoutCancel(t.Context()), alice)
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		callers.Wait()
		require.Equal(t, 1, w.auth.Calls(sessiontest.Refresh))
	})
}

func TestCallerWhoGivesUpHarmsNobody(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		g := newGate(w.auth.Client().Transport)
		svc := w.service(session.WithHTTPClient(&http.Client{Transport: g}))
		w.auth.Link(alice, email)
		impatient, giveUp := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := svc.Token(impatient, alice)
			gaveUp <- err
		}()
		<-g.arrived
		patient := make(chan error, 1)
		go func() {
			_, err := svc.Token(context.WithoutCancel(t.Context()), alice)
			patient <- err
		}()
		giveUp()
		require.ErrorIs(t, <-gaveUp, context.Canceled)
		close(g.open)
		require.NoError(t, <-patient)
	})
}

// held is a world whose service is stuck in a refresh of alice's dead token.
func held(t *testing.T, w *world) (result <-chan error, release func()) {
	t.Helper()
	g := newGate(w.auth.Client().Transport)
	svc := w.service(session.WithHTTPClient(&http.Client{Transport: g}))
	out := make(chan error, 1)
	go func() {
		_, err := svc.Token(context.WithoutCancel(t.Context()), alice)
		out <- err
	}()
	<-g.arrived
	return out, func() { close(g.open) }
}

func TestLogoutWinsOverRefresh(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		w.auth.Link(alice, email)
		result, release := held(t, w)
		require.NoError(t, w.svc.Logout(t.Context(), alice))
		release()
		require.ErrorIs(t, <-result, session.ErrNotLoggedIn)
		require.Empty(t, w.stored(alice))
	})
}

func TestLogoutWinsOverANewSessionFromTheLink(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		result, release := held(t, w)
		require.NoError(t, w.svc.Logout(t.Context(), alice))
		release()
		require.ErrorIs(t, <-result, session.ErrNotLoggedIn)
		require.Empty(t, w.stored(alice))
	})
}

func TestLoginAsSomebodyElseWinsOverRefresh(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		w.auth.Link(alice, email)
		result, release := held(t, w)
		other, err := w.svc.Login(t.Context(), alice, "bob@example.com", password)
		require.NoError(t, err)
		release()
		require.NoError(t, <-result)
		s, err := w.svc.Session(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, other.Subject, s.Subject)
		require.Equal(t, other.Token(), mustToken(t, w.svc, alice))
	})
}

func TestRefreshRacingADataWriteLosesNeither(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		old := w.loginDead()
		w.auth.Link(alice, email)
		result, release := held(t, w)
		require.NoError(t, w.svc.SetData(t.Context(), alice, "k", "v"))
		release()
		require.NoError(t, <-result)
		require.NotEqual(t, old.Token(), mustToken(t, w.svc, alice))
		value, found, err := session.DataAs[string](t.Context(), w.svc, alice, "k")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "v", value)
	})
}

func TestRefreshOfATokenThatABackendRejected(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		rejected := mustToken(t, w.svc, alice)
		w.auth.RotateSigningKey() // or the same second would make the same token
		renewed, err := w.svc.Refresh(t.Context(), alice, rejected)
		require.NoError(t, err)
		require.NotEqual(t, rejected, renewed)
		require.Equal(t, renewed, mustToken(t, w.svc, alice))
		again, err := w.svc.Refresh(t.Context(), alice, rejected)
		require.NoError(t, err)
		require.Equal(t, renewed, again, "it had been replaced already")
		require.Equal(t, 2, w.auth.Calls(sessiontest.Any))
	})
}

func TestFailureSpeaksForOtherProcesses(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.loginDead()
		w.auth.Inject(sessiontest.LinkFetch, -1, sessiontest.Status(500, "down"))
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		_, err = w.service().Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.ErrorContains(t, err, "down", "with the cause that the other process met")
		require.Equal(t, 1, w.auth.Calls(sessiontest.LinkFetch))
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
			w := newWorld(t, session.NewMemoryStore())
			token := w.auth.Sign(c.claims)
			w.put(alice, tsRecord(token, "", "{}"))
			got, err := w.svc.Token(t.Context(), alice)
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
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		w.login(w.svc)
		for range 10 { // with use it lives on
			time.Sleep(6 * 24 * time.Hour)
			mustToken(t, w.svc, alice)
		}
		w.auth.Unlink(alice)
		time.Sleep(7*24*time.Hour + time.Second)
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		stats, err := w.svc.Stats(t.Context())
		require.NoError(t, err)
		require.Zero(t, stats.Total, "dropped without being asked to")
	})
}

func TestBadUserIDsTouchNothing(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	ctx := t.Context()
	for _, id := range []string{
		"", ".", "..", "@", "alice", "@alice", "@:", "@a:", "alice:h", "@a\n:h", "@a:h/x", "@a:h x", "@a\xff:h",
		"@a:h\x00", "@" + strings.Repeat("a", 255) + ":h", "@a:ü",
	} {
		_, err := w.svc.Token(ctx, id)
		require.ErrorIs(t, err, session.ErrInvalidUserID, "%q", id)
		_, err = w.svc.Login(ctx, id, email, password)
		require.ErrorIs(t, err, session.ErrInvalidUserID)
		require.ErrorIs(t, w.svc.Logout(ctx, id, session.AndUnlink()), session.ErrInvalidUserID)
		require.ErrorIs(t, w.svc.SetData(ctx, id, "k", 1), session.ErrInvalidUserID)
	}
	require.Zero(t, w.auth.Calls(sessiontest.Any))
	for _, id := range []string{"@a:h", "@A:h", "@a/b=._-+:h:8448", "@ü!$&'*:h", "@:h", "@a b:h", "@a:[::1]:80", "@" + strings.Repeat("a", 252) + ":h"} {
		_, err := w.svc.Token(ctx, id)
		require.ErrorIs(t, err, session.ErrNotLoggedIn, "%q", id)
	}
}

func TestCallsAfterCloseSaySo(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.login(w.svc)
	mustToken(t, w.svc, alice)
	mustToken(t, w.svc, alice)
	require.NoError(t, w.svc.Close())
	require.NoError(t, w.svc.Close())
	ctx := t.Context()
	_, err := w.svc.Token(ctx, alice)
	require.ErrorIs(t, err, session.ErrClosed)
	_, err = w.svc.Login(ctx, alice, email, password)
	require.ErrorIs(t, err, session.ErrClosed)
	require.ErrorIs(t, w.svc.Logout(ctx, alice), session.ErrClosed)
	require.ErrorIs(t, w.svc.SetData(ctx, alice, "k", 1), session.ErrClosed)
	_, err = w.svc.Stats(ctx)
	require.ErrorIs(t, err, session.ErrClosed)
	_, err = w.svc.Cleanup(ctx)
	require.ErrorIs(t, err, session.ErrClosed)
	for _, err := range w.svc.Users(ctx) {
		require.ErrorIs(t, err, session.ErrClosed)
	}
	w.svc.Health(ctx)
}

func TestCloseEndsAFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		w.auth.Inject(sessiontest.LinkFetch, 1, w.auth.Hang())
		result := make(chan error, 1)
		go func() {
			_, err := w.svc.Token(t.Context(), alice)
			result <- err
		}()
		synctest.Wait()
		require.NoError(t, w.svc.Close())
		require.ErrorIs(t, <-result, session.ErrClosed)
	})
}

func TestCancelledContextIsHonoured(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := w.svc.Token(ctx, alice)
		require.ErrorIs(t, err, context.Canceled)
		_, err = w.svc.Login(ctx, alice, email, password)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, w.svc.Logout(ctx, alice), context.Canceled)
		require.ErrorIs(t, w.svc.SetData(ctx, alice, "k", 1), context.Canceled)
	})
}

// panicStore panics where told to.
type panicStore struct{ session.Store }

func (p *panicStore) Swap(context.Context, session.Record, session.Record) (session.Record, error) {
	panic("out of order: " + password)
}

func TestPanicInACallersStoreIsAnError(t *testing.T) {
	w := newWorld(t, &panicStore{Store: session.NewMemoryStore()})
	w.auth.Link(alice, email)
	for range 2 {
		_, err := w.svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		require.NotContains(t, err.Error(), password)
	}
	require.NotContains(t, w.log.String(), password)
}

func TestTokensShorterThanTheWindowAreNotRefreshedOverAndOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.SetTokenTTL(3 * time.Minute) // of which 5 are the window
		w.auth.Link(alice, email)
		for range 60 {
			mustToken(t, w.svc, alice)
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, w.auth.Calls(sessiontest.Any), 4)
	})
}

func TestSuccessorOfARefreshTokenOutlastsAShortOutageOfTheStore(t *testing.T) {
	server := redistest.Start(t, redistest.WithPersistence())
	w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
	w.loginDead()
	result, release := held(t, w) // with the lease, about to ask
	w.auth.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		server.Kill()
		answer(rw, r)
	})
	release()
	eventually(t, "the refresh token is spent", func() bool { return w.auth.Calls(sessiontest.Refresh) == 1 })
	server.Start()
	require.NoError(t, <-result)
	mustToken(t, w.svc, alice)
	current := mustToken(t, w.svc, alice)
	w.auth.RotateSigningKey()
	_, err := w.svc.Refresh(t.Context(), alice, current)
	require.NoError(t, err, "by the successor")
}
