package outage_test

import (
	"context"
	"errors"
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

// Refresh tokens are single-use: what happens to a login whose token was spent
// by somebody who then died, was paused, or did not know of the others.

// dying is the store as a process sees it that ends between spending a refresh
// token and storing its successor: its write never arrives, nor does anything
// that follows. dead is closed with the write.
func dying(store *storetest.FaultStore) (end *storetest.FaultStore, dead <-chan struct{}) {
	died := make(chan struct{})
	end = store.Another()
	end.Inject(func(ctx context.Context, call storetest.Call) error {
		select {
		case <-died:
		default:
			if call.Method != storetest.SwapLeased {
				return call.Do(ctx)
			}
			close(died)
		}
		return storetest.Hang(ctx, call)
	}, storetest.SwapLeased, storetest.Swap, storetest.Release)
	return end, died
}

func TestHolderThatDiesWithTheSuccessorOfARefreshToken(t *testing.T) {
	for name, c := range map[string]struct {
		opts   []session.Option
		linked bool
		want   error
		kept   bool // the record
	}{
		// The link makes up for the refresh token: nothing is noticed.
		"linked": {linked: true, kept: true},
		// Nobody has the successor: the server refuses the token that is
		// stored, and says there is no link. That is its clear no.
		"not linked": {want: session.ErrNotLoggedIn},
		// Other bots may have the key that this one lacks.
		"no service key": {opts: []session.Option{session.WithServiceKey("")}, want: session.ErrNotLoggedIn, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewFaultStore()
				w := world.New(t, world.WithoutLogoutLog(store), c.opts...)
				w.LoginDead()
				_, err := w.Svc.Login(t.Context(), world.Bob, "bob@example.com", world.Password)
				require.NoError(t, err)

				end, dead := dying(store)
				holder, err := session.New(session.WithAuthURL(w.Auth.URL), session.WithHTTPClient(w.Auth.Client()), session.WithStore(world.WithoutLogoutLog(end)))
				require.NoError(t, err)
				abandoned := make(chan struct{})
				go func() {
					defer close(abandoned)
					_, _ = holder.Token(context.WithoutCancel(t.Context()), world.Alice)
				}()
				<-dead
				require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
				if c.linked {
					w.Auth.Link(world.Alice, world.Email)
				}

				world.MustToken(t, w.Svc, world.Bob) // no other user is hurt
				began := time.Now()
				_, err = w.Svc.Token(t.Context(), world.Alice)
				require.LessOrEqual(t, time.Since(began), 16*time.Second+100*time.Millisecond, "the lease, and a last look")
				if c.want == nil {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, c.want)
				}
				require.Equal(t, c.kept, w.Stored(world.Alice) != "")
				<-abandoned
				require.ErrorIs(t, holder.Close(), session.ErrStoreUnavailable, "its successor is lost")

				w.Login(w.Svc) // nothing is wedged
				world.MustToken(t, w.Svc, world.Alice)
				world.MustToken(t, w.Svc, world.Bob)
			})
		})
	}
}

func TestLostAnswerToARefreshToken(t *testing.T) {
	for name, fault := range map[string]sessiontest.Fault{
		"reset": sessiontest.LoseAnswer(), "within the body": sessiontest.CutBody(20), "trickle": sessiontest.Trickle(time.Second),
	} {
		for _, linked := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := world.New(t, session.NewMemoryStore())
					w.LoginDead()
					before := w.Stored(world.Alice)
					w.Auth.Inject(sessiontest.Refresh, 1, fault)
					require.ErrorIs(t, world.AskToken(w), session.ErrAuthUnavailable)
					require.Equal(t, before, w.Stored(world.Alice), "it cannot be known that it was spent")
					require.Equal(t, 1, w.Auth.Calls(sessiontest.Refresh))
					time.Sleep(1500 * time.Millisecond)
					if linked {
						w.Auth.Link(world.Alice, world.Email)
						world.MustToken(t, w.Svc, world.Alice)
						return
					}
					require.ErrorIs(t, world.AskToken(w), session.ErrNotLoggedIn)
					require.Empty(t, w.Stored(world.Alice))
				})
			})
		}
	}
}

// lossy is a store that forgets leases, as a Redis that failed over may.
type lossy struct{ *session.MemoryStore }

func (l lossy) Acquire(ctx context.Context, userID, owner string, ttl time.Duration) (session.Lease, session.Record, error) {
	rec, err := l.Get(ctx, userID)
	if errors.Is(err, session.ErrNotFound) {
		rec, err = session.Record{UserID: userID}, nil
	}
	return session.Lease{Held: true}, rec, err
}

