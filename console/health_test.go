package console_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/console"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

// probe asks as an orchestrator does: without saying who it is.
func probe(t *testing.T, h http.Handler, route string) (int, map[string]any) {
	t.Helper()
	w := send(h, httptest.NewRequestWithContext(t.Context(), http.MethodGet, route, nil))
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var answer map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer), w.Body)
	return w.Code, answer
}

func TestReadyzTellsHowStoreAuthServerAndQueueAre(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	world.Eventually(t, "the change feed is heard", func() bool { return w.Svc.State().FeedTrusted })
	status, answer := probe(t, c, "/readyz")
	require.Equal(t, http.StatusOK, status)
	for _, key := range []string{"store", "auth"} {
		part := answer[key].(map[string]any)
		require.Equal(t, true, part["ok"], key)
		require.NotEmpty(t, part["since"])
		delete(answer, key)
	}
	require.NotEmpty(t, answer["checkedAt"])
	delete(answer, "checkedAt")
	require.Equal(t, map[string]any{
		"ready": true, "degraded": false, "closed": false, "feedTrusted": true, "breakerOpen": false, "queued": 0.0,
	}, answer)
	status, answer = probe(t, c, "/healthz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, map[string]any{"status": "ok"}, answer)
}

func TestAnAuthServerThatIsAwayDegradesButDoesNotMakeUnready(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	strict := newConsole(t, w.Svc, console.WithReadiness(func(h session.Health) bool { return !h.Degraded }))
	w.Auth.Inject(sessiontest.Any, -1, sessiontest.Status(http.StatusInternalServerError, "connect ECONNREFUSED 10.0.0.7:5432"))
	status, answer := probe(t, c, "/readyz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, true, answer["degraded"])
	require.Equal(t, false, answer["auth"].(map[string]any)["ok"])
	status, answer = probe(t, strict, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, false, answer["ready"])
	w2 := send(c, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
	require.NotContains(t, w2.Body.String(), "10.0.0.7", "everybody may read it")
	shows(t, get(t, c, "/"), "10.0.0.7") // operators may know
}

// Kubernetes waits for a second by default, and gives up a probe by closing its
// connection.
func TestReadyzIsBoundedAndAGivenUpProbeHarmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		c := newConsole(t, w.Svc)
		given, cancel := context.WithCancel(t.Context())
		cancel()
		h.Inject(storetest.Hang) // or the answer may be there before the request is found given up
		require.Equal(t, http.StatusServiceUnavailable, send(c, httptest.NewRequestWithContext(given, http.MethodGet, "/readyz", nil)).Code)
		h.Clear()
		time.Sleep(2 * time.Second)
		status, _ := probe(t, c, "/readyz")
		require.Equal(t, http.StatusOK, status)

		time.Sleep(2 * time.Second)
		h.Inject(storetest.Hang)
		w.Auth.Inject(sessiontest.Any, -1, w.Auth.Hang())
		began := time.Now()
		status, answer := probe(t, c, "/readyz")
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Less(t, time.Since(began), time.Second)
		require.Equal(t, false, answer["store"].(map[string]any)["ok"])
		status, _ = probe(t, c, "/healthz")
		require.Equal(t, http.StatusOK, status, "a restart would not help")
		h.Clear()
		w.Auth.ClearFaults()
	})
}

func TestTenThousandProbesAskTheStoreOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		c := newConsole(t, w.Svc)
		var asked atomic.Int64
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			asked.Add(1)
			return call.Do(ctx)
		}, storetest.Get, storetest.Acquire, storetest.Release, storetest.All)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				for range 100 {
					for _, route := range []string{"/readyz", "/healthz"} {
						status, _ := probe(t, c, route)
						require.Equal(t, http.StatusOK, status)
					}
				}
			})
		}
		all.Wait()
		require.LessOrEqual(t, asked.Load(), int64(3), "a read, and a lease taken and given back")
		time.Sleep(time.Second)
		probe(t, c, "/readyz")
		require.Greater(t, asked.Load(), int64(3), "a second later the answer is another")
	})
}

func TestReadyzWithARedisThatGoesAndIsReadOnly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	c := newConsole(t, w.Svc)
	become := func(what string, want int) {
		t.Helper()
		world.Eventually(t, what, func() bool { status, _ := probe(t, c, "/readyz"); return status == want })
	}
	become("ready", http.StatusOK)
	server.MustDo("REPLICAOF", "127.0.0.1", "1")
	become("unready when Redis takes no writes", http.StatusServiceUnavailable)
	page := get(t, c, "/")
	shows(t, page, "READONLY")
	shows(t, page, "Degraded: see store")
	server.MustDo("REPLICAOF", "NO", "ONE")
	become("ready again", http.StatusOK)
	server.Kill()
	become("unready without Redis", http.StatusServiceUnavailable)
	status, _ := probe(t, c, "/healthz")
	require.Equal(t, http.StatusOK, status)
	shows(t, get(t, c, "/"), "Degraded: see store")
	server.Start()
	become("ready with Redis", http.StatusOK)
}
