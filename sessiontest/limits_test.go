package sessiontest_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

const tooMany = `"ThrottlerException: Too Many Requests"`

var limitHeaders = []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}

func (a answer) unlimited(t *testing.T) {
	t.Helper()
	for _, name := range limitHeaders {
		require.Empty(t, a.header.Get(name), name)
	}
}

func TestEleventhLoginOfAMinuteBlocksTheAddressForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		for i := range 10 {
			c, status := loginCall(email, "wrong"), http.StatusInternalServerError // failed calls count
			if i%2 == 1 {
				c, status = loginCall("alice", "x"), http.StatusBadRequest // and so do invalid ones
			}
			got := w.do(c)
			require.Equal(t, status, got.status)
			require.Equal(t, "10", got.header.Get("X-RateLimit-Limit"))
			require.Equal(t, fmt.Sprint(9-i), got.header.Get("X-RateLimit-Remaining"))
			require.Equal(t, fmt.Sprint(60-i), got.header.Get("X-RateLimit-Reset"))
			require.Empty(t, got.header.Get("Retry-After"))
			time.Sleep(time.Second)
		}
		c := loginCall(email, password)
		c.header = http.Header{"X-Forwarded-For": {"192.0.2.1"}}
		for _, left := range []string{"60", "35", "10"} {
			got := w.do(c)
			got.refused(t, http.StatusTooManyRequests, tooMany, loginPath)
			require.Equal(t, left, got.header.Get("Retry-After"), "it counts down")
			got.unlimited(t)
			time.Sleep(25 * time.Second)
		}
		got := w.do(c) // 75 s after the first 429
		require.Equal(t, http.StatusOK, got.status)
		require.Equal(t, "9", got.header.Get("X-RateLimit-Remaining"), "calls during the block did not count")
		require.Equal(t, "60", got.header.Get("X-RateLimit-Reset"))
	})
}

func TestBlockLastsAMinuteAlsoIfTheCallsWereLongAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		for range 10 {
			w.login(email, password)
		}
		time.Sleep(59 * time.Second)
		require.Equal(t, "60", w.login(email, password).header.Get("Retry-After"))
		time.Sleep(59*time.Second + 500*time.Millisecond)
		require.Equal(t, "1", w.login(email, password).header.Get("Retry-After"))
		time.Sleep(500 * time.Millisecond)
		require.Equal(t, http.StatusOK, w.login(email, password).status)
	})
}

func TestLoginLimitIsASlidingWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		w.login(email, password)
		time.Sleep(50 * time.Second)
		for range 9 {
			require.Equal(t, http.StatusOK, w.login(email, password).status)
		}
		time.Sleep(10 * time.Second) // the first is a minute old, the others are not
		require.Equal(t, "0", w.login(email, password).header.Get("X-RateLimit-Remaining"))
		require.Equal(t, http.StatusTooManyRequests, w.login(email, password).status, "a fixed window would begin anew")
	})
}

func TestBodiesThatAreNotParsedDoNotCount(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		for range 20 {
			got := w.do(call{method: http.MethodPost, path: loginPath, body: `{email}`})
			require.Equal(t, http.StatusBadRequest, got.status)
			got.unlimited(t)
		}
		got := w.do(call{method: http.MethodPost, path: loginPath, body: fmt.Sprintf("%0*d", 200<<10, 0)})
		got.refused(t, 500, `"request entity too large"`, loginPath)
		got.unlimited(t)
		require.Equal(t, "9", w.login(email, password).header.Get("X-RateLimit-Remaining"))
	})
}

func TestEverythingElseIsLimitedTo100AMinute(t *testing.T) {
	for op, c := range map[sessiontest.Op]call{
		sessiontest.Refresh: refreshCall("x"),
		sessiontest.Logout:  {method: http.MethodPost, path: logoutPath},
		sessiontest.Keys:    {method: http.MethodGet, path: jwksPath},
	} {
		t.Run(string(op), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { hundred(t, inProcess(t), c) })
		})
	}
	for op, c := range map[sessiontest.Op]call{
		sessiontest.LinkFetch:  linkCall(alice),
		sessiontest.LinkCheck:  checkCall(alice),
		sessiontest.LinkCreate: createCall("x"),
		sessiontest.LinkRemove: {method: http.MethodDelete, path: linksPath + "/" + alice, bearer: "x"},
	} {
		t.Run(string(op), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := inProcess(t)
				for range 200 {
					w.do(c).unlimited(t) // unless asked for
				}
			})
			synctest.Test(t, func(t *testing.T) { hundred(t, inProcess(t, sessiontest.WithCallLimit(op, 100)), c) })
			synctest.Test(t, func(t *testing.T) { hundred(t, inProcess(t, sessiontest.WithCallLimit(sessiontest.Any, 100)), c) })
		})
	}
}

func hundred(t *testing.T, w *world, c call) {
	for i := range 100 {
		got := w.do(c)
		require.NotEqual(t, http.StatusTooManyRequests, got.status)
		require.Equal(t, "100", got.header.Get("X-RateLimit-Limit"))
		require.Equal(t, fmt.Sprint(99-i), got.header.Get("X-RateLimit-Remaining"))
		require.Equal(t, "60", got.header.Get("X-RateLimit-Reset"))
	}
	got := w.do(c)
	got.refused(t, http.StatusTooManyRequests, tooMany, c.path)
	require.Equal(t, "60", got.header.Get("Retry-After"))
	got.unlimited(t)
	require.Equal(t, http.StatusOK, w.login(email, password).status, "each kind has its own limit")
}

func TestLoginLimitHoldsOverTheNetworkAcrossConnections(t *testing.T) {
	w := overNetwork(t, sessiontest.WithLoginLimit(1))
	require.Equal(t, http.StatusOK, w.login(email, password).status)
	require.Equal(t, http.StatusTooManyRequests, w.login(email, password).status)
}

func TestLoginLimitZeroIsNone(t *testing.T) {
	w := inProcess(t, sessiontest.WithLoginLimit(0))
	for range 20 {
		got := w.login(email, password)
		require.Equal(t, http.StatusOK, got.status)
		require.Empty(t, got.header.Get("X-RateLimit-Limit"))
	}
}

func TestRefreshLimitZeroIsNone(t *testing.T) {
	w := inProcess(t, sessiontest.WithRefreshLimit(0))
	for range 101 {
		got := w.do(refreshCall("x"))
		require.Equal(t, http.StatusUnauthorized, got.status)
		require.Empty(t, got.header.Get("X-RateLimit-Limit"))
	}
}
