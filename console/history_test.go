package console_test

import (
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/console"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

var (
	desc   = regexp.MustCompile(`<desc id="([\w-]+)-text">([^<]*)</desc>`)
	valued = regexp.MustCompile(`<rect class="value" x="(\d+)" y="(\d+)"`)
)

// says is the text of each chart.
func says(page string) map[string]string {
	texts := make(map[string]string)
	for _, m := range desc.FindAllStringSubmatch(page, -1) {
		texts[m[1]] = m[2]
	}
	return texts
}

func TestChartsShowTheLastHourByMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		c := newConsole(t, w.Svc)
		require.Equal(t, "0 in all, at most 0 in a minute, 0 in this minute.", says(get(t, c, "/"))["refreshes"])
		for i := range 3 {
			w.Auth.Link(world.UserID(i), world.Email)
			world.MustToken(t, w.Svc, world.UserID(i))
		}
		require.Equal(t, "3 in all, at most 3 in a minute, 3 in this minute.", says(get(t, c, "/"))["refreshes"], "at once")

		time.Sleep(10 * time.Minute)
		w.Auth.Inject(sessiontest.LinkFetch, -1, sessiontest.Status(401, "Valid service key required"))
		for i := range 2 {
			_, err := w.Svc.Token(t.Context(), world.UserID(100+i))
			require.ErrorIs(t, err, session.ErrServiceKeyRejected)
		}
		time.Sleep(time.Minute)
		page := get(t, c, "/")
		require.Equal(t, "3 in all, at most 3 in a minute, 0 in this minute.", says(page)["refreshes"])
		require.Equal(t, "2 in all, at most 2 in a minute, 0 in this minute.", says(page)["failures"])
		bars := valued.FindAllStringSubmatch(page, -1)
		require.Equal(t, [][]string{{bars[0][0], "240", "0"}, {bars[1][0], "290", "0"}}, bars, "11 minutes and a minute ago, both as high as can be")
		shows(t, page, "measured for 11 minutes")
		require.Equal(t, 12, strings.Count(page, `<tr><th scope="row"><time`))

		time.Sleep(50 * time.Minute)
		page = get(t, c, "/")
		require.Contains(t, says(page)["refreshes"], "0 in all", "that was more than an hour ago")
		require.Contains(t, says(page)["failures"], "2 in all")
		time.Sleep(5 * time.Hour)
		page = get(t, c, "/")
		require.Contains(t, says(page)["failures"], "0 in all")
		shows(t, page, "measured for 59 minutes")
		require.Equal(t, 60, strings.Count(page, `<tr><th scope="row"><time`))
	})
}

// A bubble whose goroutines go on when its test has ended is a failure.
func TestCloseStopsWhatRunsInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		c, err := console.New(w.Svc, as)
		require.NoError(t, err)
		get(t, c, "/")
		get(t, c, "/users")
		require.NoError(t, c.Close())
	})
}

func TestTheOverviewTellsWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := world.NewLink(t)
		w := world.New(t, link)
		w.Login(w.Svc)
		c := newConsole(t, w.Svc)
		synctest.Wait() // the change feed is heard
		page := get(t, c, "/")
		shows(t, page, "All is well.")
		shows(t, page, "No login, logout or refresh waits for the store")
		shows(t, page, `<th scope="row">Logins</th><td class="number">1</td>`)

		link.Lose()
		time.Sleep(5 * time.Second)
		require.ErrorIs(t, w.Svc.Logout(t.Context(), world.Alice), session.ErrStoreUnavailable)
		w.Auth.Stop()
		for i := range 5 {
			w.Auth.Link(world.UserID(i), world.Email)
			_, err := w.Svc.Login(t.Context(), world.UserID(i), world.Email, world.Password)
			require.ErrorIs(t, err, session.ErrAuthUnavailable)
		}
		page = get(t, c, "/")
		shows(t, page, "Degraded: see store, auth server, change feed, queue. No session ends over it.")
		shows(t, page, "1 write waiting")
		shows(t, page, "connection lost")
		require.Regexp(t, "Circuit breaker: open", page)
		link.Restore()
		time.Sleep(10 * time.Second)
	})
}
