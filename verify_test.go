package session_test

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

// refuse finds the given tokens bad, or all if there are none.
func refuse(tokens ...string) func(context.Context, string) error {
	return func(_ context.Context, token string) error {
		for _, bad := range tokens {
			if token == bad {
				return errors.New("wrong signature")
			}
		}
		if len(tokens) == 0 {
			return errors.New("wrong signature")
		}
		return nil
	}
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
	onEveryStore(t, func(t *testing.T, w *world) {
		var v verifier
		w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(time.Hour)), email, "{}"))
		w.svc = w.service(session.WithTokenVerifier(v.verify))
		mustToken(t, w.svc, alice)
		require.Equal(t, 1, v.count())
		w.cache()
		before := v.count()
		for range 1000 {
			mustToken(t, w.svc, alice)
		}
		// On miniredis the near cache reads again every second, and finds the
		// token that it has.
		require.Equal(t, before, v.count())

		require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
		mustToken(t, w.svc, alice)
		require.Greater(t, v.count(), before, "the record was written since")
	})
}

func TestRecordWhoseTokenFailsIsNoSession(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		var v verifier
		svc := w.service(session.WithTokenVerifier(v.verify))
		for name, left := range map[string]time.Duration{"alive": time.Hour, "expired": -time.Hour} {
			t.Run(name, func(t *testing.T) {
				forged := w.auth.MintToken("bob@example.com", time.Now().Add(left))
				v.say(refuse(forged))
				record := tsRecord(forged, email, `{"k":1}`)
				w.put(alice, record)
				before, err := svc.Stats(t.Context())
				require.NoError(t, err)
				logged := len(w.log.String())
				for method, call := range map[string]func() error{
					"Token":   func() error { _, err := svc.Token(t.Context(), alice); return err },
					"Session": func() error { _, err := svc.Session(t.Context(), alice); return err },
					"Email":   func() error { _, err := svc.Email(t.Context(), alice); return err },
					"Data":    func() error { _, err := svc.Data(t.Context(), alice, "k", new(int)); return err },
					"SetData": func() error { return svc.SetData(t.Context(), alice, "k", 1) },
					"Refresh": func() error { _, err := svc.Refresh(t.Context(), alice, "x"); return err },
				} {
					require.ErrorIs(t, call(), session.ErrNotLoggedIn, method)
				}
				line := w.log.String()[logged:]
				require.Contains(t, line, "record is not a session")
				require.Contains(t, line, "wrong signature")
				for part := range strings.SplitSeq(forged, ".") {
					require.NotContains(t, line, part)
				}
				after, err := svc.Stats(t.Context())
				require.NoError(t, err)
				require.Greater(t, after.Unreadable, before.Unreadable)
				require.Equal(t, record, w.stored(alice), "nothing was removed or overwritten")
			})
		}
		w.login(svc)
		mustToken(t, svc, alice)
	})
}

func TestSessionThatTheLinkPutsInPlaceOfAForgedOneTakesNothingOver(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		var v verifier
		svc := w.service(session.WithTokenVerifier(v.verify))
		forged := w.auth.MintToken(email, time.Now().Add(time.Hour))
		v.say(refuse(forged))
		w.put(alice, tsRecord(forged, "mallory@example.com", `{"k":"planted"}`))
		w.auth.SetTokenTTL(20 * time.Minute)
		w.auth.Link(alice, email)
		require.NotEqual(t, forged, mustToken(t, svc, alice))
		found, err := svc.Data(t.Context(), alice, "k", new(string))
		require.NoError(t, err)
		require.False(t, found)
		address, err := svc.Email(t.Context(), alice)
		require.NoError(t, err)
		require.Equal(t, email, address)
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
	answers["bad"] = refuse()
	for name, says := range answers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var v verifier
				w := newWorld(t, session.NewMemoryStore())
				svc := w.service(session.WithTokenVerifier(v.verify))
				good := w.login(w.svc).Token()
				record := w.stored(alice)

				// One that fails whatever the store holds, and tells it from what comes.
				v.say(func(ctx context.Context, token string) error {
					if token == good {
						return nil
					}
					return says(ctx, token)
				})
				w.auth.SetTokenTTL(20 * time.Minute)
				for range 10 { // more than the breaker takes
					_, err := svc.Login(t.Context(), alice, email, password)
					requireCheckFailed(t, err)
				}
				require.Equal(t, record, w.stored(alice))
				require.Equal(t, good, mustToken(t, svc, alice))

				w.auth.Link(bob, "bob@example.com")
				for range 10 {
					_, err := svc.Token(t.Context(), bob)
					requireCheckFailed(t, err)
				}
				require.Empty(t, w.stored(bob))
				require.Equal(t, 10, w.auth.Calls(sessiontest.LinkFetch))
				require.True(t, svc.Health(t.Context()).Auth.OK)

				// In place of a dead one, by the link.
				w.auth.Link(alice, email)
				time.Sleep(14*time.Minute + 30*time.Second)
				_, err := svc.Token(t.Context(), alice)
				requireCheckFailed(t, err)
				require.Equal(t, record, w.stored(alice))

				v.say(nil)
				mustToken(t, svc, alice)
				mustToken(t, svc, bob)
			})
		})
	}
}

