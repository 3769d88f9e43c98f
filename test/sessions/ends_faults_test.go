package sessions_test

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

const week = 7 * 24 * time.Hour

// onFaults runs a test in a bubble, in a world on a store that fails as it wants.
func onFaults(t *testing.T, test func(t *testing.T, w *world.World, h *storetest.FaultStore, l *told)) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		test(t, world.New(t, h), h, new(told))
	})
}

// fastClock is a store to which a bot has written whose clock is fast.
type fastClock struct{ *session.MemoryStore }

func (f fastClock) Trail(ctx context.Context, userID string) ([]session.TrailEntry, error) {
	entries, err := f.MemoryStore.Trail(ctx, userID)
	for i, e := range entries {
		e.First, e.Last = e.First.Add(time.Minute), e.Last.Add(time.Minute)
		if !e.Ends.IsZero() {
			e.Ends = e.Ends.Add(time.Minute)
		}
		entries[i] = e
	}
	return entries, err
}

func TestExpiryIsToldWhateverTheClockOfTheBotThatWroteLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, fastClock{session.NewMemoryStore()})
		var l told
		l.bots(w, 2)
		w.Login(w.Svc)
		time.Sleep(week + time.Hour)
		require.Len(t, l.all(), 1)
	})
}

// A bot without trails, or of a version that had none, notes only the logout's time.
func TestLogoutThatLeftNoTrailIsNoExpiry(t *testing.T) {
	onFaults(t, func(t *testing.T, w *world.World, _ *storetest.FaultStore, l *told) {
		l.bots(w, 2)
		w.Login(w.Svc)
		time.Sleep(week - time.Hour)
		require.NoError(t, w.Service(session.WithTrail(false)).Logout(t.Context(), world.Alice))
		time.Sleep(2 * week)
		require.Empty(t, l.all())
	})
}

func TestExpiryWhileTheStoreIsAwayIsToldWhenItIsBack(t *testing.T) {
	onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, l *told) {
		l.bots(w, 2)
		w.Login(w.Svc)
		time.Sleep(week - time.Minute)
		h.Inject(storetest.Away)
		time.Sleep(10 * time.Minute)
		require.Empty(t, l.all())
		h.Clear()
		time.Sleep(5 * time.Minute)
		require.Len(t, l.all(), 1)
	})
}

func TestSessionsThatCouldNotBeListedAreListedAgainSoon(t *testing.T) {
	for name, fault := range map[string]storetest.Fault{"away": storetest.Away, "panics": storetest.Panic} {
		t.Run(name, func(t *testing.T) {
			onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, l *told) {
				w.Login(w.Svc)
				time.Sleep(week - 3*time.Hour)
				h.Inject(fault, storetest.All)
				l.bots(w, 2)
				time.Sleep(5 * time.Minute)
				h.Clear()
				time.Sleep(4 * time.Hour)
				require.Len(t, l.all(), 1)
			})
		})
	}
}

// A session that ends hours after the store is back has been listed by then, however long
// it was away.
func TestSessionsAreListedSoonAfterALongOutage(t *testing.T) {
	onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, l *told) {
		w.Login(w.Svc)
		time.Sleep(week - 15*time.Hour)
		h.Inject(storetest.Away, storetest.All)
		l.bots(w, 2)
		time.Sleep(12 * time.Hour)
		h.Clear()
		time.Sleep(4 * time.Hour)
		require.Len(t, l.all(), 1)
	})
}

// early is a store that lists records as ending a minute before it drops them, as one
// does whose clock is slower than the bot's.
type early struct{ *storetest.FaultStore }

func (s early) All(ctx context.Context) iter.Seq2[session.Record, error] {
	return func(yield func(session.Record, error) bool) {
		for rec, err := range s.FaultStore.All(ctx) {
			rec.Expires = rec.Expires.Add(-time.Minute)
			if !yield(rec, err) {
				return
			}
		}
	}
}

func TestExpiryIsToldThoughTheStoreDropsTheRecordLater(t *testing.T) {
	onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, l *told) {
		w.Login(w.Svc)
		w.Store = early{h}
		l.bots(w, 2)
		time.Sleep(week + time.Hour)
		require.Len(t, l.all(), 1)
	})
}

func TestSessionThatCleanupDropsIsTold(t *testing.T) {
	for name, cleans := range map[string]bool{"a bot that tells": true, "one that does not": false} {
		t.Run(name, func(t *testing.T) {
			onFaults(t, func(t *testing.T, w *world.World, _ *storetest.FaultStore, l *told) {
				bots := l.bots(w, 2)
				w.Put(world.Bob, "no session")
				time.Sleep(30 * time.Second) // the store sweeps by the minute
				w.Login(w.Svc)
				time.Sleep(week + 100*time.Millisecond) // nobody has looked yet
				cleaner := w.Svc
				if cleans {
					cleaner = bots[0]
				}
				dropped, err := cleaner.Cleanup(t.Context())
				require.NoError(t, err)
				require.Equal(t, 1, dropped)
				time.Sleep(time.Hour)
				require.Len(t, l.all(), 1)
				require.Equal(t, session.EndExpired, l.all()[0].Reason)
			})
		})
	}
}

