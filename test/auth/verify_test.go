package auth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// verifier finds tokens good, unless told otherwise.
type verifier struct {
	mu    sync.Mutex
	says  func(ctx context.Context, token string) error // guarded by mu
	calls int                                           // guarded by mu
}

func (v *verifier) verify(ctx context.Context, token string) error {
	v.mu.Lock()
	v.calls++
	says := v.says
	v.mu.Unlock()
	if says == nil {
		return nil
	}
	return says(ctx, token)
}

func (v *verifier) say(says func(ctx context.Context, token string) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.says = says
}

func (v *verifier) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.calls
}

// undecided cannot tell, in each way in which a verifier may say so.
func undecided() map[string]func(context.Context, string) error {
	return map[string]func(context.Context, string) error{
		"no keys":           func(context.Context, string) error { return fmt.Errorf("no keys: %w", session.ErrAuthUnavailable) },
		"its own time-out":  func(context.Context, string) error { return fmt.Errorf("fetch: %w", context.DeadlineExceeded) },
		"its own cancelled": func(context.Context, string) error { return fmt.Errorf("fetch: %w", context.Canceled) },
		"never":             func(ctx context.Context, _ string) error { <-ctx.Done(); return errors.New("gave up") },
		"panic":             func(context.Context, string) error { panic("no keys") },
	}
}

func TestFillChecksATokenOnceAndHitsDoNot(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		var v verifier
		w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), world.Email, "{}"))
		w.Svc = w.Service(session.WithTokenVerifier(v.verify))
		world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 1, v.count())
		w.Cache()
		before := v.count()
		for range 1000 {
			world.MustToken(t, w.Svc, world.Alice)
		}
		// On miniredis the near cache reads again every second, and finds the
		// token that it has.
		require.Equal(t, before, v.count())

		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
		world.MustToken(t, w.Svc, world.Alice)
		require.Greater(t, v.count(), before, "the record was written since")
	})
}

func TestRecordWhoseTokenFailsIsNoSession(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		var v verifier
		svc := w.Service(session.WithTokenVerifier(v.verify))
		for name, left := range map[string]time.Duration{"alive": time.Hour, "expired": -time.Hour} {
			t.Run(name, func(t *testing.T) {
				forged := w.Auth.MintToken("bob@example.com", time.Now().Add(left))
				v.say(world.Refuse(forged))
				record := world.TsRecord(forged, world.Email, `{"k":1}`)
				w.Put(world.Alice, record)
				before, err := svc.Stats(t.Context())
				require.NoError(t, err)
				logged := len(w.Log.String())
				for method, call := range map[string]func() error{
					"Token":   func() error { _, err := svc.Token(t.Context(), world.Alice); return err },
					"Session": func() error { _, err := svc.Session(t.Context(), world.Alice); return err },
					"Email":   func() error { _, err := svc.Email(t.Context(), world.Alice); return err },
					"Data":    func() error { _, err := svc.Data(t.Context(), world.Alice, "k", new(int)); return err },
					"SetData": func() error { return svc.SetData(t.Context(), world.Alice, "k", 1) },
					"Refresh": func() error { _, err := svc.Refresh(t.Context(), world.Alice, "x"); return err },
				} {
					require.ErrorIs(t, call(), session.ErrNotLoggedIn, method)
				}
				line := w.Log.String()[logged:]
				require.Contains(t, line, "record is not a session")
				require.Contains(t, line, "wrong signature")
				for part := range strings.SplitSeq(forged, ".") {
					require.NotContains(t, line, part)
				}
				after, err := svc.Stats(t.Context())
				require.NoError(t, err)
				require.Greater(t, after.Unreadable, before.Unreadable)
				require.Equal(t, record, w.Stored(world.Alice), "nothing was removed or overwritten")
			})
		}
		w.Login(svc)
		world.MustToken(t, svc, world.Alice)
	})
}

