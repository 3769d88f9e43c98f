package session

import (
	"context"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/redistest"
)

// The pool of the client looks at a connection before it hands it out. One that has
// ended costs its caller an attempt, and each further one of the retries.
func TestHeldConnectionThatHasEndedIsHandedOutToNobody(t *testing.T) {
	const conns = 5
	server := redistest.Start(t)
	lost := make(chan struct{}, conns+1)
	client := redis.NewClient(&redis.Options{
		Addr: server.Addr, PoolSize: conns, MaxRetries: -1,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return newHeldConn(conn, func() { lost <- struct{}{} }), nil
		},
	})
	var open []*redis.Conn
	for range conns {
		open = append(open, client.Conn())
		require.NoError(t, open[len(open)-1].Ping(t.Context()).Err())
	}
	for _, conn := range open {
		require.NoError(t, conn.Close())
	}
	require.EqualValues(t, conns, client.PoolStats().IdleConns)
	server.MustDo("CLIENT", "KILL", "TYPE", "normal")
	for range conns {
		<-lost
	}
	require.NoError(t, client.Ping(t.Context()).Err())
	require.NoError(t, client.Close())
}