func TestSuccessorOfARefreshTokenIsKeptThoughTheAccessTokenFails(t *testing.T) {
	answers := undecided()
	answers["bad"] = refuse()
	for name, says := range answers {
		t.Run(name, func(t *testing.T) {
			onEveryStore(t, func(t *testing.T, w *world) {
				var v verifier
				svc := w.service(session.WithTokenVerifier(v.verify))
				old := w.loginDead().Token()
				before := w.stored(alice)
				v.say(func(ctx context.Context, token string) error {
					if token == old {
						return nil
					}
					return says(ctx, token)
				})
				_, err := svc.Token(t.Context(), alice)
				requireCheckFailed(t, err)
				require.Contains(t, w.stored(alice), old, "the token that failed is not stored")
				require.NotEqual(t, before, w.stored(alice), "but the successor of the refresh token is")

				v.say(nil)
				require.NotEqual(t, old, mustToken(t, svc, alice))
				require.Equal(t, 2, w.auth.Calls(sessiontest.Refresh))
			})
		})
	}
}

func TestSessionStaysAsItIsWhileItsTokenCannotBeChecked(t *testing.T) {
	for name, says := range undecided() {
		t.Run(name, func(t *testing.T) {
			onEveryStore(t, func(t *testing.T, w *world) {
				var v verifier
				svc := w.service(session.WithTokenVerifier(v.verify))
				token := w.auth.MintToken(email, time.Now().Add(time.Hour))
				record := tsRecord(token, email, `{"k":1}`)
				w.put(alice, record)
				w.auth.Link(alice, email) // a temptation
				v.say(says)
				for method, call := range map[string]func() error{
					"Token":   func() error { _, err := svc.Token(t.Context(), alice); return err },
					"Session": func() error { _, err := svc.Session(t.Context(), alice); return err },
					"Data":    func() error { _, err := svc.Data(t.Context(), alice, "k", new(int)); return err },
					"SetData": func() error { return svc.SetData(t.Context(), alice, "k", 2) },
					"Login":   func() error { _, err := svc.Login(t.Context(), alice, email, password); return err },
					"Refresh": func() error { _, err := svc.Refresh(t.Context(), alice, "x"); return err },
					"LoggedIn": func() error {
						in, err := svc.LoggedIn(t.Context(), alice)
						require.False(t, in)
						return err
					},
				} {
					requireCheckFailed(t, call())
					require.Equal(t, record, w.stored(alice), method)
				}
				require.Zero(t, w.auth.Calls(sessiontest.LinkFetch))
				stats, err := svc.Stats(t.Context())
				require.NoError(t, err)
				require.Zero(t, stats.Unreadable)

				v.say(nil)
				require.Equal(t, token, mustToken(t, svc, alice))
				// The lease was given back: nobody has to wait for it to run out.
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, err = w.service().Refresh(ctx, alice, token)
				require.NoError(t, err)
			})
		})
	}
}

func TestLogoutNeedsNoCheck(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		var v verifier
		svc := w.service(session.WithTokenVerifier(v.verify))
		w.login(svc)
		v.say(undecided()["no keys"])
		require.NoError(t, svc.Logout(t.Context(), alice))
		require.Empty(t, w.stored(alice))
	})
}

func TestExpiredTokenThatPassesKeepsItsSession(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		var v verifier
		svc := w.service(session.WithTokenVerifier(v.verify))
		w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(-time.Hour)), email, `{"k":1}`))
		w.auth.Link(alice, email)
		mustToken(t, svc, alice)
		require.GreaterOrEqual(t, v.count(), 2, "the expired one and its successor")
		k, found, err := session.DataAs[int](t.Context(), svc, alice, "k")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, 1, k)
	})
}

