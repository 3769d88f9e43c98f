package failover_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

// The tests of failovers do not run beside others: nodes and Sentinels that wait
// for a processor hold each other for dead.

// What a failover may cost. Redis replicates asynchronously: a write that a
// master has acknowledged is lost with it if it had not reached the replica, and
// a bot can neither know nor help it. So users are of two kinds here. Those of
// the calm kind were written, and their records replicated, before the failover:
// they must keep everything, and be served all along. Those of the busy kind are
// written all the time. Acknowledged writes of theirs that are gone are counted,
// and have to have been made around the failover; the users, who have a link,
// must stay logged in.

// failoverLimit bounds what the bots may take once Redis has a new master. What
// they take is logged. go-redis alone takes up to a minute on a Cluster.
const failoverLimit = 30 * time.Second

// member is a user of the bots.
type member struct {
	id, email, subject string
	affected           bool // the record is on the master that fails
	calm               bool
	linked             bool
	token              string // of a calm user, which stays the same

	mu    sync.Mutex
	acked []time.Time // guarded by mu: when a busy user's write, to the key of its number, was acknowledged
}

// crowd is several bots with many users.
type crowd struct {
	t       *testing.T
	w       *world.World
	connect func() redis.UniversalClient
	bots    []*session.Service
	probe   *session.Service // without a near cache: what Redis can do
	members []*member

	served, written, refused atomic.Int64
	mu                       sync.Mutex
	newcomers                map[*member]time.Time // guarded by mu: logged in under load, and when
}

func newCrowd(t *testing.T, connect func() redis.UniversalClient, affected func(userID string) bool) *crowd {
	t.Helper()
	c := &crowd{t: t, connect: connect, newcomers: make(map[*member]time.Time)}
	c.w = world.New(t, world.NewRedisStore(t, connect()))
	c.bots = []*session.Service{c.w.Svc, c.w.Bot(connect()), c.w.Bot(connect())}
	c.probe = c.w.Bot(connect(), session.WithNearCache(0))
	for i := range 90 {
		m := c.member(world.UserID(i))
		m.affected = affected(m.id)
		m.calm, m.linked = i%3 != 2, i%3 != 0
		if m.linked {
			c.w.Auth.Link(m.id, m.email)
			world.MustToken(t, c.bots[i%len(c.bots)], m.id)
		} else {
			_, err := c.bots[i%len(c.bots)].Login(t.Context(), m.id, m.email, world.Password)
			require.NoError(t, err)
		}
		require.NoError(t, c.probe.SetData(t.Context(), m.id, "number", i))
		m.token = world.MustToken(t, c.probe, m.id)
		c.members = append(c.members, m)
	}
	for _, bot := range c.bots { // which all know all of them from now on
		for _, m := range c.members {
			require.Equal(t, m.token, world.MustToken(t, bot, m.id))
		}
	}
	return c
}

func (c *crowd) member(id string) *member {
	mail := strings.Trim(strings.ReplaceAll(id, ":", "."), "@") + "@example.com"
	return &member{id: id, email: mail, subject: c.w.Auth.AddUser(mail, world.Password).ID}
}

// some are the members that are as told.
func (c *crowd) some(is func(*member) bool) []*member {
	var some []*member
	for _, m := range c.members {
		if is(m) {
			some = append(some, m)
		}
	}
	return some
}

// subject is the account that a token belongs to.
func subject(token string) string {
	var claims struct{ Sub string }
	if parts := strings.Split(token, "."); len(parts) == 3 {
		payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
		_ = json.Unmarshal(payload, &claims)
	}
	return claims.Sub
}

// check judges what a call for a user returned: a token must be the user's, and
// an error is tolerated only of the store, for a busy user of the master that
// fails.
func (c *crowd) check(what string, m *member, token string, err error) {
	switch {
	case err == nil && subject(token) != m.subject:
		c.t.Errorf("%s of %s: a token of somebody else", what, m.id)
	case err == nil && m.calm && token != m.token:
		c.t.Errorf("%s of %s: not the token they had", what, m.id)
	case err == nil:
		c.served.Add(1)
	case m.calm || !m.affected || !errors.Is(err, session.ErrStoreUnavailable):
		c.t.Errorf("%s of %s (calm: %v, on the master that failed: %v): %v", what, m.id, m.calm, m.affected, err)
	default:
		c.refused.Add(1)
	}
}

