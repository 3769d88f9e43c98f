package sessions_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/storetest"
)

// told collects the ends that bots were told of.
type told struct {
	mu   sync.Mutex
	ends []session.SessionEnd // guarded by mu
}

func (l *told) tell(_ context.Context, end session.SessionEnd) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = append(l.ends, end)
}

func (l *told) all() []session.SessionEnd {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]session.SessionEnd(nil), l.ends...)
}

// bots are services on w's store that tell l.
func (l *told) bots(w *world.World, n int, opts ...session.Option) []*session.Service {
	var bots []*session.Service
	for range n {
		bots = append(bots, w.Service(append(opts, session.WithOnSessionEnd(l.tell))...))
	}
	return bots
}

func TestEndByTheAuthServerIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var l told
		bots := l.bots(w, 5)
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		var asked sync.WaitGroup
		for _, bot := range bots {
			asked.Go(func() {
				_, err := bot.Token(t.Context(), world.Alice)
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
			})
		}
		asked.Wait()
		synctest.Wait()
		ends := l.all()
		require.Len(t, ends, 1)
		require.Equal(t, world.Alice, ends[0].UserID)
		require.Equal(t, session.EndRefused, ends[0].Reason)
		require.WithinDuration(t, time.Now(), ends[0].At, time.Minute)
		var said *session.AuthError
		require.ErrorAs(t, ends[0].Err, &said)
		require.Equal(t, 401, said.StatusCode)
		require.ErrorIs(t, ends[0].Err, session.ErrNotLoggedIn)
		time.Sleep(15 * 24 * time.Hour)
		require.Len(t, l.all(), 1, "and not again when it would have expired")
	})
}

func TestEndOfAPausedHolderIsNotToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		var l told
		first := w.Service(session.WithOnSessionEnd(l.tell))
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		h.Inject(func(_ context.Context, call storetest.Call) error {
			time.Sleep(20 * time.Second) // longer than its lease, whatever its context says
			return call.Do(context.Background())
		}, storetest.LoggedOutAt)
		paused := world.Later(func() error { _, err := first.Token(t.Context(), world.Alice); return err })
		time.Sleep(17 * time.Second)
		w.Store = h.Another()
		second := w.Service(session.WithOnSessionEnd(l.tell))
		_, err := second.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.Error(t, <-paused)
		time.Sleep(time.Minute)
		require.Len(t, l.all(), 1)
	})
}

func TestReplacementByAnotherAccountIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var l told
		bot := l.bots(w, 2)[0]
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, bot, world.Alice)
		w.Auth.Link(world.Alice, "bob@example.com")
		time.Sleep(15 * time.Minute)
		world.MustToken(t, bot, world.Alice)
		synctest.Wait()
		require.Len(t, l.all(), 1)
		require.Equal(t, session.EndReplaced, l.all()[0].Reason)
		require.Contains(t, story(t, bot), "replaced by link")
	})
}

func TestWhatUsersDoThemselvesIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var l told
		bot := l.bots(w, 2)[0]
		w.Login(bot)
		_, err := bot.Login(t.Context(), world.Alice, "bob@example.com", world.Password)
		require.NoError(t, err)
		require.NoError(t, bot.Logout(t.Context(), world.Alice))
		time.Sleep(15 * 24 * time.Hour)
		require.Empty(t, l.all())
	})
}

func TestExpiryIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var l told
		bots := l.bots(w, 3)
		w.Login(w.Svc) // a bot that tells nothing
		time.Sleep(5 * 24 * time.Hour)
		world.MustToken(t, bots[0], world.Alice) // begins anew
		time.Sleep(7*24*time.Hour - time.Minute)
		synctest.Wait()
		require.Empty(t, l.all())
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		ends := l.all()
		require.Len(t, ends, 1)
		require.Equal(t, session.EndExpired, ends[0].Reason)
		require.NoError(t, ends[0].Err)
		require.Contains(t, story(t, w.Svc), "ended by expiry")
		require.Contains(t, trail(t, w.Svc)[0].Reason, "not used since")
		w.Login(bots[0])
		world.MustToken(t, bots[1], world.Alice)
		var sum int64
		for _, bot := range bots {
			sum += bot.Counters().EndsTold
		}
		require.EqualValues(t, 1, sum)
	})
}

func TestWhatOthersRemovedIsNoExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		w := world.New(t, store)
		var l told
		l.bots(w, 1)
		w.Login(w.Svc)
		time.Sleep(3 * 24 * time.Hour)
		require.NoError(t, store.Delete(t.Context(), session.Record{UserID: world.Alice}), "as other software does")
		w.Put(world.Bob, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), "", "{}")) // without a trail
		time.Sleep(8 * 24 * time.Hour)
		require.Empty(t, l.all())
	})
}

func TestExpiryIsToldOnceOverProcessesOnRedis(t *testing.T) {
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	var l told
	for range 3 {
		w.Store = world.NewRedisStore(t, world.NewClient(t, server.Addr))
		l.bots(w, 1, session.WithSessionTTL(time.Minute))
	}
	w.Login(w.Svc)
	server.MustDo("PEXPIRE", "bot:session:"+world.Alice, "1500")
	trailKey := "bot:session-trail:{bot:session:" + world.Alice + "}"
	began := server.MustDo("GET", trailKey)
	require.NotEmpty(t, began)
	now := time.Now()
	past := now.Add(1500 * time.Millisecond).UnixMilli()
	fields := strings.SplitN(began, " ", 5)
	server.MustDo("SET", trailKey, fields[0]+" "+fields[1]+" 1 "+strconv.FormatInt(past, 10)+" "+fields[4], "PX", "600000")
	world.Eventually(t, "the expiry is told", func() bool { return len(l.all()) > 0 })
	world.Never(t, "it is told again", func() bool { return len(l.all()) > 1 }, 500*time.Millisecond)
	require.Equal(t, session.EndExpired, l.all()[0].Reason)
}

func TestSlowListenerHoldsUpNobodyAndLosesNothingSilently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var l told
		release := make(chan struct{})
		bot := w.Service(session.WithOnSessionEnd(func(ctx context.Context, end session.SessionEnd) {
			<-release
			l.tell(ctx, end)
		}))
		const users = 1024 + 1 + 75 // in the queue, being told, too many
		token := w.Auth.MintToken(world.Email, time.Now().Add(-time.Minute))
		for i := range users {
			id := "@user" + strconv.Itoa(i) + ":matrix.example"
			w.Put(id, world.TsRecord(token, "", "{}"))
			_, err := bot.Token(t.Context(), id)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		}
		synctest.Wait()
		require.EqualValues(t, 75, bot.Counters().EndsDropped)
		require.Contains(t, w.Log.String(), "an end is not told")
		close(release)
		synctest.Wait()
		require.Len(t, l.all(), users-75)
		require.EqualValues(t, users-75, bot.Counters().EndsTold)
	})
}

func TestListenerThatPanicsOrHangsIsOnItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		calls := make(chan error, 2)
		bot := w.Service(session.WithOnSessionEnd(func(ctx context.Context, end session.SessionEnd) {
			if end.UserID == world.Bob {
				<-ctx.Done()
				calls <- ctx.Err()
				return
			}
			panic("a bug in the bot")
		}))
		token := w.Auth.MintToken(world.Email, time.Now().Add(-time.Minute))
		for _, id := range []string{world.Alice, world.Bob} {
			w.Put(id, world.TsRecord(token, "", "{}"))
			_, err := bot.Token(t.Context(), id)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		}
		time.Sleep(time.Minute)
		require.ErrorIs(t, <-calls, context.DeadlineExceeded, "after 30 s")
		require.Contains(t, w.Log.String(), "WithOnSessionEnd")
	})
}

func TestCloseTellsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var l told
		bot := l.bots(w, 1)[0]
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		_, err := bot.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.NoError(t, bot.Close())
		require.Len(t, l.all(), 1)
	})
}

func TestOnSessionEndNeedsAFunction(t *testing.T) {
	_, err := session.New(session.WithOnSessionEnd(nil))
	require.Error(t, err)
}
