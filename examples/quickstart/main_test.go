package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

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
