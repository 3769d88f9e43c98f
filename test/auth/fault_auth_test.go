package auth_test

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
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// A way to a token: who asks the auth server for what.
type way struct {
	op   sessiontest.Op
	opts []session.Option
	had  func(w *world.World) // leaves alice with a token that is dead, or none
	ask  func(w *world.World) error
}

var ways = map[string]way{
	"login": {op: sessiontest.Login, had: func(w *world.World) { w.LoginDead() }, ask: func(w *world.World) error { return w.Right(world.Alice) }},
	"link": {op: sessiontest.LinkFetch, ask: world.AskToken, had: func(w *world.World) {
		w.Auth.Link(world.Alice, world.Email)
		w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(30*time.Second)), world.Email, `{"list":["milk"]}`))
	}},
	"link without a session": {op: sessiontest.LinkFetch, ask: world.AskToken, had: func(w *world.World) { w.Auth.Link(world.Alice, world.Email) }},
	"refresh token": {op: sessiontest.Refresh, ask: world.AskToken, opts: []session.Option{session.WithServiceKey("")},
		had: func(w *world.World) { w.LoginDead() }},
}

// authFault is something that the auth server does to a kind of call.
type authFault struct {
	begin  func(w *world.World, op sessiontest.Op)
	passes bool // it is of the kind that may pass: idempotent calls are repeated
}

func injects(f sessiontest.Fault) authFault {
	return authFault{begin: func(w *world.World, op sessiontest.Op) { w.Auth.Inject(op, -1, f) }}
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
	t.Parallel()
	var plain, packed atomic.Int64 // bytes that went to the client
	faults := map[string]authFault{
		"hangs, or its database is frozen": {begin: func(w *world.World, op sessiontest.Op) { w.Auth.Inject(op, -1, w.Auth.Hang()) }},
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
		"no token":                         injects(sessiontest.JSON(map[string]any{"user": map[string]string{"email": world.Email}})),
		"token of another type":            injects(sessiontest.JSON(map[string]any{"accessToken": 7, "token": []string{}})),
		"503":                              mayPass(injects(sessiontest.Status(503, "Service Unavailable"))),
		"504":                              mayPass(injects(sessiontest.Status(504, "Gateway Timeout"))),
		"500":                              injects(sessiontest.Status(500, "Internal server error")),
		"404":                              injects(sessiontest.Status(404, "Cannot GET /api")),
		"418":                              injects(sessiontest.Raw(418, "", "")),
		"database down":                    {begin: func(w *world.World, _ sessiontest.Op) { w.Auth.BreakDatabase(true) }},
		"signing broken":                   {begin: func(w *world.World, _ sessiontest.Op) { w.Auth.BreakSigning(true) }},
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
					w := world.New(t, session.NewMemoryStore(), way.opts...)
					way.had(w)
					before, had := w.Stored(world.Alice), w.User(world.Alice)
					w.Auth.ResetCalls()

					fault.begin(w, way.op)
					began := time.Now()
					err := way.ask(w)
					require.LessOrEqual(t, time.Since(began), 10*time.Second, "no call takes longer")
					require.ErrorIs(t, err, session.ErrAuthUnavailable)
					require.NotErrorIs(t, err, session.ErrNotLoggedIn)
					said, ok := errors.AsType[*session.AuthError](err)
					require.True(t, ok)
					require.NotEmpty(t, said.Message)
					require.Equal(t, before, w.Stored(world.Alice), "byte for byte")
					require.Equal(t, had, w.User(world.Alice), "still logged in")

					calls := 1
					if fault.passes && way.op == sessiontest.LinkFetch {
						calls = 3 // idempotent: repeated twice
					}
					require.Equal(t, calls, w.Auth.Calls(way.op))
					for _, r := range w.Auth.Requests() {
						require.Equal(t, "auth.test", r.Host)
						require.NotEqual(t, "/take", r.Path)
					}
					require.LessOrEqual(t, plain.Load(), int64(1<<20+1), "what is read of a body")
					require.LessOrEqual(t, packed.Load(), int64(64<<10), "counted when it is inflated")

					w.Auth.ClearFaults()
					w.Auth.BreakDatabase(false)
					w.Auth.BreakSigning(false)
					time.Sleep(1500 * time.Millisecond) // as long as a failure speaks for all
					require.NoError(t, way.ask(w))
					world.MustToken(t, w.Svc, world.Alice)
				})
			})
		}
	}
}