func TestUserWhoLogsOutMeanwhileIsNotToldOfTheServersNo(t *testing.T) {
	onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, l *told) {
		bot := l.bots(w, 1)[0]
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		w.Store = h.Another()
		other := w.Service()
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			require.NoError(t, other.Logout(context.Background(), world.Alice))
			return call.Do(ctx)
		}, storetest.Delete)
		_, err := bot.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		time.Sleep(time.Minute)
		require.Empty(t, l.all())
	})
}

// The same in this bot, whose logout ends what the refresh was about to ask the store.
func TestUserWhoLogsOutHereMeanwhileIsNotToldOfTheServersNo(t *testing.T) {
	onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, l *told) {
		bot := l.bots(w, 1)[0]
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		loggedOut, removed := make(chan error, 1), false
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			removed = true
			return call.Do(ctx)
		}, storetest.Delete)
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			if removed {
				h.Clear()
				go func() { loggedOut <- bot.Logout(t.Context(), world.Alice) }()
				<-ctx.Done()
			}
			return call.Do(ctx)
		}, storetest.LoggedOutAt)
		_, err := bot.Token(t.Context(), world.Alice)
		require.ErrorIs(t, err, session.ErrNotLoggedIn)
		require.NoError(t, <-loggedOut)
		time.Sleep(time.Minute)
		require.Empty(t, l.all())
	})
}

// A session that ends while the Service is closed is told of before Close returns.
func TestCloseTellsWhatEndsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var l told
		bot := l.bots(w, 1)[0]
		const id = "@50%:matrix.example" // which cannot have a link
		w.Auth.SetTokenTTL(30 * time.Second)
		_, err := w.Svc.Login(t.Context(), id, world.Email, world.Password)
		require.NoError(t, err)
		w.Auth.RevokeRefreshTokens(world.Email)
		w.Auth.Inject(sessiontest.Refresh, 1, sessiontest.Delay(time.Second))
		asked := world.Later(func() error { _, err := bot.Token(t.Context(), id); return err })
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, bot.Close())
		require.Error(t, <-asked)
		require.Empty(t, w.Stored(id))
		require.Len(t, l.all(), 1)
	})
}

// After Close nobody is told: what waits is dropped, logged and counted.
func TestListenerThatHangsIsNotCalledAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		var l told
		release := make(chan struct{})
		bot, err := session.New(append(w.Auth.Options(), session.WithStore(w.Store), session.WithOnSessionEnd(func(ctx context.Context, end session.SessionEnd) {
			l.tell(ctx, end)
			<-release
		}))...)
		require.NoError(t, err)
		token := w.Auth.MintToken(world.Email, time.Now().Add(-time.Minute))
		for _, id := range []string{world.Alice, world.Bob, world.Carol} {
			w.Put(id, world.TsRecord(token, "", "{}"))
			_, err := bot.Token(t.Context(), id)
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		}
		require.Error(t, bot.Close(), "the function still runs")
		close(release)
		synctest.Wait()
		require.Len(t, l.all(), 1)
		require.EqualValues(t, 2, bot.Counters().EndsDropped)
	})
}

// What ends after Close, because a store heeds no context, is not lost silently.
func TestEndThatCloseDidNotWaitForIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		var l told
		bot, err := session.New(append(w.Auth.Options(), session.WithStore(w.Store), session.WithOnSessionEnd(l.tell))...)
		require.NoError(t, err)
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		h.Inject(func(_ context.Context, call storetest.Call) error {
			time.Sleep(20 * time.Second)
			return call.Do(context.Background())
		}, storetest.Delete)
		asked := world.Later(func() error { _, err := bot.Token(t.Context(), world.Alice); return err })
		require.Error(t, bot.Close())
		require.Error(t, <-asked)
		time.Sleep(time.Minute)
		require.Empty(t, w.Stored(world.Alice))
		require.Empty(t, l.all())
		require.EqualValues(t, 1, bot.Counters().EndsDropped)
	})
}

func TestListenerThatClosesTheServiceEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		closed := make(chan error, 1)
		var bot *session.Service
		bot = w.Service(session.WithOnSessionEnd(func(context.Context, session.SessionEnd) { closed <- bot.Close() }))
		w.LoginDead()
		w.Auth.RevokeRefreshTokens(world.Email)
		_, err := bot.Token(t.Context(), world.Alice)
		require.Error(t, err)
		time.Sleep(time.Minute)
		require.ErrorContains(t, <-closed, "WithOnSessionEnd")
	})
}

