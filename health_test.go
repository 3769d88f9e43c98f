package session_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// As Kubernetes asks by default, with a second to answer.
func TestHealthOfServersThatHangIsBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, h)
		require.False(t, w.svc.Health(t.Context()).Degraded)
		time.Sleep(2 * time.Second)
		h.on(hangs, everything...)
		w.auth.Inject(sessiontest.Any, -1, w.auth.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		health := w.svc.Health(ctx)
		require.LessOrEqual(t, time.Since(began), time.Second)
		require.False(t, health.Store.OK)
		require.False(t, health.Auth.OK)
		require.True(t, health.Degraded)
		require.NotEmpty(t, health.Store.LastError)
		require.NotEmpty(t, health.Auth.LastError)

		h.off()
		w.auth.ClearFaults()
		time.Sleep(15 * time.Second)
		health = w.svc.Health(t.Context())
		require.True(t, health.Store.OK)
		require.True(t, health.Auth.OK)
	})
}

func TestManyHealthChecksAreOneAuthCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Inject(sessiontest.LinkCheck, -1, sessiontest.Delay(50*time.Millisecond))
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { require.True(t, w.svc.Health(t.Context()).Auth.OK) })
		}
		all.Wait()
		require.Equal(t, 1, w.auth.Calls(sessiontest.LinkCheck))
		time.Sleep(2 * time.Second)
		w.svc.Health(t.Context())
		require.Equal(t, 2, w.auth.Calls(sessiontest.LinkCheck))
	})
}

func TestStoreThatCanBeReadButNotWrittenIsNotHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, h)
		h.on(away, append([]string{"Acquire", "Release"}, writes...)...)
		require.False(t, w.svc.Health(t.Context()).Store.OK)
		h.off()
		require.True(t, w.svc.Health(t.Context()).Store.OK)
	})
}

// A deadline of the caller's that passes is no answer; giving up tells nothing.
func TestCallersDeadlineCountsAsNoAnswerAndGivingUpDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, h)
		h.on(hangs, everything...)
		ctx, cancel := context.WithCancel(t.Context())
		result := later(func() error { _, err := w.svc.Token(ctx, alice); return err })
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
		stats, _ := w.svc.Stats(t.Context())
		require.Zero(t, stats.StoreErrors)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.svc.Token(ctx, alice)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		stats, _ = w.svc.Stats(t.Context())
		require.EqualValues(t, 1, stats.StoreErrors)
		h.off()
	})
}

func TestHitsAreTokensThatWereServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore(), session.WithServiceKey(""))
		synctest.Wait()
		w.auth.SetTokenTTL(30 * time.Second)
		w.login(w.svc)
		w.auth.BreakDatabase(true)
		for range 100 {
			_, err := w.svc.Token(t.Context(), alice)
			require.Error(t, err)
		}
		stats, err := w.svc.Stats(t.Context())
		require.NoError(t, err)
		require.Zero(t, stats.Hits)
		require.GreaterOrEqual(t, stats.Misses, int64(100))
	})
}

// A test of the caller's fails in a fake of theirs: it ends the goroutine.
func TestGoexitInACallersCodeHangsNobody(t *testing.T) {
	goexit := func(context.Context, string, func(context.Context) error) error {
		runtime.Goexit()
		return nil
	}
	for _, method := range []string{"Acquire", "SwapLeased", "Swap", "LoggedOutAt", "MarkLoggedOut"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHooked()
				defer h.MemoryStore.Close()
				w := newWorld(t, h)
				w.auth.Link(alice, email)
				h.on(goexit, method)
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = w.svc.Token(context.WithoutCancel(t.Context()), alice)
					_, _ = w.svc.Login(context.WithoutCancel(t.Context()), alice, email, password)
					_ = w.svc.Logout(context.WithoutCancel(t.Context()), alice)
				}()
				<-done
				h.off()
				time.Sleep(time.Minute)
				mustToken(t, w.svc, alice)
			})
		})
	}
}

func TestVerifierThatHeedsNoContextBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		svc := w.service(session.WithTokenVerifier(func(context.Context, string) error { <-stuck; return nil }))
		for range 3 {
			began := time.Now()
			_, err := svc.Token(t.Context(), alice)
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
			w := newWorld(t, session.NewMemoryStore())
			w.auth.Link(alice, email)
			_, err := w.service(session.WithTokenVerifier(verify)).Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
		})
	}
}

// A store that mixes up its users.
type mixedUp struct{ *session.MemoryStore }

func (m mixedUp) Get(ctx context.Context, _ string) (session.Record, error) {
	return m.MemoryStore.Get(ctx, bob)
}

func TestAnotherUsersRecordIsNotBelieved(t *testing.T) {
	store := session.NewMemoryStore()
	defer store.Close()
	w := newWorld(t, store)
	_, err := w.svc.Login(t.Context(), bob, "bob@example.com", password)
	require.NoError(t, err)
	w.store = mixedUp{store}
	svc := w.service()
	_, err = svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	_, err = svc.Session(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
}

func TestUnlinkingWithoutAKeyTakesALiveToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		svc := w.service(session.WithServiceKey(""))
		w.auth.Link(alice, email)
		w.login(svc)
		time.Sleep(time.Hour) // its token is dead; a refresh gives a live one
		require.NoError(t, svc.Logout(t.Context(), alice, session.AndUnlink()))
		require.False(t, w.auth.Linked(alice))
		require.Empty(t, w.stored(alice))
	})
}

// The server's key was replaced: the token is no good, the refresh token is.
func TestRefreshTokenBesideATokenOfAReplacedKeyIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		old := w.login(w.svc).Token()
		require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
		svc := w.service(session.WithTokenVerifier(refuse(old)))
		token := mustToken(t, svc, alice)
		require.NotEqual(t, old, token)
		found, err := svc.Data(t.Context(), alice, "k", new(int))
		require.NoError(t, err)
		require.True(t, found)
	})
}

func TestLinkTokenThatRanOutLongAgoIsTheServersFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Inject(sessiontest.LinkFetch, -1, sessiontest.JSON(map[string]any{
			"token": w.auth.MintToken(email, time.Now().Add(-time.Hour)), "email": email,
		}))
		for range 50 {
			_, err := w.svc.Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
		}
		require.LessOrEqual(t, w.auth.Calls(sessiontest.LinkFetch), 4, "and not asked for at every call")
		require.Contains(t, w.auth.Requests()[0].Header.Get("Cache-Control"), "no-store")
	})
}
