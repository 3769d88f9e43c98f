package session_test

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
	"github.com/mana/session/sessiontest"
)

// onEveryCapability runs a flow in a bubble over a store whose calls the test
// controls, with all optional capabilities and with fewer.
func onEveryCapability(t *testing.T, flow func(t *testing.T, w *world, h *hooked)) {
	for name := range capabilities(newHooked()) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHooked()
				defer h.MemoryStore.Close()
				flow(t, newWorld(t, capabilities(h)[name]), h)
			})
		})
	}
}

// later runs a call in a goroutine and returns where its error arrives.
func later(call func() error) chan error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	synctest.Wait()
	return result
}

// wantLoggedOut is that alice is not served here, now and for a while.
func wantLoggedOut(t *testing.T, w *world, svc *session.Service) {
	t.Helper()
	for range 20 {
		_, err := svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		time.Sleep(time.Second)
	}
	require.Zero(t, svc.Health(t.Context()).Queued)
	require.Empty(t, w.stored(alice))
}

// wantAccount is that alice is served as the account, now and for a while.
func wantAccount(t *testing.T, svc *session.Service, email string) {
	t.Helper()
	for range 20 {
		s, err := svc.Session(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, email, s.Email)
		mustToken(t, svc, alice)
		time.Sleep(time.Second)
	}
}

// What overtakes a refresh whose result is being stored.
var overtakes = map[string]struct {
	do   func(t *testing.T, w *world) error
	want func(t *testing.T, w *world)
}{
	"logout": {
		func(t *testing.T, w *world) error { return w.svc.Logout(t.Context(), alice) },
		func(t *testing.T, w *world) { wantLoggedOut(t, w, w.svc) },
	},
	"login as another account": {
		func(t *testing.T, w *world) error {
			_, err := w.svc.Login(t.Context(), alice, "bob@example.com", password)
			return err
		},
		func(t *testing.T, w *world) { wantAccount(t, w.svc, "bob@example.com") },
	},
}

func TestRefreshWhoseStoringHangsIsOvertaken(t *testing.T) {
	for name, overtake := range overtakes {
		t.Run(name, func(t *testing.T) {
			onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
				w.loginDead()
				if _, leases := w.store.(session.Locker); !leases { // refresh tokens are not spent then
					w.auth.Link(alice, email)
				}
				h.on(func(ctx context.Context, method string, do func(context.Context) error) error {
					h.off() // only this connection is dead
					return hangs(ctx, method, do)
				}, "SwapLeased", "Swap")
				result := later(func() error { _, err := w.svc.Token(t.Context(), alice); return err })
				require.Nil(t, h.hook.Load(), "its result is being stored")
				w.auth.Unlink(alice)
				require.NoError(t, overtake.do(t, w))
				overtake.want(t, w)
				<-result
			})
		})
	}
}

func TestRefreshWhoseStoringFailsIsNotServedAfterALogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		w := newWorld(t, h)
		w.loginDead()
		h.on(away, "SwapLeased", "Swap")
		mustToken(t, w.svc, alice)
		require.NotZero(t, w.svc.Health(t.Context()).Queued)
		require.NoError(t, w.svc.Logout(t.Context(), alice), "the store can do that")
		wantLoggedOut(t, w, w.svc)
		h.off()
		wantLoggedOut(t, w, w.svc)
	})
}

func TestLinkTokenOfAnOutageIsNotServedAfterALogoutThatUnlinks(t *testing.T) {
	onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
		w.auth.Link(alice, email)
		w.login(w.svc)
		mustToken(t, w.svc, alice)
		h.on(away, everything...)
		time.Sleep(15 * time.Minute)
		mustToken(t, w.svc, alice)
		h.off()
		require.NoError(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()))
		wantLoggedOut(t, w, w.svc)
	})
}

