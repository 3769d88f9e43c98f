package outage_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// What is done while Redis is away, and what becomes of it when Redis is back.

// twoBots is a bot that loses Redis, w.svc, beside one that does not.
type twoBots struct {
	*world.World
	server *redistest.Server
	proxy  *redistest.Proxy // of w.svc
	near   *session.Service // to Redis, without a cache: what it says is stored
}

func newApart(t *testing.T) *twoBots {
	t.Helper()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, proxy.Addr)))
	return &twoBots{w, server, proxy, w.Uncached(server.Addr)}
}

func (a *twoBots) away() {
	a.T.Helper()
	a.proxy.Refuse(true)
	a.proxy.Cut()
}

func (a *twoBots) back() {
	a.T.Helper()
	a.proxy.Restore()
}

// exists reports whether there is a session of the user on Redis.
func (a *twoBots) exists(userID string) bool {
	in, err := a.near.LoggedIn(a.T.Context(), userID)
	require.NoError(a.T, err)
	return in
}

// drained waits until what was queued has been written: a login that is queued
// last is there. The steps that follow must not come as a surprise, so it also
// looks whether they stay away.
func (a *twoBots) drained(surprise func() bool, what string) {
	a.T.Helper()
	world.Eventually(a.T, "the queue is drained", func() bool { return a.exists(world.Bob) })
	world.Never(a.T, what, surprise, time.Second)
}

// queueLast queues the login that drained waits for, and has Redis back.
func (a *twoBots) queueLast() {
	a.T.Helper()
	_, err := a.Svc.Login(a.T.Context(), world.Bob, "bob@example.com", world.Password)
	require.NoError(a.T, err)
	a.back()
}

func TestLoginWhileRedisIsAwayReachesItLater(t *testing.T) {
	t.Parallel()
	for name, empty := range map[string]bool{"with its data": false, "empty": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opts []redistest.Option
			if !empty {
				opts = append(opts, redistest.WithPersistence())
			}
			server := redistest.Start(t, opts...)
			w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
			other := w.Uncached(server.Addr)
			before := w.Login(w.Svc)
			require.NoError(t, w.Svc.SetData(t.Context(), world.Alice, "k", "v"))

			server.Kill()
			s := w.Login(w.Svc)
			require.NotEqual(t, before.Token(), s.Token())
			require.Equal(t, s.Token(), world.MustToken(t, w.Svc, world.Alice))
			stranger, err := w.Svc.Login(t.Context(), world.Carol, "bob@example.com", world.Password)
			require.NoError(t, err)
			require.Equal(t, stranger.Token(), world.MustToken(t, w.Svc, world.Carol))
			require.ErrorIs(t, w.Svc.SetData(t.Context(), world.Carol, "k", 1), session.ErrStoreUnavailable, "data is not queued")
			_, err = other.Token(t.Context(), world.Alice)
			require.ErrorIs(t, err, session.ErrStoreUnavailable)

			server.Start()
			world.Eventually(t, "another bot sees it", func() bool {
				token, err := other.Token(t.Context(), world.Alice)
				return err == nil && token == s.Token()
			})
			world.Eventually(t, "and the other login", func() bool {
				token, err := other.Token(t.Context(), world.Carol)
				return err == nil && token == stranger.Token()
			})
			found, err := other.Data(t.Context(), world.Carol, "k", new(int))
			require.NoError(t, err)
			require.False(t, found, "a data write that was refused is not kept")
			found, err = other.Data(t.Context(), world.Alice, "k", new(string))
			require.NoError(t, err)
			require.True(t, found, "data of the same account stays, also where only this process knew it")
			_, err = other.Refresh(t.Context(), world.Alice, s.Token())
			require.NoError(t, err, "with its refresh token")
		})
	}
}

func TestLogoutWhileRedisIsAwayLasts(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct{ away, back func(*redistest.Server) }{
		"paused":                    {(*redistest.Server).Pause, (*redistest.Server).Resume},
		"killed, its data is kept":  {(*redistest.Server).Kill, (*redistest.Server).Start},
		"stopped, its data is kept": {(*redistest.Server).Stop, (*redistest.Server).Start},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.WithPersistence())
			w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
			w.Login(w.Svc)
			w.Cache()
			fault.away(server)
			require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable, "no false success")

			// From here on the bot must not hand out a token, whatever comes back.
			over := make(chan struct{})
			var asking sync.WaitGroup
			asking.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Second)
					_, err := w.Svc.Token(ctx, world.Alice)
					cancel()
					if err == nil {
						t.Error("logged in again")
						return
					}
					if !errors.Is(err, session.ErrNotLoggedIn) && !errors.Is(err, session.ErrStoreUnavailable) {
						t.Error(err)
					}
					select {
					case <-over:
						return
					case <-time.After(5 * time.Millisecond):
					}
				}
			})
			fault.back(server)
			other := w.Uncached(server.Addr)
			world.Eventually(t, "it has reached Redis", func() bool {
				_, err := other.Token(t.Context(), world.Alice)
				return errors.Is(err, session.ErrNotLoggedIn)
			})
			world.Never(t, "the session is back", func() bool {
				in, err := other.LoggedIn(t.Context(), world.Alice)
				return in || err != nil
			}, time.Second)
			close(over)
			asking.Wait()
			w.Login(w.Svc)
			require.NotEmpty(t, world.MustToken(t, other, world.Alice), "a login later counts")
		})
	}
}