func TestLinkedUserWithoutASessionWhileTheServerCannotSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		w.Auth.BreakSigning(true)
		require.ErrorIs(t, world.AskToken(w), session.ErrNotLoggedIn, "which is what the server says, and there is nothing to lose")
		w.Auth.BreakSigning(false)
		time.Sleep(30 * time.Second)
		world.MustToken(t, w.Svc, world.Alice)
	})
}

func TestJSONUnderAnotherContentTypeIsJSON(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore(), way.opts...)
				way.had(w)
				token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
				w.Auth.Inject(way.op, 1, sessiontest.Raw(200, "text/plain", fmt.Sprintf(`{"accessToken":%q}`, token)))
				require.NoError(t, way.ask(w))
				require.Equal(t, token, world.MustToken(t, w.Svc, world.Alice))
			})
		})
	}
}

// The calls that are not a way to a token.
func TestServiceKeyAndTokenFollowNoRedirectOfAnyLinkCall(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, where := range []string{"http://elsewhere.test/take", "/take"} {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				for _, op := range []sessiontest.Op{sessiontest.LinkCheck, sessiontest.LinkCreate, sessiontest.LinkRemove} {
					w.Auth.Inject(op, -1, sessiontest.Redirect(status, where))
				}
				w.Login(w.Svc)
				w.Auth.RevokeRefreshTokens(world.Email)
				time.Sleep(15 * time.Minute)
				require.ErrorIs(t, world.AskToken(w), session.ErrAuthUnavailable, "not checked, so not ended")
				require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice, session.AndUnlink()), session.ErrAuthUnavailable)
				require.False(t, w.Svc.Health(t.Context()).Auth.OK)
				require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkCreate))
				require.Equal(t, 2, w.Auth.Calls(sessiontest.LinkCheck))
				require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkRemove))
				for _, r := range w.Auth.Requests() {
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
					w := world.New(t, session.NewMemoryStore(), way.opts...)
					w.Auth.SetClockSkew(c.skew)
					way.had(w)
					require.NoError(t, way.ask(w))
					w.Auth.ResetCalls()
					for range 3600 {
						world.MustToken(t, w.Svc, world.Alice)
						time.Sleep(time.Second)
					}
					require.LessOrEqual(t, w.Auth.Calls(sessiontest.LinkFetch), c.calls, "no loop of refreshes")
					require.LessOrEqual(t, w.Auth.Calls(sessiontest.Refresh), c.calls, "no loop of refreshes")
					require.NotEmpty(t, w.Stored(world.Alice))
				})
			})
		}
	}
}

func TestUsersWhoseIDsDifferInCaseAreTwoUsers(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		const upper, lower = "@A:h", "@a:h"
		ctx := t.Context()
		w.Auth.Link(lower, "bob@example.com")
		_, err := w.Svc.Token(ctx, upper)
		require.ErrorIs(t, err, session.ErrNotLoggedIn, "the link is another's")
		w.Auth.Unlink(lower)
		_, err = w.Svc.Login(ctx, upper, world.Email, world.Password)
		require.NoError(t, err)
		require.NoError(t, w.Svc.SetData(ctx, upper, "diary", "private"))
		_, err = w.Svc.Token(ctx, lower)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		_, err = w.Svc.Data(ctx, lower, "diary", new(string))
		require.ErrorIs(t, err, session.ErrNotLoggedIn)

		w.Auth.Link(lower, "bob@example.com")
		other := w.Service() // which remembers no one
		theirs := world.MustToken(t, other, lower)
		for _, svc := range []*session.Service{w.Svc, other} {
			require.NotEqual(t, theirs, world.MustToken(t, svc, upper))
			require.NotEqual(t, theirs, world.MustToken(t, svc, upper), "nor from the near cache")
			got, err := svc.Email(ctx, upper)
			require.NoError(t, err)
			require.Equal(t, world.Email, got)
		}
		got, err := other.Email(ctx, lower)
		require.NoError(t, err)
		require.Equal(t, "bob@example.com", got)
		found, err := other.Data(ctx, lower, "diary", new(string))
		require.NoError(t, err)
		require.False(t, found)

		require.NoError(t, w.Svc.Logout(ctx, lower))
		world.MustToken(t, w.Svc, upper)
		require.NotEmpty(t, w.Stored(upper))
		require.Empty(t, w.Stored(lower))
	})
}
