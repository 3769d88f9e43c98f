package outage_test

import (
	"context"
	"errors"
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

// Whatever made alice known to this process: when the store goes away she is
// served from memory.
var becomesKnown = map[string]func(t *testing.T, w *world.World, other *session.Service){
	"login": func(t *testing.T, w *world.World, _ *session.Service) { w.Login(w.Svc) },
	"first token of a link": func(t *testing.T, w *world.World, _ *session.Service) {
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
	},
	"token that another bot stored": func(t *testing.T, w *world.World, other *session.Service) {
		w.Login(other)
		world.MustToken(t, w.Svc, world.Alice)
	},
	"data write": func(t *testing.T, w *world.World, other *session.Service) {
		w.Login(other)
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
	},
	"refresh ahead": func(t *testing.T, w *world.World, _ *session.Service) {
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(11 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice)
		synctest.Wait()
	},
	"refresh": func(t *testing.T, w *world.World, _ *session.Service) {
		w.LoginDead()
		world.MustToken(t, w.Svc, world.Alice)
	},
	"another bot's data write": func(t *testing.T, w *world.World, other *session.Service) {
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		require.NoError(t, other.SetData(t.Context(), world.Alice, "k", 1))
	},
	"another bot's refresh": func(t *testing.T, w *world.World, other *session.Service) {
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		token := world.MustToken(t, other, world.Alice)
		_, err := other.Refresh(t.Context(), world.Alice, token)
		require.NoError(t, err)
	},
}

func TestKnownUserIsServedAtOnceWhenTheStoreGoesAway(t *testing.T) {
	for name, become := range becomesKnown {
		for how, fault := range map[string]storetest.Fault{"refuses": storetest.Away, "hangs": storetest.Hang} {
			for when, wait := range map[string]time.Duration{"at once": 0, "1.5 s later": 1500 * time.Millisecond} {
				t.Run(name+"/"+how+"/"+when, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := storetest.NewFaultStore()
						defer h.Close()
						w := world.New(t, h)
						other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: h.Another()}).Service()
						become(t, w, other)
						synctest.Wait()
						h.Inject(fault)
						time.Sleep(wait)
						began := time.Now()
						world.MustToken(t, w.Svc, world.Alice)
						require.LessOrEqual(t, time.Since(began), 500*time.Millisecond, "the first one finds it out")
						for range 20 {
							began = time.Now()
							world.MustToken(t, w.Svc, world.Alice)
							_, err := w.Svc.Session(t.Context(), world.Alice)
							require.NoError(t, err)
							require.Zero(t, time.Since(began))
							time.Sleep(300 * time.Millisecond)
						}
						h.Clear()
						time.Sleep(time.Second)
						require.NoError(t, other.Logout(t.Context(), world.Alice, session.AndUnlink()))
						time.Sleep(time.Second)
						world.WantLoggedOutHere(t, w.Svc)
					})
				})
			}
		}
	}
}

func TestLogoutMakesAUserUnknown(t *testing.T) {
	for name, logout := range map[string]func(w *world.World, other *session.Service) error{
		"here":      func(w *world.World, _ *session.Service) error { return w.Svc.Logout(w.T.Context(), world.Alice) },
		"elsewhere": func(w *world.World, other *session.Service) error { return other.Logout(w.T.Context(), world.Alice) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := storetest.NewFaultStore()
				defer h.Close()
				w := world.New(t, h)
				other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: h.Another()}).Service()
				synctest.Wait() // the feed runs
				w.Login(w.Svc)
				world.MustToken(t, w.Svc, world.Alice)
				require.NoError(t, logout(w, other))
				h.Inject(storetest.Away)
				_, err := w.Svc.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, session.ErrStoreUnavailable)
			})
		})
	}
}

func TestLogoutInAnOutageDoesNotWaitForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, world.WithoutWatcher(h))
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		h.Inject(storetest.Hang)
		time.Sleep(3 * time.Second)
		world.MustToken(t, w.Svc, world.Alice) // finds the outage
		began := time.Now()
		require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
		require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
		began = time.Now()
		_, err := w.Svc.Session(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
		h.Clear()
		time.Sleep(time.Second)
		world.WantLoggedOut(t, w, w.Svc)
	})
}

func TestOneProbeAtATimeFindsOutThatTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, world.WithoutWatcher(h))
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		running, most := 0, 0
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			running++
			most = max(most, running)
			defer func() { running-- }()
			time.Sleep(10 * time.Millisecond)
			return storetest.ErrLost
		}, storetest.Get)
		world.MustToken(t, w.Svc, world.Alice)
		for range 100 {
			world.MustToken(t, w.Svc, world.Alice)
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, 1, most)
		h.Clear()
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
				w := world.New(t, session.NewMemoryStore(), session.WithSessionTTL(opts.ttl))
				w.Auth.SetTokenTTL(24 * time.Hour)
				w.Login(w.Svc)
				for range 100 {
					world.MustToken(t, w.Svc, world.Alice)
					time.Sleep(opts.ttl / 4)
				}
				time.Sleep(opts.ttl)
				_, err := w.Svc.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn, "but without use it does")
			})
		})
	}
}

