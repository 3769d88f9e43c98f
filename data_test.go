package session_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

func TestDataValues(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.login(w.svc)
		type item struct {
			Title string
			Done  bool
		}
		for key, value := range map[string]any{
			"zero": 0, "false": false, "empty": "", "null": nil, "list": []int{1, 2}, "nested": map[string]any{"a": 1.5},
			"struct": item{"milk", true}, "": "the empty key", "constructor": "a word like others", "</html>&": "<b>",
		} {
			require.NoError(t, w.svc.SetData(ctx, alice, key, value))
			var got json.RawMessage
			found, err := w.svc.Data(ctx, alice, key, &got)
			require.NoError(t, err)
			require.True(t, found, key)
			want, err := json.Marshal(value)
			require.NoError(t, err)
			require.JSONEq(t, string(want), string(got))
		}
		got, found, err := session.DataAs[item](ctx, w.svc, alice, "struct")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, item{"milk", true}, got)
		_, found, err = session.DataAs[item](ctx, w.svc, alice, "no such key")
		require.NoError(t, err)
		require.False(t, found)
		_, _, err = session.DataAs[int](ctx, w.svc, alice, "list")
		require.Error(t, err, "not an int")

		require.NoError(t, w.svc.DeleteData(ctx, alice, "zero"))
		require.NoError(t, w.svc.DeleteData(ctx, alice, "zero"))
		found, err = w.svc.Data(ctx, alice, "zero", new(int))
		require.NoError(t, err)
		require.False(t, found)
		require.Error(t, w.svc.SetData(ctx, alice, "k", make(chan int)), "no JSON form")
	})
}

func TestLargeIntegersSurvive(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.login(w.svc)
		const large = int64(1)<<60 + 1
		require.NoError(t, w.svc.SetData(ctx, alice, "n", large))
		require.NoError(t, w.svc.SetData(ctx, alice, "other", 1))
		n, _, err := session.DataAs[int64](ctx, w.svc, alice, "n")
		require.NoError(t, err)
		require.Equal(t, large, n)
		v, _, err := session.DataAs[any](ctx, w.svc, alice, "n")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(large), fmt.Sprint(v))
	})
}

func TestDataNeedsASession(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		require.ErrorIs(t, w.svc.SetData(ctx, alice, "k", 1), session.ErrNotLoggedIn)
		require.ErrorIs(t, w.svc.DeleteData(ctx, alice, "k"), session.ErrNotLoggedIn)
		_, err := w.svc.Data(ctx, alice, "k", new(int))
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestFiftyConcurrentWritersLoseNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.login(w.svc)
		other := w.service()
		var writers sync.WaitGroup
		for i := range 50 {
			svc := []*session.Service{w.svc, other}[i%2]
			writers.Go(func() {
				if err := svc.SetData(t.Context(), alice, fmt.Sprint(i), i); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		for i := range 50 {
			n, found, err := session.DataAs[int](t.Context(), w.svc, alice, fmt.Sprint(i))
			require.NoError(t, err)
			require.True(t, found, "key %d", i)
			require.Equal(t, i, n)
		}
	})
}

func TestDataLeavesTheSessionsLifeAsItIs(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		before := w.login(w.svc)
		require.NoError(t, w.svc.SetData(t.Context(), alice, "k", 1))
		after, err := w.svc.Session(t.Context(), alice)
		require.NoError(t, err)
		require.True(t, before.ExpiresAt.Equal(after.ExpiresAt))
	})
}

func TestRecordHasAMaximumSize(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.login(w.svc)
		require.Error(t, w.svc.SetData(t.Context(), alice, "k", strings.Repeat("x", 1<<20)))
		require.NoError(t, w.svc.SetData(t.Context(), alice, "k", strings.Repeat("x", 1<<19)))
		mustToken(t, w.svc, alice)
	})
}