func TestSessionThatTheLinkPutsInPlaceOfAForgedOneTakesNothingOver(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		var v verifier
		svc := w.Service(session.WithTokenVerifier(v.verify))
		forged := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
		v.say(world.Refuse(forged))
		w.Put(world.Alice, world.TsRecord(forged, "mallory@example.com", `{"k":"planted"}`))
		w.Auth.SetTokenTTL(20 * time.Minute)
		w.Auth.Link(world.Alice, world.Email)
		require.NotEqual(t, forged, world.MustToken(t, svc, world.Alice))
		found, err := svc.Data(t.Context(), world.Alice, "k", new(string))
		require.NoError(t, err)
		require.False(t, found)
		address, err := svc.Email(t.Context(), world.Alice)
		require.NoError(t, err)
		require.Equal(t, world.Email, address)
	})
}

// requireCheckFailed is what a caller gets for a token that is not served.
func requireCheckFailed(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, session.ErrAuthUnavailable)
	e, ok := errors.AsType[*session.AuthError](err)
	require.True(t, ok)
	require.Equal(t, "token check", e.Op)
}

func TestTokensOfTheAuthServerThatFailAreNotServed(t *testing.T) {
	answers := undecided()
	answers["bad"] = world.Refuse()
	for name, says := range answers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var v verifier
				w := world.New(t, session.NewMemoryStore())
				svc := w.Service(session.WithTokenVerifier(v.verify))
				good := w.Login(w.Svc).Token()
				record := w.Stored(world.Alice)

				// One that fails whatever the store holds, and tells it from what comes.
				v.say(func(ctx context.Context, token string) error {
					if token == good {
						return nil
					}
					return says(ctx, token)
				})
				w.Auth.SetTokenTTL(20 * time.Minute)
				for range 10 { // more than the breaker takes
					_, err := svc.Login(t.Context(), world.Alice, world.Email, world.Password)
					requireCheckFailed(t, err)
				}
				require.Equal(t, record, w.Stored(world.Alice))
				require.Equal(t, good, world.MustToken(t, svc, world.Alice))

				w.Auth.Link(world.Bob, "bob@example.com")
				for range 10 {
					_, err := svc.Token(t.Context(), world.Bob)
					requireCheckFailed(t, err)
				}
				require.Empty(t, w.Stored(world.Bob))
				require.Equal(t, 10, w.Auth.Calls(sessiontest.LinkFetch))
				require.True(t, svc.Health(t.Context()).Auth.OK)

				// In place of a dead one, by the link.
				w.Auth.Link(world.Alice, world.Email)
				time.Sleep(14*time.Minute + 30*time.Second)
				_, err := svc.Token(t.Context(), world.Alice)
				requireCheckFailed(t, err)
				require.Equal(t, record, w.Stored(world.Alice))

				v.say(nil)
				world.MustToken(t, svc, world.Alice)
				world.MustToken(t, svc, world.Bob)
			})
		})
	}
}

func TestSuccessorOfARefreshTokenIsKeptThoughTheAccessTokenFails(t *testing.T) {
	t.Parallel()
	answers := undecided()
	answers["bad"] = world.Refuse()
	for name, says := range answers {
		t.Run(name, func(t *testing.T) {
			world.OnEveryStore(t, func(t *testing.T, w *world.World) {
				var v verifier
				svc := w.Service(session.WithTokenVerifier(v.verify))
				old := w.LoginDead().Token()
				before := w.Stored(world.Alice)
				v.say(func(ctx context.Context, token string) error {
					if token == old {
						return nil
					}
					return says(ctx, token)
				})
				_, err := svc.Token(t.Context(), world.Alice)
				requireCheckFailed(t, err)
				require.Contains(t, w.Stored(world.Alice), old, "the token that failed is not stored")
				require.NotEqual(t, before, w.Stored(world.Alice), "but the successor of the refresh token is")

				v.say(nil)
				require.NotEqual(t, old, world.MustToken(t, svc, world.Alice))
				require.Equal(t, 2, w.Auth.Calls(sessiontest.Refresh))
			})
		})
	}
}

