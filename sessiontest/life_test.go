package sessiontest_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

// begin makes a call and returns when the server has it.
func (w *world) begin(ctx context.Context, c call) <-chan error {
	w.t.Helper()
	before, ended := w.Calls(sessiontest.Any), make(chan error, 1)
	go func() {
		_, err := w.try(ctx, c)
		ended <- err
	}()
	for w.Calls(sessiontest.Any) == before {
		select {
		case err := <-ended:
			require.FailNow(w.t, "the call ended before it arrived", "%v", err)
		case <-time.After(time.Millisecond):
		}
	}
	return ended
}

// doneBy injects a fault that does nothing but tell when the server has done the
// next call of a kind.
func (w *world) doneBy(op sessiontest.Op) <-chan struct{} {
	done := make(chan struct{})
	w.Inject(op, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		defer close(done)
		answer(rw, r)
	})
	return done
}

func TestFrozenDatabaseAnswersNothingAndDoesItAllAfterTheThaw(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		token := w.login(email, password).tokens(t).RefreshToken
		w.Link(alice, email)
		w.FreezeDatabase(true)
		ctx, cancel := context.WithCancel(t.Context())
		remove := call{method: http.MethodDelete, path: linksPath + "/" + alice, key: sessiontest.DefaultServiceKey}
		refreshed, removed := w.doneBy(sessiontest.Refresh), w.doneBy(sessiontest.LinkRemove)
		given := []<-chan error{w.begin(ctx, refreshCall(token)), w.begin(ctx, remove)}
		cancel()
		for _, ended := range given {
			require.ErrorIs(t, <-ended, context.Canceled)
		}
		require.True(t, w.Linked(alice), "nothing is done yet")

		patient := w.begin(t.Context(), loginCall(email, password))
		w.FreezeDatabase(false)
		require.NoError(t, <-patient)
		<-refreshed
		<-removed
		require.False(t, w.Linked(alice))
		w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
	})
}

func TestFrozenDatabaseHoldsWhatNeedsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		token := w.login(email, password).tokens(t).AccessToken
		w.FreezeDatabase(true)
		for name, c := range map[string]struct {
			call call
			hang bool
		}{
			"login":                {loginCall(email, password), true},
			"refresh":              {refreshCall("x"), true},
			"keys":                 {call{method: http.MethodGet, path: jwksPath}, true},
			"link fetch":           {linkCall(alice), true},
			"link check":           {checkCall(alice), true},
			"link removal":         {call{method: http.MethodDelete, path: linksPath + "/" + alice, bearer: "x"}, true},
			"logout":               {call{method: http.MethodPost, path: logoutPath, bearer: token}, false},
			"login, malformed":     {loginCall("alice", "x"), false},
			"login, not plain":     {loginCall("müller@example.com", "x"), false},
			"fetch without a key":  {call{method: http.MethodGet, path: linkPath + alice}, false},
			"link creation":        {createCall(token), false},
			"route without a name": {call{method: http.MethodGet, path: "/"}, false},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			_, err := w.try(ctx, c.call)
			cancel()
			if c.hang {
				require.ErrorIs(t, err, context.DeadlineExceeded, name)
			} else {
				require.NoError(t, err, name)
			}
		}
		w.FreezeDatabase(false)
	})
}

func TestRefreshesThatMeetInAFreezeAllSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		token := w.login(email, password).tokens(t).RefreshToken
		w.FreezeDatabase(true)
		time.AfterFunc(13*time.Second, func() { w.FreezeDatabase(false) })
		for _, got := range w.together(6, refreshCall(token)) {
			got.tokens(t)
		}
		w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
	})
}

func TestCloseDropsWhatAFrozenDatabaseHolds(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.FreezeDatabase(true)
		ended := w.begin(t.Context(), loginCall(email, password))
		w.Close()
		require.Error(t, <-ended)
		w.FreezeDatabase(false)
	})
}

// refusedConnection asserts that nobody listens.
func (w *world) refusedConnection() {
	w.t.Helper()
	_, err := w.try(w.t.Context(), loginCall(email, password))
	require.ErrorIs(w.t, err, syscall.ECONNREFUSED)
	var op *net.OpError
	require.ErrorAs(w.t, err, &op)
	require.Equal(w.t, "dial", op.Op)
}

func TestStopCutsCallsAndRefusesConnectionsUntilResume(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Link(alice, email)
		url := w.URL
		for range 2 {
			w.Inject(sessiontest.LinkFetch, 1, w.Hang())
			ended := w.begin(t.Context(), linkCall(alice))
			w.Stop()
			err := <-ended
			require.Error(t, err)
			require.NotErrorIs(t, err, syscall.ECONNREFUSED)
			w.refusedConnection()
			w.Stop() // again does nothing
			w.refusedConnection()
			require.Error(t, w.Start())
			require.NoError(t, w.Resume())
			require.NoError(t, w.Resume(), "nor does this")
			require.Equal(t, url, w.URL)
			w.do(linkCall(alice)).tokens(t) // and its state is as it was
		}
		w.Stop()
		w.Close()
		require.Error(t, w.Resume())
		w.refusedConnection()
	})
}

func TestStopLosesTheAnswerToWhatHadBegunAndDropsTheRest(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		begun, held := w.login(email, password).tokens(t).RefreshToken, w.login(email, password).tokens(t).RefreshToken
		w.Inject(sessiontest.Refresh, 1, sessiontest.Delay(time.Hour))
		heldEnded := w.begin(t.Context(), refreshCall(held))
		w.FreezeDatabase(true)
		done := w.doneBy(sessiontest.Refresh)
		begunEnded := w.begin(t.Context(), refreshCall(begun))
		w.Stop()
		require.Error(t, <-heldEnded)
		require.Error(t, <-begunEnded)
		require.NoError(t, w.Resume())
		w.FreezeDatabase(false)
		<-done
		w.do(refreshCall(begun)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
		w.do(refreshCall(held)).tokens(t)
	})
}

func TestServerThatStoppedDoesNothingForAFaultThatGoesOn(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		token := w.login(email, password).tokens(t).RefreshToken
		over := make(chan struct{})
		w.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			defer close(over)
			<-r.Context().Done()
			answer(rw, r)
		})
		ended := w.begin(t.Context(), refreshCall(token))
		w.Stop()
		require.Error(t, <-ended)
		<-over
		require.NoError(t, w.Resume())
		w.do(refreshCall(token)).tokens(t)
	})
}

func TestRestartIsDownForAsLongAsItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		began := time.Now()
		over := make(chan error)
		go func() { over <- w.Restart(5 * time.Second) }()
		time.Sleep(time.Second)
		w.refusedConnection()
		require.NoError(t, <-over)
		require.Equal(t, 5*time.Second, time.Since(began))
		w.login(email, password).tokens(t)
	})
}

func TestRestartOverTheNetwork(t *testing.T) {
	w := overNetwork(t)
	require.NoError(t, w.Restart(time.Millisecond))
	w.login(email, password).tokens(t)
}

func TestCloseEndsARestart(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		over := make(chan error)
		go func() { over <- w.Restart(time.Hour) }()
		for {
			_, err := w.try(t.Context(), call{method: http.MethodGet, path: jwksPath})
			if errors.Is(err, syscall.ECONNREFUSED) {
				break
			}
		}
		w.Close()
		require.Error(t, <-over)
	})
}
