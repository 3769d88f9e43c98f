package console_test

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/race"
	"github.com/mana/session/internal/redistest"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/storetest"
)

var userCell = regexp.MustCompile(`role="rowheader"><a href="([^"]*)"><bdi>([^<]*)</bdi>`)

// users are the user IDs on a page of the list.
func users(page string) (ids []string) {
	for _, m := range userCell.FindAllStringSubmatch(page, -1) {
		ids = append(ids, m[2])
	}
	return ids
}

// fill stores n sessions, of which each ends a second after the one before.
func fill(t *testing.T, w *world.World, n int) {
	t.Helper()
	token := w.Auth.MintToken(world.Email, time.Now().Add(time.Hour))
	for i := range n {
		ends := time.Now().Add(24*time.Hour + time.Duration(i)*time.Second)
		_, err := w.Store.Swap(t.Context(), session.Record{}, session.Record{
			UserID:  fmt.Sprintf("@user%06d:matrix.example", i),
			Value:   fmt.Sprintf(`{"token":%q,"email":"","expiresAt":%q,"data":{}}`, token, ends.UTC().Format(time.RFC3339)),
			Expires: ends,
		})
		require.NoError(t, err)
	}
}

// walks counts how often the store is walked over.
func walks(h *storetest.FaultStore) *atomic.Int64 {
	n := new(atomic.Int64)
	h.Inject(func(ctx context.Context, call storetest.Call) error {
		n.Add(1)
		time.Sleep(time.Millisecond) // so that it is seen to be behind the viewer
		return call.Do(ctx)
	}, storetest.All)
	return n
}

func TestUsersAreListedBySearchAndPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		fill(t, w, 120)
		c := newConsole(t, w.Svc)
		first := get(t, c, "/users")
		require.Len(t, users(first), 50)
		require.Equal(t, "@user000000:matrix.example", users(first)[0])
		shows(t, first, "120 sessions. Page 1 of 3. A full bar is 1 day.")
		shows(t, first, "<span>1 day</span>")
		shows(t, first, `<a href="users?page=2" rel="next">Next</a>`)
		showsNot(t, first, `rel="prev"`)

		last := get(t, c, "/users?page=3")
		require.Len(t, users(last), 20)
		shows(t, last, `<a href="users?page=2" rel="prev">Previous</a>`)
		showsNot(t, last, `rel="next"`)

		found := get(t, c, "/users?q=USER00011")
		require.Len(t, users(found), 10, "whatever the case")
		shows(t, found, "10 sessions with “USER00011” in the user ID")
		require.Equal(t, []string{"@user000119:matrix.example"}, users(get(t, c, "/users?q=+000119+")))
		shows(t, get(t, c, "/users?q=nobody"), "0 sessions with “nobody”")
		require.Len(t, users(get(t, c, "/users?q=user&page=3&sort=end")), 20)

		w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), "", "{}"))
		time.Sleep(31 * time.Second)
		get(t, c, "/users") // has a newer list read
		synctest.Wait()
		require.Equal(t, world.Alice, users(get(t, c, "/users?sort=end"))[0], "who ends in an hour")
	})
}

func TestOddQueriesAreAnsweredWithAPageThatThereIs(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	fill(t, w, 120)
	c := newConsole(t, w.Svc)
	for query, position := range map[string]string{
		"page=0": "Page 1 of 3", "page=-7": "Page 1 of 3", "page=": "Page 1 of 3", "page=x": "Page 1 of 3", "page=1e9": "Page 1 of 3",
		"page=4": "Page 3 of 3", "page=99999999999999999999999": "Page 3 of 3", "page=9223372036854775807": "Page 3 of 3",
		"page=-99999999999999999999999": "Page 1 of 3", "page=2&page=3": "Page 2 of 3", "%zz=1;;&&&=": "Page 1 of 3",
		"sort=backwards": "Page 1 of 3", "sort=end&page=2": "Page 2 of 3", "q=%20%20": "Page 1 of 3",
	} {
		shows(t, get(t, c, "/users?"+query), position)
	}
	page := get(t, c, "/users?q="+url.QueryEscape(`"><script>alert(1)</script>`))
	showsNot(t, page, "<script")
	page = get(t, c, "/users?q=%ff%00%e2%80%8e")
	shows(t, page, "0 sessions with “\uFFFD\\u{0}\\u{200e}”")
	page = get(t, c, "/users?q="+strings.Repeat("é", 4000))
	require.Less(t, strings.Count(page, "é"), 400)
}

func TestAWholeUserIDIsLookedUpWhetherListedOrNot(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	c := newConsole(t, w.Svc)
	shows(t, get(t, c, "/users?q="+url.QueryEscape(world.Bob)), `<a href="user?id=%40bob%3Amatrix.example"><bdi>@bob:matrix.example</bdi></a>`)
	showsNot(t, get(t, c, "/users?q=bob"), "Look up")
}

