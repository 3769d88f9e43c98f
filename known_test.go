package session_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// Whatever made alice known to this process: when the store goes away she is
// served from memory.
var becomesKnown = map[string]func(t *testing.T, w *world, other *session.Service){
	"login": func(t *testing.T, w *world, _ *session.Service) { w.login(w.svc) },
	"first token of a link": func(t *testing.T, w *world, _ *session.Service) {
		w.auth.Link(alice, email)
		mustToken(t, w.svc, alice)
	},
	"token that another bot stored": func(t *testing.T, w *world, other *session.Service) {
		w.login(other)
		mustToken(t, w.svc, alice)
	},
	"data write": func(t *testing.T, w *world, other *session.Service) {
		w.login(other)
		require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
	},
	"refresh ahead": func(t *testing.T, w *world, _ *session.Service) {
		w.auth.Link(alice, email)
		mustToken(t, w.svc, alice)
		time.Sleep(11 * time.Minute)
		mustToken(t, w.svc, alice)
		synctest.Wait()
	},
	"refresh": func(t *testing.T, w *world, _ *session.Service) {
		w.loginDead()
		mustToken(t, w.svc, alice)
	},
	"another bot's data write": func(t *testing.T, w *world, other *session.Service) {
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		require.NoError(t, other.SetData(t.Context(), alice, "k", 1))
	},
	"another bot's refresh": func(t *testing.T, w *world, other *session.Service) {
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		token := mustToken(t, other, alice)
		_, err := other.Refresh(t.Context(), alice, token)
		require.NoError(t, err)
	},
}

func TestKnownUserIsServedAtOnceWhenTheStoreGoesAway(t *testing.T) {
	for name, become := range becomesKnown {
		for how, fault := range map[string]hook{"refuses": away, "hangs": hangs} {
			for when, wait := range map[string]time.Duration{"at once": 0, "1.5 s later": 1500 * time.Millisecond} {
				t.Run(name+"/"+how+"/"+when, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := newHooked()
						defer h.MemoryStore.Close()
						w := newWorld(t, h)
						other := (&world{t: t, auth: w.auth, log: w.log, store: h.another()}).service()
						become(t, w, other)
						synctest.Wait()
						h.on(fault, everything...)
						time.Sleep(wait)
						began := time.Now()
						mustToken(t, w.svc, alice)
						require.LessOrEqual(t, time.Since(began), 500*time.Millisecond, "the first one finds it out")
						for range 20 {
							began = time.Now()
							mustToken(t, w.svc, alice)
							_, err := w.svc.Session(t.Context(), alice)
							require.NoError(t, err)
							require.Zero(t, time.Since(began))
							time.Sleep(300 * time.Millisecond)
						}
						h.off()
						time.Sleep(time.Second)
						require.NoError(t, other.Logout(t.Context(), alice, session.AndUnlink()))
						time.Sleep(time.Second)
						wantLoggedOutHere(t, w.svc)
					})
				})
			}
		}
	}
}

func TestLogoutMakesAUserUnknown(t *testing.T) {
	for name, logout := range map[string]func(w *world, other *session.Service) error{
		"here":      func(w *world, _ *session.Service) error { return w.svc.Logout(w.t.Context(), alice) },
		"elsewhere": func(w *world, other *session.Service) error { return other.Logout(w.t.Context(), alice) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHooked()
				defer h.MemoryStore.Close()
				w := newWorld(t, h)
				other := (&world{t: t, auth: w.auth, log: w.log, store: h.another()}).service()
				synctest.Wait() // the feed runs
				w.login(w.svc)
				mustToken(t, w.svc, alice)
				require.NoError(t, logout(w, other))
				h.on(away, everything...)
				_, err := w.svc.Token(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrStoreUnavailable)
			})
		})
	}
}

func TestLogoutInAnOutageDoesNotWaitForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, noWatcher{h, h, h})
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		h.on(hangs, everything...)
		time.Sleep(3 * time.Second)
		mustToken(t, w.svc, alice) // finds the outage
		began := time.Now()
		require.ErrorIs(t, w.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
		require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
		began = time.Now()
		_, err := w.svc.Session(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
		h.off()
		time.Sleep(time.Second)
		wantLoggedOut(t, w, w.svc)
	})
}

func TestOneProbeAtATimeFindsOutThatTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, noWatcher{h, h, h})
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		running, most := 0, 0
		h.on(func(ctx context.Context, _ string, _ func(context.Context) error) error {
			running++
			most = max(most, running)
			defer func() { running-- }()
			time.Sleep(10 * time.Millisecond)
			return errLost
		}, "Get")
		mustToken(t, w.svc, alice)
		for range 100 {
			mustToken(t, w.svc, alice)
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, 1, most)
		h.off()
	})
}

