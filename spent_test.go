package session_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

func TestSuccessorIsStoredOverADeadTokenThatAnotherBotPutThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.loginDead()
		w.auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(time.Second))
		result := later(func() error { _, err := w.svc.Token(t.Context(), alice); return err })
		dead := w.auth.MintToken(email, time.Now().Add(30*time.Second))
		w.put(alice, strings.Replace(w.stored(alice), tokenIn(w.stored(alice)), dead, 1))
		require.NoError(t, <-result)
		time.Sleep(15 * time.Minute)
		mustToken(t, w.svc, alice) // by the successor of the refresh token
	})
}

// tokenIn is the token in a record.
func tokenIn(record string) string {
	_, rest, _ := strings.Cut(record, `"token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

func TestSuccessorFitsThoughDataFillTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.loginDead()
		size := 1 << 20
		for step := size / 2; step > 0; step /= 2 { // to the brim
			if err := w.svc.SetData(t.Context(), alice, "k", strings.Repeat("x", size-step)); err != nil {
				require.ErrorIs(t, err, session.ErrTooLarge)
				size -= step
			}
		}
		require.Greater(t, len(w.stored(alice)), 1<<20-1024)
		w.auth.Inject(sessiontest.Refresh, 1, longer)
		mustToken(t, w.svc, alice)
		time.Sleep(15 * time.Minute)
		mustToken(t, w.svc, alice)
		require.ErrorIs(t, w.svc.SetData(t.Context(), alice, "l", strings.Repeat("x", 4096)), session.ErrTooLarge)
	})
}

// What arrives while nobody can tell whether the token is a good one.
func TestSuccessorIsStoredThoughTheVerifierCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		w := newWorld(t, session.NewMemoryStore())
		svc := w.service(session.WithTokenVerifier(func(context.Context, string) error {
			if down.Load() {
				return session.ErrAuthUnavailable
			}
			return nil
		}))
		w.loginDead()
		w.auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(time.Second))
		result := later(func() error { _, err := svc.Token(t.Context(), alice); return err })
		w.put(alice, strings.Replace(w.stored(alice), tokenIn(w.stored(alice)), w.auth.MintToken(email, time.Now().Add(40*time.Second)), 1))
		down.Store(true)
		require.ErrorIs(t, <-result, session.ErrAuthUnavailable)
		down.Store(false)
		time.Sleep(5 * time.Second)
		mustToken(t, svc, alice)
		require.Equal(t, 2, w.auth.Calls(sessiontest.Refresh), "the second with the successor")
	})
}

func TestCloseWaitsForARefreshTokenThatIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, h)
		w.loginDead()
		svc := w.service()
		w.auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(7*time.Second))
		result := later(func() error { _, err := svc.Token(t.Context(), alice); return err })
		began := time.Now()
		require.NoError(t, svc.Close())
		require.InDelta(t, 7, time.Since(began).Seconds(), 0.1)
		<-result
		mustToken(t, w.svc, alice)
		time.Sleep(15 * time.Minute)
		mustToken(t, w.svc, alice)
	})
}

func TestNothingOutlivesClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.loginDead()
		svc := w.service()
		w.auth.Inject(sessiontest.Refresh, 1, w.auth.Hang())
		result := later(func() error { _, err := svc.Token(context.WithoutCancel(t.Context()), alice); return err })
		began := time.Now()
		_ = svc.Close()
		require.LessOrEqual(t, time.Since(began), 14*time.Second)
		closed := time.Now()
		require.Error(t, <-result)
		require.Zero(t, time.Since(closed))
	})
}

func TestFailuresOfOneUserAreBackedOffFrom(t *testing.T) {
	for name, c := range map[string]struct {
		had  func(w *world)
		most int // calls of the auth server in 15 s
	}{
		"404 but linked": {func(w *world) {
			w.loginDead()
			w.auth.Link(alice, email)
			w.auth.DeleteUser(email)
		}, 30},
		"signing is broken": {func(w *world) {
			w.auth.Link(alice, email)
			w.put(alice, tsRecord(w.auth.MintToken(email, time.Now()), email, "{}"))
			w.auth.BreakSigning(true)
		}, 16},
		"wrong service key": {func(w *world) {
			w.put(alice, tsRecord(w.auth.MintToken(email, time.Now()), email, "{}"))
			w.auth.SetServiceKey("another")
		}, 8},
		"wrong service key, no session": {func(w *world) {
			w.auth.SetServiceKey("another")
		}, 8},
		"429 that asks for a minute": {func(w *world) {
			w.loginDead()
			w.auth.Inject(sessiontest.Refresh, -1, sessiontest.Status(429, "ThrottlerException: Too Many Requests", "Retry-After", "60"))
		}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			onEveryCapability(t, func(t *testing.T, w *world, h *hooked) {
				if _, leases := w.store.(session.Locker); !leases && name == "429 that asks for a minute" {
					return // refresh tokens are not spent then
				}
				c.had(w)
				w.auth.ResetCalls()
				for range 150 {
					_, err := w.svc.Token(t.Context(), alice)
					require.Error(t, err)
					require.NotErrorIs(t, err, session.ErrNotLoggedIn)
					time.Sleep(100 * time.Millisecond)
				}
				require.LessOrEqual(t, w.auth.Calls(sessiontest.Any), c.most)
				if _, leases := w.store.(session.Locker); leases && name == "404 but linked" {
					require.NotContains(t, w.stored(alice), "refreshToken", "it was refused")
				}
			})
		})
	}
}

func TestBackOffEndsWithALoginAndWithASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.SetServiceKey("another")
		for range 50 {
			_, err := w.svc.Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrServiceKeyRejected)
		}
		w.login(w.svc)
		mustToken(t, w.svc, alice)
	})
}

func TestHolderThatDiedWhileAskingForTheLinkIsWaitedForBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHooked()
		defer h.MemoryStore.Close()
		w := newWorld(t, h)
		w.auth.Link(alice, email)
		dies := h.another()
		holder := (&world{t: t, auth: w.auth, log: w.log, store: dies}).service()
		w.auth.Inject(sessiontest.LinkFetch, 1, func() sessiontest.Fault {
			return w.auth.Hang()
		}())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		result := later(func() error { _, err := holder.Token(ctx, alice); return err })
		time.Sleep(1500 * time.Millisecond) // it has renewed its lease
		dies.on(away, everything...)        // as if killed
		began := time.Now()
		mustToken(t, w.svc, alice)
		require.LessOrEqual(t, time.Since(began), 4*time.Second)
		cancel()
		<-result
	})
}

// A link call that takes longer than the lease does not lose the lease.
func TestLivingHolderKeepsItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		w.auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(9*time.Second))
		other := w.service()
		result := later(func() error { _, err := w.svc.Token(t.Context(), alice); return err })
		mustToken(t, other, alice)
		require.NoError(t, <-result)
		require.Equal(t, 1, w.auth.Calls(sessiontest.LinkFetch))
	})
}

// longer answers a refresh with a token that is longer than those before.
var longer = changed(func(claims, _ map[string]any) { claims["roles"] = strings.Repeat("r", 2000) })

func claimsOf(token string) (claims map[string]any) {
	encoded, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(encoded, &claims); err != nil {
		panic(err)
	}
	return claims
}

func withClaims(token string, claims map[string]any) string {
	encoded, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	parts := strings.Split(token, ".")
	parts[1] = base64.RawURLEncoding.EncodeToString(encoded)
	return strings.Join(parts, ".")
}
