package weblogin_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/weblogin"
)

func TestMain(m *testing.M) { world.Main(m) }

func TestLoginTakesEffectWhenTheUserSendsTheCode(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	require.True(t, strings.HasPrefix(link, base+"?link="), link)
	code := newBrowser(t, s).logIn(link).code()
	world.WantLoggedOutHere(t, s.Svc)

	got, err := s.Complete(t.Context(), world.Alice, room, code)
	require.NoError(t, err)
	require.Equal(t, world.Alice, got.MatrixUserID)
	require.Equal(t, world.Email, got.Email)
	require.Equal(t, got.Token(), world.MustToken(t, s.Svc, world.Alice))
	require.Equal(t, 1, s.Auth.Calls(sessiontest.Login))
}

func TestCodeIsTakenAsPeopleTypeIt(t *testing.T) {
	for name, typed := range map[string]func(string) string{
		"in lower case":          strings.ToLower,
		"in two groups":          func(code string) string { return code[:4] + "-" + code[4:] },
		"with a dash":            func(code string) string { return code[:4] + "\u2014" + code[4:] },
		"between marks":          func(code string) string { return "\u2068" + code + "\u2069\u200b" },
		"with a line at its end": func(code string) string { return code + "\r\n" },
		"with spaces":            func(code string) string { return " " + strings.Join(strings.Split(code, ""), " ") + " " },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			require.NoError(t, s.complete(t, typed(s.code(t))))
		})
	}
}

func TestCodeWorksOnce(t *testing.T) {
	s := newSite(t)
	code := s.code(t)
	require.NoError(t, s.complete(t, code))
	require.NoError(t, s.Svc.Logout(t.Context(), world.Alice))
	require.ErrorIs(t, s.complete(t, code), session.ErrLoginExpired)
	world.WantLoggedOutHere(t, s.Svc)
}

func TestCodesDifferAndHaveNoLookalikes(t *testing.T) {
	seen := make(map[string]bool)
	for range 20 {
		s := newSite(t)
		code := s.code(t)
		require.Regexp(t, `^[BCDFGHJKLMNPQRSTVWXZ]{8}$`, code)
		require.False(t, seen[code])
		seen[code] = true
	}
}

func TestCodeIsOfOneUserInOneRoom(t *testing.T) {
	s := newSite(t)
	code := s.code(t)
	_, err := s.Complete(t.Context(), world.Bob, room, code)
	require.ErrorIs(t, err, session.ErrLoginExpired, "somebody without a link")
	_, err = s.Complete(t.Context(), world.Alice, otherRoom, code)
	require.ErrorIs(t, err, session.ErrLoginExpired, "another room")
	s.link(t, world.Bob)
	_, err = s.Complete(t.Context(), world.Bob, room, code)
	require.ErrorIs(t, err, session.ErrInvalidCredentials, "somebody with a link of their own")
	world.WantLoggedOutHere(t, s.Svc)
	require.NoError(t, s.complete(t, code), "none of them has spent it")
}

// Mallory opens alice's link and logs in with an account of their own, to see what
// alice then does with it.
func TestWhoLogsInOnAnothersLinkGainsNothing(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	mallory := newBrowser(t, s)
	code := mallory.send(link, mallory.open(link), "bob@example.com", world.Password).code()
	_, err := s.Complete(t.Context(), world.Bob, room, code)
	require.ErrorIs(t, err, session.ErrLoginExpired)

	newBrowser(t, s).open(link).wants(410, noLongerWorks)
	world.WantLoggedOutHere(t, s.Svc)
}

func TestPageNamesTheMatrixIDAndWarns(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	form := b.open(link)
	require.Contains(t, form.Body.String(), "<bdi>"+world.Alice+"</bdi>")
	require.Contains(t, form.Body.String(), "close this page")
	shown := b.send(link, form, world.Email, world.Password)
	require.Contains(t, shown.Body.String(), "<bdi>"+world.Alice+"</bdi>")
	require.Contains(t, shown.Body.String(), "<bdi>"+world.Email+"</bdi>")
	require.Contains(t, shown.Body.String(), "Give the code to nobody")
}

func TestLinkIsSpentByThePasswordThatIsAccepted(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	first, second := newBrowser(t, s), newBrowser(t, s)
	form := first.open(link)
	opened := second.open(link)
	code := first.send(link, form, world.Email, world.Password).code()

	second.send(link, opened, world.Email, world.Password).wants(410, noLongerWorks)
	first.send(link, form, world.Email, world.Password).wants(410, noLongerWorks)
	first.open(link).wants(410, noLongerWorks)
	require.Equal(t, 1, s.Auth.Calls(sessiontest.Login))
	require.NoError(t, s.complete(t, code))
	first.open(link).wants(410, noLongerWorks)
}

