package order_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// What overtakes a refresh whose result is being stored.
var overtakes = map[string]struct {
	do   func(t *testing.T, w *world.World) error
	want func(t *testing.T, w *world.World)
}{
	"logout": {
		func(t *testing.T, w *world.World) error { return w.Svc.Logout(t.Context(), world.Alice) },
		func(t *testing.T, w *world.World) { world.WantLoggedOut(t, w, w.Svc) },
	},
	"login as another account": {
		func(t *testing.T, w *world.World) error {
			_, err := w.Svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
			return err
		},
		func(t *testing.T, w *world.World) { world.WantAccount(t, w.Svc, "bob@example.com") },
	},
}

func TestRefreshWhoseStoringHangsIsOvertaken(t *testing.T) {
	for name, overtake := range overtakes {
		t.Run(name, func(t *testing.T) {
			world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
				w.LoginDead()
				if _, leases := w.Store.(session.Locker); !leases { // refresh tokens are not spent then
					w.Auth.Link(world.Alice, world.Email)
				}
				storing := make(chan struct{})
				h.Inject(func(ctx context.Context, call storetest.Call) error {
					h.Clear() // only this connection is dead
					close(storing)
					return storetest.Hang(ctx, call)
				}, storetest.SwapLeased, storetest.Swap)
				result := world.Later(func() error { _, err := w.Svc.Token(t.Context(), world.Alice); return err })
				<-storing
				w.Auth.Unlink(world.Alice)
				require.NoError(t, overtake.do(t, w))
				overtake.want(t, w)
				<-result
			})
		})
	}
}

func TestRefreshWhoseStoringFailsIsNotServedAfterALogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		w := world.New(t, h)
		w.LoginDead()
		h.Inject(storetest.Away, storetest.SwapLeased, storetest.Swap)
		world.MustToken(t, w.Svc, world.Alice)
		require.NotZero(t, w.Svc.Health(t.Context()).Queued)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice), "the store can do that")
		world.WantLoggedOut(t, w, w.Svc)
		h.Clear()
		world.WantLoggedOut(t, w, w.Svc)
	})
}

func TestLinkTokenOfAnOutageIsNotServedAfterALogoutThatUnlinks(t *testing.T) {
	world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
		w.Auth.Link(world.Alice, world.Email)
		w.Login(w.Svc)
		world.MustToken(t, w.Svc, world.Alice)
		h.Inject(storetest.Away)
		time.Sleep(15 * time.Minute)
		world.MustToken(t, w.Svc, world.Alice)
		h.Clear()
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()))
		world.WantLoggedOut(t, w, w.Svc)
	})
}

// A write of a login or logout is held up on its connection, and repeated on
// another; what was held up arrives after the next event.
func TestWriteThatArrivesLateIsRefused(t *testing.T) {
	for name, flow := range map[string]func(t *testing.T, w *world.World, late storetest.Fault, h *storetest.FaultStore, deliver func() []error){
		"login after a logout": func(t *testing.T, w *world.World, late storetest.Fault, h *storetest.FaultStore, deliver func() []error) {
			h.Inject(late, storetest.Writes()...)
			w.Login(w.Svc) // kept in this process
			h.Clear()
			time.Sleep(10 * time.Second) // an attempt to store it may hang as well
			require.NotEmpty(t, w.Stored(world.Alice))
			require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
			require.NotEmpty(t, deliver())
			world.WantLoggedOut(t, w, w.Svc)
		},
		"login over a session, after a logout": func(t *testing.T, w *world.World, late storetest.Fault, h *storetest.FaultStore, deliver func() []error) {
			w.Login(w.Svc)
			h.Inject(late, storetest.Writes()...)
			w.Login(w.Svc)
			h.Clear()
			require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
			require.NotEmpty(t, deliver())
			world.WantLoggedOut(t, w, w.Svc)
		},
		"logout after a login": func(t *testing.T, w *world.World, late storetest.Fault, h *storetest.FaultStore, deliver func() []error) {
			w.Login(w.Svc)
			h.Inject(late, storetest.Writes()...)
			require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
			h.Clear()
			time.Sleep(time.Second)
			w.Login(w.Svc)
			require.NotEmpty(t, deliver())
			world.WantAccount(t, w.Svc, world.Email)
		},
		"logout of nobody after a login": func(t *testing.T, w *world.World, late storetest.Fault, h *storetest.FaultStore, deliver func() []error) {
			h.Inject(late, storetest.Writes()...)
			require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
			h.Clear()
			time.Sleep(time.Second)
			w.Login(w.Svc)
			require.NotEmpty(t, deliver())
			world.WantAccount(t, w.Svc, world.Email)
		},
		"login after a login as another account": func(t *testing.T, w *world.World, late storetest.Fault, h *storetest.FaultStore, deliver func() []error) {
			h.Inject(late, storetest.Writes()...)
			w.Login(w.Svc)
			h.Clear()
			_, err := w.Svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
			require.NoError(t, err)
			require.NotEmpty(t, deliver())
			world.WantAccount(t, w.Svc, "bob@example.com")
		},
		"first session of a link after a logout that unlinks": func(t *testing.T, w *world.World, late storetest.Fault, h *storetest.FaultStore, deliver func() []error) {
			w.Auth.Link(world.Alice, world.Email)
			h.Inject(late, storetest.Writes()...)
			_, err := w.Svc.Token(t.Context(), world.Alice)
			require.Error(t, err)
			h.Clear()
			require.NoError(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()))
			require.NotEmpty(t, deliver())
			world.WantLoggedOut(t, w, w.Svc)
		},
	} {
		t.Run(name, func(t *testing.T) {
			world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
				late, deliver := storetest.DeliverLate()
				flow(t, w, late, h, deliver)
			})
		})
	}
}

