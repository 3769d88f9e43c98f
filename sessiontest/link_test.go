package sessiontest_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

const (
	noLink     = `"No link found for this Matrix user"`
	noKey      = `"Valid service key required"`
	noDatabase = `"connect ECONNREFUSED 127.0.0.1:5432"`
)

func TestLinkFetchAnswersWithTokenAndEmail(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Link(alice, email)
		for _, path := range []string{linkPath + "%40alice%3Amatrix.example", linkPath + alice} {
			got := w.do(call{method: http.MethodGet, path: path, key: sessiontest.DefaultServiceKey})
			token := got.tokens(t).Token
			require.Equal(t, fmt.Sprintf(`{"token":%q,"email":"alice@example.com"}`, token), got.body)
			_, claims := parts(t, token, w.PublicKey())
			require.Contains(t, claims, w.alice.ID)
			require.Empty(t, got.header.Get("X-RateLimit-Limit"))
		}
	})
}

func TestLinkCallsHaveNoLimit(t *testing.T) {
	w := inProcess(t)
	w.Link(alice, email)
	for range 200 {
		require.Equal(t, http.StatusOK, w.do(linkCall(alice)).status)
	}
}

func TestLinkFetchAndCheckWithoutALink(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Link(alice, email)
		other := "@Alice:matrix.example" // IDs are case-sensitive
		w.do(linkCall(other)).refused(t, 404, noLink, linkPath+url.QueryEscape(other))
		require.Equal(t, `{"linked":false}`, w.do(checkCall(other)).body)
		require.Equal(t, `{"linked":true}`, w.do(checkCall(alice)).body)
		require.True(t, w.Linked(alice))
		w.Unlink(alice)
		require.False(t, w.Linked(alice))
		w.do(linkCall(alice)).refused(t, 404, noLink, linkPath+url.QueryEscape(alice))
		require.Equal(t, `{"linked":false}`, w.do(checkCall(alice)).body)
	})
}

func TestLinkOutlivesItsAccount(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Link(alice, email)
		owner, ok := w.LinkOwner(alice)
		require.True(t, ok)
		require.Equal(t, w.alice, owner)
		w.DeleteUser(email)
		w.do(linkCall(alice)).refused(t, 404, noLink, linkPath+url.QueryEscape(alice))
		require.Equal(t, `{"linked":true}`, w.do(checkCall(alice)).body)
		require.True(t, w.Linked(alice))
		_, ok = w.LinkOwner(alice)
		require.False(t, ok)
		again := w.AddUser(email, password)
		require.NotEqual(t, w.alice.ID, again.ID)
		require.Equal(t, http.StatusNotFound, w.do(linkCall(alice)).status, "the address has another owner now")
	})
}

func TestLinkToNobodyPanics(t *testing.T) {
	w := inProcess(t)
	require.PanicsWithValue(t, "sessiontest: Link: no account with email x@example.com", func() { w.Link(alice, "x@example.com") })
	require.False(t, w.Linked(alice), "and the server goes on")
}

func TestServiceKeyIsRequired(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Link(alice, email)
		for _, c := range []call{linkCall(alice), checkCall(alice)} {
			require.Equal(t, http.StatusOK, w.do(c).status)
			for _, key := range []string{"", "wrong"} {
				c.key = key
				w.do(c).refused(t, 401, noKey, c.path)
			}
			c.key, c.bearer = "", w.MintToken(email, time.Now().Add(time.Hour))
			w.do(c).refused(t, 401, noKey, c.path)
		}
		w.SetServiceKey("changed")
		require.Equal(t, http.StatusUnauthorized, w.do(linkCall(alice)).status)
		c := linkCall(alice)
		c.key = "changed"
		require.Equal(t, http.StatusOK, w.do(c).status)
	})
}

func TestServerWithoutAServiceKeyTakesNone(t *testing.T) {
	w := inProcess(t, sessiontest.WithServiceKey(""))
	c := linkCall(alice)
	c.key = ""
	require.Equal(t, http.StatusUnauthorized, w.do(c).status)
}

