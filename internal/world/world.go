// Package world is the fixture of the tests: an auth server, a store, a bot's
// Service between them, and stores and transports that fail as a test wants.
package world

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

const (
	Alice    = "@alice:matrix.example"
	Bob      = "@bob:matrix.example"
	Carol    = "@carol:matrix.example"
	Email    = "alice@example.com"
	Password = "correct horse"
)

// World is an auth server, a store, and a bot's Service between them.
type World struct {
	T     *testing.T
	Auth  *sessiontest.AuthServer
	Store session.Store
	Svc   *session.Service
	Log   *Logged
}

// New makes a world that has one account, alice's, that no Matrix user is linked to.
func New(t *testing.T, store session.Store, opts ...session.Option) *World {
	t.Helper()
	w := &World{T: t, Auth: sessiontest.New(sessiontest.WithLoginLimit(0)), Store: store, Log: NewLogged()}
	t.Cleanup(w.Auth.Close)
	w.Auth.AddUser(Email, Password)
	w.Auth.AddUser("bob@example.com", Password)
	w.Svc = w.Service(opts...)
	return w
}

// Service is another bot's Service on the same store and auth server.
func (w *World) Service(opts ...session.Option) *session.Service {
	w.T.Helper()
	svc, err := session.New(append([]session.Option{
		session.WithAuthURL(w.Auth.URL),
		session.WithHTTPClient(w.Auth.Client()),
		session.WithServiceKey(sessiontest.DefaultServiceKey),
		session.WithStore(w.Store),
		session.WithLoginLimit(0, 0), // tests log in over and over
		session.WithLogger(slog.New(slog.NewTextHandler(w.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
	}, opts...)...)
	require.NoError(w.T, err)
	w.T.Cleanup(func() { require.NoError(w.T, svc.Close()) })
	return svc
}

// Login logs alice in.
func (w *World) Login(svc *session.Service) *session.Session {
	w.T.Helper()
	s, err := svc.Login(w.T.Context(), Alice, Email, Password)
	require.NoError(w.T, err)
	return s
}

// LoginDead logs alice in with a token that runs out within the 60 seconds in
// which it is not handed out again; what is minted next lives as usual.
func (w *World) LoginDead() *session.Session {
	w.T.Helper()
	w.Auth.SetTokenTTL(30 * time.Second)
	s := w.Login(w.Svc)
	w.Auth.SetTokenTTL(15 * time.Minute)
	w.Auth.ResetCalls()
	return s
}

// Put stores a value under a user as other software does.
func (w *World) Put(userID, value string) {
	w.T.Helper()
	old, err := w.Store.Get(w.T.Context(), userID)
	if err != nil {
		old = session.Record{UserID: userID}
	}
	_, err = w.Store.Swap(w.T.Context(), old, session.Record{
		UserID: userID, Value: value, Expires: time.Now().Add(time.Hour),
	})
	require.NoError(w.T, err)
}

// Stored is what the store holds for a user; nothing is "".
func (w *World) Stored(userID string) string {
	w.T.Helper()
	rec, err := w.Store.Get(w.T.Context(), userID)
	if err != nil {
		require.ErrorIs(w.T, err, session.ErrNotFound)
	}
	return rec.Value
}

// TsRecord is a record as the TypeScript service writes it.
func TsRecord(token, email string, data string) string {
	expires := time.Now().Add(7 * 24 * time.Hour).UTC().Format("2006-01-02T15:04:05.000Z")
	return fmt.Sprintf(`{"token":%q,"email":%q,"expiresAt":%q,"data":%s}`, token, email, expires, data)
}

// UserID is one of many users.
func UserID(i int) string { return fmt.Sprintf("@user%d:matrix.example", i) }

// AskToken asks for alice's token.
func AskToken(w *World) error {
	_, err := w.Svc.Token(w.T.Context(), Alice)
	return err
}

// User is what other bots are told about a user without asking the auth server.
func (w *World) User(userID string) bool {
	w.T.Helper()
	for id, err := range w.Svc.Users(w.T.Context()) {
		require.NoError(w.T, err)
		if id == userID {
			return true
		}
	}
	return false
}

// Bot is another bot's Service, with a client and a store of its own.
func (w *World) Bot(client redis.UniversalClient, opts ...session.Option) *session.Service {
	w.T.Helper()
	far := &World{T: w.T, Auth: w.Auth, Store: NewRedisStore(w.T, client), Log: w.Log}
	return far.Service(opts...)
}

// Uncached is a bot whose every call goes to the store at addr.
func (w *World) Uncached(addr string) *session.Service {
	w.T.Helper()
	return w.Bot(NewClient(w.T, addr), session.WithNearCache(0))
}

// Served checks that alice has the token all along, for longer than a near cache
// is believed that hears nothing from Redis.
func (w *World) Served(token string) {
	w.T.Helper()
	for began := time.Now(); time.Since(began) < 1500*time.Millisecond; {
		require.Equal(w.T, token, MustToken(w.T, w.Svc, Alice))
	}
}

// Cached is a world on Redis whose service has alice's session in its near
// cache and serves it from there.
func Cached(t *testing.T, store session.Store) *World {
	t.Helper()
	w := New(t, store)
	w.Login(w.Svc)
	w.Cache()
	return w
}

// Cache waits until a hit does without the store.
func (w *World) Cache() {
	w.T.Helper()
	Eventually(w.T, "a hit from the near cache", func() bool {
		before, err := w.Svc.Stats(w.T.Context())
		require.NoError(w.T, err)
		_, err = w.Svc.Token(w.T.Context(), Alice)
		require.NoError(w.T, err)
		after, err := w.Svc.Stats(w.T.Context())
		require.NoError(w.T, err)
		return after.Hits > before.Hits
	})
}

// ServedElse waits until the service serves something else than before.
func (w *World) ServedElse(before string) {
	w.T.Helper()
	Eventually(w.T, "the change is seen", func() bool {
		token, err := w.Svc.Token(w.T.Context(), Alice)
		return err != nil || token != before
	})
}

// Wrong tries a wrong password of alice's.
func (w *World) Wrong(userID string) error {
	_, err := w.Svc.Login(context.WithoutCancel(w.T.Context()), userID, Email, "wrong")
	return err
}

// Right logs a Matrix user in as alice.
func (w *World) Right(userID string) error {
	_, err := w.Svc.Login(context.WithoutCancel(w.T.Context()), userID, Email, Password)
	return err
}