func TestLoginThatWasGivenUpDoesNotUndoALaterLogout(t *testing.T) {
	for name, methods := range map[string][]storetest.Method{
		"while it reads":  {storetest.Get, storetest.LoggedOutAt},
		"while it writes": {storetest.Swap},
	} {
		t.Run(name, func(t *testing.T) {
			world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
				open := make(chan struct{})
				h.Inject(func(ctx context.Context, call storetest.Call) error {
					h.Clear()
					select {
					case <-open:
					case <-ctx.Done():
					}
					return call.Do(context.WithoutCancel(ctx)) // it gets there all the same
				}, methods...)
				ctx, giveUp := context.WithCancel(t.Context())
				login := world.Later(func() error { _, err := w.Svc.Login(ctx, world.Alice, world.Email, world.Password); return err })
				giveUp()
				require.ErrorIs(t, <-login, context.Canceled)
				require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
				close(open)
				world.WantLoggedOut(t, w, w.Svc)
			})
		})
	}
}

func TestLogoutThatWasGivenUpDoesNotEndALaterLogin(t *testing.T) {
	for name, methods := range map[string][]storetest.Method{
		"while it reads":   {storetest.Get, storetest.LoggedOutAt},
		"while it deletes": {storetest.Delete, storetest.MarkLoggedOut},
	} {
		t.Run(name, func(t *testing.T) {
			world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
				w.Login(w.Svc)
				open := make(chan struct{})
				h.Inject(func(ctx context.Context, call storetest.Call) error {
					h.Clear()
					select {
					case <-open:
					case <-ctx.Done():
					}
					return call.Do(context.WithoutCancel(ctx))
				}, methods...)
				ctx, giveUp := context.WithCancel(t.Context())
				logout := world.Later(func() error { return w.Svc.Logout(ctx, world.Alice) })
				giveUp()
				require.ErrorIs(t, <-logout, context.Canceled)
				_, err := w.Svc.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
				require.NoError(t, err)
				close(open)
				world.WantAccount(t, w.Svc, "bob@example.com")
			})
		})
	}
}

func TestLogoutThatWasGivenUpComesToItsEnd(t *testing.T) {
	world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
		w.Login(w.Svc)
		open := make(chan struct{})
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			<-open
			return call.Do(ctx)
		}, storetest.Delete, storetest.MarkLoggedOut)
		ctx, giveUp := context.WithCancel(t.Context())
		logout := world.Later(func() error { return w.Svc.Logout(ctx, world.Alice) })
		giveUp()
		require.ErrorIs(t, <-logout, context.Canceled)
		close(open)
		synctest.Wait()
		world.WantLoggedOut(t, w, w.Svc)
	})
}

func TestLoginThatWasGivenUpDoesNotLinkAfterALogoutThatUnlinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		w := world.New(t, h)
		w.Auth = sessiontest.New(sessiontest.WithLoginLimit(0), sessiontest.WithCorrectedLinks())
		defer w.Auth.Close()
		w.Auth.AddUser(world.Email, world.Password)
		svc := w.Service()
		arrived, open := make(chan struct{}), make(chan struct{})
		w.Auth.Inject(sessiontest.LinkCreate, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			close(arrived)
			select {
			case <-open:
			case <-r.Context().Done():
			}
			answer(rw, r) // the server does what it was asked
		})
		ctx, giveUp := context.WithCancel(t.Context())
		login := world.Later(func() error { _, err := svc.Login(ctx, world.Alice, world.Email, world.Password); return err })
		<-arrived
		giveUp()
		require.ErrorIs(t, <-login, context.Canceled)
		time.AfterFunc(time.Second, func() { close(open) })
		require.NoError(t, svc.Logout(t.Context(), world.Alice, session.AndUnlink()))
		time.Sleep(10 * time.Second)
		require.False(t, w.Auth.Linked(world.Alice))
		_, err := svc.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

