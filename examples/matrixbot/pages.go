//go:build goolm

package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/mana/session"
	"github.com/mana/session/weblogin"
)

// servePages serves the login page at an address until ctx ends, so that no password is
// sent to a room. url is the address as browsers see it, behind a proxy or not.
func servePages(ctx context.Context, svc *session.Service, url, listen string) (*weblogin.Handler, error) {
	pages, err := weblogin.New(svc, url, weblogin.WithBotName("Todo bot"))
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: pages, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	context.AfterFunc(ctx, func() {
		brief, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if errors.Is(server.Shutdown(brief), context.DeadlineExceeded) {
			_ = server.Close()
		}
	})
	go func() { _ = server.Serve(listener) }() // until Shutdown
	return pages, nil
}
