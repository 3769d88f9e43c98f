package world

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
)

// MustToken is a token of the user, who is logged in.
func MustToken(t *testing.T, svc *session.Service, userID string) string {
	t.Helper()
	token, err := svc.Token(t.Context(), userID)
	require.NoError(t, err)
	return token
}

// Eventually is for what another goroutine does soon.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 10*time.Second, 2*time.Millisecond, what)
}

// Never looks for what must not happen for a while. Unlike require.Never it does
// not go on looking when the test is over.
func Never(t *testing.T, what string, happened func() bool, while time.Duration) {
	t.Helper()
	for over := time.After(while); ; {
		require.False(t, happened(), what)
		select {
		case <-over:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Methods are all that take a user ID.
func Methods(svc *session.Service) map[string]func(ctx context.Context, userID string) error {
	return map[string]func(context.Context, string) error{
		"Token": func(ctx context.Context, id string) error { _, err := svc.Token(ctx, id); return err },
		"Login": func(ctx context.Context, id string) error { _, err := svc.Login(ctx, id, Email, Password); return err },
		"PrepareLogin": func(ctx context.Context, id string) error {
			_, err := svc.PrepareLogin(ctx, id, Email, Password)
			return err
		},
		"CompleteLogin": func(ctx context.Context, id string) error {
			_, err := svc.CompleteLogin(ctx, id, new(session.PendingLogin))
			return err
		},
		"Logout":     func(ctx context.Context, id string) error { return svc.Logout(ctx, id) },
		"LoggedIn":   func(ctx context.Context, id string) error { _, err := svc.LoggedIn(ctx, id); return err },
		"Session":    func(ctx context.Context, id string) error { _, err := svc.Session(ctx, id); return err },
		"Peek":       func(ctx context.Context, id string) error { _, err := svc.Peek(ctx, id); return err },
		"Email":      func(ctx context.Context, id string) error { _, err := svc.Email(ctx, id); return err },
		"Refresh":    func(ctx context.Context, id string) error { _, err := svc.Refresh(ctx, id, ""); return err },
		"SetData":    func(ctx context.Context, id string) error { return svc.SetData(ctx, id, "k", 1) },
		"Data":       func(ctx context.Context, id string) error { _, err := svc.Data(ctx, id, "k", new(int)); return err },
		"DeleteData": func(ctx context.Context, id string) error { return svc.DeleteData(ctx, id, "k") },
		"Client": func(ctx context.Context, id string) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://backend.test", nil)
			if err != nil {
				return err
			}
			_, err = svc.Client(id).Do(req)
			return err
		},
	}
}
