package sessions_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestManyCallersOfADeadTokenShareOneCall(t *testing.T) {
	t.Parallel()
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		services := []*session.Service{w.Svc, w.Service(), w.Service(), w.Service()}
		for range 50 {
			w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Second)), world.Email, "{}"))
			for _, svc := range services {
				world.Eventually(t, "the dead token is known", func() bool {
					s, err := svc.Session(t.Context(), world.Alice)
					return err == nil && time.Until(s.TokenExpiresAt) < time.Minute
				})
			}
			w.Auth.ResetCalls()
			tokens := make(chan string, len(services)*64)
			var callers sync.WaitGroup
			for _, svc := range services {
				for range 64 {
					callers.Go(func() {
						token, err := svc.Token(context.WithoutCancel(t.Context()), world.Alice)
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
			require.Equal(t, 1, w.Auth.Calls(sessiontest.Any))
		}
	})
}

func TestTwoProcessesNeverSpendOneRefreshTokenTwice(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		other := w.Service()
		var callers sync.WaitGroup
		for _, svc := range []*session.Service{w.Svc, other} {
			for range 8 {
				callers.Go(func() {
					_, err := svc.Token(context.WithoutCancel(t.Context()), world.Alice)
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		callers.Wait()
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
	})
}

func TestCallerWhoGivesUpHarmsNobody(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		g := world.NewGate(w.Auth.Client().Transport)
		svc := w.Service(session.WithHTTPClient(&http.Client{Transport: g}))
		w.Auth.Link(world.Alice, world.Email)
		impatient, giveUp := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := svc.Token(impatient, world.Alice)
			gaveUp <- err
		}()
		<-g.Arrived
		patient := make(chan error, 1)
		go func() {
			_, err := svc.Token(context.WithoutCancel(t.Context()), world.Alice)
			patient <- err
		}()
		giveUp()
		require.ErrorIs(t, <-gaveUp, context.Canceled)
		close(g.Open)
		require.NoError(t, <-patient)
	})
}

func TestLogoutWinsOverRefresh(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		w.Auth.Link(world.Alice, world.Email)
		result, release := world.Held(t, w)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		release()
		require.ErrorIs(t, <-result, session.ErrNotLoggedIn)
		require.Empty(t, w.Stored(world.Alice))
	})
}

func TestLogoutWinsOverANewSessionFromTheLink(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		result, release := world.Held(t, w)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		release()
		require.ErrorIs(t, <-result, session.ErrNotLoggedIn)
		require.Empty(t, w.Stored(world.Alice))
	})
}

func TestLoginAsSomebodyElseWinsOverRefresh(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		w.Auth.Link(world.Alice, world.Email)
		result, release := world.Held(t, w)
		other, err := w.Svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
		require.NoError(t, err)
		release()
		require.NoError(t, <-result)
		s, err := w.Svc.Session(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, other.Subject, s.Subject)
		require.Equal(t, other.Token(), world.MustToken(t, w.Svc, world.Alice))
	})
}

func TestRefreshRacingADataWriteLosesNeither(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		old := w.LoginDead()
		w.Auth.Link(world.Alice, world.Email)
		result, release := world.Held(t, w)
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", "v"))
		release()
		require.NoError(t, <-result)
		require.NotEqual(t, old.Token(), world.MustToken(t, w.Svc, world.Alice))
		value, found, err := session.DataAs[string](t.Context(), w.Svc, world.Alice, "k")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "v", value)
	})
}

func TestRefreshOfATokenThatABackendRejected(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		rejected := world.MustToken(t, w.Svc, world.Alice)
		w.Auth.RotateSigningKey() // or the same second would make the same token
		renewed, err := w.Svc.Refresh(t.Context(), world.Alice, rejected)
		require.NoError(t, err)
		require.NotEqual(t, rejected, renewed)
		require.Equal(t, renewed, world.MustToken(t, w.Svc, world.Alice))
		again, err := w.Svc.Refresh(t.Context(), world.Alice, rejected)
		require.NoError(t, err)
		require.Equal(t, renewed, again, "it had been replaced already")
		require.Equal(t, 2, w.Auth.Calls(sessiontest.Any))
	})
}

func TestFailureSpeaksForOtherProcesses(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.LoginDead()
		w.Auth.Inject(sessiontest.LinkFetch, -1, sessiontest.Status(500, "down"))
		_, err := w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		_, err = w.Service().Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrAuthUnavailable)
		require.ErrorContains(t, err, "down", "with the cause that the other process met")
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkFetch))
	})
}
