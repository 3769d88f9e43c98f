package sessiontest_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

func TestRefreshTokenIsSingleUse(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		first := w.login(email, password).tokens(t)
		got := w.do(refreshCall(first.RefreshToken))
		second := got.tokens(t)
		require.Equal(t, fmt.Sprintf(
			`{"user":{"id":%q,"email":"alice@example.com","name":"alice","role":"user"},"accessToken":%q,"refreshToken":%q,"expiresIn":900,"tokenType":"Bearer"}`,
			w.alice.ID, second.AccessToken, second.RefreshToken), got.body)
		require.Len(t, second.RefreshToken, 64)
		w.do(refreshCall(first.RefreshToken)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
		w.do(refreshCall(second.RefreshToken)).tokens(t)
		w.do(refreshCall("unknown")).refused(t, 401, `"Invalid refresh token"`, refreshPath)
		w.do(call{method: "POST", path: refreshPath, body: `{}`}).refused(t, 400, `["refreshToken must be a string"]`, refreshPath)
	})
}

func TestRefreshTokenLivesSevenDaysFromItsRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const week = 7 * 24 * time.Hour
		w := inProcess(t)
		token := w.login(email, password).tokens(t).RefreshToken
		for range 3 {
			time.Sleep(week - time.Second)
			token = w.do(refreshCall(token)).tokens(t).RefreshToken
		}
		time.Sleep(week)
		w.do(refreshCall(token)).refused(t, 401, `"Refresh token expired"`, refreshPath)
	})
}

func TestRevokedRefreshTokensAndDeletedAccounts(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.AddUser("bob@example.com", password)
		first, second := w.login(email, password).tokens(t), w.login(email, password).tokens(t)
		bobs := w.login("bob@example.com", password).tokens(t)
		w.RevokeRefreshTokens("Alice@example.com")
		w.RevokeRefreshTokens("nobody@example.com")
		for _, token := range []string{first.RefreshToken, second.RefreshToken} {
			w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
		}
		w.DeleteUser("bob@example.com")
		w.do(refreshCall(bobs.RefreshToken)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
	})
}

// together makes n calls at once and returns their answers.
func (w *world) together(n int, c call) []answer {
	w.t.Helper()
	answers, errs := make([]answer, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { answers[i], errs[i] = w.try(w.t.Context(), c) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(w.t, err)
	}
	return answers
}

func TestUsesOfARefreshTokenThatOverlapAllSucceed(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		token := w.login(email, password).tokens(t).RefreshToken
		// However late the others reach the network, none is answered before.
		var arrived sync.WaitGroup
		arrived.Add(6)
		w.Inject(sessiontest.Refresh, 6, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			arrived.Done()
			arrived.Wait()
			answer(rw, r)
		})
		successors := make(map[string]bool)
		for _, got := range w.together(6, refreshCall(token)) {
			successors[got.tokens(t).RefreshToken] = true
		}
		require.Len(t, successors, 6, "each has its own")
		for successor := range successors {
			w.do(refreshCall(successor)).tokens(t)
		}
		w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
	})
}

func TestUsesOfARefreshTokenInAnInstantOfABubbleOverlap(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := inProcess(t)
			began := time.Now()
			token := w.login(email, password).tokens(t).RefreshToken
			for _, got := range w.together(6, refreshCall(token)) {
				got.tokens(t)
			}
			w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
			require.Zero(t, time.Since(began), "and take no time")
		})
	}
}

func TestRefreshThatArrivedBeforeAnotherWasAnsweredSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		token := w.login(email, password).tokens(t).RefreshToken
		w.Inject(sessiontest.Refresh, 1, sessiontest.Delay(2*time.Second))
		late := make(chan answer)
		go func() { late <- w.do(refreshCall(token)) }()
		time.Sleep(time.Second)
		first := w.do(refreshCall(token)).tokens(t)
		w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
		second := (<-late).tokens(t)
		require.NotEqual(t, first.RefreshToken, second.RefreshToken)
	})
}

func TestAnswerThatAFaultAsksForTwiceIsTwoUses(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		token := w.login(email, password).tokens(t).RefreshToken
		w.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			answer(discard{http.Header{}}, r) // a proxy's first try
			answer(rw, r)
		})
		w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
	})
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(b []byte) (int, error) { return len(b), nil }

func TestRevocationHoldsForRefreshesUnderWay(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		token := w.login(email, password).tokens(t).RefreshToken
		w.Inject(sessiontest.Refresh, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			w.RevokeRefreshTokens(email)
			answer(rw, r)
		})
		w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
		w.do(refreshCall(w.login(email, password).tokens(t).RefreshToken)).tokens(t)
	})
}

func TestRefreshWhoseClientGivesUpIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t)
		token := w.login(email, password).tokens(t).RefreshToken
		w.Inject(sessiontest.Refresh, 1, sessiontest.AnswerLate(time.Minute))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.try(ctx, refreshCall(token))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		w.do(refreshCall(token)).refused(t, 401, `"Invalid refresh token"`, refreshPath)

		w.Inject(sessiontest.Refresh, 1, sessiontest.AnswerLate(time.Minute))
		began := time.Now()
		w.do(refreshCall(w.login(email, password).tokens(t).RefreshToken)).tokens(t)
		require.Equal(t, time.Minute, time.Since(began))
	})
}
