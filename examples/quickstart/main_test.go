package main

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/sessiontest"
)

func TestQuickstartAgainstRealServers(t *testing.T) {
	server := redistest.Start(t)
	auth := sessiontest.NewAuthServer(t)
	auth.AddUser("you@example.com", "secret")
	d := demo{
		authURL: auth.URL, serviceKey: sessiontest.DefaultServiceKey, redisAddr: server.Addr,
		user: "@you:matrix.example", email: "you@example.com", input: strings.NewReader("secret\n"),
	}
	require.NoError(t, d.run(t.Context()))
	require.Equal(t, 1, auth.Calls(sessiontest.Login))
	require.Empty(t, server.MustDo("KEYS", "bot:session:*"))
}

func TestServerToTryABotWith(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, "alice@example.com") }()
	svc, err := session.New(session.WithAuthURL("http://" + listener.Addr().String()))
	require.NoError(t, err)
	defer svc.Close()
	_, err = svc.Login(t.Context(), "@alice:matrix.example", "alice@example.com", "password")
	require.NoError(t, err)
	cancel()
	require.NoError(t, <-ended)
}
