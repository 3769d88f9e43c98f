package session

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/redistest"
)

// go-redis repeats a command whose answer was lost, though it has been carried out.
func TestNoteThatIsSentAgainIsNotedOnce(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Start(t).Addr)
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr, PoolSize: 1})
	t.Cleanup(func() { client.Close() })
	store, err := NewRedisStore(client)
	require.NoError(t, err)
	const userID = "@alice:matrix.example"
	ctx, ends := context.Background(), time.Now().Add(time.Hour)
	store.noteApart(ctx, userID, "first", ends)
	for _, event := range []string{"ended", "~refreshed"} {
		proxy.CutAfter(0)
		store.noteApart(ctx, userID, event, ends)
	}
	trail, err := store.Trail(ctx, userID)
	require.NoError(t, err)
	var events []string
	for _, e := range trail {
		events = append(events, e.Event)
	}
	require.Equal(t, []string{"~refreshed", "ended", "first"}, events)
	require.Equal(t, 1, trail[0].Count)
}