// The caller has seen in the store that alice was logged out, while a flight from
// before that is still giving its lease back.
func TestCallerWhoSawALogoutDoesNotLandWithAnOlderFlight(t *testing.T) {
	for name, elsewhere := range map[string]func(t *testing.T, w *world.World, other *session.Service){
		"logout": func(t *testing.T, _ *world.World, other *session.Service) {
			require.NoError(t, other.Logout(t.Context(), world.Alice))
		},
		"login as another account": func(t *testing.T, w *world.World, other *session.Service) {
			w.Auth.SetTokenTTL(30 * time.Second) // dead, and so asked about
			_, err := other.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
			require.NoError(t, err)
			w.Auth.SetTokenTTL(15 * time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := storetest.NewFaultStore()
				w := world.New(t, h)
				other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: h.Another()}).Service()
				w.LoginDead()
				open := make(chan struct{})
				w.Auth.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
					<-open
					answer(rw, r)
				})
				stored := make(chan struct{})
				h.Inject(func(ctx context.Context, call storetest.Call) error {
					err := call.Do(ctx) // stored, but the answer takes its time
					h.Clear()
					close(stored)
					time.Sleep(time.Second)
					return err
				}, storetest.SwapLeased)
				first := world.Later(func() error { _, err := w.Svc.Token(t.Context(), world.Alice); return err })
				close(open)
				synctest.Wait()
				<-stored
				elsewhere(t, w, other)
				s, err := w.Svc.Session(t.Context(), world.Alice)
				token, tokenErr := w.Svc.Token(t.Context(), world.Alice)
				if name == "logout" {
					require.ErrorIs(t, err, session.ErrNotLoggedIn)
					require.ErrorIs(t, tokenErr, session.ErrNotLoggedIn)
				} else {
					require.NoError(t, err)
					require.Equal(t, "bob@example.com", s.Email)
					require.NoError(t, tokenErr)
					s, err = w.Svc.Session(t.Context(), world.Alice)
					require.NoError(t, err)
					require.Equal(t, s.Token(), token)
				}
				<-first
			})
		})
	}
}

func TestFlightOfTheSameProcessDoesNotUndoALogoutThatUnlinks(t *testing.T) {
	world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
		w.Auth.Link(world.Alice, world.Email)
		open := make(chan struct{})
		w.Auth.Inject(sessiontest.LinkFetch, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			recorded := make(chan struct{})
			go func() { <-open; close(recorded) }()
			<-recorded
			answer(rw, r)
		})
		late := newLateTransport(w)
		svc := w.Service(session.WithHTTPClient(&http.Client{Transport: late}))
		flight := world.Later(func() error { _, err := svc.Token(t.Context(), world.Alice); return err })
		close(open)
		<-late.arrived // answered by the server, but not heard yet
		require.NoError(t, svc.Logout(t.Context(), world.Alice, session.AndUnlink()))
		close(late.open)
		require.ErrorIs(t, <-flight, session.ErrNotLoggedIn)
		world.WantLoggedOut(t, w, svc)
	})
}

// newLateTransport hands answers to link fetches on when it is opened.
func newLateTransport(w *world.World) *lateFetch {
	return &lateFetch{base: w.Auth.Client().Transport, open: make(chan struct{}), arrived: make(chan struct{}, 10)}
}

type lateFetch struct {
	base    http.RoundTripper
	open    chan struct{}
	arrived chan struct{}
}

func (l *lateFetch) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.base.RoundTrip(r)
	if r.Method == http.MethodGet {
		l.arrived <- struct{}{}
		<-l.open
	}
	return resp, err
}

