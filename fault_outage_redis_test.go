package session_test

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
	"github.com/mana/session/sessiontest"
)

// What is done while Redis is away, and what becomes of it when Redis is back.

// twoBots is a bot that loses Redis, w.svc, beside one that does not.
type twoBots struct {
	*world
	server *redistest.Server
	proxy  *redistest.Proxy // of w.svc
	near   *session.Service // to Redis, without a cache: what it says is stored
}

func newApart(t *testing.T) *twoBots {
	t.Helper()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	w := newWorld(t, newRedisStore(t, newClient(t, proxy.Addr)))
	return &twoBots{w, server, proxy, w.uncached(server.Addr)}
}

func (a *twoBots) away() {
	a.t.Helper()
	a.proxy.Refuse(true)
	a.proxy.Cut()
}

func (a *twoBots) back() {
	a.t.Helper()
	a.proxy.Restore()
}

// exists reports whether there is a session of the user on Redis.
func (a *twoBots) exists(userID string) bool {
	in, err := a.near.LoggedIn(a.t.Context(), userID)
	require.NoError(a.t, err)
	return in
}

// drained waits until what was queued has been written: a login that is queued
// last is there. The steps that follow must not come as a surprise, so it also
// looks whether they stay away.
func (a *twoBots) drained(surprise func() bool, what string) {
	a.t.Helper()
	eventually(a.t, "the queue is drained", func() bool { return a.exists(bob) })
	never(a.t, what, surprise, time.Second)
}

// queueLast queues the login that drained waits for, and has Redis back.
func (a *twoBots) queueLast() {
	a.t.Helper()
	_, err := a.svc.Login(a.t.Context(), bob, "bob@example.com", password)
	require.NoError(a.t, err)
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
			w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
			other := w.uncached(server.Addr)
			before := w.login(w.svc)
			require.NoError(t, w.svc.SetData(t.Context(), alice, "k", "v"))

			server.Kill()
			s := w.login(w.svc)
			require.NotEqual(t, before.Token(), s.Token())
			require.Equal(t, s.Token(), mustToken(t, w.svc, alice))
			stranger, err := w.svc.Login(t.Context(), carol, "bob@example.com", password)
			require.NoError(t, err)
			require.Equal(t, stranger.Token(), mustToken(t, w.svc, carol))
			require.ErrorIs(t, w.svc.SetData(t.Context(), carol, "k", 1), session.ErrStoreUnavailable, "data is not queued")
			_, err = other.Token(t.Context(), alice)
			require.ErrorIs(t, err, session.ErrStoreUnavailable)

			server.Start()
			eventually(t, "another bot sees it", func() bool {
				token, err := other.Token(t.Context(), alice)
				return err == nil && token == s.Token()
			})
			eventually(t, "and the other login", func() bool {
				token, err := other.Token(t.Context(), carol)
				return err == nil && token == stranger.Token()
			})
			found, err := other.Data(t.Context(), carol, "k", new(int))
			require.NoError(t, err)
			require.False(t, found, "a data write that was refused is not kept")
			found, err = other.Data(t.Context(), alice, "k", new(string))
			require.NoError(t, err)
			require.True(t, found, "data of the same account stays, also where only this process knew it")
			_, err = other.Refresh(t.Context(), alice, s.Token())
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
			w := newWorld(t, newRedisStore(t, newClient(t, server.Addr)))
			w.login(w.svc)
			w.cache()
			fault.away(server)
			require.ErrorIs(t, w.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable, "no false success")

			// From here on the bot must not hand out a token, whatever comes back.
			over := make(chan struct{})
			var asking sync.WaitGroup
			asking.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Second)
					_, err := w.svc.Token(ctx, alice)
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
			other := w.uncached(server.Addr)
			eventually(t, "it has reached Redis", func() bool {
				_, err := other.Token(t.Context(), alice)
				return errors.Is(err, session.ErrNotLoggedIn)
			})
			never(t, "the session is back", func() bool {
				in, err := other.LoggedIn(t.Context(), alice)
				return in || err != nil
			}, time.Second)
			close(over)
			asking.Wait()
			w.login(w.svc)
			require.NotEmpty(t, mustToken(t, other, alice), "a login later counts")
		})
	}
}

func TestLogoutElsewhereBeatsAnOlderQueuedLogin(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.login(a.near)
	a.away()
	a.login(a.svc)
	require.NoError(t, a.near.Logout(t.Context(), alice))
	a.queueLast()
	a.drained(func() bool { return a.exists(alice) }, "the logout was undone")
	eventually(t, "it is obeyed here, too", func() bool {
		_, err := a.svc.Token(t.Context(), alice)
		return errors.Is(err, session.ErrNotLoggedIn)
	})
}