func TestLogoutElsewhereBeatsAnOlderQueuedLogin(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.Login(a.near)
	a.away()
	a.Login(a.Svc)
	require.NoError(t, a.near.Logout(t.Context(), world.Alice))
	a.queueLast()
	a.drained(func() bool { return a.exists(world.Alice) }, "the logout was undone")
	world.Eventually(t, "it is obeyed here, too", func() bool {
		_, err := a.Svc.Token(t.Context(), world.Alice)
		return errors.Is(err, session.ErrNotLoggedIn)
	})
}

func TestLoginElsewhereBeatsAnOlderQueuedLogout(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.Login(a.Svc)
	world.MustToken(t, a.Svc, world.Alice)
	a.away()
	require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
	s := a.Login(a.near)
	a.queueLast()
	a.drained(func() bool { return !a.exists(world.Alice) }, "the login was undone")
	world.Eventually(t, "it counts here, too", func() bool {
		token, err := a.Svc.Token(t.Context(), world.Alice)
		return err == nil && token == s.Token()
	})
}

func TestLoginElsewhereBeatsAnOlderQueuedLogin(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.away()
	a.Login(a.Svc)
	s := a.Login(a.near)
	a.queueLast()
	a.drained(func() bool { return world.MustToken(t, a.near, world.Alice) != s.Token() }, "the newer login was overwritten")
	world.Eventually(t, "it is served here, too", func() bool {
		token, err := a.Svc.Token(t.Context(), world.Alice)
		return err == nil && token == s.Token()
	})
}

func TestQueuedLoginBeatsAnOlderLogoutAndLogin(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.away()
	a.Login(a.near)
	require.NoError(t, a.near.Logout(t.Context(), world.Alice))
	s := a.Login(a.Svc)
	a.queueLast()
	world.Eventually(t, "it is stored", func() bool {
		token, err := a.near.Token(t.Context(), world.Alice)
		return err == nil && token == s.Token()
	})
}

// Of what one bot did itself while Redis was away, the last counts.
func TestLastOfWhatWasQueuedCounts(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.Login(a.Svc)
	world.MustToken(t, a.Svc, world.Alice)
	a.away()
	a.Login(a.Svc)
	require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
	require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Carol), session.ErrStoreUnavailable)
	s, err := a.Svc.Login(t.Context(), world.Carol, world.Email, world.Password)
	require.NoError(t, err)
	a.queueLast()
	world.Eventually(t, "a logout after a login", func() bool { return !a.exists(world.Alice) })
	world.Eventually(t, "a login after a logout", func() bool { return a.exists(world.Carol) })
	a.drained(func() bool { return a.exists(world.Alice) || !a.exists(world.Carol) }, "the first of two counted")
	require.Equal(t, s.Token(), world.MustToken(t, a.near, world.Carol))
}

func TestDeadTokenIsReplacedByTheLinkWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	old := a.LoginDead()
	require.NoError(t, a.Svc.SetData(t.Context(), world.Alice, "k", "v"))
	a.Auth.SetTokenTTL(30 * time.Second)
	_, err := a.Svc.Login(t.Context(), world.Carol, "bob@example.com", world.Password) // has no link
	require.NoError(t, err)
	a.Auth.SetTokenTTL(15 * time.Minute)
	for _, id := range []string{world.Alice, world.Carol} { // known from now on, though dead
		_, err := a.Svc.Email(t.Context(), id)
		require.NoError(t, err)
	}
	a.Auth.Link(world.Alice, world.Email)
	a.away()

	token := world.MustToken(t, a.Svc, world.Alice)
	require.NotEqual(t, old.Token(), token)
	require.Equal(t, token, world.MustToken(t, a.Svc, world.Alice))
	s, err := a.Svc.Session(t.Context(), world.Alice)
	require.NoError(t, err)
	require.Equal(t, world.Email, s.Email)
	_, err = a.Svc.Token(t.Context(), world.Carol)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.Zero(t, a.Auth.Calls(sessiontest.Refresh), "a refresh token is not spent without the lease")
	_, err = a.Svc.Token(t.Context(), "@nobody:matrix.example")
	require.ErrorIs(t, err, session.ErrStoreUnavailable)

	a.back()
	world.Eventually(t, "it is stored", func() bool { // before anybody else asks for one
		return strings.Contains(a.server.MustDo("GET", "bot:session:"+world.Alice), token)
	})
	require.Equal(t, token, world.MustToken(t, a.near, world.Alice))
	value, found, err := session.DataAs[string](t.Context(), a.near, world.Alice, "k")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "v", value)
	got, err := a.near.Email(t.Context(), world.Alice)
	require.NoError(t, err)
	require.Equal(t, world.Email, got)
	require.Contains(t, a.server.MustDo("GET", "bot:session:"+world.Alice), `"refreshToken"`)
	world.MustToken(t, a.near, world.Carol)
}