func TestSessionInUseDoesNotEnd(t *testing.T) {
	for name, opts := range map[string]struct {
		auth []sessiontest.Option
		ttl  time.Duration
	}{
		"shorter than its tokens": {nil, 10 * time.Minute},
		"a minute":                {nil, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, session.NewMemoryStore(), session.WithSessionTTL(opts.ttl))
				w.auth.SetTokenTTL(24 * time.Hour)
				w.login(w.svc)
				for range 100 {
					mustToken(t, w.svc, alice)
					time.Sleep(opts.ttl / 4)
				}
				time.Sleep(opts.ttl)
				_, err := w.svc.Token(t.Context(), alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn, "but without use it does")
			})
		})
	}
}

func TestSessionWithATokenThatDoesNotEndIsExtendedByUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		_, err := w.store.Swap(t.Context(), session.Record{UserID: alice}, session.Record{
			UserID: alice, Value: tsRecord("e30.e30.sig", email, `{"k":1}`), Expires: time.Now().Add(7 * 24 * time.Hour),
		})
		require.NoError(t, err)
		for range 10 {
			require.Equal(t, "e30.e30.sig", mustToken(t, w.svc, alice))
			time.Sleep(3 * 24 * time.Hour)
		}
	})
}

func TestExtendingASessionLosesNoDataOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, h, session.WithSessionTTL(10*time.Minute))
		w.login(w.svc)
		time.Sleep(6 * time.Minute)
		h.on(func(ctx context.Context, _ string, do func(context.Context) error) error {
			h.off()
			if err := w.svc.SetData(t.Context(), alice, "k", 1); err != nil {
				return errors.Join(errLost, err)
			}
			return do(ctx)
		}, "Swap")
		mustToken(t, w.svc, alice)
		time.Sleep(time.Second)
		s, err := w.svc.Session(t.Context(), alice)
		require.NoError(t, err)
		require.Greater(t, time.Until(s.ExpiresAt), 9*time.Minute)
		found, err := w.svc.Data(t.Context(), alice, "k", new(int))
		require.NoError(t, err)
		require.True(t, found)
	})
}

// A store that refuses writes, and is slow under load, is read all the same.
func TestLogoutElsewhereIsSeenWhileTheStoreRefusesWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, noWatcher{h, h, h})
		other := (&world{t: t, auth: w.auth, log: w.log, store: h.another()}).service()
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		h.on(func(ctx context.Context, method string, do func(context.Context) error) error {
			switch method {
			case "Get", "LoggedOutAt":
				time.Sleep(100 * time.Millisecond)
				return do(ctx)
			}
			return errLost
		}, everything...)
		_, err := w.svc.Login(t.Context(), bob, "bob@example.com", password) // pending, and tried again and again
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.NoError(t, other.Logout(t.Context(), alice))
		for range 50 {
			_, err := w.svc.Token(t.Context(), alice)
			require.Error(t, err)
			time.Sleep(70 * time.Millisecond)
		}
		h.off()
		time.Sleep(5 * time.Second)
	})
}

// An overloaded store is not away: others are answered meanwhile.
func TestLogoutElsewhereIsSeenThoughTheReadIsSlow(t *testing.T) {
	for _, othersAnswered := range []bool{true, false} {
		t.Run(fmt.Sprint("others are answered: ", othersAnswered), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHooked()
				defer h.MemoryStore.Close()
				w := newWorld(t, noWatcher{h, h, h})
				other := (&world{t: t, auth: w.auth, log: w.log, store: h.another()}).service()
				w.login(w.svc)
				mustToken(t, w.svc, alice)
				_, err := w.svc.Login(t.Context(), bob, "bob@example.com", password)
				require.NoError(t, err)
				require.NoError(t, other.Logout(t.Context(), alice))
				time.Sleep(2 * time.Second)
				h.on(func(ctx context.Context, _ string, do func(context.Context) error) error {
					select {
					case <-time.After(900 * time.Millisecond):
						return do(ctx)
					case <-ctx.Done():
						return ctx.Err()
					}
				}, "Get")
				began := time.Now()
				result := later(func() error { _, err := w.svc.Token(t.Context(), alice); return err })
				if othersAnswered {
					time.Sleep(100 * time.Millisecond)
					h.off()
					mustToken(t, w.svc, bob)
					require.ErrorIs(t, <-result, session.ErrNotLoggedIn)
				} else {
					require.NoError(t, <-result, "what is known is served")
					require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
				}
				h.off()
				time.Sleep(5 * time.Second)
			})
		})
	}
}

// The lease ran out because it could not be renewed; nobody logged out.
func TestFirstSessionOfALinkOutlivesALostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, h)
		w.auth.Link(alice, email)
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(5*time.Second))
		result := later(func() error { _, err := w.svc.Token(t.Context(), alice); return err })
		h.on(away, "Acquire")
		require.NoError(t, <-result)
		h.off()
		mustToken(t, w.svc, alice)
	})
}