func TestRoutesThatDoNotExist(t *testing.T) {
	for name, c := range map[string]call{
		"single prefix":       {method: "GET", path: "/api/v1/auth/matrix-session/" + alice},
		"doubled slash":       {method: "POST", path: "//api/v1/auth/login"},
		"wrong method":        {method: "PUT", path: loginPath},
		"with a query":        {method: "GET", path: "/api/v2?x=%20y"},
		"empty ID":            {method: "GET", path: linkPath},
		"ID .":                {method: "GET", path: linkPath + "."},
		"ID ..":               {method: "GET", path: linkPath + ".."},
		"check of ..":         {method: "GET", path: checkPath + ".."},
		"removal of ..":       {method: "DELETE", path: linksPath + "/.."},
		"slash in the ID":     {method: "GET", path: linkPath + "@a/b:matrix.example"},
		"raw check of nobody": {method: "GET", path: checkPath},
	} {
		t.Run(name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, w *world) {
				c.key = sessiontest.DefaultServiceKey
				w.do(c).refused(t, 404, fmt.Sprintf(`"Cannot %s %s"`, c.method, c.path), c.path)
				require.Equal(t, 1, w.Calls(sessiontest.Other))
			})
		})
	}
}

func TestLinkPathMoves(t *testing.T) {
	w := inProcess(t, sessiontest.WithLinkPath("/api/v1/auth"))
	w.Link(alice, email)
	c := linkCall(alice)
	require.Equal(t, http.StatusNotFound, w.do(c).status)
	c.path = "/api/v1/auth/matrix-session/" + alice
	require.Equal(t, http.StatusOK, w.do(c).status)
	require.Equal(t, http.StatusOK, w.login(email, password).status)
}

func TestRecordedDeploymentDecodesIDsTwice(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.AddUser("bob@example.com", password)
		w.Link("@a/b:matrix.example", "bob@example.com")
		require.Contains(t, w.do(linkCall("@a/b:matrix.example")).body, "bob@example.com", "encoded once, as it should be")
		require.Contains(t, w.do(linkCall("@a%2Fb:matrix.example")).body, "bob@example.com", "another user's ID")
		require.Equal(t, `{"linked":true}`, w.do(checkCall("@a%2Fb:matrix.example")).body)
		for _, id := range []string{"@a%b:matrix.example", "@a%ff:matrix.example"} {
			for _, c := range []call{linkCall(id), checkCall(id), {method: "DELETE", path: linksPath + "/" + url.QueryEscape(id), key: sessiontest.DefaultServiceKey}} {
				w.do(c).refused(t, 500, `"URI malformed"`, c.path)
			}
		}
	})
}

func TestCorrectedDeploymentDecodesIDsOnce(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.AddUser("bob@example.com", password)
		w.Link("@a/b:matrix.example", "bob@example.com")
		w.Link("@a%2Fb:matrix.example", email)
		w.Link("@a%b:matrix.example", email)
		require.Contains(t, w.do(linkCall("@a/b:matrix.example")).body, "bob@example.com")
		require.Contains(t, w.do(linkCall("@a%2Fb:matrix.example")).body, email)
		require.Contains(t, w.do(linkCall("@a%b:matrix.example")).body, email)
	}, sessiontest.WithCorrectedLinks())
}

func createCall(token string) call {
	return call{method: http.MethodPost, path: linksPath, bearer: token, body: `{"matrixUserId":"` + alice + `","email":"` + email + `"}`}
}

func TestRecordedDeploymentMakesNoLinks(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		token := w.login(email, password).tokens(t).AccessToken
		w.do(createCall(token)).refused(t, 400, `["property matrixUserId should not exist","property email should not exist"]`, linksPath)
		require.False(t, w.Linked(alice))
		w.do(createCall("")).refused(t, 400, `["property matrixUserId should not exist","property email should not exist"]`, linksPath)
		require.Equal(t, 2, w.Calls(sessiontest.LinkCreate))
	})
}