// A logout that finds Redis away is about the session that there was, also if
// its token was replaced by another bot after it.
func TestQueuedLogoutEndsASessionThatWasRefreshedElsewhere(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	s := a.Login(a.Svc)
	world.MustToken(t, a.Svc, world.Alice)
	a.away()
	require.ErrorIs(t, a.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
	a.Auth.RotateSigningKey()
	_, err := a.near.Refresh(t.Context(), world.Alice, s.Token())
	require.NoError(t, err)
	a.queueLast()
	world.Eventually(t, "the session ends", func() bool { return !a.exists(world.Alice) })
	a.drained(func() bool { return a.exists(world.Alice) }, "it came back")
}

func TestCloseSaysHowManyWritesAreNotStored(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	svc := a.Bot(world.NewClient(t, a.proxy.Addr))
	a.away()
	for i := range 3 {
		_, err := svc.Login(t.Context(), world.UserID(i), world.Email, world.Password)
		require.NoError(t, err)
	}
	closed := make(chan error, 1)
	go func() { closed <- svc.Close() }()
	select {
	case err := <-closed:
		require.ErrorContains(t, err, "3")
		require.NotContains(t, err.Error(), world.Password)
	case <-time.After(15 * time.Second):
		t.Fatal("Close hangs")
	}
}

func TestCloseWaitsForRedisToComeBack(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	svc := a.Bot(world.NewClient(t, a.proxy.Addr))
	a.away()
	s, err := svc.Login(t.Context(), world.Alice, world.Email, world.Password)
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- svc.Close() }()
	a.back()
	require.NoError(t, <-closed)
	require.Equal(t, s.Token(), world.MustToken(t, a.near, world.Alice))
}

func TestThousandQueuedLoginsAreStoredSoon(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	const users = 1000
	a.away()
	var logins sync.WaitGroup
	const atATime = 20 // they have 10 s each, on a machine that is busy with other tests
	for worker := range atATime {
		logins.Go(func() {
			for i := worker; i < users; i += atATime {
				if _, err := a.Svc.Login(context.WithoutCancel(t.Context()), world.UserID(i), world.Email, world.Password); err != nil {
					t.Errorf("login of %s: %v", world.UserID(i), err)
				}
			}
		})
	}
	logins.Wait()
	require.False(t, t.Failed())
	a.back()
	back := time.Now()
	stored := 0
	require.Eventually(t, func() bool {
		stored = 0
		for _, err := range a.near.Users(t.Context()) {
			require.NoError(t, err)
			stored++
		}
		return stored == users
	}, time.Minute, 5*time.Millisecond)
	t.Logf("%d queued logins stored %v after Redis was back", users, time.Since(back).Round(time.Millisecond))
	for i := range users {
		require.Equal(t, world.MustToken(t, a.Svc, world.UserID(i)), world.MustToken(t, a.near, world.UserID(i)))
	}
}

// Neither what waits nor commands that hang add to the time that Close may take.
func TestCloseIsBoundedWhileRedisIsBlackholed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	client := world.NewClient(t, proxy.Addr)
	w := world.New(t, session.NewMemoryStore())
	svc, err := session.New(session.WithAuthURL(w.Auth.URL), session.WithHTTPClient(w.Auth.Client()), session.WithRedis(client))
	require.NoError(t, err)
	proxy.Blackhole()
	_, err = svc.Login(t.Context(), world.Alice, world.Email, world.Password)
	require.NoError(t, err)
	began := time.Now()
	require.ErrorIs(t, svc.Close(), session.ErrStoreUnavailable)
	require.Less(t, time.Since(began), 6*time.Second)
}