// A write of a login or logout is held up on its connection, and repeated on
// another; what was held up arrives after the next event.
func TestWriteThatArrivesLateIsRefused(t *testing.T) {
	for name, flow := range map[string]func(t *testing.T, w *world, late hook, h *hooked, deliver func() []error){
		"login after a logout": func(t *testing.T, w *world, late hook, h *hooked, deliver func() []error) {
			h.on(late, writes...)
			w.login(w.svc) // kept in this process
			h.off()
			time.Sleep(10 * time.Second) // an attempt to store it may hang as well
			require.NotEmpty(t, w.stored(alice))
			require.NoError(t, w.svc.Logout(t.Context(), alice))
			require.NotEmpty(t, deliver())
			wantLoggedOut(t, w, w.svc)
		},
		"login over a session, after a logout": func(t *testing.T, w *world, late hook, h *hooked, deliver func() []error) {
			w.login(w.svc)
			h.on(late, writes...)
			w.login(w.svc)
			h.off()
			require.NoError(t, w.svc.Logout(t.Context(), alice))
			require.NotEmpty(t, deliver())
			wantLoggedOut(t, w, w.svc)
		},
		"logout after a login": func(t *testing.T, w *world, late hook, h *hooked, deliver func() []error) {
			w.login(w.svc)
			h.on(late, writes...)
			require.ErrorIs(t, w.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
			h.off()
			time.Sleep(time.Second)
			w.login(w.svc)
			require.NotEmpty(t, deliver())
			wantAccount(t, w.svc, email)
		},
		"logout of nobody after a login": func(t *testing.T, w *world, late hook, h *hooked, deliver func() []error) {
			h.on(late, writes...)
			require.ErrorIs(t, w.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
			h.off()
			time.Sleep(time.Second)
			w.login(w.svc)
			require.NotEmpty(t, deliver())
			wantAccount(t, w.svc, email)
		},
		"login after a login as another account": func(t *testing.T, w *world, late hook, h *hooked, deliver func() []error) {
			h.on(late, writes...)
			w.login(w.svc)
			h.off()
			_, err := w.svc.Login(t.Context(), alice, "bob@example.com", password)
			require.NoError(t, err)
			require.NotEmpty(t, deliver())
			wantAccount(t, w.svc, "bob@example.com")
		},
		"first session of a link after a logout that unlinks": func(t *testing.T, w *world, late hook, h *hooked, deliver func() []error) {
			w.auth.Link(alice, email)
			h.on(late, writes...)
			_, err := w.svc.Token(t.Context(), alice)
			require.Error(t, err)
			h.off()
			require.NoError(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()))
			require.NotEmpty(t, deliver())
			wantLoggedOut(t, w, w.svc)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
				late, deliver := deliversLate()
				flow(t, w, late, h, deliver)
			})
		})
	}
}

func TestLoginThatWasGivenUpDoesNotUndoALaterLogout(t *testing.T) {
	for name, method := range map[string]string{"while it reads": "read", "while it writes": "Swap"} {
		t.Run(name, func(t *testing.T) {
			onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
				methods := []string{method}
				if method == "read" {
					methods = []string{"Get", "LoggedOutAt"}
				}
				open := make(chan struct{})
				h.on(func(ctx context.Context, _ string, do func(context.Context) error) error {
					h.off()
					select {
					case <-open:
					case <-ctx.Done():
					}
					return do(context.WithoutCancel(ctx)) // it gets there all the same
				}, methods...)
				ctx, giveUp := context.WithCancel(t.Context())
				login := later(func() error { _, err := w.svc.Login(ctx, alice, email, password); return err })
				giveUp()
				require.ErrorIs(t, <-login, context.Canceled)
				require.NoError(t, w.svc.Logout(t.Context(), alice))
				close(open)
				wantLoggedOut(t, w, w.svc)
			})
		})
	}
}

func TestLogoutThatWasGivenUpDoesNotEndALaterLogin(t *testing.T) {
	for name, method := range map[string]string{"while it reads": "read", "while it deletes": "delete"} {
		t.Run(name, func(t *testing.T) {
			onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
				w.login(w.svc)
				methods := map[string][]string{"read": {"Get", "LoggedOutAt"}, "delete": {"Delete", "MarkLoggedOut"}}[method]
				open := make(chan struct{})
				h.on(func(ctx context.Context, _ string, do func(context.Context) error) error {
					h.off()
					select {
					case <-open:
					case <-ctx.Done():
					}
					return do(context.WithoutCancel(ctx))
				}, methods...)
				ctx, giveUp := context.WithCancel(t.Context())
				logout := later(func() error { return w.svc.Logout(ctx, alice) })
				giveUp()
				require.ErrorIs(t, <-logout, context.Canceled)
				_, err := w.svc.Login(t.Context(), alice, "bob@example.com", password)
				require.NoError(t, err)
				close(open)
				wantAccount(t, w.svc, "bob@example.com")
			})
		})
	}
}

