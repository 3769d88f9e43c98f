package sessiontest_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

func TestFaultsAreServedInOrderAndThenOver(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Inject(sessiontest.LinkFetch, 2, sessiontest.Status(503, "first"))
		w.Inject(sessiontest.LinkFetch, 1, sessiontest.Status(502, "second"))
		w.Inject(sessiontest.LinkFetch, 0, sessiontest.Status(501, "never"))
		w.Link(alice, email)
		require.Equal(t, http.StatusOK, w.do(checkCall(alice)).status, "another kind of call")
		for _, want := range []int{503, 503, 502, 200, 200} {
			require.Equal(t, want, w.do(linkCall(alice)).status)
		}
		require.Equal(t, 5, w.Calls(sessiontest.LinkFetch), "faults are calls too")

		w.Inject(sessiontest.Any, -1, sessiontest.Status(500, "down"))
		for range 3 {
			require.Equal(t, 500, w.do(linkCall(alice)).status)
			require.Equal(t, 500, w.login(email, password).status)
		}
		w.ClearFaults()
		require.Equal(t, http.StatusOK, w.do(linkCall(alice)).status)
	})
}

func TestFaultsThatAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		fault sessiontest.Fault
		want  answer // of header only what is in it
	}{
		"raw":      {sessiontest.Raw(502, "text/plain", "Bad Gateway"), answer{502, http.Header{"Content-Type": {"text/plain"}}, "Bad Gateway"}},
		"empty":    {sessiontest.Raw(204, "", ""), answer{status: 204}},
		"JSON":     {sessiontest.JSON(map[string]string{"token": "<>"}), answer{200, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, `{"token":"<>"}`}},
		"HTML":     {sessiontest.HTML(), answer{200, http.Header{"Content-Type": {"text/html"}}, "<!doctype html><title>Welcome</title>"}},
		"redirect": {sessiontest.Redirect(307, "http://elsewhere.test/"), answer{307, http.Header{"Location": {"http://elsewhere.test/"}}, ""}},
		"truncated": {
			sessiontest.TruncateJSON(9),
			answer{200, http.Header{"X-Ratelimit-Limit": {"10"}, "Content-Length": {"9"}}, `{"statusC`},
		},
		"truncated to nothing": {sessiontest.TruncateJSON(-1), answer{status: 200}},
		"less two fields":      {sessiontest.Without("timestamp", "path"), answer{500, nil, `{"message":"Invalid email or password","statusCode":500}`}},
		"handler of one's own": {func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			w.WriteHeader(http.StatusTeapot)
		}, answer{status: http.StatusTeapot}},
		"nothing at all": {func(http.ResponseWriter, *http.Request, http.HandlerFunc) {}, answer{status: 200}},
	} {
		t.Run(name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, w *world) {
				w.Inject(sessiontest.Login, 1, c.fault)
				got := w.login(email, "wrong")
				require.Equal(t, c.want.status, got.status)
				require.Equal(t, c.want.body, got.body)
				for name, values := range c.want.header {
					require.Equal(t, values, got.header[name])
				}
			})
		})
	}
}

func TestStatusHasTheServersShape(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Inject(sessiontest.Login, 1, sessiontest.Status(429, "slow <down>", "Retry-After", "7", "odd"))
		got := w.login(email, password)
		got.refused(t, 429, `"slow <down>"`, loginPath)
		require.Equal(t, "7", got.header.Get("Retry-After"))
		w.Inject(sessiontest.Login, 1, sessiontest.Status(400, []string{"a", "b"}))
		w.login(email, password).refused(t, 400, `["a","b"]`, loginPath)
	})
}

func TestFaultsReadTheBody(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		var got string
		w.Inject(sessiontest.Login, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			body, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			got = string(body)
			answer(rw, r) // has its own
		})
		w.login(email, password).tokens(t)
		require.JSONEq(t, `{"email":"alice@example.com","password":"correct horse"}`, got)
	})
}

func TestEchoesHoldTheRequestVerbatim(t *testing.T) {
	const secret = `<p&"ss>`
	everyWay(t, func(t *testing.T, w *world) {
		c := loginCall(email, password)
		c.body, c.key, c.bearer = `{"password":"`+secret+`"}`, "the-key", "the-bearer"

		w.Inject(sessiontest.Login, 1, sessiontest.Echo(http.StatusTeapot))
		got := w.do(c)
		var shape struct {
			StatusCode      int
			Message         string
			Timestamp, Path string
		}
		require.NoError(t, json.Unmarshal([]byte(got.body), &shape))
		require.Equal(t, http.StatusTeapot, got.status)
		require.Equal(t, http.StatusTeapot, shape.StatusCode)
		require.Equal(t, loginPath, shape.Path)

		w.Inject(sessiontest.Login, 1, sessiontest.EchoRaw(http.StatusOK))
		raw := w.do(c)
		require.Equal(t, http.StatusOK, raw.status)
		require.Equal(t, "text/plain; charset=utf-8", raw.header.Get("Content-Type"))

		w.Inject(sessiontest.Login, 1, sessiontest.EchoMalformed())
		_, err := w.try(t.Context(), c)
		require.ErrorContains(t, err, "malformed MIME header")

		for _, text := range []string{shape.Message, raw.body} {
			require.Contains(t, text, c.body)
			require.Contains(t, text, "X-Service-Key: the-key")
			require.Contains(t, text, "Authorization: Bearer the-bearer")
		}
		require.Contains(t, err.Error(), `<p&\"ss>`, "as net/http quotes it")
		require.Contains(t, err.Error(), "the-key")
	})
}

