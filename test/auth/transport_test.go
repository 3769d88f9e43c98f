package auth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
	"github.com/mana/session/sessiontest"
)

func TestClientSendsTheUsersToken(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	var got []string
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"))
	}))
	defer backend.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, backend.URL, nil)
	require.NoError(t, err)
	resp, err := w.Svc.Client(world.Alice).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, []string{"Bearer " + world.MustToken(t, w.Svc, world.Alice)}, got)
	require.Empty(t, req.Header, "the caller's request is not modified")

	_, err = w.Svc.Client(world.Bob).Do(req)
	require.ErrorIs(t, err, session.ErrNotLoggedIn)
	require.Len(t, got, 1)
}

func TestRefusedTokenIsReplacedAndTheRequestSentAgain(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	refused := world.MustToken(t, w.Svc, world.Alice)
	w.Auth.RotateSigningKey() // so that the next token is another one
	var bodies []string
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(body))
		if r.Header.Get("Authorization") == "Bearer "+refused {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer backend.Close()
	resp, err := w.Svc.Client(world.Alice).Post(backend.URL, "text/plain", strings.NewReader("hello"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, []string{"hello", "hello"}, bodies)
	require.NotEqual(t, refused, world.MustToken(t, w.Svc, world.Alice))

	// A body that cannot be sent twice is not, and the answer is passed on.
	refused = world.MustToken(t, w.Svc, world.Alice)
	bodies = nil
	resp, err = w.Svc.Client(world.Alice).Post(backend.URL, "text/plain", io.MultiReader(strings.NewReader("once")))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.Equal(t, []string{"once"}, bodies)
}

func TestBackendThatRefusesEveryTokenIsAskedTwice(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	asked := 0
	transport := w.Svc.Transport(world.Alice, world.RoundTripper(func(r *http.Request) (*http.Response, error) {
		asked++
		w.Auth.RotateSigningKey()
		return &http.Response{StatusCode: http.StatusUnauthorized, Body: http.NoBody, Request: r}, nil
	}))
	resp, err := (&http.Client{Transport: transport}).Get("http://backend.test/")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.Equal(t, 2, asked)
}

func TestTokenDoesNotFollowARedirectToAnotherHost(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	var there, here []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		there = append(there, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		here = append(here, r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/out":
			http.Redirect(rw, r, elsewhere.URL, http.StatusFound)
		case "/in":
			http.Redirect(rw, r, "/", http.StatusFound)
		}
	}))
	defer backend.Close()
	for _, path := range []string{"/out", "/in"} {
		resp, err := w.Svc.Client(world.Alice).Get(backend.URL + path)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	require.Equal(t, []string{""}, there)
	bearer := "Bearer " + world.MustToken(t, w.Svc, world.Alice)
	require.Equal(t, []string{bearer, bearer, bearer}, here)
}

func TestTransportTakesTokensAsTheyCome(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Put(world.Alice, world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(time.Hour)), world.Email, "{}"))
	transport := w.Svc.Transport(world.Alice, nil)
	require.NotNil(t, transport)
}

// refusing is a backend that answers 401 to the tokens in it, or to all.
type refusing struct {
	all     bool
	body    func() io.ReadCloser
	mu      sync.Mutex
	refuses map[string]bool
	seen    []string
}

func (b *refusing) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, token)
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}
	if b.all || b.refuses[token] {
		resp.StatusCode = http.StatusUnauthorized
		if b.body != nil {
			resp.Body = b.body()
		}
	}
	return resp, nil
}

// stuck is a body of which no byte comes.
type stuck struct {
	closed  chan struct{}
	closing sync.Once
}

func (s *stuck) Read([]byte) (int, error) { <-s.closed; return 0, errors.New("closed") }
func (s *stuck) Close() error             { s.closing.Do(func() { close(s.closed) }); return nil }

// flowing is a body that has always more.
type flowing struct{ io.Closer }

func (flowing) Read(b []byte) (int, error) { time.Sleep(time.Millisecond); return len(b), nil }

func TestEndlessBodyOfA401HoldsNothingUp(t *testing.T) {
	for name, body := range map[string]func() io.ReadCloser{
		"nothing comes":   func() io.ReadCloser { return &stuck{closed: make(chan struct{})} },
		"it does not end": func() io.ReadCloser { return flowing{io.NopCloser(nil)} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.Auth.Link(world.Alice, world.Email)
				backend := &refusing{body: body, refuses: map[string]bool{world.MustToken(t, w.Svc, world.Alice): true}}
				time.Sleep(2 * time.Second) // so that the next token is another one
				started := time.Now()
				resp, err := (&http.Client{Transport: w.Svc.Transport(world.Alice, backend)}).Get("http://a.test/")
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, http.StatusOK, resp.StatusCode)
				require.Less(t, time.Since(started), time.Second)

				// Nor if it is passed on.
				backend.all = true
				resp, err = (&http.Client{Transport: w.Svc.Transport(world.Alice, backend)}).Get("http://a.test/")
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
				require.Less(t, time.Since(started), time.Second)
			})
		})
	}
}

