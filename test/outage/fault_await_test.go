package outage_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// stall has calls of one method wait until they are let go, or their context ends.
func stall(store *storetest.FaultStore, method storetest.Method) (letGo func()) {
	open := make(chan struct{})
	store.Inject(func(ctx context.Context, call storetest.Call) error {
		select {
		case <-open:
			return call.Do(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}, method)
	return func() { close(open) }
}

// await is a point at which a call of a Service waits for somebody else.
type await struct {
	method storetest.Method // of the store; or
	op     sessiontest.Op   // of the auth server; or
	lease  bool             // another process has the lease
	had    func(w *world.World)
	call   func(ctx context.Context, svc *session.Service) error
	then   func(w *world.World) // what holds although a caller gave up
}

func callToken(ctx context.Context, svc *session.Service) error {
	_, err := svc.Token(ctx, world.Alice)
	return err
}

func callLogin(ctx context.Context, svc *session.Service) error {
	_, err := svc.Login(ctx, world.Alice, world.Email, world.Password)
	return err
}

func callLogout(ctx context.Context, svc *session.Service) error { return svc.Logout(ctx, world.Alice) }

func callSetData(ctx context.Context, svc *session.Service) error {
	return svc.SetData(ctx, world.Alice, "k", 1)
}

func nothing(*world.World)         {}
func loggedIn(w *world.World)      { w.Login(w.Svc) }
func linkedAlice(w *world.World)   { w.Auth.Link(world.Alice, world.Email) }
func deadSession(w *world.World)   { w.LoginDead() }
func hasASession(w *world.World)   { require.NotEmpty(w.T, w.Stored(world.Alice)) }
func hasNoSession(w *world.World)  { require.Empty(w.T, w.Stored(world.Alice)) }
func keptAndServed(w *world.World) { hasASession(w); world.MustToken(w.T, w.Svc, world.Alice) }

var awaits = map[string]await{
	"login: the answer":               {op: sessiontest.Login, had: nothing, call: callLogin, then: nothing},
	"login: the read":                 {method: "Get", had: nothing, call: callLogin, then: keptAndServed},
	"login: the write":                {method: "Swap", had: nothing, call: callLogin, then: keptAndServed},
	"login: the link":                 {op: sessiontest.LinkCreate, had: nothing, call: callLogin, then: keptAndServed},
	"logout: the write":               {method: "Delete", had: loggedIn, call: callLogout, then: hasNoSession},
	"token: the read":                 {method: "Get", had: linkedAlice, call: callToken, then: nothing},
	"token: the lease":                {lease: true, had: linkedAlice, call: callToken, then: keptAndServed},
	"token: the lease's answer":       {method: "Acquire", had: linkedAlice, call: callToken, then: keptAndServed},
	"token: the link's answer":        {op: sessiontest.LinkFetch, had: linkedAlice, call: callToken, then: keptAndServed},
	"token: the check":                {op: sessiontest.LinkCheck, had: func(w *world.World) { w.LoginDead(); w.Auth.RevokeRefreshTokens(world.Email) }, call: callLoggedOut, then: hasNoSession},
	"token: the refresh token's fate": {op: sessiontest.Refresh, had: deadSession, call: callToken, then: keptAndServed},
	"token: the write":                {method: "SwapLeased", had: linkedAlice, call: callToken, then: keptAndServed},
	"data: the read":                  {method: "Get", had: loggedIn, call: callSetData, then: keptAndServed},
	"data: the write":                 {method: "Swap", had: loggedIn, call: callSetData, then: keptAndServed},
}

// callLoggedOut is Token for a user whom the auth server says no to.
func callLoggedOut(ctx context.Context, svc *session.Service) error {
	err := callToken(ctx, svc)
	if errors.Is(err, session.ErrNotLoggedIn) {
		return nil
	}
	return err
}

// begin sets the point up, and returns what ends the wait.
func (a await) begin(t *testing.T) (w *world.World, letGo func()) {
	store := storetest.NewFaultStore()
	w = world.New(t, world.WithoutLogoutLog(store))
	synctest.Wait()
	a.had(w)
	g := world.NewGate(w.Auth.Client().Transport)
	switch {
	case a.method != "":
		letGo = stall(store, a.method)
	case a.lease:
		lease, _, err := store.MemoryStore.Acquire(t.Context(), world.Alice, "another process", time.Hour)
		require.NoError(t, err)
		require.True(t, lease.Held)
		letGo = func() {
			require.NoError(t, store.MemoryStore.Release(t.Context(), world.Alice, "another process", "", 0))
		}
	default:
		w.Auth.Inject(a.op, -1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			select {
			case <-g.Open:
				answer(rw, r)
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
		})
		letGo = func() { close(g.Open) }
	}
	return w, letGo
}

func TestCallerWhoGivesUpAtAnyMomentFailsNobodyElse(t *testing.T) {
	for name, a := range awaits {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, letGo := a.begin(t)
				impatient, giveUp := context.WithCancel(t.Context())
				gaveUp, patient := make(chan error, 1), make(chan error, 1)
				go func() { gaveUp <- a.call(impatient, w.Svc) }()
				synctest.Wait()
				go func() { patient <- a.call(t.Context(), w.Svc) }()
				synctest.Wait()
				require.Empty(t, gaveUp, "it waits")
				began := time.Now()
				giveUp()
				require.ErrorIs(t, <-gaveUp, context.Canceled)
				require.Zero(t, time.Since(began), "at once")
				synctest.Wait()
				require.Empty(t, patient, "the other waits on")
				letGo()
				require.NoError(t, <-patient)
				synctest.Wait()
				a.then(w)
				stats, err := w.Svc.Stats(t.Context())
				require.NoError(t, err)
				require.Zero(t, stats.StoreErrors, "giving up is no failure of the store")
			})
		})
	}
}