func TestLogoutThatWasGivenUpComesToItsEnd(t *testing.T) {
	onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
		w.login(w.svc)
		open := make(chan struct{})
		h.on(func(ctx context.Context, _ string, do func(context.Context) error) error {
			<-open
			return do(ctx)
		}, "Delete", "MarkLoggedOut")
		ctx, giveUp := context.WithCancel(t.Context())
		logout := later(func() error { return w.svc.Logout(ctx, alice) })
		giveUp()
		require.ErrorIs(t, <-logout, context.Canceled)
		close(open)
		synctest.Wait()
		wantLoggedOut(t, w, w.svc)
	})
}

func TestLoginThatWasGivenUpDoesNotLinkAfterALogoutThatUnlinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		w := newWorld(t, h)
		w.auth = sessiontest.New(sessiontest.WithLoginLimit(0), sessiontest.WithCorrectedLinks())
		defer w.auth.Close()
		w.auth.AddUser(email, password)
		svc := w.service()
		arrived, open := make(chan struct{}), make(chan struct{})
		w.auth.Inject(sessiontest.LinkCreate, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			close(arrived)
			select {
			case <-open:
			case <-r.Context().Done():
			}
			answer(rw, r) // the server does what it was asked
		})
		ctx, giveUp := context.WithCancel(t.Context())
		login := later(func() error { _, err := svc.Login(ctx, alice, email, password); return err })
		<-arrived
		giveUp()
		require.ErrorIs(t, <-login, context.Canceled)
		time.AfterFunc(time.Second, func() { close(open) })
		require.NoError(t, svc.Logout(t.Context(), alice, session.AndUnlink()))
		time.Sleep(10 * time.Second)
		require.False(t, w.auth.Linked(alice))
		_, err := svc.Token(t.Context(), alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

// The caller has seen in the store that alice was logged out, while a flight from
// before that is still giving its lease back.
func TestCallerWhoSawALogoutDoesNotLandWithAnOlderFlight(t *testing.T) {
	for name, elsewhere := range map[string]func(t *testing.T, w *world, other *session.Service){
		"logout": func(t *testing.T, _ *world, other *session.Service) {
			require.NoError(t, other.Logout(t.Context(), alice))
		},
		"login as another account": func(t *testing.T, w *world, other *session.Service) {
			w.auth.SetTokenTTL(30 * time.Second) // dead, and so asked about
			_, err := other.Login(t.Context(), alice, "bob@example.com", password)
			require.NoError(t, err)
			w.auth.SetTokenTTL(15 * time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHooked()
				w := newWorld(t, h)
				other := (&world{t: t, auth: w.auth, log: w.log, store: h.another()}).service()
				w.loginDead()
				open := make(chan struct{})
				w.auth.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
					<-open
					answer(rw, r)
				})
				h.on(func(ctx context.Context, method string, do func(context.Context) error) error {
					err := do(ctx) // stored, but the answer takes its time
					h.off()
					time.Sleep(time.Second)
					return err
				}, "SwapLeased")
				first := later(func() error { _, err := w.svc.Token(t.Context(), alice); return err })
				close(open)
				synctest.Wait()
				require.Nil(t, h.hook.Load(), "it has been stored")
				elsewhere(t, w, other)
				s, err := w.svc.Session(t.Context(), alice)
				token, tokenErr := w.svc.Token(t.Context(), alice)
				if name == "logout" {
					require.ErrorIs(t, err, session.ErrNotLoggedIn)
					require.ErrorIs(t, tokenErr, session.ErrNotLoggedIn)
				} else {
					require.NoError(t, err)
					require.Equal(t, "bob@example.com", s.Email)
					require.NoError(t, tokenErr)
					s, err = w.svc.Session(t.Context(), alice)
					require.NoError(t, err)
					require.Equal(t, s.Token(), token)
				}
				<-first
			})
		})
	}
}

func TestFlightOfTheSameProcessDoesNotUndoALogoutThatUnlinks(t *testing.T) {
	onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
		w.auth.Link(alice, email)
		open := make(chan struct{})
		w.auth.Inject(sessiontest.LinkFetch, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			recorded := make(chan struct{})
			go func() { <-open; close(recorded) }()
			<-recorded
			answer(rw, r)
		})
		late := newLateTransport(w)
		svc := w.service(session.WithHTTPClient(&http.Client{Transport: late}))
		flight := later(func() error { _, err := svc.Token(t.Context(), alice); return err })
		close(open)
		<-late.arrived // answered by the server, but not heard yet
		require.NoError(t, svc.Logout(t.Context(), alice, session.AndUnlink()))
		close(late.open)
		require.ErrorIs(t, <-flight, session.ErrNotLoggedIn)
		wantLoggedOut(t, w, svc)
	})
}