func TestSessionStaysAsItIsWhileItsTokenCannotBeChecked(t *testing.T) {
	t.Parallel()
	for name, says := range undecided() {
		t.Run(name, func(t *testing.T) {
			if name == "never" && testing.Short() {
				t.Skip("waits half a second for each method")
			}
			t.Parallel()
			world.OnEveryStore(t, func(t *testing.T, w *world.World) {
				t.Parallel()
				var v verifier
				svc := w.Service(session.WithTokenVerifier(v.verify))
				token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
				record := world.TsRecord(token, world.Email, `{"k":1}`)
				w.Put(world.Alice, record)
				w.Auth.Link(world.Alice, world.Email) // a temptation
				v.say(says)
				for method, call := range map[string]func() error{
					"Token":   func() error { _, err := svc.Token(t.Context(), world.Alice); return err },
					"Session": func() error { _, err := svc.Session(t.Context(), world.Alice); return err },
					"Data":    func() error { _, err := svc.Data(t.Context(), world.Alice, "k", new(int)); return err },
					"SetData": func() error { return svc.SetData(t.Context(), world.Alice, "k", 2) },
					"Login":   func() error { _, err := svc.Login(t.Context(), world.Alice, world.Email, world.Password); return err },
					"Refresh": func() error { _, err := svc.Refresh(t.Context(), world.Alice, "x"); return err },
					"LoggedIn": func() error {
						in, err := svc.LoggedIn(t.Context(), world.Alice)
						require.False(t, in)
						return err
					},
				} {
					requireCheckFailed(t, call())
					require.Equal(t, record, w.Stored(world.Alice), method)
				}
				require.Zero(t, w.Auth.Calls(sessiontest.LinkFetch))
				stats, err := svc.Stats(t.Context())
				require.NoError(t, err)
				require.Zero(t, stats.Unreadable)

				v.say(nil)
				require.Equal(t, token, world.MustToken(t, svc, world.Alice))
				// The lease was given back: nobody has to wait for it to run out.
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, err = w.Service().Refresh(ctx, world.Alice, token)
				require.NoError(t, err)
			})
		})
	}
}

func TestLogoutNeedsNoCheck(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		var v verifier
		svc := w.Service(session.WithTokenVerifier(v.verify))
		w.Login(svc)
		v.say(undecided()["no keys"])
		require.NoError(t, svc.Logout(t.Context(), world.Alice))
		require.Empty(t, w.Stored(world.Alice))
	})
}

func TestExpiredTokenThatPassesKeepsItsSession(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		var v verifier
		svc := w.Service(session.WithTokenVerifier(v.verify))
		w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(-time.Hour)), world.Email, `{"k":1}`))
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, svc, world.Alice)
		require.GreaterOrEqual(t, v.count(), 2, "the expired one and its successor")
		k, found, err := session.DataAs[int](t.Context(), svc, world.Alice, "k")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, 1, k)
	})
}

// What was found good is not asked about again because the feed was interrupted.
func TestTokenAtHandIsServedThoughItCannotBeCheckedAgain(t *testing.T) {
	var v verifier
	store := &flushed{MemoryStore: session.NewMemoryStore(), feed: make(chan session.Feed, 1)}
	w := world.New(t, store, session.WithTokenVerifier(v.verify))
	token := w.Login(w.Svc).Token()
	feed := <-store.feed
	w.Cache()
	before := v.count()
	v.say(world.Refuse())
	feed.Flush()
	require.Equal(t, token, world.MustToken(t, w.Svc, world.Alice))
	require.Equal(t, before, v.count())

	// Another token is, though the first one is at hand still.
	w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
	feed.Flush()
	_, err := w.Svc.Token(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
}

// flushed is a store that announces nothing but what the test does.
type flushed struct {
	*session.MemoryStore
	feed chan session.Feed
}

func (f *flushed) Watch(ctx context.Context, feed session.Feed) error {
	feed.Trust(time.Time{}, 0)
	f.feed <- feed
	<-ctx.Done()
	return ctx.Err()
}

func TestCheckThatOneBotHasWrongHarmsNoOther(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		_, err := w.Service(session.WithTokenVerifier(world.Refuse())).Token(t.Context(), world.Alice)
		requireCheckFailed(t, err)
		started := time.Now()
		world.MustToken(t, w.Svc, world.Alice)
		require.Less(t, time.Since(started), time.Second, "no failure was published")
	})
}