// load makes all bots busy until stop is called.
func (c *crowd) load() (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	var running sync.WaitGroup
	every := func(pace time.Duration, do func()) {
		running.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					do()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	ctx2 := context.WithoutCancel(ctx) // calls are not cut short
	busy := c.some(func(m *member) bool { return !m.calm })
	for b, bot := range c.bots {
		for range 3 {
			every(5*time.Millisecond, func() {
				m := c.members[rand.IntN(len(c.members))]
				token, err := bot.Token(ctx2, m.id)
				c.check("token", m, token, err)
			})
		}
		for lane := range 3 {
			every(20*time.Millisecond, func() {
				m := busy[rand.IntN(len(busy)/9)*9+b*3+lane]
				switch rand.IntN(10) {
				case 0:
					s, err := bot.Login(ctx2, m.id, m.email, world.Password)
					if err == nil {
						c.check("login", m, s.Token(), nil)
					} else {
						c.check("login", m, "", err)
					}
				case 1, 2, 3:
					current, err := bot.Token(ctx2, m.id)
					if err == nil {
						current, err = bot.Refresh(ctx2, m.id, current)
					}
					c.check("refresh", m, current, err)
				default:
					m.mu.Lock()
					n := len(m.acked)
					m.mu.Unlock()
					err := bot.SetData(ctx2, m.id, strconv.Itoa(n), n)
					if err != nil {
						c.check("data", m, "", err)
						break
					}
					c.written.Add(1)
					m.mu.Lock()
					m.acked = append(m.acked, time.Now())
					m.mu.Unlock()
				}
			})
		}
		var newcomers int
		every(50*time.Millisecond, func() {
			newcomers++
			m := c.member(fmt.Sprintf("@newcomer%d-%d:matrix.example", b, newcomers))
			if _, err := bot.Login(ctx2, m.id, m.email, world.Password); err == nil {
				c.mu.Lock()
				c.newcomers[m] = time.Now()
				c.mu.Unlock()
			} else if !errors.Is(err, session.ErrStoreUnavailable) {
				c.t.Errorf("login of %s: %v", m.id, err)
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// survive puts the bots under load, lets fail make a master fail, and checks what
// is left. It logs how long the failover kept users waiting.
func (c *crowd) survive(fail func()) {
	t := c.t
	t.Helper()
	stop := c.load()
	stopped := false
	defer func() {
		if !stopped {
			stop()
		}
	}()
	world.Eventually(t, "load", func() bool { return c.written.Load() > 300 && c.served.Load() > 1000 })

	began := time.Now()
	fail()
	limit := time.Now().Add(failoverLimit)
	hit := c.some(func(m *member) bool { return m.affected })
	var lasted [4]time.Duration
	lasted[0], lasted[1] = c.until(began, limit, hit, func(m *member) error {
		token, err := c.probe.Token(t.Context(), m.id)
		c.checkProbe(m, token, err)
		return err
	})
	lasted[2], lasted[3] = c.until(began, limit, c.some(func(m *member) bool { return m.affected && !m.calm }), func(m *member) error {
		return c.probe.SetData(t.Context(), m.id, "probe", 1)
	})
	for _, bot := range c.bots {
		require.Eventually(t, func() bool {
			before, _ := bot.Stats(t.Context())
			for _, m := range hit[:min(10, len(hit))] {
				_, _ = bot.Token(t.Context(), m.id)
			}
			after, err := bot.Stats(t.Context())
			return err == nil && after.Hits > before.Hits
		}, failoverLimit, 10*time.Millisecond, "the near cache is believed again")
	}
	over := time.Now()
	t.Logf("from the failure to the first read %v, to reads of all %d users of the master %v, to the first write %v, to writes of all %v, near caches believed again %v",
		lasted[0].Round(time.Millisecond), len(hit), lasted[1].Round(time.Millisecond), lasted[2].Round(time.Millisecond),
		lasted[3].Round(time.Millisecond), over.Sub(began).Round(time.Millisecond))
	world.Eventually(t, "load after the failover", func() func() bool {
		written := c.written.Load()
		return func() bool { return c.written.Load() > written+100 }
	}())
	stop()
	stopped = true
	c.verify(began, over)
}

func (c *crowd) checkProbe(m *member, token string, err error) {
	if err == nil && subject(token) != m.subject {
		c.t.Errorf("token of %s is of somebody else", m.id)
	}
	if err != nil && !errors.Is(err, session.ErrStoreUnavailable) {
		c.t.Errorf("token of %s from the store: %v", m.id, err)
	}
}

// until repeats a call for each of the users until it has succeeded for all, and
// returns when it first did for one and for the last.
func (c *crowd) until(began, limit time.Time, users []*member, call func(*member) error) (first, last time.Duration) {
	c.t.Helper()
	require.NotEmpty(c.t, users)
	for waiting := users; len(waiting) > 0; {
		require.True(c.t, time.Now().Before(limit), "%d users still wait %v after the failure", len(waiting), time.Since(began))
		var mu sync.Mutex
		var still []*member
		var calls sync.WaitGroup
		for _, m := range waiting {
			calls.Go(func() {
				err := call(m)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					still = append(still, m)
				case first == 0:
					first = time.Since(began)
				}
			})
		}
		calls.Wait()
		waiting = still
	}
	return first, time.Since(began)
}

// verify checks what the failover left behind.
func (c *crowd) verify(began, over time.Time) {
	t, ctx := c.t, c.t.Context()
	t.Helper()
	around := func(acked time.Time) bool { // in time to be lost with the master
		return acked.After(began.Add(-time.Second)) && acked.Before(over)
	}
	logins := c.w.Auth.Calls(sessiontest.Login)
	bots := append([]*session.Service{c.w.Bot(c.connect())}, c.bots...) // the first is new
	lostWrites, allWrites := 0, 0
	for i, m := range c.members {
		for _, bot := range bots {
			token := world.MustToken(t, bot, m.id)
			require.Equal(t, m.subject, subject(token))
			if m.calm {
				require.Equal(t, m.token, token)
			}
		}
		number, found, err := session.DataAs[int](ctx, bots[0], m.id, "number")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, i, number)
		if m.calm {
			continue
		}
		allWrites += len(m.acked)
		for n, acked := range m.acked {
			_, found, err := session.DataAs[int](ctx, bots[0], m.id, strconv.Itoa(n))
			require.NoError(t, err)
			if !found {
				lostWrites++
				require.True(t, m.affected && around(acked), "write %d of %s was acknowledged %v after the failure and is lost", n, m.id, acked.Sub(began))
			}
		}
	}
	for _, m := range c.some(func(m *member) bool { return !m.linked }) { // their refresh tokens are good
		token, err := c.probe.Refresh(ctx, m.id, m.token)
		require.NoError(t, err)
		require.Equal(t, m.subject, subject(token))
	}
	lostLogins := 0
	for m, acked := range c.newcomers {
		token, err := bots[0].Token(ctx, m.id)
		if errors.Is(err, session.ErrNotLoggedIn) {
			lostLogins++
			require.True(t, around(acked), "%s logged in %v after the failure and is not any more", m.id, acked.Sub(began))
			continue
		}
		require.NoError(t, err)
		require.Equal(t, m.subject, subject(token))
	}
	require.Equal(t, logins, c.w.Auth.Calls(sessiontest.Login), "nobody logged in anew")
	for _, bot := range bots {
		stats, err := bot.Stats(ctx)
		require.NoError(t, err)
		require.Zero(t, stats.SessionsEnded)
	}
	t.Logf("%d tokens served, %d calls for busy users of the master refused; acknowledged but not replicated: %d of %d data writes, %d of %d logins of newcomers",
		c.served.Load(), c.refused.Load(), lostWrites, allWrites, lostLogins, len(c.newcomers))
}

// replicated waits until a replica has all that its master has acknowledged.
func replicated(t *testing.T, master, replica *redistest.Server) {
	t.Helper()
	offset := func(info, field string) int {
		_, rest, _ := strings.Cut(info, field+":")
		n, _ := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
		return n
	}
	want := offset(master.MustDo("INFO", "replication"), "master_repl_offset")
	require.NotZero(t, want)
	replica.Await("INFO replication", func(info string, _ error) bool { return offset(info, "slave_repl_offset") >= want })
}

func TestClusterMasterKilledUnderLoad(t *testing.T) {
	const masters = 3
	// By default the other masters stop serving, too, while one has no successor.
	cluster := redistest.StartCluster(t, masters, 1, redistest.WithConfig("cluster-require-full-coverage", "no"))
	victim := cluster.Nodes[0]
	c := newCrowd(t, func() redis.UniversalClient {
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
		t.Cleanup(func() { client.Close() })
		return client
	}, func(id string) bool { return cluster.Owner("bot:session:"+id) == victim })
	for i, master := range cluster.Nodes[:masters] {
		replicated(t, master, cluster.Nodes[masters+i])
	}
	c.survive(func() {
		key := "bot:session:" + c.some(func(m *member) bool { return m.affected })[0].id
		began := time.Now()
		victim.Kill()
		require.Eventually(t, func() bool {
			owner := cluster.Owner(key)
			return owner != nil && owner != victim
		}, time.Minute, 10*time.Millisecond)
		t.Logf("replaced after %v", time.Since(began).Round(time.Millisecond))
	})
}

// sentinelCrowd is a crowd on a master that Sentinels watch.
func sentinelCrowd(t *testing.T) (*crowd, *redistest.Sentinel) {
	t.Helper()
	d := redistest.StartSentinel(t)
	c := newCrowd(t, func() redis.UniversalClient {
		client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: d.MasterName, SentinelAddrs: d.Addrs()})
		t.Cleanup(func() { client.Close() })
		return client
	}, func(string) bool { return true })
	replicated(t, d.Master, d.Replica)
	return c, d
}

func TestSentinelMasterKilledUnderLoad(t *testing.T) {
	c, d := sentinelCrowd(t)
	c.survive(func() {
		began := time.Now()
		d.Master.Kill()
		require.Eventually(t, func() bool {
			role, err := d.Replica.Do("ROLE")
			return err == nil && strings.HasPrefix(role, "master")
		}, time.Minute, 10*time.Millisecond)
		t.Logf("replaced after %v", time.Since(began).Round(time.Millisecond))
	})
}

// The old master goes on answering: first as a master, then as a replica.
func TestSentinelFailoverOnRequestUnderLoad(t *testing.T) {
	c, d := sentinelCrowd(t)
	c.survive(func() {
		began := time.Now()
		d.Sentinels[0].MustDo("SENTINEL", "FAILOVER", d.MasterName)
		d.Replica.Await("ROLE", func(role string, _ error) bool { return strings.HasPrefix(role, "master") })
		t.Logf("promoted after %v", time.Since(began).Round(time.Millisecond))
		// On a machine that is short of time they may change back once more.
		roles := func() [2]string {
			old, _ := d.Master.Do("ROLE") // which resets connections when its role changes
			promoted, _ := d.Replica.Do("ROLE")
			return [2]string{strings.SplitN(old, "\n", 2)[0], strings.SplitN(promoted, "\n", 2)[0]}
		}
		require.Eventually(t, func() bool {
			r := roles()
			return r == [2]string{"slave", "master"} || r == [2]string{"master", "slave"}
		}, time.Minute, 10*time.Millisecond)
		t.Logf("roles %q after %v", roles(), time.Since(began).Round(time.Millisecond))
	})
}
