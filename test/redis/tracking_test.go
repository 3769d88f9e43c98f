package redis_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
)

// inBetween is a proxy that does something else with CLIENT TRACKING than pass it
// on.
func inBetween(t *testing.T, target string, track func(client net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				return
			}
			go func() {
				defer client.Close()
				_, _ = io.Copy(client, server)
			}()
			go func() {
				defer server.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := client.Read(buf)
					if err != nil {
						return
					}
					if bytes.Contains(buf[:n], []byte("tracking")) {
						track(client)
						continue
					}
					if _, err := server.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// Otherwise Redis would be read for every token.
func TestWhereTrackingDoesNotWorkAnAgeCapStandsIn(t *testing.T) {
	t.Parallel()
	for name, track := range map[string]func(net.Conn){
		"swallowed":           func(client net.Conn) { _, _ = io.WriteString(client, "+OK\r\n") },
		"cuts the connection": func(client net.Conn) { client.Close() },
		"refused":             func(client net.Conn) { _, _ = io.WriteString(client, "-ERR unknown subcommand\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			client := redis.NewClient(&redis.Options{Addr: inBetween(t, server.Addr, track)})
			t.Cleanup(func() { client.Close() })
			w := world.New(t, world.NewRedisStore(t, client))
			w.Login(w.Svc)
			world.Eventually(t, "the near cache is believed", func() bool {
				before, err := w.Svc.Stats(t.Context())
				require.NoError(t, err)
				for range 20 {
					world.MustToken(t, w.Svc, world.Alice)
				}
				after, err := w.Svc.Stats(t.Context())
				require.NoError(t, err)
				return after.Hits-before.Hits > 15
			})
			token := world.MustToken(t, w.Svc, world.Alice)
			server.MustDo("SETEX", "bot:session:"+world.Alice, "1000", world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
			began := time.Now()
			world.Eventually(t, "what other software wrote is seen", func() bool { return world.MustToken(t, w.Svc, world.Alice) != token })
			require.Less(t, time.Since(began), 2*time.Second)
		})
	}
}