// To tell of an expiry is to end the absence that it left, which must not end what a
// linked user's next command is about to begin.
func TestTellingOfAnExpiryDoesNotDisturbWhoComesBackJustThen(t *testing.T) {
	for _, after := range []time.Duration{0, 900 * time.Millisecond, 1100 * time.Millisecond, 3 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			onFaults(t, func(t *testing.T, w *world.World, _ *storetest.FaultStore, l *told) {
				w.Auth.Link(world.Alice, world.Email)
				bots := l.bots(w, 3)
				w.Login(w.Svc)
				time.Sleep(week + after)
				w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.AnswerLate(4*time.Second))
				token, err := bots[0].Token(t.Context(), world.Alice)
				require.NoError(t, err)
				require.NotEmpty(t, token)
				time.Sleep(time.Hour)
				_, err = bots[1].Token(t.Context(), world.Alice)
				require.NoError(t, err)
				require.LessOrEqual(t, len(l.all()), 1)
			})
		})
	}
}

// What goes wrong while the end of a session is noted leaves no lease behind for which
// whoever comes back would have to wait.
func TestCleanupThatFailsHoldsUpNobodyWhoComesBack(t *testing.T) {
	for name, fault := range map[string]struct {
		method storetest.Method
		fault  storetest.Fault
	}{
		"the caller gives up":              {storetest.Delete, storetest.Hang},
		"the answer to the lease was lost": {storetest.Acquire, storetest.LoseAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, _ *told) {
				w.Auth.Link(world.Alice, world.Email)
				w.Put(world.Bob, "no session")
				time.Sleep(30 * time.Second) // the store sweeps by the minute
				w.Login(w.Svc)
				time.Sleep(week + 100*time.Millisecond)
				w.Store = h.Another()
				bot := w.Service()
				h.Inject(fault.fault, fault.method)
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := w.Svc.Cleanup(ctx)
				require.Error(t, err)
				began := time.Now()
				world.MustToken(t, bot, world.Alice)
				require.Less(t, time.Since(began), time.Second)
			})
		})
	}
}

// Whoever logs in again just then has a token that Cleanup has no business with.
func TestCleanupAsksNoVerifier(t *testing.T) {
	onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, _ *told) {
		w.Put(world.Bob, "no session")
		time.Sleep(30 * time.Second) // the store sweeps by the minute
		w.Login(w.Svc)
		time.Sleep(week + 100*time.Millisecond)
		cleaner := w.Service(session.WithTokenVerifier(func(context.Context, string) error {
			return session.ErrAuthUnavailable
		}))
		w.Store = h.Another()
		other := w.Service()
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			w.Login(other)
			return call.Do(ctx)
		}, storetest.Acquire)
		dropped, err := cleaner.Cleanup(t.Context())
		require.NoError(t, err)
		require.Zero(t, dropped)
		require.NotEmpty(t, w.Stored(world.Alice))
	})
}

// A conflict need not mean that another bot has told: see MemoryStore.
func TestExpiryIsToldAfterAConflictThatWasNone(t *testing.T) {
	onFaults(t, func(t *testing.T, w *world.World, h *storetest.FaultStore, l *told) {
		bot := l.bots(w, 1)[0]
		w.Login(w.Svc)
		conflicts := 0
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			if conflicts++; conflicts == 1 {
				return session.ErrConflict
			}
			return call.Do(ctx)
		}, storetest.Delete)
		time.Sleep(week + time.Hour)
		require.Len(t, l.all(), 1)
		require.Equal(t, 2, conflicts)
		require.EqualValues(t, 1, bot.Counters().EndsTold)
	})
}

// A user whose last token came by the link is logged in by the next command: a bot need
// not ask them to. A bot without the link has to.
func TestExpirySaysWhetherTheLinkLogsTheUserInAgain(t *testing.T) {
	for name, linked := range map[string]bool{"a bot with the link": true, "a bot without": false} {
		t.Run(name, func(t *testing.T) {
			onFaults(t, func(t *testing.T, w *world.World, _ *storetest.FaultStore, l *told) {
				l.bots(w, 2, session.WithSSOLink(linked))
				w.Login(w.Svc)
				w.Auth.Link(world.Alice, world.Email)
				time.Sleep(time.Hour)
				world.MustToken(t, w.Svc, world.Alice)
				time.Sleep(4 * 24 * time.Hour)
				require.Contains(t, story(t, w.Svc), "refreshed by link")
				time.Sleep(week)
				require.Empty(t, w.Stored(world.Alice))
				require.Len(t, l.all(), 1)
				require.Equal(t, session.EndExpired, l.all()[0].Reason)
				require.Equal(t, linked, l.all()[0].Linked)
				if linked {
					world.MustToken(t, w.Svc, world.Alice)
				}
			})
		})
	}
}
