//go:build goolm

package main

import (
	"crypto/ed25519"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/golang-jwt/jwt/v5"
)

// A backend stores the lists that users publish, as a service behind the bot
// would: it trusts nothing but a user's token.
type backend struct {
	*httptest.Server

	mu    sync.Mutex
	lists map[string]string // guarded by mu; by the account's ID
}

func newBackend(key ed25519.PublicKey) *backend {
	b := &backend{lists: make(map[string]string)}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		token, err := jwt.Parse(bearer, func(*jwt.Token) (any, error) { return key, nil }, jwt.WithValidMethods([]string{"EdDSA"}))
		if err != nil {
			http.Error(w, "no valid token", http.StatusUnauthorized)
			return
		}
		owner, err := token.Claims.GetSubject()
		if err != nil {
			http.Error(w, "no owner", http.StatusUnauthorized)
			return
		}
		list, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "no list", http.StatusBadRequest)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lists[owner] = string(list)
	}))
	return b
}

// list is what an account has published.
func (b *backend) list(owner string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list, ok := b.lists[owner]
	return list, ok
}