func TestVerifierThatQuotesTheTokenIsNotRepeated(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	for name, kind := range map[string]error{"bad": errors.New("bad"), "cannot tell": session.ErrAuthUnavailable} {
		t.Run(name, func(t *testing.T) {
			quoting := func(_ context.Context, token string) error {
				return fmt.Errorf("%w: %s, that is %q%s", kind, token, strings.Split(token, "."), strings.Repeat("!", 1000))
			}
			svc := w.Service(session.WithTokenVerifier(quoting))
			token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
			w.Put(world.Alice, world.TsRecord(token, world.Email, "{}"))
			_, stored := svc.Token(t.Context(), world.Alice)
			require.Error(t, stored)
			w.Auth.Link(world.Bob, world.Email)
			_, granted := svc.Token(t.Context(), world.Bob)
			requireCheckFailed(t, granted)
			for part := range strings.SplitSeq(token, ".") {
				for _, text := range []string{stored.Error(), granted.Error(), fmt.Sprintf("%+v %#v", granted, stored), w.Log.String()} {
					require.NotContains(t, text, part)
				}
			}
			require.LessOrEqual(t, len(errorOf[*session.AuthError](t, granted).Message), 200)
		})
	}
}

func errorOf[T error](t *testing.T, err error) T {
	t.Helper()
	e, ok := errors.AsType[T](err)
	require.True(t, ok)
	return e
}

func TestCallerWhoGivesUpDuringACheckGetsTheirError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v verifier
		w := world.New(t, session.NewMemoryStore(), session.WithTokenVerifier(v.verify))
		w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), world.Email, "{}"))
		v.say(undecided()["never"])
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		started := time.Now()
		_, err := w.Svc.Token(ctx, world.Alice)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(started))

		started = time.Now()
		_, err = w.Svc.Token(t.Context(), world.Alice)
		requireCheckFailed(t, err)
		require.Equal(t, 500*time.Millisecond, time.Since(started), "a check has half a second")
	})
}

func TestLoginIsKeptThoughTheCallerGivesUpDuringItsCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v verifier
		w := world.New(t, session.NewMemoryStore(), session.WithTokenVerifier(v.verify))
		ctx, cancel := context.WithCancel(t.Context())
		v.say(func(ctx context.Context, _ string) error {
			cancel()
			select {
			case <-time.After(200 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		_, err := w.Svc.Login(ctx, world.Alice, world.Email, world.Password)
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(time.Second)
		v.say(nil)
		world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 1, w.Auth.Calls(sessiontest.Any)-w.Auth.Calls(sessiontest.LinkCreate))
	})
}

func TestCheckUnderALeaseLeavesTimeToStoreTheSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v verifier
		w := world.New(t, session.NewMemoryStore(), session.WithTokenVerifier(v.verify))
		old := w.LoginDead().Token()
		v.say(func(ctx context.Context, token string) error {
			if token == old {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		// The slowest answers that are waited for.
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(2900*time.Millisecond))
		w.Auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(9900*time.Millisecond))
		_, err := w.Svc.Token(t.Context(), world.Alice)
		requireCheckFailed(t, err)

		v.say(nil)
		world.MustToken(t, w.Svc, world.Alice)
		require.Equal(t, 2, w.Auth.Calls(sessiontest.Refresh), "the second was with the successor")
	})
}

func TestNoVerifierIsRefused(t *testing.T) {
	_, err := session.New(session.WithTokenVerifier(nil))
	require.ErrorContains(t, err, "session: WithTokenVerifier")
}

// A data write of another process makes the successor of a refresh token be
// written again, on what is stored now. Its token is the one that was read
// before: that it cannot be checked again is no reason to lose the successor.
func TestSuccessorOfARefreshTokenIsKeptThoughTheOldTokenCannotBeCheckedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		t.Cleanup(func() { store.Close() })
		var v verifier
		w := world.New(t, store, session.WithTokenVerifier(v.verify))
		other := w.Service()
		old := w.LoginDead().Token()
		w.Auth.Inject(sessiontest.Refresh, 1, world.First(func() {
			require.NoError(t, other.SetData(t.Context(), world.Alice, "theme", "dark"))
			v.say(func(_ context.Context, token string) error {
				if token == old {
					return fmt.Errorf("no keys: %w", session.ErrAuthUnavailable)
				}
				return nil
			})
		}))
		token, err := w.Svc.Token(t.Context(), world.Alice)
		require.NoError(t, err)
		require.NotEqual(t, old, token)
		require.Equal(t, token, world.MustToken(t, other, world.Alice))
		theme, _, err := session.DataAs[string](t.Context(), other, world.Alice, "theme")
		require.NoError(t, err)
		require.Equal(t, "dark", theme)
	})
}