// One of six gets an answer, five are refused, and all go on with the one.
func TestSixProcessesSpendOneRefreshTokenAtOnceAndNobodyLosesTheLogin(t *testing.T) {
	keyless := []session.Option{session.WithServiceKey("")}
	for name, opts := range map[string][]session.Option{"by bots with a key": nil, "by bots without": keyless} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, lossy{session.NewMemoryStore()}, opts...)
				w.LoginDead()
				g := world.NewGate(w.Auth.Client().Transport)
				spend := world.RoundTripper(func(r *http.Request) (*http.Response, error) {
					if r.Method == http.MethodPost {
						return g.RoundTrip(r)
					}
					time.Sleep(time.Millisecond) // a link call is a round trip
					return w.Auth.Client().Transport.RoundTrip(r)
				})
				services := make([]*session.Service, 6)
				tokens := make(chan string, len(services))
				for i := range services {
					services[i] = w.Service(append(opts, session.WithHTTPClient(&http.Client{Transport: spend}))...)
					go func() {
						token, err := services[i].Token(context.WithoutCancel(t.Context()), world.Alice)
						// Without a key, being refused is all that a bot learns:
						// its next call finds what another stored.
						if err != nil && (opts == nil || !errors.Is(err, session.ErrNotLoggedIn)) {
							t.Error(err)
						}
						tokens <- token
					}()
				}
				for range services {
					<-g.Arrived // all six have it in hand
				}
				close(g.Open)
				for range services {
					<-tokens
				}
				require.Equal(t, 6, w.Auth.Calls(sessiontest.Refresh))
				token := world.MustToken(t, w.Svc, world.Alice)
				for _, svc := range services {
					require.Equal(t, token, world.MustToken(t, svc, world.Alice))
				}
				current := token
				w.Auth.RotateSigningKey()
				_, err := w.Svc.Refresh(t.Context(), world.Alice, current)
				require.NoError(t, err, "by the successor, which was kept")
			})
		})
	}
}

// paused is a process that is stopped (SIGSTOP, a long collection, a laptop's lid)
// with its write and its release on their way: they arrive when it goes on.
type paused struct {
	goOn chan struct{}
	late chan error // what came of the late write
}

// pausedHolder is a bot that has a token for alice, and the lease, and is stopped.
func pausedHolder(w *world.World, store *storetest.FaultStore) (p paused, holder *session.Service, result chan error) {
	p = paused{make(chan struct{}), make(chan error, 10)}
	its := store.Another()
	its.Inject(func(ctx context.Context, call storetest.Call) error {
		<-p.goOn
		err := call.Do(context.WithoutCancel(ctx))
		if call.Method == storetest.SwapLeased {
			p.late <- err
		}
		return err
	}, storetest.SwapLeased, storetest.Release)
	holder = (&world.World{T: w.T, Auth: w.Auth, Log: w.Log, Store: world.WithoutLogoutLog(its)}).Service()
	result = make(chan error, 1)
	go func() {
		_, err := holder.Token(context.WithoutCancel(w.T.Context()), world.Alice)
		result <- err
	}()
	synctest.Wait()
	return p, holder, result
}

func TestHolderPausedPastItsLease(t *testing.T) {
	for name, hadSession := range map[string]bool{"with a session to replace": true, "about to create one": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewFaultStore()
				w := world.New(t, world.WithoutLogoutLog(store))
				w.Auth.Link(world.Alice, world.Email)
				if hadSession {
					w.LoginDead()
				}
				p, holder, result := pausedHolder(w, store)

				// Another process takes over when the lease has run out, and is
				// in the middle of asking when the paused one goes on.
				w.Auth.RotateSigningKey()
				w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(2*time.Second))
				began := time.Now()
				taken := make(chan string, 1)
				go func() {
					token, err := w.Svc.Token(context.WithoutCancel(t.Context()), world.Alice)
					if err != nil {
						t.Error(err)
					}
					taken <- token
				}()
				time.Sleep(4 * time.Second) // the lease is 3 s
				require.Equal(t, 2, w.Auth.Calls(sessiontest.LinkFetch))
				close(p.goOn)
				synctest.Wait()
				if hadSession {
					// Its write replaces what it had read: no work is lost.
					require.NoError(t, <-p.late)
				} else {
					// It would create a session that was perhaps logged out.
					require.ErrorIs(t, <-p.late, session.ErrConflict)
				}
				// Its release did not free the other's lease.
				lease, _, err := store.Acquire(t.Context(), world.Alice, "a third", time.Second)
				require.NoError(t, err)
				require.False(t, lease.Held)

				token := <-taken
				require.LessOrEqual(t, time.Since(began), 6*time.Second)
				<-result
				require.Equal(t, world.MustToken(t, w.Svc, world.Alice), world.MustToken(t, holder, world.Alice), "one session in the end")
				require.NotEmpty(t, token)
				require.Equal(t, 2, w.Auth.Calls(sessiontest.LinkFetch))
			})
		})
	}
}

func TestLogoutWhileTheHolderIsPausedLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaultStore()
		w := world.New(t, world.WithoutLogoutLog(store))
		w.Auth.Link(world.Alice, world.Email)
		p, _, result := pausedHolder(w, store)
		require.NoError(t, w.Svc.Logout(t.Context(), world.Alice))
		time.Sleep(20 * time.Second)
		close(p.goOn)
		require.Error(t, <-result)
		require.Empty(t, w.Stored(world.Alice))
	})
}