// newLateTransport hands answers to link fetches on when it is opened.
func newLateTransport(w *world) *lateFetch {
	return &lateFetch{base: w.auth.Client().Transport, open: make(chan struct{}), arrived: make(chan struct{}, 10)}
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
			onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
				if _, leases := w.store.(session.Locker); !leases {
					w.auth.Link(alice, email)
				}
				other := (&world{t: t, auth: w.auth, log: w.log, store: h.another()}).service()
				w.loginDead()
				h.on(away, writes...)
				defer func() { h.off(); time.Sleep(time.Second) }()
				mustToken(t, w.svc, alice)
				w.auth.Unlink(alice)
				require.NotZero(t, w.svc.Health(t.Context()).Queued)
				time.Sleep(time.Second)
				if method == "logout" {
					require.NoError(t, other.Logout(t.Context(), alice))
					time.Sleep(1100 * time.Millisecond)
					if _, ok := w.store.(session.LogoutLog); !ok {
						return // nothing tells it from a record that was evicted
					}
					wantLoggedOutHere(t, w.svc)
				} else {
					_, err := other.Login(t.Context(), alice, "bob@example.com", password)
					require.NoError(t, err)
					time.Sleep(1100 * time.Millisecond)
					wantAccount(t, w.svc, "bob@example.com")
				}
			})
		})
	}
}

func wantLoggedOutHere(t *testing.T, svc *session.Service) {
	t.Helper()
	_, err := svc.Token(t.Context(), alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
}

// Another bot's clock is ahead, and so is the time at which the session began.
func TestLogoutInAnOutageEndsASessionThatIsDatedAhead(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"a second": time.Second, "an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			for _, known := range []bool{true, false} {
				synctest.Test(t, func(t *testing.T) {
					h := newHooked()
					w := newWorld(t, h)
					w.login(w.svc)
					w.put(alice, dated(w.stored(alice), time.Now().Add(ahead)))
					svc := w.service()
					if known {
						mustToken(t, svc, alice)
					}
					h.on(away, everything...)
					require.ErrorIs(t, svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
					wantLoggedOutHere(t, svc)
					h.off()
					time.Sleep(500 * time.Millisecond)
					wantLoggedOut(t, w, svc)
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
	for name, flow := range map[string]func(t *testing.T, w *world, other *session.Service, h *hooked, giveUp func(call func(context.Context) error)){
		"logout, and a login elsewhere": func(t *testing.T, w *world, other *session.Service, h *hooked, giveUp func(func(context.Context) error)) {
			w.login(w.svc)
			giveUp(func(ctx context.Context) error { return w.svc.Logout(ctx, alice) })
			_, err := other.Login(t.Context(), alice, "bob@example.com", password)
			require.NoError(t, err)
			h.off()
			time.Sleep(3 * time.Second)
			wantAccount(t, other, "bob@example.com")
		},
		"login, and a logout elsewhere": func(t *testing.T, w *world, other *session.Service, h *hooked, giveUp func(func(context.Context) error)) {
			giveUp(func(ctx context.Context) error { _, err := w.svc.Login(ctx, alice, email, password); return err })
			require.NoError(t, other.Logout(t.Context(), alice))
			h.off()
			time.Sleep(3 * time.Second)
			wantLoggedOut(t, w, other)
		},
		"login, and a login elsewhere": func(t *testing.T, w *world, other *session.Service, h *hooked, giveUp func(func(context.Context) error)) {
			giveUp(func(ctx context.Context) error { _, err := w.svc.Login(ctx, alice, email, password); return err })
			_, err := other.Login(t.Context(), alice, "bob@example.com", password)
			require.NoError(t, err)
			h.off()
			time.Sleep(3 * time.Second)
			wantAccount(t, other, "bob@example.com")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHooked()
				defer h.MemoryStore.Close()
				w := newWorld(t, h)
				other := (&world{t: t, auth: w.auth, log: w.log, store: h.another()}).service()
				flow(t, w, other, h, func(call func(context.Context) error) {
					time.Sleep(time.Millisecond)
					h.on(func(ctx context.Context, _ string, do func(context.Context) error) error {
						time.Sleep(time.Second) // until the other process is through
						return do(ctx)
					}, "LoggedOutAt")
					ctx, cancel := context.WithCancel(t.Context())
					result := later(func() error { return call(ctx) })
					cancel()
					require.ErrorIs(t, <-result, context.Canceled)
					time.Sleep(time.Millisecond)
				})
			})
		})
	}
}