func TestCallerWhoGivesUpAloneLosesNothing(t *testing.T) {
	for name, a := range awaits {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, letGo := a.begin(t)
				impatient, giveUp := context.WithCancel(t.Context())
				gaveUp := make(chan error, 1)
				go func() { gaveUp <- a.call(impatient, w.Svc) }()
				synctest.Wait()
				giveUp()
				require.ErrorIs(t, <-gaveUp, context.Canceled)
				letGo()
				synctest.Wait()
				time.Sleep(time.Second)
				if name != "login: the answer" && name != "token: the read" {
					a.then(w) // what had begun came to its end
				}
				require.NoError(t, a.call(t.Context(), w.Svc))
			})
		})
	}
}

func TestCloseAtAnyMoment(t *testing.T) {
	// What Close cannot cut: the caller's own wait for a store or a login, and
	// what must not be lost: a login that has happened, a spent refresh token, a
	// token that the server gave.
	waitsOut := map[string]bool{
		"login: the answer": true, "login: the read": true, "login: the write": true,
		"token: the read": true,
		"data: the read":  true, "data: the write": true,
	}
	for name, a := range awaits {
		t.Run(name+", which goes on to wait", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, letGo := a.begin(t)
				svc := w.Service()
				result := make(chan error, 1)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				go func() { result <- a.call(ctx, svc) }()
				synctest.Wait()
				began := time.Now()
				err := svc.Close()
				limit := 5 * time.Second
				if name == "token: the refresh token's fate" { // which must not be lost
					limit = 13 * time.Second
				}
				require.LessOrEqual(t, time.Since(began), limit)
				switch {
				case waitsOut[name]:
					require.ErrorContains(t, err, "still running")
				case name == "logout: the write": // it waits for the store
					require.ErrorContains(t, err, "not stored")
				default:
					require.NoError(t, err)
				}
				_, err = svc.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, session.ErrClosed)
				if a.op == "" {
					letGo()
				}
				endsWell(t, <-result)
				require.LessOrEqual(t, time.Since(began), limit+5*time.Second)
			})
		})
		t.Run(name+", which ends a second later", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, letGo := a.begin(t)
				svc := w.Service()
				result := make(chan error, 1)
				go func() { result <- a.call(t.Context(), svc) }()
				synctest.Wait()
				began := time.Now()
				time.AfterFunc(time.Second, letGo)
				require.NoError(t, svc.Close())
				require.LessOrEqual(t, time.Since(began), time.Second)
				endsWell(t, <-result)
				time.Sleep(2 * time.Second)
				if name == "token: the refresh token's fate" || a.op == sessiontest.LinkCreate {
					a.then(w) // what the server had granted was kept
				}
			})
		})
	}
}

// endsWell: a result, or ErrClosed, or what the server or the store did.
func endsWell(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, session.ErrClosed) && !errors.Is(err, session.ErrAuthUnavailable) {
		require.ErrorIs(t, err, session.ErrStoreUnavailable)
	}
}

func TestCloseDuringARefreshAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(12 * time.Minute)
		w.Auth.ResetCalls()
		w.Auth.Inject(sessiontest.LinkFetch, -1, w.Auth.Hang())
		world.MustToken(t, w.Svc, world.Alice)
		synctest.Wait()
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkFetch))
		began := time.Now()
		require.NoError(t, w.Svc.Close())
		require.Zero(t, time.Since(began))
	})
}

func TestCloseWhileManyWaitForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := world.Crowded(t, 0, 8*time.Second)
		results := make(chan error, 1000)
		for i := range 1000 {
			go func() {
				_, err := w.Svc.Token(t.Context(), world.UserID(i))
				results <- err
			}()
		}
		synctest.Wait()
		began := time.Now()
		require.NoError(t, w.Svc.Close())
		for range 1000 {
			require.ErrorIs(t, <-results, session.ErrClosed)
		}
		require.Zero(t, time.Since(began))
	})
}

// Whichever reaches the store last is what counts, in every process.
func TestLoginRacingALogout(t *testing.T) {
	for name, c := range map[string]struct {
		method        storetest.Method
		first, second func(ctx context.Context, svc *session.Service) error
		in            bool
	}{
		"logout while a login is about to be stored": {storetest.Swap, callLogin, callLogout, true},
		"login while a logout is about to be stored": {storetest.Delete, callLogout, callLogin, false},
	} {
		for _, hadSession := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/had a session: %t", name, hadSession), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := storetest.NewFaultStore()
					w := world.New(t, world.WithoutLogoutLog(store))
					far := *w
					far.Store = store.MemoryStore
					other := far.Service()
					if hadSession {
						w.Login(w.Svc)
					}
					letGo := stall(store, c.method)
					first := make(chan error, 1)
					go func() { first <- c.first(t.Context(), w.Svc) }()
					synctest.Wait()
					require.Empty(t, first, "it is about to be stored")
					require.NoError(t, c.second(t.Context(), other))
					letGo()
					require.NoError(t, <-first)
					for _, svc := range []*session.Service{w.Svc, other} {
						in, err := svc.LoggedIn(t.Context(), world.Alice)
						require.NoError(t, err)
						require.Equal(t, c.in, in)
					}
				})
			})
		}
	}
}
