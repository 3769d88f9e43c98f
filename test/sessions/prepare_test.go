package sessions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

func prepare(t *testing.T, svc *session.Service) *session.PendingLogin {
	t.Helper()
	p, err := svc.PrepareLogin(t.Context(), world.Alice, world.Email, world.Password)
	require.NoError(t, err)
	return p
}

// carried is a pending login as it arrives in another process.
func carried(t *testing.T, p *session.PendingLogin) *session.PendingLogin {
	t.Helper()
	value, err := p.MarshalBinary()
	require.NoError(t, err)
	arrived := new(session.PendingLogin)
	require.NoError(t, arrived.UnmarshalBinary(value))
	return arrived
}

func complete(t *testing.T, svc *session.Service, p *session.PendingLogin) error {
	t.Helper()
	_, err := svc.CompleteLogin(t.Context(), world.Alice, p)
	return err
}

func TestPreparedLoginTakesEffectWhenItIsCompletedInWhicheverProcess(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		p := prepare(t, w.Svc)
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.Empty(t, w.Stored(world.Alice), "nothing is written")

		other := w.Service()
		s, err := other.CompleteLogin(t.Context(), world.Alice, carried(t, p))
		require.NoError(t, err)
		require.Equal(t, world.Email, s.Email)
		require.Equal(t, world.Alice, s.MatrixUserID)
		require.WithinDuration(t, time.Now().Add(7*24*time.Hour), s.ExpiresAt, time.Minute)
		require.Equal(t, s.Token(), world.MustToken(t, other, world.Alice))
		w.ServedElse("")
		require.Equal(t, s.Token(), world.MustToken(t, w.Svc, world.Alice))
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Login))
	})
}

func TestPreparedLoginIsRefreshedByItsOwnTokenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		p := prepare(t, w.Svc)
		time.Sleep(9 * time.Minute)
		require.NoError(t, complete(t, w.Svc, p))
		time.Sleep(6 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
	})
}

func TestPreparedLoginExpiresAfterTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		p := prepare(t, w.Svc)
		time.Sleep(10*time.Minute + time.Second)
		require.ErrorIs(t, complete(t, w.Svc, p), session.ErrLoginExpired)
		world.WantLoggedOut(t, w, w.Svc)
	})
}

func TestAbandonedPreparedLoginLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Login(w.Svc)
		before := w.Stored(world.Alice)
		_, err := w.Svc.PrepareLogin(t.Context(), world.Alice, "bob@example.com", world.Password)
		require.NoError(t, err)
		require.Equal(t, before, w.Stored(world.Alice), "who is logged in stays so")
		require.Zero(t, w.Svc.Health(t.Context()).Queued)
		require.Contains(t, w.Log.String(), "a login is prepared")
	})
}

func TestPrepareLoginHasTheErrorsAndLimitsOfLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		limited := w.Service(session.WithLoginLimit(3, 30*time.Second))
		w.Auth.AddUnverifiedUser("new@example.com", world.Password)
		for _, c := range []struct {
			email, password string
			want            error
		}{
			{"", world.Password, session.ErrInvalidCredentials},
			{world.Email, "", session.ErrInvalidCredentials},
			{world.Email, "wrong", session.ErrInvalidCredentials},
			{"new@example.com", world.Password, session.ErrEmailNotVerified},
		} {
			_, err := limited.PrepareLogin(t.Context(), world.Alice, c.email, c.password)
			require.ErrorIs(t, err, c.want)
		}
		_, err := limited.Login(t.Context(), world.Alice, world.Email, world.Password)
		require.NoError(t, err, "the third that reaches the auth server")
		_, err = limited.PrepareLogin(t.Context(), world.Alice, world.Email, world.Password)
		require.ErrorIs(t, err, session.ErrRateLimited)
		var said *session.AuthError
		require.ErrorAs(t, err, &said)
		require.Equal(t, 30*time.Second, said.RetryAfter)

		w.Auth.Inject(sessiontest.Login, 1, sessiontest.Status(500, "down"))
		_, err = w.Svc.PrepareLogin(t.Context(), world.Alice, world.Email, world.Password)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		verifying := w.Service(session.WithTokenVerifier(world.Refuse()))
		_, err = verifying.PrepareLogin(t.Context(), world.Alice, world.Email, world.Password)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
	})
}

func TestPreparedLoginIsMadeWhenItIsCompleted(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		other := w.Service()
		p := prepare(t, w.Svc)
		require.NoError(t, other.Logout(t.Context(), world.Alice))
		require.NoError(t, complete(t, w.Svc, p), "after the logout")
		require.NoError(t, other.Logout(t.Context(), world.Alice))
		require.Empty(t, w.Stored(world.Alice), "which ends what was completed before it")
	})
}

func TestOfTwoLoginsTheOneThatIsMadeLastCounts(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		p := prepare(t, w.Svc)
		_, err := w.Svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
		require.NoError(t, err)
		require.NoError(t, complete(t, w.Svc, p))
		email, err := w.Svc.Email(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, world.Email, email)
	})
}

// A session from the SSO-Link, which any command may begin, is no login.
func TestPreparedLoginReplacesWhatTheLinkBeganMeanwhile(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	p := prepare(t, w.Svc)
	w.Auth.Link(world.Alice, world.Email)
	before := world.MustToken(t, w.Svc, world.Alice)
	require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
	require.NoError(t, complete(t, w.Svc, p))
	require.NotEqual(t, before, world.MustToken(t, w.Svc, world.Alice))
	found, err := w.Svc.Data(t.Context(), world.Alice, "k", new(int))
	require.NoError(t, err)
	require.True(t, found, "of the same account")
}