func TestRequestThatCannotBeSentAgainHasTheTokenReplacedForTheNext(t *testing.T) {
	for name, edit := range map[string]func(*http.Request){
		"no way to read the body again": func(r *http.Request) { r.GetBody = nil },
		"one that fails":                func(r *http.Request) { r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") } },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.Auth.Link(world.Alice, world.Email)
				refused := world.MustToken(t, w.Svc, world.Alice)
				time.Sleep(2 * time.Second)
				backend := &refusing{refuses: map[string]bool{refused: true}}
				client := &http.Client{Transport: w.Svc.Transport(world.Alice, backend)}
				for _, status := range []int{http.StatusUnauthorized, http.StatusOK} {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://a.test/", strings.NewReader("once"))
					require.NoError(t, err)
					edit(req)
					resp, err := client.Do(req)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					require.Equal(t, status, resp.StatusCode)
				}
				require.Equal(t, []string{refused, world.MustToken(t, w.Svc, world.Alice)}, backend.seen)
				require.Equal(t, 2, w.Auth.Calls(sessiontest.LinkFetch))
			})
		})
	}
}

func TestSlowReplacementDoesNotHoldBackThe401OfARequestThatCannotBeSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		refused := world.MustToken(t, w.Svc, world.Alice)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(5*time.Second))
		client := &http.Client{Transport: w.Svc.Transport(world.Alice, &refusing{refuses: map[string]bool{refused: true}})}
		started := time.Now()
		resp, err := client.Post("http://a.test/", "text/plain", io.MultiReader(strings.NewReader("once")))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
		require.LessOrEqual(t, time.Since(started), 2*time.Second)
		time.Sleep(5 * time.Second)
		require.NotEqual(t, refused, world.MustToken(t, w.Svc, world.Alice), "it went on")
	})
}

func TestBackendThatRefusesEverythingCostsFewCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		w.Auth.ResetCalls()
		backend := &refusing{all: true}
		client := &http.Client{Transport: w.Svc.Transport(world.Alice, backend)}
		get := func() {
			resp, err := client.Get("http://a.test/")
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
		}
		for range 100 {
			time.Sleep(300 * time.Millisecond)
			get()
		}
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkFetch))
		require.LessOrEqual(t, len(backend.seen), 102)

		// For as long as it goes on.
		for range 600 {
			time.Sleep(time.Second)
			get()
		}
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.LinkFetch), 3+5+2, "2 of them ahead")

		// Of nobody else.
		w.Auth.Link(world.Bob, "bob@example.com")
		refused := world.MustToken(t, w.Svc, world.Bob)
		time.Sleep(2 * time.Second)
		backend.all, backend.refuses = false, map[string]bool{refused: true}
		resp, err := (&http.Client{Transport: w.Svc.Transport(world.Bob, backend)}).Get("http://a.test/")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
	})
}

func TestAuthServerThatCannotReplaceATokenIsNotAskedByEveryRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		w.Auth.ResetCalls()
		w.Auth.Inject(sessiontest.LinkFetch, -1, sessiontest.Status(400, "not now"))
		client := &http.Client{Transport: w.Svc.Transport(world.Alice, &refusing{all: true})}
		for range 100 {
			resp, err := client.Get("http://a.test/")
			require.NoError(t, err, "the backend's answer says more")
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
		}
		require.LessOrEqual(t, w.Auth.Calls(sessiontest.Any), 3)
	})
}

func TestManyRequestsWhoseTokenWasRevokedAreAllSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		refused := world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(2 * time.Second)
		w.Auth.ResetCalls()
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(time.Second))
		backend := &refusing{refuses: map[string]bool{refused: true}}
		client := &http.Client{Transport: w.Svc.Transport(world.Alice, backend)}
		var requests sync.WaitGroup
		var ok atomic.Int32
		for i := range 100 {
			requests.Go(func() {
				time.Sleep(time.Duration(i) * 5 * time.Millisecond)
				resp, err := client.Get("http://a.test/")
				if err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK {
					ok.Add(1)
				}
			})
		}
		requests.Wait()
		require.EqualValues(t, 100, ok.Load())
		require.Equal(t, 1, w.Auth.Calls(sessiontest.LinkFetch))
	})
}

func TestRefreshReturnsTheRefusedTokenWhenItIsNotToBeReplacedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		first := world.MustToken(t, w.Svc, world.Alice)
		time.Sleep(2 * time.Second)
		second, err := w.Svc.Refresh(t.Context(), world.Alice, first)
		require.NoError(t, err)
		require.NotEqual(t, first, second)
		again, err := w.Svc.Refresh(t.Context(), world.Alice, second)
		require.NoError(t, err)
		require.Equal(t, second, again)
		again, err = w.Svc.Refresh(t.Context(), world.Alice, first)
		require.NoError(t, err)
		require.Equal(t, second, again, "that has happened already")
		time.Sleep(time.Minute)
		third, err := w.Svc.Refresh(t.Context(), world.Alice, second)
		require.NoError(t, err)
		require.NotEqual(t, second, third)
		require.Equal(t, 3, w.Auth.Calls(sessiontest.LinkFetch))

		// A token that ran out is none to be kept.
		time.Sleep(15 * time.Minute)
		fourth, err := w.Svc.Refresh(t.Context(), world.Alice, third)
		require.NoError(t, err)
		require.NotEqual(t, third, fourth)
	})
}

