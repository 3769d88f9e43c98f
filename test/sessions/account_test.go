package sessions_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// Alice's Matrix user is linked to bob's account, and she has logged in with her
// own password.
func linkedToBob(t *testing.T, flow func(t *testing.T, w *world.World)) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, "bob@example.com")
		w.Login(w.Svc)
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "diary", "private"))
		flow(t, w)
	})
}

func wantAlice(t *testing.T, w *world.World) {
	t.Helper()
	s, err := w.Svc.Session(t.Context(), world.Alice)
	require.NoError(t, err)
	require.Equal(t, world.Email, s.Email)
	diary, found, err := session.DataAs[string](t.Context(), w.Svc, world.Alice, "diary")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "private", diary)
}

func TestPasswordLoginStaysWithItsAccountThoughTheLinkNamesAnother(t *testing.T) {
	linkedToBob(t, func(t *testing.T, w *world.World) {
		for range 10 { // ahead
			time.Sleep(11 * time.Minute)
			world.MustToken(t, w.Svc, world.Alice)
			synctest.Wait()
			wantAlice(t, w)
		}
		time.Sleep(15 * time.Minute) // dead
		world.MustToken(t, w.Svc, world.Alice)
		wantAlice(t, w)
	})
}

func TestLinkToAnotherAccountIsNotFollowedWhileTheRefreshTokenCannotBeUsed(t *testing.T) {
	for name, fault := range map[string]sessiontest.Fault{
		"500":   sessiontest.Status(500, "connect ECONNREFUSED 127.0.0.1:5432"),
		"reset": sessiontest.Reset(),
		"HTML":  sessiontest.HTML(),
		"proxy": sessiontest.Raw(401, "application/json", `{"message":"Unauthorized"}`),
	} {
		t.Run(name, func(t *testing.T) {
			linkedToBob(t, func(t *testing.T, w *world.World) {
				time.Sleep(15 * time.Minute)
				w.Auth.Inject(sessiontest.Refresh, 1, fault)
				_, err := w.Svc.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, session.ErrAuthUnavailable)
				wantAlice(t, w)
			})
		})
	}
}

func TestLinkToAnotherAccountIsFollowedAfterAClearNo(t *testing.T) {
	linkedToBob(t, func(t *testing.T, w *world.World) {
		time.Sleep(15 * time.Minute)
		w.Auth.RevokeRefreshTokens(world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		s, err := w.Svc.Session(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, "bob@example.com", s.Email)
		_, found, err := session.DataAs[string](t.Context(), w.Svc, world.Alice, "diary")
		require.NoError(t, err)
		require.False(t, found)
		require.Contains(t, w.Log.String(), "following the link to another account")
	})
}

// What a session's own refresh token brings is the same account, whatever the
// answer leaves out.
func TestRefreshTokenKeepsTheDataOfItsSession(t *testing.T) {
	for name, change := range map[string]func(claims, body map[string]any){
		"no subject":            func(claims, _ map[string]any) { delete(claims, "sub") },
		"another email":         func(_, body map[string]any) { body["user"] = map[string]any{"email": "new@example.com"} },
		"neither":               func(claims, body map[string]any) { delete(claims, "sub"); delete(body, "user") },
		"no subject, new email": func(claims, body map[string]any) { delete(claims, "sub"); body["email"] = "new@example.com" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.Login(w.Svc)
				require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "diary", "private"))
				for range 3 {
					time.Sleep(15 * time.Minute)
					w.Auth.Inject(sessiontest.Refresh, 1, world.Changed(change))
					world.MustToken(t, w.Svc, world.Alice)
					wantAlice(t, w)
				}
			})
		})
	}
}

func TestLoginTriesToMakeALinkWithoutAServiceKey(t *testing.T) {
	for name, c := range map[string]struct {
		opts []session.Option
		want bool
	}{
		"no key":                   {[]session.Option{session.WithServiceKey("")}, true},
		"a key":                    {nil, true},
		"SSO-Link switched off":    {[]session.Option{session.WithServiceKey(""), session.WithSSOLink(false)}, false},
		"off, though with its key": {[]session.Option{session.WithSSOLink(false)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.Auth = sessiontest.New(sessiontest.WithLoginLimit(0), sessiontest.WithCorrectedLinks())
			defer w.Auth.Close()
			w.Auth.AddUser(world.Email, world.Password)
			w.Login(w.Service(c.opts...))
			require.Equal(t, c.want, w.Auth.Linked(world.Alice))
		})
	}
}