// The refresh token of the first time is spent by then.
func TestLoginThatIsCompletedTwiceKeepsTheSessionOfTheFirstTime(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		p := prepare(t, w.Svc)
		require.NoError(t, complete(t, w.Svc, p))
		token, err := w.Svc.Refresh(t.Context(), world.Alice, world.MustToken(t, w.Svc, world.Alice))
		require.NoError(t, err)
		stored := w.Stored(world.Alice)
		s, err := w.Service().CompleteLogin(t.Context(), world.Alice, carried(t, p))
		require.NoError(t, err)
		require.Equal(t, token, s.Token())
		require.Equal(t, stored, w.Stored(world.Alice))
	})
}

func TestLoginThatIsCompletedWhileTheStoreIsAwayIsStoredLater(t *testing.T) {
	for name, away := range map[string][]storetest.Method{"for all": nil, "for writes": storetest.Writes()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := storetest.NewFaultStore()
				defer h.Close()
				w := world.New(t, h)
				h.Inject(storetest.Away, away...)
				p := prepare(t, w.Svc)
				require.NoError(t, complete(t, w.Svc, p))
				world.MustToken(t, w.Svc, world.Alice)
				h.Clear()
				require.NoError(t, complete(t, w.Svc, p))
				time.Sleep(time.Minute)
				require.NotEmpty(t, w.Stored(world.Alice))
				world.MustToken(t, w.Service(), world.Alice)
				require.Equal(t, 1, w.Auth.Calls(sessiontest.Login))
			})
		})
	}
}

func TestCallerWhoGivesUpDoesNotLoseThePreparedLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		p := prepare(t, w.Svc)
		ctx, cancel := context.WithCancel(t.Context())
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			cancel()
			time.Sleep(time.Second)
			return call.Do(ctx)
		}, storetest.Writes()...)
		_, err := w.Svc.CompleteLogin(ctx, world.Alice, p)
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(2 * time.Second)
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestPreparedLoginIsOfOneUserAndIsNoRecord(t *testing.T) {
	key, other := make([]byte, 32), make([]byte, 32)
	key[0], other[0] = 1, 2
	for name, opts := range map[string][]session.Option{
		"in plain text": nil,
		"sealed":        {session.WithEncryption(key), session.WithEncryptionRequired()},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore(), opts...)
			p := prepare(t, w.Svc)
			_, err := w.Svc.CompleteLogin(t.Context(), world.Bob, p)
			require.ErrorIs(t, err, session.ErrLoginExpired)

			value, err := p.MarshalBinary()
			require.NoError(t, err)
			w.Put(world.Alice, string(value))
			_, err = w.Svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)

			w.Login(w.Svc)
			record := new(session.PendingLogin)
			require.NoError(t, record.UnmarshalBinary([]byte(w.Stored(world.Alice))))
			require.ErrorIs(t, complete(t, w.Svc, record), session.ErrLoginExpired)
		})
	}

	w := world.New(t, session.NewMemoryStore(), session.WithEncryption(key))
	sealed := prepare(t, w.Svc)
	require.ErrorIs(t, complete(t, w.Service(), sealed), session.ErrLoginExpired, "no key")
	require.ErrorIs(t, complete(t, w.Service(session.WithEncryption(other)), sealed), session.ErrLoginExpired, "another key")
	plain := prepare(t, w.Service())
	require.ErrorIs(t, complete(t, w.Service(session.WithEncryption(key), session.WithEncryptionRequired()), plain), session.ErrLoginExpired)
	require.NoError(t, complete(t, w.Service(session.WithEncryption(other, key)), sealed), "rotated meanwhile")
}

func TestWhatIsNoPendingLoginIsRefused(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	require.ErrorIs(t, complete(t, w.Svc, nil), session.ErrLoginExpired)
	require.ErrorIs(t, complete(t, w.Svc, new(session.PendingLogin)), session.ErrLoginExpired)
	require.Error(t, new(session.PendingLogin).UnmarshalBinary(nil))
	require.Error(t, new(session.PendingLogin).UnmarshalBinary(make([]byte, 2<<20)))
	_, err := new(session.PendingLogin).MarshalBinary()
	require.Error(t, err)
	now := time.Now().UnixMicro()
	for _, value := range []string{
		"x", "{}", "null", `{"pendingFor":"@alice:matrix.example"}`, "sealed1:", "sealed2:xxxx",
		fmt.Sprintf(`{"pendingFor":"@alice:matrix.example","granted":"a.b.c","at":%d,"unknown":1}`, now),
		fmt.Sprintf(`{"pendingFor":"@alice:matrix.example","granted":"a.b.c","at":%d}`, now+time.Hour.Microseconds()),
	} {
		p := new(session.PendingLogin)
		require.NoError(t, p.UnmarshalBinary([]byte(value)))
		require.ErrorIs(t, complete(t, w.Svc, p), session.ErrLoginExpired, value)
	}
	require.Empty(t, w.Stored(world.Alice))
}

func TestPendingLoginDoesNotPrint(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	p := prepare(t, w.Svc)
	value, err := p.MarshalBinary()
	require.NoError(t, err)
	require.Contains(t, string(value), "eyJ")
	text, err := json.Marshal(map[string]any{"p": p, "v": *p})
	require.NoError(t, err)
	for _, printed := range []string{
		fmt.Sprintf("%v %+v %#v %s %q %x", p, p, p, p, p, p), fmt.Sprintf("%v %+v %#v", *p, *p, *p), string(text),
		fmt.Sprintf("%+v %#v", struct{ p *session.PendingLogin }{p}, struct{ p session.PendingLogin }{*p}),
	} {
		require.NotContains(t, printed, "eyJ")
		require.NotContains(t, printed, world.Email)
	}
}
