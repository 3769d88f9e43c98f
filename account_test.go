package session_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// Alice's Matrix user is linked to bob's account, and she has logged in with her
// own password.
func linkedToBob(t *testing.T, flow func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, "bob@example.com")
		w.login(w.svc)
		require.NoError(t, w.svc.SetData(t.Context(), alice, "diary", "private"))
		flow(t, w)
	})
}

func wantAlice(t *testing.T, w *world) {
	t.Helper()
	s, err := w.svc.Session(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, email, s.Email)
	diary, found, err := session.DataAs[string](t.Context(), w.svc, alice, "diary")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "private", diary)
}

func TestPasswordLoginStaysWithItsAccountThoughTheLinkNamesAnother(t *testing.T) {
	linkedToBob(t, func(t *testing.T, w *world) {
		for range 10 { // ahead
			time.Sleep(11 * time.Minute)
			mustToken(t, w.svc, alice)
			synctest.Wait()
			wantAlice(t, w)
		}
		time.Sleep(15 * time.Minute) // dead
		mustToken(t, w.svc, alice)
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
			linkedToBob(t, func(t *testing.T, w *world) {
				time.Sleep(15 * time.Minute)
				w.auth.Inject(sessiontest.Refresh, 1, fault)
				_, err := w.svc.Token(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrAuthUnavailable)
				wantAlice(t, w)
			})
		})
	}
}

func TestLinkToAnotherAccountIsFollowedAfterAClearNo(t *testing.T) {
	linkedToBob(t, func(t *testing.T, w *world) {
		time.Sleep(15 * time.Minute)
		w.auth.RevokeRefreshTokens(email)
		mustToken(t, w.svc, alice)
		s, err := w.svc.Session(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, "bob@example.com", s.Email)
		_, found, err := session.DataAs[string](t.Context(), w.svc, alice, "diary")
		require.NoError(t, err)
		require.False(t, found)
		require.Contains(t, w.log.String(), "following the link to another account")
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
				w := newWorld(t, session.NewMemoryStore())
				w.login(w.svc)
				require.NoError(t, w.svc.SetData(t.Context(), alice, "diary", "private"))
				for range 3 {
					time.Sleep(15 * time.Minute)
					w.auth.Inject(sessiontest.Refresh, 1, changed(change))
					mustToken(t, w.svc, alice)
					wantAlice(t, w)
				}
			})
		})
	}
}

// changed answers with other claims and fields.
func changed(change func(claims, body map[string]any)) sessiontest.Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		recorder := httptest.NewRecorder()
		answer(recorder, r)
		var body map[string]any
		if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil {
			panic(err)
		}
		claims := claimsOf(body["accessToken"].(string))
		change(claims, body)
		body["accessToken"] = withClaims(body["accessToken"].(string), claims)
		sessiontest.JSON(body)(w, r, answer)
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
			w := newWorld(t, session.NewMemoryStore())
			w.auth = sessiontest.New(sessiontest.WithLoginLimit(0), sessiontest.WithCorrectedLinks())
			defer w.auth.Close()
			w.auth.AddUser(email, password)
			w.login(w.service(c.opts...))
			require.Equal(t, c.want, w.auth.Linked(alice))
		})
	}
}

func TestUpdateDataLosesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.login(w.svc)
		other := w.service()
		var all sync.WaitGroup
		for i := range 20 {
			svc := []*session.Service{w.svc, other}[i%2]
			all.Go(func() {
				err := session.UpdateDataAs(t.Context(), svc, alice, "todo", func(list []int) ([]int, error) {
					return append(list, i), nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		list, _, err := session.DataAs[[]int](t.Context(), w.svc, alice, "todo")
		require.NoError(t, err)
		require.Len(t, list, 20)
		keys, err := w.svc.DataKeys(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, []string{"todo"}, keys)
	})
}

func TestUpdateDataThatFailsStoresNothing(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.login(w.svc)
	require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
	before := w.stored(alice)
	reason := errors.New("not today")
	err := w.svc.UpdateData(t.Context(), alice, "k", func(old json.RawMessage) (any, error) {
		require.JSONEq(t, "1", string(old))
		return nil, reason
	})
	require.ErrorIs(t, err, reason)
	err = w.svc.UpdateData(t.Context(), alice, "new", func(old json.RawMessage) (any, error) {
		require.Nil(t, old)
		return func() {}, nil
	})
	require.Error(t, err, "no JSON form")
	err = session.UpdateDataAs(t.Context(), w.svc, alice, "k", func(old []string) ([]string, error) { return old, nil })
	require.Error(t, err, "a number is no list")
	require.Equal(t, before, w.stored(alice))
}

func TestDataThatDoesNotFitIsTooLarge(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	w.login(w.svc)
	require.ErrorIs(t, w.svc.SetData(t.Context(), alice, "k", strings.Repeat("x", 1<<20)), session.ErrTooLarge)
	for i := range 11 {
		err := w.svc.SetData(t.Context(), alice, fmt.Sprint(i), strings.Repeat("x", 100<<10))
		if i == 10 {
			require.ErrorIs(t, err, session.ErrTooLarge)
		} else {
			require.NoError(t, err)
		}
	}
}

func TestDataOfALinkedUserWithoutASessionMakeOne(t *testing.T) {
	for name, call := range map[string]func(t *testing.T, svc *session.Service) error{
		"SetData": func(t *testing.T, svc *session.Service) error { return svc.SetData(t.Context(), alice, "k", 1) },
		"Data": func(t *testing.T, svc *session.Service) error {
			_, err := svc.Data(t.Context(), alice, "k", new(int))
			return err
		},
		"DeleteData": func(t *testing.T, svc *session.Service) error { return svc.DeleteData(t.Context(), alice, "k") },
		"DataKeys":   func(t *testing.T, svc *session.Service) error { _, err := svc.DataKeys(t.Context(), alice); return err },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, session.NewMemoryStore())
			require.ErrorIs(t, call(t, w.svc), session.ErrNotLoggedIn)
			w.auth.Link(bob, email)
			w.auth.Link(alice, email)
			require.NoError(t, call(t, w.service()))
			require.NotEmpty(t, w.stored(alice))
		})
	}
}

func TestCloseInsideALoopOverUsersEndsTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		for i := range 3 {
			w.put(fmt.Sprintf("@user%d:matrix.example", i), tsRecord("e30.e30.sig", email, "{}"))
		}
		svc := w.service()
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