// Two people send the form of one link at once.
func TestOnlyOneOfTwoPasswordsAtOnceBecomesACode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		link := s.link(t, world.Alice)
		s.Auth.Inject(sessiontest.Login, 2, sessiontest.Delay(time.Second))
		codes, gone := 0, 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 2 {
			b := newBrowser(t, s)
			form := b.open(link)
			wg.Go(func() {
				got := b.send(link, form, world.Email, world.Password)
				mu.Lock()
				defer mu.Unlock()
				switch got.Code {
				case 200:
					codes++
				case 410:
					gone++
				}
			})
		}
		wg.Wait()
		require.Equal(t, []int{1, 1}, []int{codes, gone})
	})
}

func TestLinkHoldsForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		link := s.link(t, world.Alice)
		b := newBrowser(t, s)
		time.Sleep(10*time.Minute - time.Second)
		form := b.open(link)
		form.token()
		time.Sleep(time.Second)
		b.open(link).wants(410, noLongerWorks)
		b.send(link, form, world.Email, world.Password).wants(410, noLongerWorks)
		require.Zero(t, s.Auth.Calls(sessiontest.Login))
		require.ErrorIs(t, s.complete(t, "BCDFGHJK"), session.ErrLoginExpired)
	})
}

func TestCodeHoldsForTenMinutesFromWhenItWasShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for _, c := range []struct {
			after time.Duration
			want  error
		}{{10*time.Minute - time.Second, nil}, {10 * time.Minute, session.ErrLoginExpired}} {
			link := s.link(t, world.Alice)
			time.Sleep(9 * time.Minute)
			code := newBrowser(t, s).logIn(link).code()
			time.Sleep(c.after)
			require.ErrorIs(t, s.complete(t, code), c.want)
		}
	})
}

func TestNewerLinkTakesThePlaceOfAnOlder(t *testing.T) {
	s := newSite(t)
	older, newer := s.link(t, world.Alice), s.link(t, world.Alice)
	require.NotEqual(t, older, newer)
	newBrowser(t, s).open(older).wants(410, noLongerWorks)
	code := newBrowser(t, s).logIn(newer).code()

	_, err := s.Link(t.Context(), world.Alice, otherRoom)
	require.NoError(t, err)
	require.ErrorIs(t, s.complete(t, code), session.ErrLoginExpired, "that room has no link any more")
}

func TestLinksOfTwoUsersKnowNothingOfEachOther(t *testing.T) {
	s := newSite(t)
	alices, bobs := s.link(t, world.Alice), s.link(t, world.Bob)
	b := newBrowser(t, s)
	form := b.open(alices)
	b.send(bobs, form, world.Email, world.Password).wantsAgain(403, "out of date")
	code := b.logIn(alices).code()
	_, err := s.Complete(t.Context(), world.Bob, room, code)
	require.ErrorIs(t, err, session.ErrInvalidCredentials)
	require.NoError(t, s.complete(t, code))
	require.Contains(t, b.open(bobs).Body.String(), world.Bob)
}

func TestFiveWrongCodesEndALink(t *testing.T) {
	s := newSite(t)
	code := s.code(t)
	for range 4 {
		require.ErrorIs(t, s.complete(t, "BBBBBBBB"), session.ErrInvalidCredentials)
	}
	require.ErrorIs(t, s.complete(t, "BBBBBBBB"), session.ErrLoginExpired)
	require.ErrorIs(t, s.complete(t, code), session.ErrLoginExpired)
	world.WantLoggedOutHere(t, s.Svc)
}

func TestTenWrongCodesInTenMinutesStopAUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for range 2 {
			s.code(t)
			for range 5 {
				require.Error(t, s.complete(t, "BBBBBBBB"))
			}
		}
		code := s.code(t)
		time.Sleep(3 * time.Minute)
		err := s.complete(t, code)
		require.ErrorIs(t, err, session.ErrRateLimited, "the right one, too")
		requireWait(t, 7*time.Minute, err)
		time.Sleep(7 * time.Minute)
		require.ErrorIs(t, s.complete(t, code), session.ErrLoginExpired)
		require.NoError(t, s.complete(t, s.code(t)))
	})
}

func TestFiveLinksInTenMinutesAreAllThatAUserGets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for range 5 {
			s.link(t, world.Alice)
		}
		time.Sleep(time.Minute)
		_, err := s.Link(t.Context(), world.Alice, otherRoom)
		require.ErrorIs(t, err, session.ErrRateLimited)
		requireWait(t, 9*time.Minute, err)
		s.link(t, world.Bob)
		time.Sleep(9 * time.Minute)
		s.link(t, world.Alice)
	})
}

func TestOneUserDoesNotUseUpTheLinksOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, weblogin.WithGlobalLimit(6))
		for range 100 {
			_, _ = s.Link(t.Context(), world.Alice, room)
		}
		s.link(t, world.Bob)
		_, err := s.Link(t.Context(), world.Carol, room)
		require.ErrorIs(t, err, session.ErrRateLimited)
		requireWait(t, 10*time.Second, err)
		time.Sleep(10 * time.Second)
		s.link(t, world.Carol)
	})
}

