package sessions_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// As Kubernetes asks by default, with a second to answer.
func TestHealthOfServersThatHangIsBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		require.False(t, w.Svc.Health(t.Context()).Degraded)
		time.Sleep(2 * time.Second)
		h.Inject(storetest.Hang, storetest.Get, storetest.Acquire)
		w.Auth.Inject(sessiontest.Any, -1, w.Auth.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		health := w.Svc.Health(ctx)
		require.LessOrEqual(t, time.Since(began), time.Second)
		require.False(t, health.Store.OK)
		require.False(t, health.Auth.OK)
		require.True(t, health.Degraded)
		require.NotEmpty(t, health.Store.LastError)
		require.NotEmpty(t, health.Auth.LastError)

		h.Clear()
		w.Auth.ClearFaults()
		time.Sleep(15 * time.Second)
		health = w.Svc.Health(t.Context())
		require.True(t, health.Store.OK)
		require.True(t, health.Auth.OK)
	})
}

func TestManyHealthChecksAreOneAuthCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Inject(sessiontest.LinkCheck, -1, sessiontest.Delay(50*time.Millisecond))
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { require.True(t, w.Svc.Health(t.Context()).Auth.OK) })
		}
		all.Wait()
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkCheck))
		time.Sleep(2 * time.Second)
		w.Svc.Health(t.Context())
		require.Equal(t, 2, w.Auth.Calls(sessiontest.LinkCheck))
	})
}

func TestStoreThatCanBeReadButNotWrittenIsNotHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		h.Inject(storetest.Away, append(storetest.Writes(), storetest.Acquire, storetest.Release)...)
		require.False(t, w.Svc.Health(t.Context()).Store.OK)
		h.Clear()
		require.True(t, w.Svc.Health(t.Context()).Store.OK)
	})
}

// A deadline of the caller's that passes is no answer; giving up tells nothing.
func TestCallersDeadlineCountsAsNoAnswerAndGivingUpDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		h.Inject(storetest.Hang, storetest.Get, storetest.Acquire)
		ctx, cancel := context.WithCancel(t.Context())
		result := world.Later(func() error { _, err := w.Svc.Token(ctx, world.Alice); return err })
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
		stats, _ := w.Svc.Stats(t.Context())
		require.Zero(t, stats.StoreErrors)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.Svc.Token(ctx, world.Alice)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		stats, _ = w.Svc.Stats(t.Context())
		require.EqualValues(t, 1, stats.StoreErrors)
		h.Clear()
	})
}

func TestHitsAreTokensThatWereServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore(), session.WithServiceKey(""))
		synctest.Wait()
		w.Auth.SetTokenTTL(30 * time.Second)
		w.Login(w.Svc)
		w.Auth.BreakDatabase(true)
		for range 100 {
			_, err := w.Svc.Token(t.Context(), world.Alice)
			require.Error(t, err)
		}
		stats, err := w.Svc.Stats(t.Context())
		require.NoError(t, err)
		require.Zero(t, stats.Hits)
		require.GreaterOrEqual(t, stats.Misses, int64(100))
	})
}

// A test of the caller's fails in a fake of theirs: it ends the goroutine.
func TestGoexitInACallersCodeHangsNobody(t *testing.T) {
	goexit := func(context.Context, storetest.Call) error {
		runtime.Goexit()
		return nil
	}
	for _, method := range []storetest.Method{storetest.Acquire, storetest.SwapLeased, storetest.Swap, storetest.LoggedOutAt, storetest.MarkLoggedOut} {
		t.Run(string(method), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := storetest.NewFaultStore()
				defer h.Close()
				w := world.New(t, h)
				w.Auth.Link(world.Alice, world.Email)
				h.Inject(goexit, method)
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = w.Svc.Token(context.WithoutCancel(t.Context()), world.Alice)
					_, _ = w.Svc.Login(context.WithoutCancel(t.Context()), world.Alice, world.Email, world.Password)
					_ = w.Svc.Logout(context.WithoutCancel(t.Context()), world.Alice)
				}()
				<-done
				h.Clear()
				time.Sleep(time.Minute)
				world.MustToken(t, w.Svc, world.Alice)
			})
		})
	}
}

func TestVerifierThatHeedsNoContextBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		svc := w.Service(session.WithTokenVerifier(func(context.Context, string) error { <-stuck; return nil }))
		for range 3 {
			began := time.Now()
			_, err := svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
			require.LessOrEqual(t, time.Since(began), 2*time.Second)
		}
		began := time.Now()
		require.NoError(t, svc.Close())
		require.LessOrEqual(t, time.Since(began), 5*time.Second)
		close(stuck)
	})
}

type typedNil struct{ reason string }

func (e *typedNil) Error() string { return e.reason } // panics on nil

func TestVerifierThatGoesWrongCannotTell(t *testing.T) {
	for name, verify := range map[string]func(context.Context, string) error{
		"a typed nil": func(context.Context, string) error { var e *typedNil; return e },
		"a panic":     func(context.Context, string) error { panic("no") },
		"its end":     func(context.Context, string) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, session.NewMemoryStore())
			w.Auth.Link(world.Alice, world.Email)
			_, err := w.Service(session.WithTokenVerifier(verify)).Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
		})
	}
}

// A store that mixes up its users.
type mixedUp struct{ *session.MemoryStore }

func (m mixedUp) Get(ctx context.Context, _ string) (session.Record, error) {
	return m.MemoryStore.Get(ctx, world.Bob)
}

func TestAnotherUsersRecordIsNotBelieved(t *testing.T) {
	store := session.NewMemoryStore()
	defer store.Close()
	w := world.New(t, store)
	_, err := w.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
	require.NoError(t, err)
	w.Store = mixedUp{store}
	svc := w.Service()
	_, err = svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	_, err = svc.Session(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
}

func TestUnlinkingWithoutAKeyTakesALiveToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		svc := w.Service(session.WithServiceKey(""))
		w.Auth.Link(world.Alice, world.Email)
		w.Login(svc)
		time.Sleep(time.Hour) // its token is dead; a refresh gives a live one
		require.NoError(t, svc.Logout(t.Context(), world.Alice, session.AndUnlink()))
		require.False(t, w.Auth.Linked(world.Alice))
		require.Empty(t, w.Stored(world.Alice))
	})
}

// The server's key was replaced: the token is no good, the refresh token is.
func TestRefreshTokenBesideATokenOfAReplacedKeyIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		old := w.Login(w.Svc).Token()
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
		svc := w.Service(session.WithTokenVerifier(world.Refuse(old)))
		token := world.MustToken(t, svc, world.Alice)
		require.NotEqual(t, old, token)
		found, err := svc.Data(t.Context(), world.Alice, "k", new(int))
		require.NoError(t, err)
		require.True(t, found)
	})
}

func TestLinkTokenThatRanOutLongAgoIsTheServersFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Inject(sessiontest.LinkFetch, -1, sessiontest.JSON(map[string]any{
			"token": w.Auth.MintToken(world.Email, time.Now().Add(-time.Hour)), "email": world.Email,
		}))
		for range 50 {
			_, err := w.Svc.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
		}
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.LinkFetch), 4, "and not asked for at every call")
		require.Contains(t, w.Auth.Requests()[0].Header.Get("Cache-Control"), "no-store")
	})
}