func TestSessionWithATokenThatDoesNotEndIsExtendedByUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		_, err := w.Store.Swap(t.Context(), session.Record{UserID: world.Alice}, session.Record{
			UserID: world.Alice, Value: world.TsRecord("e30.e30.sig", world.Email, `{"k":1}`), Expires: time.Now().Add(7 * 24 * time.Hour),
		})
		require.NoError(t, err)
		for range 10 {
			require.Equal(t, "e30.e30.sig", world.MustToken(t, w.Svc, world.Alice))
			time.Sleep(3 * 24 * time.Hour)
		}
	})
}

func TestExtendingASessionLosesNoDataOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h, session.WithSessionTTL(10*time.Minute))
		w.Login(w.Svc)
		time.Sleep(6 * time.Minute)
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			h.Clear()
			if err := w.Svc.SetData(t.Context(), world.Alice, "k", 1); err != nil {
				return errors.Join(storetest.ErrLost, err)
			}
			return call.Do(ctx)
		}, storetest.Swap)
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(time.Second)
		s, err := w.Svc.Session(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Greater(t, time.Until(s.ExpiresAt), 9*time.Minute)
		found, err := w.Svc.Data(t.Context(), world.Alice, "k", new(int))
		require.NoError(t, err)
		require.True(t, found)
	})
}

// A store that refuses writes, and is slow under load, is read all the same.
func TestLogoutElsewhereIsSeenWhileTheStoreRefusesWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, world.WithoutWatcher(h))
		other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: h.Another()}).Service()
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			switch call.Method {
			case storetest.Get, storetest.LoggedOutAt:
				time.Sleep(100 * time.Millisecond)
				return call.Do(ctx)
			}
			return storetest.ErrLost
		})
		_, err := w.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password) // pending, and tried again and again
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.NoError(t, other.Logout(t.Context(), world.Alice))
		for range 50 {
			_, err := w.Svc.Token(t.Context(), world.Alice)
			require.Error(t, err)
			time.Sleep(70 * time.Millisecond)
		}
		h.Clear()
		time.Sleep(5 * time.Second)
	})
}

// An overloaded store is not away: others are answered meanwhile.
func TestLogoutElsewhereIsSeenThoughTheReadIsSlow(t *testing.T) {
	for _, othersAnswered := range []bool{true, false} {
		t.Run(fmt.Sprint("others are answered: ", othersAnswered), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := storetest.NewFaultStore()
				defer h.Close()
				w := world.New(t, world.WithoutWatcher(h))
				other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: h.Another()}).Service()
				w.Login(w.Svc)
				world.MustToken(t, w.Svc, world.Alice)
				_, err := w.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
				require.NoError(t, err)
				require.NoError(t, other.Logout(t.Context(), world.Alice))
				time.Sleep(2 * time.Second)
				h.Inject(func(ctx context.Context, call storetest.Call) error {
					select {
					case <-time.After(900 * time.Millisecond):
						return call.Do(ctx)
					case <-ctx.Done():
						return ctx.Err()
					}
				}, storetest.Get)
				began := time.Now()
				result := world.Later(func() error { _, err := w.Svc.Token(t.Context(), world.Alice); return err })
				if othersAnswered {
					time.Sleep(100 * time.Millisecond)
					h.Clear()
					world.MustToken(t, w.Svc, world.Bob)
					require.ErrorIs(t, <-result, session.ErrNotLoggedIn)
				} else {
					require.NoError(t, <-result, "what is known is served")
					require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
				}
				h.Clear()
				time.Sleep(5 * time.Second)
			})
		})
	}
}

// The lease ran out because it could not be renewed; nobody logged out.
func TestFirstSessionOfALinkOutlivesALostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(5*time.Second))
		result := world.Later(func() error { _, err := w.Svc.Token(t.Context(), world.Alice); return err })
		h.Inject(storetest.Away, storetest.Acquire)
		require.NoError(t, <-result)
		h.Clear()
		world.MustToken(t, w.Svc, world.Alice)
	})
}

// What failed in an earlier outage says nothing of this one: the store may have
// answered others in between, and what is known may be long over.
func TestReadThatFailedInAnEarlierOutageIsTriedAgainInTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, world.WithoutWatcher(h))
		other := w.Service()
		w.Login(w.Svc)
		h.Inject(storetest.Away)
		world.MustToken(t, w.Svc, world.Alice) // known, and the read has failed
		h.Clear()
		time.Sleep(time.Minute)
		require.NoError(t, other.Logout(t.Context(), world.Alice))

		h.Inject(storetest.Away)
		_, err := w.Svc.Token(t.Context(), "@bob:matrix.example")
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
		synctest.Wait() // the store is known to be away
		h.Clear()
		_, err = w.Svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}
