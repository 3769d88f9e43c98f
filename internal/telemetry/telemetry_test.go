package telemetry

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

// What is added to session.Counters is not forgotten here, and nothing is counted
// under two names.
func TestEveryCounterHasOneSeries(t *testing.T) {
	var counted session.Counters
	fields := reflect.ValueOf(&counted).Elem()
	for i := range fields.NumField() {
		fields.Field(i).SetInt(int64(1) << i)
	}
	var sum int64
	names := make(map[string]bool)
	for _, c := range Counters() {
		require.False(t, names[c.Name], c.Name)
		names[c.Name] = true
		require.Equal(t, len(c.Series) > 1, c.Label != "", c.Name)
		for _, s := range c.Series {
			require.Zero(t, sum&s.Of(counted), c.Name)
			sum += s.Of(counted)
		}
	}
	require.Equal(t, int64(1)<<fields.NumField()-1, sum+int64(counted.Queued))
}

func TestOperationsAreSplitByKind(t *testing.T) {
	require.Equal(t, Operation{Service, "refresh"}, Split(session.OpRefresh))
	require.Equal(t, Operation{Store, "write"}, Split(session.OpStoreWrite))
	require.Equal(t, Operation{Auth, "link_fetch"}, Split(session.OpAuthLinkFetch))
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, OK},
		{session.ErrConflict, Conflict},
		{fmt.Errorf("x: %w", session.ErrNotLoggedIn), NotLoggedIn},
		{fmt.Errorf("%w: %w", session.ErrNotLoggedIn, session.ErrConflict), NotLoggedIn}, // a login that was overtaken
		{fmt.Errorf("%w: get: %w", session.ErrStoreUnavailable, context.DeadlineExceeded), StoreUnavailable},
		{fmt.Errorf("%w: %w", session.ErrAuthUnavailable, context.Canceled), AuthUnavailable},
		{errors.Join(session.ErrStoreUnavailable, session.ErrServiceKeyRejected), ServiceKeyRejected},
		{&session.AuthError{Op: "refresh", StatusCode: 429}, RateLimited},
		{session.ErrRateLimited, RateLimited},
		{context.Canceled, Cancelled},
		{context.DeadlineExceeded, Timeout},
		{errors.New("@alice:matrix.example"), Other},
	} {
		require.Equal(t, c.want, Outcome(c.err), "%v", c.err)
		require.Contains(t, Outcomes(), c.want)
	}
	require.True(t, Failed(StoreUnavailable))
	require.False(t, Failed(NotLoggedIn), "a user's matter")
}

func TestStoreIsUpIfItsLastReadAndItsLastWriteWereAnswered(t *testing.T) {
	var up Up
	require.True(t, up.Store())
	up.Observe(session.OpStoreWrite, session.ErrStoreUnavailable)
	require.False(t, up.Store())
	up.Observe(session.OpStoreRead, nil)
	require.False(t, up.Store(), "it can be read, but not written")
	up.Observe(session.OpStoreWrite, context.Canceled)
	require.False(t, up.Store(), "a caller who gave up proves nothing")
	up.Observe(session.OpStoreLease, session.ErrConflict)
	require.True(t, up.Store(), "a conflict is an answer")
	up.Observe(session.OpStoreRead, context.DeadlineExceeded)
	require.False(t, up.Store())
	up.Observe(session.OpRefresh, nil)
	require.False(t, up.Store(), "a refresh says nothing about the store")
	require.True(t, up.Auth())
}

func TestAuthServerIsUpIfItAnsweredLast(t *testing.T) {
	var up Up
	down := func() { up.Observe(session.OpAuthLinkFetch, session.ErrAuthUnavailable) }
	require.True(t, up.Auth())
	down()
	require.False(t, up.Auth())
	for _, answer := range []error{nil, session.ErrNotLoggedIn, session.ErrServiceKeyRejected, &session.AuthError{StatusCode: 429}} {
		up.Observe(session.OpAuthRefresh, answer)
		require.True(t, up.Auth(), "%v", answer)
		down()
	}
	up.Observe(session.OpAuthKeys, nil)
	up.Observe(session.OpAuthRefresh, context.Canceled)
	require.False(t, up.Auth(), "keys alone, and a caller who gave up, prove nothing")
	up.Observe(session.OpAuthRefresh, nil)
	up.Observe(session.OpAuthLogin, fmt.Errorf("%w: %w", session.ErrAuthUnavailable, &session.AuthError{StatusCode: 500}))
	require.True(t, up.Auth(), "a login may fail over what was typed")
	require.True(t, up.Store())
}