func TestFiveWrongPasswordsEndALink(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	form := b.open(link)
	for range 4 {
		form = b.send(link, form, world.Email, "wrong")
		form.wantsAgain(422, "wrong")
	}
	last := b.send(link, form, world.Email, "wrong")
	last.wants(410, noLongerWorks)
	require.Contains(t, last.Body.String(), "too many wrong passwords")
	b.open(link).wants(410, noLongerWorks)
	b.send(link, form, world.Email, world.Password).wants(410, noLongerWorks)
	require.Equal(t, 5, s.Auth.Calls(sessiontest.Login))
}

// A wrong password in an outage, or past a limit, is no wrong password.
func TestOnlyWrongPasswordsCount(t *testing.T) {
	s := newSite(t)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	form := b.open(link)
	s.Auth.Inject(sessiontest.Login, 4, sessiontest.Status(503, "down"))
	for range 4 {
		form = b.send(link, form, world.Email, world.Password)
		form.wantsAgain(503, "does not answer")
	}
	s.Auth.AddUnverifiedUser("new@example.com", world.Password)
	for range 3 {
		form = b.send(link, form, "new@example.com", world.Password)
		form.wantsAgain(403, "not confirmed yet")
	}
	require.Len(t, b.send(link, form, world.Email, world.Password).code(), 8)
}

func TestGlobalLimitHoldsForPasswords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, weblogin.WithGlobalLimit(2))
		link := s.link(t, world.Alice)
		b := newBrowser(t, s)
		for range 2 {
			b.send(link, b.open(link), world.Email, "wrong").wantsAgain(422, "wrong")
		}
		for range 6 { // which do not count for the link
			refused := b.logIn(link)
			refused.wantsAgain(429, "in 30 seconds")
			require.Equal(t, "30", refused.Header().Get("Retry-After"))
		}
		time.Sleep(30 * time.Second)
		require.NoError(t, s.complete(t, b.logIn(link).code()))
	})
}

func TestLimitsOfTheServiceHoldOnThePage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := on(world.New(t, session.NewMemoryStore(), session.WithLoginLimit(1, 2*time.Minute)))
		link := s.link(t, world.Alice)
		b := newBrowser(t, s)
		b.send(link, b.open(link), world.Email, "wrong").wantsAgain(422, "wrong")
		refused := b.logIn(link)
		refused.wantsAgain(429, "in 2 minutes")
		require.Equal(t, "120", refused.Header().Get("Retry-After"))
	})
}

func TestLogoutAndLoginsAfterThePageCountAsUsual(t *testing.T) {
	s := newSite(t)
	s.Login(s.Svc)
	link := s.link(t, world.Alice)
	b := newBrowser(t, s)
	code := b.send(link, b.open(link), "bob@example.com", world.Password).code()
	email, err := s.Svc.Email(t.Context(), world.Alice)
	require.NoError(t, err)
	require.Equal(t, world.Email, email, "until the code is sent")
	require.NoError(t, s.complete(t, code))
	email, err = s.Svc.Email(t.Context(), world.Alice)
	require.NoError(t, err)
	require.Equal(t, "bob@example.com", email)
}

// flaky finds tokens bad once it is told to.
type flaky struct{ bad atomic.Bool }

func (f *flaky) verify(context.Context, string) error {
	if f.bad.Load() {
		return errors.New("no keys")
	}
	return nil
}

func TestCodeIsStillGoodAfterALoginThatCouldNotBeCompleted(t *testing.T) {
	var keys flaky
	s := on(world.New(t, session.NewMemoryStore(), session.WithTokenVerifier(keys.verify)))
	code := s.code(t)
	keys.bad.Store(true)
	require.ErrorIs(t, s.complete(t, code), session.ErrAuthUnavailable)
	keys.bad.Store(false)
	require.NoError(t, s.complete(t, code))
	world.MustToken(t, s.Svc, world.Alice)
}

func TestNewerLinkStaysWhenAnOlderCodeFails(t *testing.T) {
	newer := ""
	var s *site
	verify := func(context.Context, string) error {
		switch newer {
		case "":
			return nil
		case "wanted":
			newer = s.link(t, world.Alice)
		}
		return errors.New("no keys")
	}
	s = on(world.New(t, session.NewMemoryStore(), session.WithTokenVerifier(verify)))
	code := s.code(t)
	newer = "wanted"
	require.ErrorIs(t, s.complete(t, code), session.ErrAuthUnavailable)
	newBrowser(t, s).open(newer).token()
}

func TestLoginIsNotCompletedWithAnotherKey(t *testing.T) {
	key, other := make([]byte, 32), make([]byte, 32)
	key[0], other[0] = 1, 2
	store := session.NewMemoryStore()
	s := on(world.New(t, session.NewMemoryStore(), session.WithEncryption(key)), weblogin.WithStore(store))
	elsewhere := handlerOf(s.World, s.Service(session.WithEncryption(other)), weblogin.WithStore(store))
	_, err := elsewhere.Complete(t.Context(), world.Alice, room, s.code(t))
	require.ErrorIs(t, err, session.ErrLoginExpired)
}

func requireWait(t *testing.T, want time.Duration, err error) {
	t.Helper()
	var said *session.AuthError
	require.True(t, errors.As(err, &said), err)
	require.Equal(t, want, said.RetryAfter)
}
