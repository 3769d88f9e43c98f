package session_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// A way to a token: who asks the auth server for what.
type way struct {
	op   sessiontest.Op
	opts []session.Option
	had  func(w *world) // leaves alice with a token that is dead, or none
	ask  func(w *world) error
}

func askToken(w *world) error {
	_, err := w.svc.Token(w.t.Context(), alice)
	return err
}

var ways = map[string]way{
	"login": {op: sessiontest.Login, had: func(w *world) { w.loginDead() }, ask: func(w *world) error { return w.right(alice) }},
	"link": {op: sessiontest.LinkFetch, ask: askToken, had: func(w *world) {
		w.auth.Link(alice, email)
		w.put(alice, tsRecord(w.auth.MintToken(email, time.Now().Add(30*time.Second)), email, `{"list":["milk"]}`))
	}},
	"link without a session": {op: sessiontest.LinkFetch, ask: askToken, had: func(w *world) { w.auth.Link(alice, email) }},
	"refresh token": {op: sessiontest.Refresh, ask: askToken, opts: []session.Option{session.WithServiceKey("")},
		had: func(w *world) { w.loginDead() }},
}

// authFault is something that the auth server does to a kind of call.
type authFault struct {
	begin  func(w *world, op sessiontest.Op)
	passes bool // it is of the kind that may pass: idempotent calls are repeated
}

func injects(f sessiontest.Fault) authFault {
	return authFault{begin: func(w *world, op sessiontest.Op) { w.auth.Inject(op, -1, f) }}
}

func mayPass(f authFault) authFault { f.passes = true; return f }

// endless sends JSON for as long as the client reads, and counts.
func endless(sent *atomic.Int64) sessiontest.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		chunk := []byte(strings.Repeat("a", 64<<10))
		n, err := io.WriteString(w, `{"accessToken":"`)
		for sent.Add(int64(n)); err == nil && sent.Load() < 2<<30; sent.Add(int64(n)) {
			n, err = w.Write(chunk)
		}
	}
}

// counted counts what the client takes of a fault's answer.
func counted(sent *atomic.Int64, fault sessiontest.Fault) sessiontest.Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		fault(countingWriter{w, sent}, r, answer)
	}
}

type countingWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// drip sends a byte a second, for ever.
func drip(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
	for _, err := io.WriteString(w, "{"); err == nil; _, err = io.WriteString(w, " ") {
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// breakOff ends the connection within the body.
func breakOff(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
	w.Header().Set("Content-Length", "600")
	_, _ = io.WriteString(w, `{"accessToken":"ey`)
	panic(http.ErrAbortHandler)
}

// Everything that an auth server may do but answer, to every way to a token.
func TestEveryFaultOnEveryWayToAToken(t *testing.T) {
	var plain, packed atomic.Int64 // bytes that went to the client
	faults := map[string]authFault{
		"hangs, or its database is frozen": {begin: func(w *world, op sessiontest.Op) { w.auth.Inject(op, -1, w.auth.Hang()) }},
		"trickles":                         injects(drip),
		"endless body":                     injects(endless(&plain)),
		"gzip bomb":                        injects(counted(&packed, sessiontest.GzipBomb(2<<30))),
		"closes before the answer":         mayPass(injects(sessiontest.Reset())),
		"closes within the body":           mayPass(injects(breakOff)),
		"HTML":                             injects(sessiontest.HTML()),
		"HTML as JSON":                     injects(sessiontest.Raw(200, "application/json", "<html></html>")),
		"HTML of a proxy":                  mayPass(injects(sessiontest.Raw(502, "text/html", "<h1>Bad Gateway</h1>"))),
		"empty":                            injects(sessiontest.Raw(204, "", "")),
		"empty 200":                        injects(sessiontest.Raw(200, "application/json", "")),
		"null":                             injects(sessiontest.Raw(200, "application/json", "null")),
		"a list":                           injects(sessiontest.Raw(200, "application/json", "[]")),
		"half the JSON":                    injects(sessiontest.Raw(200, "application/json", `{"accessToken":"eyJ`)),
		"no token":                         injects(sessiontest.JSON(map[string]any{"user": map[string]string{"email": email}})),
		"token of another type":            injects(sessiontest.JSON(map[string]any{"accessToken": 7, "token": []string{}})),
		"503":                              mayPass(injects(sessiontest.Status(503, "Service Unavailable"))),
		"504":                              mayPass(injects(sessiontest.Status(504, "Gateway Timeout"))),
		"500":                              injects(sessiontest.Status(500, "Internal server error")),
		"404":                              injects(sessiontest.Status(404, "Cannot GET /api")),
		"418":                              injects(sessiontest.Raw(418, "", "")),
		"database down":                    {begin: func(w *world, _ sessiontest.Op) { w.auth.BreakDatabase(true) }},
		"signing broken":                   {begin: func(w *world, _ sessiontest.Op) { w.auth.BreakSigning(true) }},
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		faults[fmt.Sprint(status, " to another host")] = injects(sessiontest.Redirect(status, "http://elsewhere.test/take"))
		faults[fmt.Sprint(status, " to the same host")] = injects(sessiontest.Redirect(status, "/take"))
	}
	for faultName, fault := range faults {
		for wayName, way := range ways {
			if faultName == "signing broken" && (wayName == "link without a session" || wayName == "refresh token") {
				continue // a linked user cannot be told from another then: see the next test; the refresh token is spent
			}
			t.Run(faultName+"/"+wayName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					plain.Store(0)
					packed.Store(0)
					w := newWorld(t, session.NewMemoryStore(), way.opts...)
					way.had(w)
					before, had := w.stored(alice), w.user(alice)
					w.auth.ResetCalls()

					fault.begin(w, way.op)
					began := time.Now()
					err := way.ask(w)
					require.LessOrEqual(t, time.Since(began), 10*time.Second, "no call takes longer")
					require.ErrorIs(t, err, session.ErrAuthUnavailable)
					require.NotErrorIs(t, err, session.ErrNotLoggedIn)
					said, ok := errors.AsType[*session.AuthError](err)
					require.True(t, ok)
					require.NotEmpty(t, said.Message)
					require.Equal(t, before, w.stored(alice), "byte for byte")
					require.Equal(t, had, w.user(alice), "still logged in")

					calls := 1
					if fault.passes && way.op == sessiontest.LinkFetch {
						calls = 3 // idempotent: repeated twice
					}
					require.Equal(t, calls, w.auth.Calls(way.op))
					for _, r := range w.auth.Requests() {
						require.Equal(t, "auth.test", r.Host)
						require.NotEqual(t, "/take", r.Path)
					}
					require.LessOrEqual(t, plain.Load(), int64(1<<20+1), "what is read of a body")
					require.LessOrEqual(t, packed.Load(), int64(64<<10), "counted when it is inflated")

					w.auth.ClearFaults()
					w.auth.BreakDatabase(false)
					w.auth.BreakSigning(false)
					time.Sleep(1500 * time.Millisecond) // as long as a failure speaks for all
					require.NoError(t, way.ask(w))
					mustToken(t, w.svc, alice)
				})
			})
		}
	}
}

// user is what other bots are told about a user without asking the auth server.
func (w *world) user(userID string) bool {
	w.t.Helper()
	for id, err := range w.svc.Users(w.t.Context()) {
		require.NoError(w.t, err)
		if id == userID {
			return true
		}
	}
	return false
}

func TestLinkedUserWithoutASessionWhileTheServerCannotSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, session.NewMemoryStore())
		w.auth.Link(alice, email)
		w.auth.BreakSigning(true)
		require.ErrorIs(t, askToken(w), session.ErrNotLoggedIn, "which is what the server says, and there is nothing to lose")
		w.auth.BreakSigning(false)
		time.Sleep(30 * time.Second)
		mustToken(t, w.svc, alice)
	})
}

func TestJSONUnderAnotherContentTypeIsJSON(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, session.NewMemoryStore(), way.opts...)
				way.had(w)
				token := w.auth.MintToken(email, time.Now().Add(time.Hour))
				w.auth.Inject(way.op, 1, sessiontest.Raw(200, "text/plain", fmt.Sprintf(`{"accessToken":%q}`, token)))
				require.NoError(t, way.ask(w))
				require.Equal(t, token, mustToken(t, w.svc, alice))
			})
		})
	}
}