func TestLogoutElsewhereIsSeenWhileASuccessorIsPending(t *testing.T) {
	for _, method := range []string{"logout", "login as another account"} {
		t.Run(method, func(t *testing.T) {
			world.OnEveryCapability(t, func(t *testing.T, w *world.World, h *storetest.FaultStore) {
				if _, leases := w.Store.(session.Locker); !leases {
					w.Auth.Link(world.Alice, world.Email)
				}
				other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: h.Another()}).Service()
				w.LoginDead()
				h.Inject(storetest.Away, storetest.Writes()...)
				defer func() { h.Clear(); time.Sleep(time.Second) }()
				world.MustToken(t, w.Svc, world.Alice)
				w.Auth.Unlink(world.Alice)
				require.NotZero(t, w.Svc.Health(t.Context()).Queued)
				time.Sleep(time.Second)
				if method == "logout" {
					require.NoError(t, other.Logout(t.Context(), world.Alice))
					time.Sleep(1100 * time.Millisecond)
					if _, ok := w.Store.(session.LogoutLog); !ok {
						return // nothing tells it from a record that was evicted
					}
					world.WantLoggedOutHere(t, w.Svc)
				} else {
					_, err := other.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
					require.NoError(t, err)
					time.Sleep(1100 * time.Millisecond)
					world.WantAccount(t, w.Svc, "bob@example.com")
				}
			})
		})
	}
}

// Another bot's clock is ahead, and so is the time at which the session began.
func TestLogoutInAnOutageEndsASessionThatIsDatedAhead(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"a second": time.Second, "an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			for _, known := range []bool{true, false} {
				synctest.Test(t, func(t *testing.T) {
					h := storetest.NewFaultStore()
					w := world.New(t, h)
					w.Login(w.Svc)
					w.Put(world.Alice, dated(w.Stored(world.Alice), time.Now().Add(ahead)))
					svc := w.Service()
					if known {
						world.MustToken(t, svc, world.Alice)
					}
					h.Inject(storetest.Away)
					require.ErrorIs(t, svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
					world.WantLoggedOutHere(t, svc)
					h.Clear()
					time.Sleep(500 * time.Millisecond)
					world.WantLoggedOut(t, w, svc)
				})
			}
		})
	}
}

// dated is a record whose session began at another time.
func dated(record string, began time.Time) string {
	return regexp.MustCompile(`"since":\d+`).ReplaceAllString(record, fmt.Sprintf(`"since":%d`, began.UnixMicro()))
}

// What a caller gave up does not count after what another process has done since.
func TestWhatWasGivenUpDoesNotCountAfterAnotherProcess(t *testing.T) {
	for name, flow := range map[string]func(t *testing.T, w *world.World, other *session.Service, h *storetest.FaultStore, giveUp func(call func(context.Context) error)){
		"logout, and a login elsewhere": func(t *testing.T, w *world.World, other *session.Service, h *storetest.FaultStore, giveUp func(func(context.Context) error)) {
			w.Login(w.Svc)
			giveUp(func(ctx context.Context) error { return w.Svc.Logout(ctx, world.Alice) })
			_, err := other.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
			require.NoError(t, err)
			h.Clear()
			time.Sleep(3 * time.Second)
			world.WantAccount(t, other, "bob@example.com")
		},
		"login, and a logout elsewhere": func(t *testing.T, w *world.World, other *session.Service, h *storetest.FaultStore, giveUp func(func(context.Context) error)) {
			giveUp(func(ctx context.Context) error {
				_, err := w.Svc.Login(ctx, world.Alice, world.Email, world.Password)
				return err
			})
			require.NoError(t, other.Logout(t.Context(), world.Alice))
			h.Clear()
			time.Sleep(3 * time.Second)
			world.WantLoggedOut(t, w, other)
		},
		"login, and a login elsewhere": func(t *testing.T, w *world.World, other *session.Service, h *storetest.FaultStore, giveUp func(func(context.Context) error)) {
			giveUp(func(ctx context.Context) error {
				_, err := w.Svc.Login(ctx, world.Alice, world.Email, world.Password)
				return err
			})
			_, err := other.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
			require.NoError(t, err)
			h.Clear()
			time.Sleep(3 * time.Second)
			world.WantAccount(t, other, "bob@example.com")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := storetest.NewFaultStore()
				defer h.Close()
				w := world.New(t, h)
				other := (&world.World{T: t, Auth: w.Auth, Log: w.Log, Store: h.Another()}).Service()
				flow(t, w, other, h, func(call func(context.Context) error) {
					time.Sleep(time.Millisecond)
					h.Inject(func(ctx context.Context, call storetest.Call) error {
						time.Sleep(time.Second) // until the other process is through
						return call.Do(ctx)
					}, storetest.LoggedOutAt)
					ctx, cancel := context.WithCancel(t.Context())
					result := world.Later(func() error { return call(ctx) })
					cancel()
					require.ErrorIs(t, <-result, context.Canceled)
					time.Sleep(time.Millisecond)
				})
			})
		})
	}
}