func TestUpdateDataLosesNothing(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Login(w.Svc)
		other := w.Service()
		var all sync.WaitGroup
		for i := range 20 {
			svc := []*session.Service{w.Svc, other}[i%2]
			all.Go(func() {
				err := session.UpdateDataAs(t.Context(), svc, world.Alice, "todo", func(list []int) ([]int, error) {
					return append(list, i), nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		list, _, err := session.DataAs[[]int](t.Context(), w.Svc, world.Alice, "todo")
		require.NoError(t, err)
		require.Len(t, list, 20)
		keys, err := w.Svc.DataKeys(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, []string{"todo"}, keys)
	})
}

func TestUpdateDataThatFailsStoresNothing(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
	before := w.Stored(world.Alice)
	reason := errors.New("not today")
	err := w.Svc.UpdateData(t.Context(), world.Alice, "k", func(old json.RawMessage) (any, error) {
		require.JSONEq(t, "1", string(old))
		return nil, reason
	})
	require.ErrorIs(t, err, reason)
	err = w.Svc.UpdateData(t.Context(), world.Alice, "new", func(old json.RawMessage) (any, error) {
		require.Nil(t, old)
		return func() {}, nil
	})
	require.Error(t, err, "no JSON form")
	err = session.UpdateDataAs(t.Context(), w.Svc, world.Alice, "k", func(old []string) ([]string, error) { return old, nil })
	require.Error(t, err, "a number is no list")
	require.Equal(t, before, w.Stored(world.Alice))
}

func TestDataThatDoesNotFitIsTooLarge(t *testing.T) {
	t.Parallel()
	w := world.New(t, session.NewMemoryStore())
	w.Login(w.Svc)
	require.ErrorIs(t, w.Svc.SetData(t.Context(), world.Alice, "k", strings.Repeat("x", 1<<20)), session.ErrTooLarge)
	for i := range 11 {
		err := w.Svc.SetData(t.Context(), world.Alice, fmt.Sprint(i), strings.Repeat("x", 100<<10))
		if i == 10 {
			require.ErrorIs(t, err, session.ErrTooLarge)
		} else {
			require.NoError(t, err)
		}
	}
}

func TestDataOfALinkedUserWithoutASessionMakeOne(t *testing.T) {
	for name, call := range map[string]func(t *testing.T, svc *session.Service) error{
		"SetData": func(t *testing.T, svc *session.Service) error { return svc.SetData(t.Context(), world.Alice, "k", 1) },
		"Data": func(t *testing.T, svc *session.Service) error {
			_, err := svc.Data(t.Context(), world.Alice, "k", new(int))
			return err
		},
		"DeleteData": func(t *testing.T, svc *session.Service) error { return svc.DeleteData(t.Context(), world.Alice, "k") },
		"DataKeys": func(t *testing.T, svc *session.Service) error {
			_, err := svc.DataKeys(t.Context(), world.Alice)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			require.ErrorIs(t, call(t, w.Svc), session.ErrNotLoggedIn)
			w.Auth.Link(world.Bob, world.Email)
			w.Auth.Link(world.Alice, world.Email)
			require.NoError(t, call(t, w.Service()))
			require.NotEmpty(t, w.Stored(world.Alice))
		})
	}
}

func TestCloseInsideALoopOverUsersEndsTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		for i := range 3 {
			w.Put(fmt.Sprintf("@user%d:matrix.example", i), world.TsRecord("e30.e30.sig", world.Email, "{}"))
		}
		svc := w.Service()
		began := time.Now()
		var last error
		for _, err := range svc.Users(t.Context()) {
			if last = err; err == nil {
				require.NoError(t, svc.Close())
			}
		}
		require.ErrorIs(t, last, session.ErrClosed)
		require.Zero(t, time.Since(began))
	})
}