func TestLoginElsewhereBeatsAnOlderQueuedLogout(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.login(a.svc)
	mustToken(t, a.svc, alice)
	a.away()
	require.ErrorIs(t, a.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
	s := a.login(a.near)
	a.queueLast()
	a.drained(func() bool { return !a.exists(alice) }, "the login was undone")
	eventually(t, "it counts here, too", func() bool {
		token, err := a.svc.Token(t.Context(), alice)
		return err == nil && token == s.Token()
	})
}

func TestLoginElsewhereBeatsAnOlderQueuedLogin(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.away()
	a.login(a.svc)
	s := a.login(a.near)
	a.queueLast()
	a.drained(func() bool { return mustToken(t, a.near, alice) != s.Token() }, "the newer login was overwritten")
	eventually(t, "it is served here, too", func() bool {
		token, err := a.svc.Token(t.Context(), alice)
		return err == nil && token == s.Token()
	})
}

func TestQueuedLoginBeatsAnOlderLogoutAndLogin(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.away()
	a.login(a.near)
	require.NoError(t, a.near.Logout(t.Context(), alice))
	s := a.login(a.svc)
	a.queueLast()
	eventually(t, "it is stored", func() bool {
		token, err := a.near.Token(t.Context(), alice)
		return err == nil && token == s.Token()
	})
}

// Of what one bot did itself while Redis was away, the last counts.
func TestLastOfWhatWasQueuedCounts(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	a.login(a.svc)
	mustToken(t, a.svc, alice)
	a.away()
	a.login(a.svc)
	require.ErrorIs(t, a.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
	require.ErrorIs(t, a.svc.Logout(t.Context(), carol), session.ErrStoreUnavailable)
	s, err := a.svc.Login(t.Context(), carol, email, password)
	require.NoError(t, err)
	a.queueLast()
	eventually(t, "a logout after a login", func() bool { return !a.exists(alice) })
	eventually(t, "a login after a logout", func() bool { return a.exists(carol) })
	a.drained(func() bool { return a.exists(alice) || !a.exists(carol) }, "the first of two counted")
	require.Equal(t, s.Token(), mustToken(t, a.near, carol))
}

func TestDeadTokenIsReplacedByTheLinkWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	old := a.loginDead()
	require.NoError(t, a.svc.SetData(t.Context(), alice, "k", "v"))
	a.auth.SetTokenTTL(30 * time.Second)
	_, err := a.svc.Login(t.Context(), carol, "bob@example.com", password) // has no link
	require.NoError(t, err)
	a.auth.SetTokenTTL(15 * time.Minute)
	for _, id := range []string{alice, carol} { // known from now on, though dead
		_, err := a.svc.Email(t.Context(), id)
		require.NoError(t, err)
	}
	a.auth.Link(alice, email)
	a.away()

	token := mustToken(t, a.svc, alice)
	require.NotEqual(t, old.Token(), token)
	require.Equal(t, token, mustToken(t, a.svc, alice))
	s, err := a.svc.Session(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, email, s.Email)
	_, err = a.svc.Token(t.Context(), carol)
	require.ErrorIs(t, err, session.ErrStoreUnavailable)
	require.Zero(t, a.auth.Calls(sessiontest.Refresh), "a refresh token is not spent without the lease")
	_, err = a.svc.Token(t.Context(), "@nobody:matrix.example")
	require.ErrorIs(t, err, session.ErrStoreUnavailable)

	a.back()
	eventually(t, "it is stored", func() bool { // before anybody else asks for one
		return strings.Contains(a.server.MustDo("GET", "bot:session:"+alice), token)
	})
	require.Equal(t, token, mustToken(t, a.near, alice))
	value, found, err := session.DataAs[string](t.Context(), a.near, alice, "k")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "v", value)
	got, err := a.near.Email(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, email, got)
	require.Contains(t, a.server.MustDo("GET", "bot:session:"+alice), `"refreshToken"`)
	mustToken(t, a.near, carol)
}

// A logout that finds Redis away is about the session that there was, also if
// its token was replaced by another bot after it.
func TestQueuedLogoutEndsASessionThatWasRefreshedElsewhere(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	s := a.login(a.svc)
	mustToken(t, a.svc, alice)
	a.away()
	require.ErrorIs(t, a.svc.Logout(t.Context(), alice), session.ErrStoreUnavailable)
	a.auth.RotateSigningKey()
	_, err := a.near.Refresh(t.Context(), alice, s.Token())
	require.NoError(t, err)
	a.queueLast()
	eventually(t, "the session ends", func() bool { return !a.exists(alice) })
	a.drained(func() bool { return a.exists(alice) }, "it came back")
}

func TestCloseSaysHowManyWritesAreNotStored(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	svc := a.bot(newClient(t, a.proxy.Addr))
	a.away()
	for i := range 3 {
		_, err := svc.Login(t.Context(), userID(i), email, password)
		require.NoError(t, err)
	}
	closed := make(chan error, 1)
	go func() { closed <- svc.Close() }()
	select {
	case err := <-closed:
		require.ErrorContains(t, err, "3")
		require.NotContains(t, err.Error(), password)
	case <-time.After(15 * time.Second):
		t.Fatal("Close hangs")
	}
}

func TestCloseWaitsForRedisToComeBack(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	svc := a.bot(newClient(t, a.proxy.Addr))
	a.away()
	s, err := svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- svc.Close() }()
	a.back()
	require.NoError(t, <-closed)
	require.Equal(t, s.Token(), mustToken(t, a.near, alice))
}

func TestThousandQueuedLoginsAreStoredSoon(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	const users = 1000
	a.away()
	var logins sync.WaitGroup
	for i := range users {
		logins.Go(func() {
			if _, err := a.svc.Login(context.WithoutCancel(t.Context()), userID(i), email, password); err != nil {
				t.Errorf("login of %s: %v", userID(i), err)
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
		require.Equal(t, mustToken(t, a.svc, userID(i)), mustToken(t, a.near, userID(i)))
	}
}

// Neither what waits nor commands that hang add to the time that Close may take.
func TestCloseIsBoundedWhileRedisIsBlackholed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	client := newClient(t, proxy.Addr)
	w := newWorld(t, session.NewMemoryStore())
	svc, err := session.New(session.WithAuthURL(w.auth.URL), session.WithHTTPClient(w.auth.Client()), session.WithRedis(client))
	require.NoError(t, err)
	proxy.Blackhole()
	_, err = svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	began := time.Now()
	require.ErrorIs(t, svc.Close(), session.ErrStoreUnavailable)
	require.Less(t, time.Since(began), 6*time.Second)
}
