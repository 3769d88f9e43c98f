package redistest

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// proxied is a server behind a proxy, and a connection through it that is known
// to work.
func proxied(t *testing.T) (*Server, *Proxy, net.Conn) {
	t.Helper()
	s := Start(t)
	p := NewProxy(t, s.Addr)
	return s, p, connect(t, p)
}

func connect(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	requirePong(t, conn)
	return conn
}

func send(t *testing.T, conn net.Conn, command string) {
	t.Helper()
	_, err := io.WriteString(conn, command+"\r\n")
	require.NoError(t, err)
}

func requirePong(t *testing.T, conn net.Conn) {
	t.Helper()
	send(t, conn, "PING")
	require.Equal(t, "+PONG\r\n", readLine(t, conn))
}

func requireReset(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(commandTimeout)))
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestBlackholeHoldsBackAllBytes(t *testing.T) {
	s, p, old := proxied(t)
	p.Blackhole()
	send(t, old, "SET k old")
	requireSilence(t, old)
	fresh, err := net.Dial("tcp", p.Addr)
	require.NoError(t, err)
	defer fresh.Close()
	send(t, fresh, "PING")
	requireSilence(t, fresh)
	require.Empty(t, s.MustDo("GET", "k"))

	p.Restore()
	require.Equal(t, "+OK\r\n", readLine(t, old))
	require.Equal(t, "+PONG\r\n", readLine(t, fresh))
	require.Equal(t, "old", s.MustDo("GET", "k"))
}

func TestBlackholeHidesTheEndOfTheServer(t *testing.T) {
	s, p, conn := proxied(t)
	p.Blackhole()
	s.Kill()
	requireSilence(t, conn)
	p.Restore()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(commandTimeout)))
	_, err := conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, syscall.ETIMEDOUT)
}

func TestBlackholeOfOpenConnectionsLeavesNewOnesAlone(t *testing.T) {
	_, p, old := proxied(t)
	p.BlackholeExisting()
	send(t, old, "PING")
	requireSilence(t, old)
	connect(t, p)
	p.Restore()
	require.Equal(t, "+PONG\r\n", readLine(t, old))
}

func TestBlackholeStopsAReplyMidway(t *testing.T) {
	t.Parallel()
	s, p, conn := proxied(t)
	value := strings.Repeat("x", 32<<20) // more than the buffers between us take
	s.MustDo("SET", "k", value)
	send(t, conn, "GET k")
	r := bufio.NewReader(conn)
	header, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "$"+strconv.Itoa(len(value))+"\r\n", header)
	p.Blackhole()
	p.Restore()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(commandTimeout)))
	got := make([]byte, len(value))
	_, err = io.ReadFull(r, got)
	require.NoError(t, err)
	require.True(t, value == string(got))
}

func TestCutResetsOpenConnections(t *testing.T) {
	s, p, conn := proxied(t)
	p.Cut()
	requireReset(t, conn)
	connect(t, p)
	p.Blackhole()
	p.Cut()
	p.Restore()
	connect(t, p)
	s.Await("INFO clients", func(reply string, err error) bool {
		return err == nil && strings.Contains(reply, "connected_clients:2\r\n") // conn and Await's own
	})
}

func TestCutAfterResetsOneConnectionMidReply(t *testing.T) {
	s, p, conn := proxied(t)
	p.CutAfter(3)
	send(t, conn, "SET k v")
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(commandTimeout)))
	got := make([]byte, 3)
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, "+OK", string(got))
	requireReset(t, conn)
	require.Equal(t, "v", s.MustDo("GET", "k"))

	conn = connect(t, p)
	p.CutAfter(0)
	send(t, conn, "SET k lost")
	requireReset(t, conn)
	require.Equal(t, "lost", s.MustDo("GET", "k"))

	conn = connect(t, p)
	p.CutAfter(14) // two replies
	requirePong(t, conn)
	connect(t, p) // counted for itself
	send(t, conn, "PING")
	require.Equal(t, "+PONG\r\n", readLine(t, conn))
	requireReset(t, conn)
	connect(t, p)
}

func TestDelayHoldsBackEachDirection(t *testing.T) {
	_, p, conn := proxied(t)
	const delay = 50 * time.Millisecond
	p.Delay(delay)
	begin := time.Now()
	requirePong(t, conn)
	require.GreaterOrEqual(t, time.Since(begin), 2*delay)
	p.Delay(time.Hour)
	send(t, conn, "PING")
	requireSilence(t, conn) // and the end of the test does not wait an hour
}

func TestRefuseIsARefusal(t *testing.T) {
	_, p, conn := proxied(t)
	p.Refuse(true)
	p.Refuse(true)
	require.ErrorIs(t, dial(p.Addr), syscall.ECONNREFUSED)
	requirePong(t, conn)
	p.Refuse(false)
	connect(t, p)
	p.Refuse(true)
	p.Restore()
	connect(t, p)
}

func TestProxyPassesOnTheEndOfEitherSide(t *testing.T) {
	s, p, conn := proxied(t)
	send(t, conn, "QUIT")
	require.Equal(t, "+OK\r\n", readLine(t, conn))
	_, err := conn.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)

	conn = connect(t, p)
	s.Kill()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(commandTimeout)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, syscall.ETIMEDOUT)

	late, err := net.Dial("tcp", p.Addr)
	if err == nil {
		defer late.Close()
		requireReset(t, late)
	} else {
		require.ErrorIs(t, err, syscall.ECONNRESET) // as early as that
	}
	s.Restart()
	connect(t, p)
}