// What was found good is not asked about again because the feed was interrupted.
func TestTokenAtHandIsServedThoughItCannotBeCheckedAgain(t *testing.T) {
	var v verifier
	store := &flushed{MemoryStore: session.NewMemoryStore(), feed: make(chan session.Feed, 1)}
	w := newWorld(t, store, session.WithTokenVerifier(v.verify))
	token := w.login(w.svc).Token()
	feed := <-store.feed
	w.cache()
	before := v.count()
	v.say(refuse())
	feed.Flush()
	require.Equal(t, token, mustToken(t, w.svc, alice))
	require.Equal(t, before, v.count())

	// Another token is, though the first one is at hand still.
	w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}"))
	feed.Flush()
	_, err := w.svc.Token(t.Context(), alice)
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
	onEveryStore(t, func(t *testing.T, w *world) {
		w.auth.Link(alice, email)
		_, err := w.service(session.WithTokenVerifier(refuse())).Token(t.Context(), alice)
		requireCheckFailed(t, err)
		started := time.Now()
		mustToken(t, w.svc, alice)
		require.Less(t, time.Since(started), time.Second, "no failure was published")
	})
}

func TestVerifierThatQuotesTheTokenIsNotRepeated(t *testing.T) {
	w := newWorld(t, session.NewMemoryStore())
	for name, kind := range map[string]error{"bad": errors.New("bad"), "cannot tell": session.ErrAuthUnavailable} {
		t.Run(name, func(t *testing.T) {
			quoting := func(_ context.Context, token string) error {
				return fmt.Errorf("%w: %s, that is %q%s", kind, token, strings.Split(token, "."), strings.Repeat("!", 1000))
			}
			svc := w.service(session.WithTokenVerifier(quoting))
			token := w.auth.MintToken(email, time.Now().Add(time.Hour))
			w.put(alice, tsRecord(token, email, "{}"))
			_, stored := svc.Token(t.Context(), alice)
			require.Error(t, stored)
			w.auth.Link(bob, email)
			_, granted := svc.Token(t.Context(), bob)
			requireCheckFailed(t, granted)
			for part := range strings.SplitSeq(token, ".") {
				for _, text := range []string{stored.Error(), granted.Error(), fmt.Sprintf("%+v %#v", granted, stored), w.log.String()} {
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
		w := newWorld(t, session.NewMemoryStore(), session.WithTokenVerifier(v.verify))
		w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(time.Hour)), email, "{}"))
		v.say(undecided()["never"])
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		started := time.Now()
		_, err := w.svc.Token(ctx, alice)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(started))

		started = time.Now()
		_, err = w.svc.Token(t.Context(), alice)
		requireCheckFailed(t, err)
		require.Equal(t, 500*time.Millisecond, time.Since(started), "a check has half a second")
	})
}

func TestLoginIsKeptThoughTheCallerGivesUpDuringItsCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v verifier
		w := newWorld(t, session.NewMemoryStore(), session.WithTokenVerifier(v.verify))
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
		_, err := w.svc.Login(ctx, alice, email, password)
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(time.Second)
		v.say(nil)
		mustToken(t, w.svc, alice)
		require.Equal(t, 1, w.auth.Calls(sessiontest.Any)-w.auth.Calls(sessiontest.LinkCreate))
	})
}

func TestCheckUnderALeaseLeavesTimeToStoreTheSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v verifier
		w := newWorld(t, session.NewMemoryStore(), session.WithTokenVerifier(v.verify))
		old := w.loginDead().Token()
		v.say(func(ctx context.Context, token string) error {
			if token == old {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		// The slowest answers that are waited for.
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(2900*time.Millisecond))
		w.auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(9900*time.Millisecond))
		_, err := w.svc.Token(t.Context(), alice)
		requireCheckFailed(t, err)

		v.say(nil)
		mustToken(t, w.svc, alice)
		require.Equal(t, 2, w.auth.Calls(sessiontest.Refresh), "the second was with the successor")
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
		w := newWorld(t, store, session.WithTokenVerifier(v.verify))
		other := w.service()
		old := w.loginDead().Token()
		w.auth.Inject(sessiontest.Refresh, 1, first(func() {
			require.NoError(t, other.SetData(t.Context(), alice, "theme", "dark"))
			v.say(func(_ context.Context, token string) error {
				if token == old {
					return fmt.Errorf("no keys: %w", session.ErrAuthUnavailable)
				}
				return nil
			})
		}))
		token, err := w.svc.Token(t.Context(), alice)
		require.NoError(t, err)
		require.NotEqual(t, old, token)
		require.Equal(t, token, mustToken(t, other, alice))
		theme, _, err := session.DataAs[string](t.Context(), other, alice, "theme")
		require.NoError(t, err)
		require.Equal(t, "dark", theme)
	})
}
