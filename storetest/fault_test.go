package storetest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/storetest"
)

func TestFaultStoreWithoutFaultsConforms(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) session.Store {
		store := storetest.NewFaultStore()
		t.Cleanup(func() { store.Close() })
		return store
	})
}

const alice = "@alice:matrix.example"

func put(t *testing.T, store session.Store, value string) session.Record {
	t.Helper()
	rec, err := store.Swap(t.Context(), session.Record{UserID: alice}, session.Record{UserID: alice, Value: value})
	require.NoError(t, err)
	return rec
}

func get(t *testing.T, store session.Store) string {
	t.Helper()
	rec, err := store.Get(t.Context(), alice)
	require.NoError(t, err)
	return rec.Value
}

func TestFaultsHappenToTheirMethodsAndConnectionOnly(t *testing.T) {
	store := storetest.NewFaultStore()
	defer store.Close()
	put(t, store, "v")
	other := store.Another()
	remove := store.Inject(storetest.Away, storetest.Get)
	_, err := store.Get(t.Context(), alice)
	require.ErrorIs(t, err, storetest.ErrLost)
	require.Equal(t, "v", get(t, other))
	require.NoError(t, store.Release(t.Context(), alice, "x", "", 0))
	remove()
	require.Equal(t, "v", get(t, store))
}

func TestNewerFaultsHappenFirst(t *testing.T) {
	store := storetest.NewFaultStore()
	defer store.Close()
	var order []string
	for _, name := range []string{"old", "new"} {
		store.Inject(func(ctx context.Context, call storetest.Call) error {
			order = append(order, name)
			return call.Do(ctx)
		})
	}
	put(t, store, "v")
	require.Equal(t, []string{"new", "old"}, order)
	store.Clear()
	get(t, store)
	require.Len(t, order, 2)
}

func TestLostAnswerIsOfAWriteThatHappened(t *testing.T) {
	store := storetest.NewFaultStore()
	defer store.Close()
	store.Inject(storetest.LoseAnswer, storetest.Writes()...)
	_, err := store.Swap(t.Context(), session.Record{UserID: alice}, session.Record{UserID: alice, Value: "v"})
	require.ErrorIs(t, err, storetest.ErrLost)
	require.Equal(t, "v", get(t, store))
}

func TestLateCallsArriveInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaultStore()
		defer store.Close()
		late, deliver := storetest.DeliverLate()
		remove := store.Inject(late)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := store.Swap(ctx, session.Record{UserID: alice}, session.Record{UserID: alice, Value: "late"})
		require.ErrorIs(t, err, storetest.ErrLost)
		_, err = store.Swap(ctx, session.Record{UserID: alice}, session.Record{UserID: alice, Value: "later"})
		require.ErrorIs(t, err, storetest.ErrLost)
		remove()
		errs := deliver()
		require.Len(t, errs, 2)
		require.NoError(t, errs[0])
		require.ErrorIs(t, errs[1], session.ErrConflict)
		require.Equal(t, "late", get(t, store))
		require.Empty(t, deliver(), "once")
	})
}

func TestOnlyOneUserMeetsTheFault(t *testing.T) {
	store := storetest.NewFaultStore()
	defer store.Close()
	store.Inject(storetest.Only("@bob:matrix.example", storetest.Away))
	put(t, store, "v")
	_, err := store.Get(t.Context(), "@bob:matrix.example")
	require.ErrorIs(t, err, storetest.ErrLost)
}

func TestCutEndsTheFeedsOfOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaultStore()
		defer store.Close()
		other := store.Another()
		ended := make(chan error, 2)
		go func() { ended <- store.Watch(t.Context(), silentFeed{}) }()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- other.Watch(ctx, silentFeed{}) }()
		synctest.Wait()
		store.Cut()
		require.ErrorIs(t, <-ended, storetest.ErrLost)
		synctest.Wait()
		require.Empty(t, ended, "the other connection goes on")
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

type silentFeed struct{}

func (silentFeed) Changed(string)                 {}
func (silentFeed) Flush()                         {}
func (silentFeed) Trust(time.Time, time.Duration) {}