func TestSessionThatHasEndedIsNotTheBackendsFault(t *testing.T) {
	for name, body := range map[string]io.Reader{"sent again": strings.NewReader("x"), "not sent again": io.MultiReader(strings.NewReader("x"))} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world.New(t, session.NewMemoryStore())
				w.Login(w.Svc)
				w.Auth.RevokeRefreshTokens(world.Email)
				closed := &stuck{closed: make(chan struct{})}
				backend := &refusing{all: true, body: func() io.ReadCloser { return closed }}
				_, err := (&http.Client{Transport: w.Svc.Transport(world.Alice, backend)}).Post("http://a.test/", "text/plain", body)
				require.ErrorIs(t, err, session.ErrNotLoggedIn)
				<-closed.closed
				require.Len(t, backend.seen, 1)
			})
		})
	}
}

func TestCallerWhoGivesUpDuringTheReplacementGetsTheirContextsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world.New(t, session.NewMemoryStore())
		w.Auth.Link(world.Alice, world.Email)
		world.MustToken(t, w.Svc, world.Alice)
		w.Auth.Inject(sessiontest.LinkFetch, 1, sessiontest.Delay(5*time.Second))
		closed := &stuck{closed: make(chan struct{})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://a.test/", nil)
		require.NoError(t, err)
		_, err = w.Svc.Transport(world.Alice, &refusing{all: true, body: func() io.ReadCloser { return closed }}).RoundTrip(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		<-closed.closed
	})
}

func TestTrailersFilledWhileSendingArrive(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	refused := world.MustToken(t, w.Svc, world.Alice)
	w.Auth.RotateSigningKey()
	var got []string
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got = append(got, r.Trailer.Get("Checksum"))
		if r.Header.Get("Authorization") == "Bearer "+refused {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer backend.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, backend.URL, nil)
	require.NoError(t, err)
	req.Trailer = http.Header{"Checksum": nil}
	sends := 0
	body := func() (io.ReadCloser, error) {
		sends++
		n := sends
		return io.NopCloser(io.MultiReader(strings.NewReader("hello"), readerFunc(func([]byte) (int, error) {
			req.Trailer.Set("Checksum", fmt.Sprint(n))
			return 0, io.EOF
		}))), nil
	}
	req.GetBody = body
	req.Body, _ = body()
	req.ContentLength = -1
	resp, err := w.Svc.Client(world.Alice).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, []string{"1", "2"}, got)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestOddRequestsAndResponsesAreErrorsOrTakenAsTheyAre(t *testing.T) {
	w := world.New(t, session.NewMemoryStore())
	w.Auth.Link(world.Alice, world.Email)
	answer := func(resp *http.Response) http.RoundTripper {
		return world.RoundTripper(func(*http.Request) (*http.Response, error) { return resp, nil })
	}
	get := func() *http.Request { return httptest.NewRequest(http.MethodGet, "http://a.test/", nil) }
	noURL, noHeader, head := get(), get(), httptest.NewRequest(http.MethodHead, "http://a.test/", nil)
	noURL.URL, noHeader.Header = nil, nil
	closed := &stuck{closed: make(chan struct{})}
	noURL.Body = closed
	for name, c := range map[string]struct {
		req  *http.Request
		base http.RoundTripper
		ok   bool
	}{
		"no URL":                           {noURL, answer(&http.Response{StatusCode: 200}), false},
		"no header":                        {noHeader, answer(&http.Response{StatusCode: 200}), false},
		"no response":                      {get(), answer(nil), false},
		"no body":                          {get(), answer(&http.Response{StatusCode: 200}), true},
		"no body in a refusal":             {get(), answer(&http.Response{StatusCode: 401}), true},
		"no body, but a length":            {get(), answer(&http.Response{StatusCode: 401, ContentLength: 3}), false},
		"no body to a HEAD":                {head, answer(&http.Response{StatusCode: 401, ContentLength: 3}), true},
		"no URL in the response's request": {get(), answer(&http.Response{StatusCode: 200, Request: &http.Request{Response: &http.Response{}}}), true},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := w.Svc.Transport(world.Alice, c.base).RoundTrip(c.req)
			if !c.ok {
				require.ErrorContains(t, err, "session: ")
				return
			}
			require.NoError(t, err)
			require.NotNil(t, resp.Request)
			require.NoError(t, resp.Body.Close())
		})
	}
	<-closed.closed

	// As http.Client makes them.
	resp, err := w.Svc.Client(world.Alice).Do(&http.Request{})
	require.Error(t, err)
	require.Nil(t, resp)
}