// The calls that are not a way to a token.
func TestServiceKeyAndTokenFollowNoRedirectOfAnyLinkCall(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, where := range []string{"http://elsewhere.test/take", "/take"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, session.NewMemoryStore())
				for _, op := range []sessiontest.Op{sessiontest.LinkCheck, sessiontest.LinkCreate, sessiontest.LinkRemove} {
					w.auth.Inject(op, -1, sessiontest.Redirect(status, where))
				}
				w.login(w.svc)
				w.auth.RevokeRefreshTokens(email)
				time.Sleep(15 * time.Minute)
				require.ErrorIs(t, askToken(w), session.ErrAuthUnavailable, "not checked, so not ended")
				require.ErrorIs(t, w.svc.Logout(t.Context(), alice, session.AndUnlink()), session.ErrAuthUnavailable)
				require.False(t, w.svc.Health(t.Context()).Auth.OK)
				require.Equal(t, 1, w.auth.Calls(sessiontest.LinkCreate))
				require.Equal(t, 2, w.auth.Calls(sessiontest.LinkCheck))
				require.Equal(t, 1, w.auth.Calls(sessiontest.LinkRemove))
				for _, r := range w.auth.Requests() {
					require.Equal(t, "auth.test", r.Host)
					require.NotEqual(t, "/take", r.Path)
				}
			})
		}
	}
}

func TestServersClockMayBeWrong(t *testing.T) {
	for name, c := range map[string]struct {
		skew  time.Duration
		calls int // of a kind, within an hour
	}{
		"ahead": {10 * time.Minute, 5}, "behind": {-10 * time.Minute, 125},
	} {
		for wayName, way := range ways {
			t.Run(name+"/"+wayName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, session.NewMemoryStore(), way.opts...)
					w.auth.SetClockSkew(c.skew)
					way.had(w)
					require.NoError(t, way.ask(w))
					w.auth.ResetCalls()
					for range 3600 {
						mustToken(t, w.svc, alice)
						time.Sleep(time.Second)
					}
					require.LessOrEqual(t, w.auth.Calls(sessiontest.LinkFetch), c.calls, "no loop of refreshes")
					require.LessOrEqual(t, w.auth.Calls(sessiontest.Refresh), c.calls, "no loop of refreshes")
					require.NotEmpty(t, w.stored(alice))
				})
			})
		}
	}
}

func TestUsersWhoseIDsDifferInCaseAreTwoUsers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const upper, lower = "@A:h", "@a:h"
		ctx := t.Context()
		w.auth.Link(lower, "bob@example.com")
		_, err := w.svc.Token(ctx, upper)
		require.ErrorIs(t, err, session.ErrNotLoggedIn, "the link is another's")
		w.auth.Unlink(lower)
		_, err = w.svc.Login(ctx, upper, email, password)
		require.NoError(t, err)
		require.NoError(t, w.svc.SetData(ctx, upper, "diary", "private"))
		_, err = w.svc.Token(ctx, lower)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		_, err = w.svc.Data(ctx, lower, "diary", new(string))
		require.ErrorIs(t, err, session.ErrNotLoggedIn)

		w.auth.Link(lower, "bob@example.com")
		other := w.service() // which remembers no one
		theirs := mustToken(t, other, lower)
		for _, svc := range []*session.Service{w.svc, other} {
			require.NotEqual(t, theirs, mustToken(t, svc, upper))
			require.NotEqual(t, theirs, mustToken(t, svc, upper), "nor from the near cache")
			got, err := svc.Email(ctx, upper)
			require.NoError(t, err)
			require.Equal(t, email, got)
		}
		got, err := other.Email(ctx, lower)
		require.NoError(t, err)
		require.Equal(t, "bob@example.com", got)
		found, err := other.Data(ctx, lower, "diary", new(string))
		require.NoError(t, err)
		require.False(t, found)

		require.NoError(t, w.svc.Logout(ctx, lower))
		mustToken(t, w.svc, upper)
		require.NotEmpty(t, w.stored(upper))
		require.Empty(t, w.stored(lower))
	})
}