func TestWithoutIsForOlderDeployments(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Inject(sessiontest.Login, 1, sessiontest.Without("accessToken", "expiresIn"))
		got := w.login(email, password)
		require.Empty(t, got.tokens(t).AccessToken)
		require.Len(t, got.tokens(t).RefreshToken, 64)
		require.NotContains(t, got.body, "expiresIn")
	})
}

func TestResetCutsTheConnectionBeforeTheAnswer(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		first := w.login(email, password).tokens(t)
		w.Inject(sessiontest.Refresh, 1, sessiontest.Reset())
		_, err := w.try(t.Context(), refreshCall(first.RefreshToken))
		require.Error(t, err)
		require.True(t, errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET), "%v", err)
		w.do(refreshCall(first.RefreshToken)).tokens(t) // nothing was done
	})
}

func TestLoseAnswerDoesTheWork(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		first := w.login(email, password).tokens(t)
		w.Inject(sessiontest.Refresh, 1, sessiontest.LoseAnswer())
		_, err := w.try(t.Context(), refreshCall(first.RefreshToken))
		require.Error(t, err)
		w.do(refreshCall(first.RefreshToken)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
	})
}

func TestCutBodyPromisesMore(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		for _, n := range []int{0, 20, 1 << 20} {
			w.Inject(sessiontest.Login, 1, sessiontest.CutBody(n))
			got, err := w.try(t.Context(), loginCall(email, password))
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Equal(t, http.StatusOK, got.status)
			require.LessOrEqual(t, len(got.body), n)
			require.True(t, strings.HasPrefix(`{"user":{"id":"`+w.alice.ID, got.body) || n > 20)
		}
	})
}

func TestDelayAnswersLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		w.Inject(sessiontest.Login, 2, sessiontest.Delay(5*time.Second))
		started := time.Now()
		w.login(email, password).tokens(t)
		require.Equal(t, 5*time.Second, time.Since(started))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.try(ctx, loginCall(email, password))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 6*time.Second, time.Since(started))
	})
}

func TestDelayOverTheNetwork(t *testing.T) {
	w := overNetwork(t)
	w.Inject(sessiontest.Login, 1, sessiontest.Delay(20*time.Millisecond))
	started := time.Now()
	w.login(email, password).tokens(t)
	require.GreaterOrEqual(t, time.Since(started), 20*time.Millisecond)
}

func TestHangEndsWithTheClientsPatience(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Inject(sessiontest.Login, 1, w.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := w.try(ctx, loginCall(email, password))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		w.login(email, password).tokens(t)
	})
}

func TestTrickleSendsByteByByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		w.Inject(sessiontest.Keys, 2, sessiontest.Trickle(time.Second))
		keys := call{method: http.MethodGet, path: jwksPath}
		started := time.Now()
		got := w.do(keys)
		require.Equal(t, time.Duration(len(got.body))*time.Second, time.Since(started))

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		part, err := w.try(ctx, keys)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, strings.HasPrefix(got.body, part.body))
		require.InDelta(t, 10, len(part.body), 1)
	})
}

func TestTrickleSendsItsHeaderAtOnceOverTheNetwork(t *testing.T) {
	w := overNetwork(t)
	w.Inject(sessiontest.Keys, 1, sessiontest.Trickle(time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+jwksPath, nil)
	require.NoError(t, err)
	resp, err := w.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	cancel()
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, context.Canceled)
}

func TestOversizeIsExactlyThatLong(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		for _, n := range []int64{12, 13, 1<<20 + 1} {
			w.Inject(sessiontest.LinkFetch, 1, sessiontest.Oversize(n))
			got := w.do(linkCall(alice))
			require.Len(t, got.body, int(n))
			require.Len(t, got.tokens(t).Token, int(n)-12)
		}
	})
}

func TestGzipBombInflates(t *testing.T) {
	const n = 4 << 20
	everyWay(t, func(t *testing.T, w *world) {
		w.Inject(sessiontest.LinkFetch, 2, sessiontest.GzipBomb(n))
		require.Len(t, w.do(linkCall(alice)).body, n, "decompressed by the transport")
		c := linkCall(alice)
		c.header = http.Header{"Accept-Encoding": {"identity"}}
		got := w.do(c)
		require.Equal(t, "gzip", got.header.Get("Content-Encoding"))
		require.Less(t, len(got.body), n/500)
	})
}

func TestBodyThatIsNotReadToItsEndHoldsNothing(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		for _, fault := range []sessiontest.Fault{sessiontest.Oversize(1 << 40), sessiontest.GzipBomb(1 << 40), sessiontest.Trickle(time.Minute)} {
			w.Inject(sessiontest.Keys, 1, fault)
			resp, err := w.client.Get(w.URL + jwksPath)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
	})
}

func TestFaultMayActBetweenRequestAndAnswer(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		var acted atomic.Bool
		w.Link(alice, email)
		w.Inject(sessiontest.LinkFetch, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			acted.Store(true)
			w.Unlink(alice) // takes the server's lock: none is held here
			answer(rw, r)
		})
		require.Equal(t, http.StatusNotFound, w.do(linkCall(alice)).status)
		require.True(t, acted.Load())
	})
}