func TestCorrectedDeploymentMakesLinks(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.AddUser("bob@example.com", password)
		token := w.login(email, password).tokens(t).AccessToken
		c := createCall(token)
		c.body = `{"matrixUserId":7,"more":1}`
		w.do(c).refused(t, 400, `["property more should not exist","matrixUserId must be a string","email must be an email"]`, linksPath)
		w.do(createCall("")).refused(t, 400, `"Authorization header required"`, linksPath)
		w.do(createCall("x")).refused(t, 401, `"Unauthorized"`, linksPath)
		w.BreakDatabase(true)
		w.do(createCall(token)).refused(t, 500, noDatabase, linksPath)
		w.BreakDatabase(false)
		require.False(t, w.Linked(alice))

		got := w.do(createCall(token))
		require.Equal(t, http.StatusCreated, got.status)
		require.Equal(t, `{"success":true,"message":"Matrix user linked"}`, got.body)
		owner, _ := w.LinkOwner(alice)
		require.Equal(t, w.alice, owner)

		bobs := w.login("bob@example.com", password).tokens(t).AccessToken
		require.Equal(t, http.StatusCreated, w.do(createCall(bobs)).status)
		owner, _ = w.LinkOwner(alice)
		require.Equal(t, "bob@example.com", owner.Email, "a link can change owner")
	}, sessiontest.WithCorrectedLinks())
}

func TestLinkIsRemovedByAnyBearerOrTheServiceKey(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.AddUser("bob@example.com", password)
		c := call{method: http.MethodDelete, path: linksPath + "/" + url.QueryEscape(alice)}
		mine, bobs := w.MintToken(email, time.Now().Add(time.Hour)), w.MintToken("bob@example.com", time.Now().Add(time.Hour))
		for _, auth := range []call{{key: sessiontest.DefaultServiceKey}, {bearer: mine}, {key: "wrong", bearer: mine}, {bearer: bobs}, {bearer: "x"}} {
			c.key, c.bearer = auth.key, auth.bearer
			w.do(c).refused(t, 404, noLink, c.path)
			w.Link(alice, email)
			got := w.do(c)
			require.Equal(t, http.StatusOK, got.status)
			require.Equal(t, `{"success":true,"message":"Link removed"}`, got.body)
			require.False(t, w.Linked(alice))
		}
		w.Link(alice, email)
		for _, key := range []string{"", "wrong"} {
			c.key, c.bearer = key, ""
			w.do(c).refused(t, 401, `"Unauthorized"`, c.path)
		}
		c.key, c.header = "", http.Header{"Authorization": {"Basic x"}}
		w.do(c).refused(t, 401, `"Unauthorized"`, c.path)
		require.True(t, w.Linked(alice))
	})
}

func TestSlashAtTheEndOfAPathIsTolerated(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Link(alice, email)
		for _, c := range []call{linkCall(alice), checkCall(alice), loginCall(email, password), {method: http.MethodGet, path: jwksPath}} {
			c.path += "/"
			require.Equal(t, http.StatusOK, w.do(c).status, c.path)
			c.path += "/"
			require.Equal(t, http.StatusNotFound, w.do(c).status, c.path)
		}
	})
}

func TestBrokenSigning(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Link(alice, email)
		before := w.login(email, password).tokens(t)
		w.BreakSigning(true)
		issued := w.login(email, password).tokens(t)
		require.Len(t, issued.AccessToken, 32)
		require.NotContains(t, issued.AccessToken, ".")
		w.do(refreshCall(before.RefreshToken)).refused(t, 500, `"Failed to generate access token"`, refreshPath)
		w.do(linkCall(alice)).refused(t, 404, noLink, linkPath+url.QueryEscape(alice))
		require.Equal(t, `{"linked":true}`, w.do(checkCall(alice)).body)
		w.BreakSigning(false)
		w.do(linkCall(alice)).tokens(t)
		w.do(refreshCall(issued.RefreshToken)).tokens(t)
		w.do(refreshCall(before.RefreshToken)).refused(t, 401, `"Invalid refresh token"`, refreshPath) // spent before the 500
	})
}

func TestBrokenDatabase(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Link(alice, email)
		issued := w.login(email, password).tokens(t)
		w.BreakDatabase(true)
		for _, c := range []call{
			loginCall(email, password), refreshCall(issued.RefreshToken), linkCall(alice), checkCall(alice),
			{method: http.MethodDelete, path: linksPath + "/" + alice, bearer: issued.AccessToken},
		} {
			w.do(c).refused(t, 500, noDatabase, c.path)
		}
		keys := w.do(call{method: http.MethodGet, path: jwksPath})
		require.Equal(t, http.StatusOK, keys.status)
		require.Equal(t, `{"keys":[]}`, keys.body)
		w.BreakDatabase(false)
		w.do(refreshCall(issued.RefreshToken)).tokens(t)
		require.True(t, w.Linked(alice))
	})
}
