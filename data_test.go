package session_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
)

func TestDataValues(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		ctx := t.Context()
		w.Login(w.Svc)
		type item struct {
			Title string
			Done  bool
		}
		for key, value := range map[string]any{
			"zero": 0, "false": false, "empty": "", "null": nil, "list": []int{1, 2}, "nested": map[string]any{"a": 1.5},
			"struct": item{"milk", true}, "": "the empty key", "constructor": "a word like others", "</html>&": "<b>",
		} {
			require.NoError(t, w.Svc.SetData(ctx, world.Alice, key, value))
			var got json.RawMessage
			found, err := w.Svc.Data(ctx, world.Alice, key, &got)
			require.NoError(t, err)
			require.True(t, found, key)
			want, err := json.Marshal(value)
			require.NoError(t, err)
			require.JSONEq(t, string(want), string(got))
		}
		got, found, err := session.DataAs[item](ctx, w.Svc, world.Alice, "struct")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, item{"milk", true}, got)
		_, found, err = session.DataAs[item](ctx, w.Svc, world.Alice, "no such key")
		require.NoError(t, err)
		require.False(t, found)
		_, _, err = session.DataAs[int](ctx, w.Svc, world.Alice, "list")
		require.Error(t, err, "not an int")

		require.NoError(t, w.Svc.DeleteData(ctx, world.Alice, "zero"))
		require.NoError(t, w.Svc.DeleteData(ctx, world.Alice, "zero"))
		found, err = w.Svc.Data(ctx, world.Alice, "zero", new(int))
		require.NoError(t, err)
		require.False(t, found)
		require.Error(t, w.Svc.SetData(ctx, world.Alice, "k", make(chan int)), "no JSON form")
	})
}

func TestLargeIntegersSurvive(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		ctx := t.Context()
		w.Login(w.Svc)
		const large = int64(1)<<60 + 1
		require.NoError(t, w.Svc.SetData(ctx, world.Alice, "n", large))
		require.NoError(t, w.Svc.SetData(ctx, world.Alice, "other", 1))
		n, _, err := session.DataAs[int64](ctx, w.Svc, world.Alice, "n")
		require.NoError(t, err)
		require.Equal(t, large, n)
		v, _, err := session.DataAs[any](ctx, w.Svc, world.Alice, "n")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(large), fmt.Sprint(v))
	})
}

func TestDataNeedsASession(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		ctx := t.Context()
		require.ErrorIs(t, w.Svc.SetData(ctx, world.Alice, "k", 1), session.ErrNotLoggedIn)
		require.ErrorIs(t, w.Svc.DeleteData(ctx, world.Alice, "k"), session.ErrNotLoggedIn)
		_, err := w.Svc.Data(ctx, world.Alice, "k", new(int))
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
	})
}

func TestFiftyConcurrentWritersLoseNothing(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Login(w.Svc)
		other := w.Service()
		var writers sync.WaitGroup
		for i := range 50 {
			svc := []*session.Service{w.Svc, other}[i%2]
			writers.Go(func() {
				if err := svc.SetData(t.Context(), world.Alice, fmt.Sprint(i), i); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		for i := range 50 {
			n, found, err := session.DataAs[int](t.Context(), w.Svc, world.Alice, fmt.Sprint(i))
			require.NoError(t, err)
			require.True(t, found, "key %d", i)
			require.Equal(t, i, n)
		}
	})
}

func TestDataLeavesTheSessionsLifeAsItIs(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		before := w.Login(w.Svc)
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", 1))
		after, err := w.Svc.Session(t.Context(), world.Alice)
		require.NoError(t, err)
		require.True(t, before.ExpiresAt.Equal(after.ExpiresAt))
	})
}

func TestRecordHasAMaximumSize(t *testing.T) {
	world.OnEveryStore(t, func(t *testing.T, w *world.World) {
		w.Login(w.Svc)
		require.Error(t, w.Svc.SetData(t.Context(), world.Alice, "k", strings.Repeat("x", 1<<20)))
		require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", strings.Repeat("x", 1<<19)))
		world.MustToken(t, w.Svc, world.Alice)
	})
}
