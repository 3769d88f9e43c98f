package oauth2_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/mana/session"
	sessionoauth2 "github.com/mana/session/oauth2"
	"github.com/mana/session/sessiontest"
)

const (
	alice    = "@alice:matrix.example"
	email    = "alice@example.com"
	password = "correct horse"
)

// newService is a Service over auth in which alice is logged in.
func newService(t testing.TB, auth *sessiontest.AuthServer) *session.Service {
	t.Helper()
	auth.AddUser(email, password)
	svc, err := session.New(session.WithAuthURL(auth.URL), session.WithHTTPClient(auth.Client()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, svc.Close()) })
	_, err = svc.Login(t.Context(), alice, email, password)
	require.NoError(t, err)
	return svc
}

// backend is a transport that answers 200 to whatever has a token.
type backend struct{}

func (backend) RoundTrip(r *http.Request) (*http.Response, error) {
	status := http.StatusUnauthorized
	if r.Header.Get("Authorization") != "" {
		status = http.StatusOK
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Request: r}, nil
}

// lasting is what a source would be that told the token's own expiry.
type lasting struct {
	svc *session.Service
}

func (l lasting) Token() (*oauth2.Token, error) {
	s, err := l.svc.Session(context.Background(), alice)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: s.Token(), Expiry: s.TokenExpiresAt}, nil
}

// afterLogout uses a client of oauth2.NewClient, logs alice out, and uses it again
// every 100 ms. It returns how long she was still served.
func afterLogout(t *testing.T, svc *session.Service, source oauth2.TokenSource) (served time.Duration) {
	t.Helper()
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: backend{}})
	client := oauth2.NewClient(ctx, source)
	use := func() error {
		resp, err := client.Get("https://api.example.com/")
		if err == nil {
			require.Equal(t, http.StatusOK, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
		}
		return err
	}
	require.NoError(t, use())
	require.NoError(t, svc.Logout(t.Context(), alice))
	loggedOut := time.Now()
	for time.Since(loggedOut) < time.Hour {
		if err := use(); err != nil {
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(loggedOut)
}

func TestClientThatCachesNoticesALogoutWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := newService(t, sessiontest.New())
		require.LessOrEqual(t, afterLogout(t, svc, sessionoauth2.TokenSource(t.Context(), svc, alice)), 2*time.Second)
	})
}

// With the token's own expiry it would be minutes: the test above can fail.
func TestClientThatKnowsTheExpiryWouldNotNoticeForMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := newService(t, sessiontest.New())
		require.Greater(t, afterLogout(t, svc, lasting{svc}), 10*time.Minute)
	})
}

func TestTokensAreThoseOfTheService(t *testing.T) {
	svc := newService(t, sessiontest.New())
	want, err := svc.Token(t.Context(), alice)
	require.NoError(t, err)
	got, err := sessionoauth2.TokenSource(t.Context(), svc, alice).Token()
	require.NoError(t, err)
	require.Equal(t, want, got.AccessToken)
	require.Equal(t, "Bearer", got.Type())
	require.True(t, got.Valid())
	_, err = sessionoauth2.TokenSource(t.Context(), svc, "@bob:matrix.example").Token()
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
}

func TestSourceEndsWithItsContextAndIsBoundedWithout(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	svc := newService(t, sessiontest.New())
	source := sessionoauth2.TokenSource(ctx, svc, alice)
	cancel()
	_, err := source.Token()
	require.ErrorIs(t, err, context.Canceled)

	synctest.Test(t, func(t *testing.T) {
		svc, err := session.New(session.WithStore(hanging{session.NewMemoryStore()}))
		require.NoError(t, err)
		defer svc.Close()
		began := time.Now()
		_, err = sessionoauth2.TokenSource(context.Background(), svc, alice).Token()
		require.Error(t, err)
		require.LessOrEqual(t, time.Since(began), 15*time.Second)
	})
}

// hanging is a store that does not answer reads.
type hanging struct{ session.Store }

func (hanging) Get(ctx context.Context, _ string) (session.Record, error) {
	<-ctx.Done()
	return session.Record{}, ctx.Err()
}

func ExampleTokenSource() {
	auth := sessiontest.New()
	defer auth.Close()
	auth.AddUser(email, password)
	svc, err := session.New(session.WithAuthURL(auth.URL), session.WithHTTPClient(auth.Client()))
	if err != nil {
		panic(err)
	}
	defer svc.Close()
	ctx := context.Background()
	if _, err := svc.Login(ctx, alice, email, password); err != nil {
		panic(err)
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "with a token: ", r.Header.Get("Authorization") != "")
	}))
	defer api.Close()

	client := oauth2.NewClient(ctx, sessionoauth2.TokenSource(ctx, svc, alice))
	resp, err := client.Get(api.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: with a token: true <nil>
}