func TestTheStoreIsWalkedOnlyWhenSomebodyLooksAndNotTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		fill(t, w, 10)
		c := newConsole(t, w.Svc)
		walks := walks(h)
		get(t, c, "/")
		get(t, c, userPath(world.Alice))
		time.Sleep(time.Hour)
		require.Zero(t, walks.Load(), "nobody looked at the list")

		for range 200 {
			get(t, c, "/users?q=user")
		}
		require.EqualValues(t, 1, walks.Load())
		time.Sleep(29 * time.Second)
		shows(t, get(t, c, "/users"), "29 seconds ago")
		time.Sleep(10 * time.Millisecond)
		require.EqualValues(t, 1, walks.Load())
		time.Sleep(2 * time.Second)
		shows(t, get(t, c, "/users"), "31 seconds ago")
		time.Sleep(10 * time.Millisecond)
		require.EqualValues(t, 2, walks.Load(), "behind the viewer")
		shows(t, get(t, c, "/users"), "just now")

		time.Sleep(time.Hour)
		require.EqualValues(t, 2, walks.Load())
		shows(t, get(t, c, "/users"), "just now") // the old one is not kept for so long
		require.EqualValues(t, 3, walks.Load())
	})
}

func TestAStoreThatIsSlowHoldsUpNoViewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := storetest.NewFaultStore()
		defer h.Close()
		w := world.New(t, h)
		fill(t, w, 10)
		c := newConsole(t, w.Svc)
		h.Inject(func(ctx context.Context, call storetest.Call) error {
			select {
			case <-time.After(10 * time.Second):
				return call.Do(ctx)
			case <-ctx.Done():
				return ctx.Err()
			}
		}, storetest.All)
		began := time.Now()
		page := get(t, c, "/users")
		require.Less(t, time.Since(began), time.Second)
		shows(t, page, "The list is being read: 0 sessions so far.")
		time.Sleep(10 * time.Second)
		require.Len(t, users(get(t, c, "/users")), 10)
	})
}

func TestAStoreThatIsAwayLeavesTheOldList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := world.NewLink(t)
		w := world.New(t, link)
		fill(t, w, 10)
		c := newConsole(t, w.Svc)
		require.Len(t, users(get(t, c, "/users")), 10)
		link.Inject(storetest.Away, storetest.All)
		link.Lose()
		time.Sleep(time.Minute)
		get(t, c, "/users")
		synctest.Wait()
		page := get(t, c, "/users")
		require.Len(t, users(page), 10)
		shows(t, page, "1 minute ago")
		shows(t, page, "The list could not be read. The store did not answer, or refused")
		fresh := newConsole(t, w.Svc)
		page = get(t, fresh, "/users")
		shows(t, page, "The list could not be read.")
		shows(t, page, "A single user can be looked up all the same")
		require.Empty(t, users(page))
		link.Restore()
	})
}

func TestAStoreThatPanicsEndsNothing(t *testing.T) {
	h := storetest.NewFaultStore()
	defer h.Close()
	w := world.New(t, h)
	fill(t, w, 10)
	c := newConsole(t, w.Svc)
	remove := h.Inject(storetest.Panic, storetest.All)
	shows(t, get(t, c, "/users"), "The list could not be read.")
	remove()
	shows(t, get(t, c, userPath(world.Alice)), "There is no session")
}

func TestUsersOnARealRedisAndWithoutSCAN(t *testing.T) {
	server := redistest.Start(t)
	w := world.New(t, world.NewRedisStore(t, world.NewClient(t, server.Addr)))
	w.Login(w.Svc)
	server.MustDo("SET", "bot:session:@text:h", "no record")
	c := newConsole(t, w.Svc)
	server.MustDo("CONFIG", "RESETSTAT")
	page := get(t, c, "/users")
	require.Equal(t, []string{world.Alice}, users(page))
	shows(t, page, "<span>6 days 23 hours</span>")

	server.MustDo("ACL", "SETUSER", "bot", "on", ">secret", "~*", "&*", "+@all", "-scan")
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "bot", Password: "secret"})
	t.Cleanup(func() { client.Close() })
	c = newConsole(t, w.Bot(client))
	page = get(t, c, "/users")
	shows(t, page, "The list could not be read.")
	shows(t, page, "NOPERM")
	shows(t, get(t, c, userPath(world.Alice)), world.Email)
}

// A page of a large list costs no walk and no more than a search through memory.
func TestAHundredThousandSessions(t *testing.T) {
	n := 100_000
	if race.Enabled {
		n = 10_000
	}
	w := world.New(t, session.NewMemoryStore())
	fill(t, w, n)
	c := newConsole(t, w.Svc)
	began := time.Now()
	get(t, c, "/users")
	first := time.Since(began)
	world.Eventually(t, "the list", func() bool { return len(users(get(t, c, "/users"))) == 50 })
	for _, route := range []string{"/users", "/users?page=1000", "/users?sort=end&page=77", "/users?q=9999", "/users?q=nobody", "/users?q=user&page=1999&sort=end"} {
		took := time.Hour
		for range 5 {
			began = time.Now()
			get(t, c, route)
			took = min(took, time.Since(began))
		}
		t.Logf("%d sessions, first view %s, %s: %s", n, first, route, took)
		require.Less(t, took, 100*time.Millisecond, route)
	}
}
