package sessiontest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

func TestRequestsAreRecordedAsSent(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		c := linkCall("@a/b:matrix.example")
		c.header = http.Header{"User-Agent": {"bot"}}
		w.do(c)
		w.login(email, password)
		got := w.Requests()
		require.Len(t, got, 2)
		require.Equal(t, 2, w.Calls(sessiontest.Any))

		require.Equal(t, sessiontest.LinkFetch, got[0].Op)
		require.Equal(t, http.MethodGet, got[0].Method)
		require.Equal(t, linkPath+"%40a%2Fb%3Amatrix.example", got[0].Path)
		require.Equal(t, w.URL, "http://"+got[0].Host)
		require.Equal(t, sessiontest.DefaultServiceKey, got[0].Header.Get("X-Service-Key"))
		require.Equal(t, "bot", got[0].Header.Get("User-Agent"))
		require.Empty(t, got[0].Body)

		require.Equal(t, sessiontest.Login, got[1].Op)
		require.JSONEq(t, `{"email":"alice@example.com","password":"correct horse"}`, string(got[1].Body))
		require.Equal(t, "Go-http-client/1.1", got[1].Header.Get("User-Agent"))
		require.Equal(t, "gzip", got[1].Header.Get("Accept-Encoding"), "as http.Transport asks")

		got[1].Header.Set("User-Agent", "forged")
		clear(got[1].Body)
		require.Equal(t, "Go-http-client/1.1", w.Requests()[1].Header.Get("User-Agent"), "they are copies")
		require.Contains(t, string(w.Requests()[1].Body), password)

		w.ResetCalls()
		require.Empty(t, w.Requests())
		require.Zero(t, w.Calls(sessiontest.Any))
	})
}

func TestRequestBodyIsRecordedUpToWhatTheServerReads(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.do(call{method: http.MethodPost, path: loginPath, body: strings.Repeat(" ", 200<<10)})
		require.Len(t, w.Requests()[0].Body, 100<<10+1)
	})
}

func TestInProcessClientServesEveryHost(t *testing.T) {
	w := inProcess(t)
	require.Equal(t, "http://auth.test", w.URL)
	for _, url := range []string{"http://auth.test" + jwksPath, "https://elsewhere.test:8443" + jwksPath, "http://auth.test"} {
		resp, err := w.client.Get(url)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	got := w.Requests()
	require.Equal(t, "auth.test", got[0].Host)
	require.Equal(t, "elsewhere.test:8443", got[1].Host)
	require.Equal(t, "/", got[2].Path)
}

func TestInProcessAnswerLooksLikeOneFromTheNetwork(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		resp, err := w.client.Get(w.URL + jwksPath)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "200 OK", resp.Status)
		require.Equal(t, "HTTP/1.1", resp.Proto)
		require.EqualValues(t, len(body), resp.ContentLength)
		require.Equal(t, jwksPath, resp.Request.URL.Path)
	})
}

func TestRedirectPolicyIsTheClients(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Inject(sessiontest.Keys, 1, sessiontest.Redirect(http.StatusFound, jwksPath))
		w.client.CheckRedirect = nil
		got := w.do(call{method: http.MethodGet, path: jwksPath})
		require.Equal(t, http.StatusOK, got.status)
		require.Equal(t, 2, w.Calls(sessiontest.Keys))
	})
}

func TestHeadHasNoBody(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		got := w.do(call{method: http.MethodHead, path: jwksPath})
		require.Equal(t, http.StatusNotFound, got.status)
		require.Empty(t, got.body)
	})
}

func TestCancelledCallsEndWithTheirContext(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		w.Inject(sessiontest.Login, 1, func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			cancel()
			<-r.Context().Done() // and returns, as if it had answered
		})
		_, err := w.try(ctx, loginCall(email, password))
		require.ErrorIs(t, err, context.Canceled)
		_, err = w.try(ctx, loginCall(email, password))
		require.ErrorIs(t, err, context.Canceled, "before the call")
	})
}

func TestCauseOfAnEndedContextArrives(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		patience := errors.New("out of patience")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, patience)
		defer cancel()
		w.Inject(sessiontest.Login, 1, w.Hang())
		_, err := w.try(ctx, loginCall(email, password))
		require.ErrorIs(t, err, patience)
	})
}

func TestClientsTimeoutHolds(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.client.Timeout = 50 * time.Millisecond
		w.Inject(sessiontest.Any, 1, w.Hang())
		_, err := w.try(t.Context(), call{method: http.MethodGet, path: jwksPath})
		var timeout interface{ Timeout() bool }
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
	})
}

// brokenBody fails in the middle, and tells whether it was closed.
type brokenBody struct {
	io.Reader
	closed chan struct{}
}

func (b brokenBody) Close() error { close(b.closed); return nil }

func TestRequestWhoseBodyBreaksIsNotServed(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		body := brokenBody{io.MultiReader(strings.NewReader(`{"email"`), errReader{}), make(chan struct{})}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+loginPath, body)
		require.NoError(t, err)
		_, err = w.client.Do(req)
		require.Error(t, err)
		<-body.closed
		require.Zero(t, w.Calls(sessiontest.Any))
	})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestHandlersThatBreakAreConnectionErrors(t *testing.T) {
	w := inProcess(t)
	for name, c := range map[string]struct {
		fault   sessiontest.Fault
		message string
	}{
		"panic": {func(http.ResponseWriter, *http.Request, http.HandlerFunc) { panic("oops") }, "panic: oops"},
		"end of goroutine": {func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
			runtime.Goexit()
		}, "connection reset"},
	} {
		t.Run(name, func(t *testing.T) {
			w.Inject(sessiontest.Login, 1, c.fault)
			_, err := w.try(t.Context(), loginCall(email, password))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.ErrorContains(t, err, c.message)
		})
	}
}

func TestContentLengthIsKeptInProcess(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Inject(sessiontest.Keys, 1, func(rw http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			rw.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(rw, "123")
		})
		_, err := w.try(t.Context(), call{method: http.MethodGet, path: jwksPath})
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "less than promised")

		w.Inject(sessiontest.Keys, 1, func(rw http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			rw.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(rw, "12345")
			_, err := rw.Write([]byte("6"))
			require.ErrorIs(t, err, http.ErrContentLength)
		})
		require.Equal(t, "12345", w.do(call{method: http.MethodGet, path: jwksPath}).body)
	})
}

func TestHeaderIsFixedWithTheStatus(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.Inject(sessiontest.Keys, 1, func(rw http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			rw.WriteHeader(http.StatusAccepted)
			rw.Header().Set("X-Late", "1")
			_, _ = io.WriteString(rw, "x")
		})
		got := w.do(call{method: http.MethodGet, path: jwksPath})
		require.Equal(t, http.StatusAccepted, got.status)
		require.Empty(t, got.header.Get("X-Late"))
	})
}

func TestCloseCutsCallsInFlightAndRefusesLaterOnes(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		for name, fault := range map[string]sessiontest.Fault{
			"hang": w.Hang(), "delay": sessiontest.Delay(time.Hour), "trickle": sessiontest.Trickle(time.Hour), "endless": sessiontest.Oversize(1 << 40),
		} {
			reached := make(chan struct{})
			ended := make(chan error)
			auth, client := sessiontest.New(), w.client // a server for each fault, reached the same way
			if strings.HasPrefix(w.URL, "http://127.") {
				require.NoError(t, auth.Start())
			} else {
				client = auth.Client()
			}
			auth.Inject(sessiontest.Keys, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
				close(reached)
				fault(rw, r, answer)
			})
			one := &world{AuthServer: auth, t: t, client: client}
			go func() {
				_, err := one.try(t.Context(), call{method: http.MethodGet, path: jwksPath})
				ended <- err
			}()
			<-reached
			auth.Close()
			require.Error(t, <-ended, name)
			_, err := one.try(t.Context(), call{method: http.MethodGet, path: jwksPath, body: "x"})
			require.ErrorIs(t, err, syscall.ECONNREFUSED, name)
			auth.Close() // again does nothing
			require.Error(t, auth.Start())
		}
	})
}

func TestStartTwiceFails(t *testing.T) {
	auth := sessiontest.New()
	require.NoError(t, auth.Start())
	defer auth.Close()
	url := auth.URL
	require.Error(t, auth.Start())
	require.Equal(t, url, auth.URL)
}

func TestServerFromOutsideServesABubble(t *testing.T) {
	auth := sessiontest.New()
	auth.AddUser(email, password)
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			w := &world{AuthServer: auth, t: t, client: auth.Client()}
			w.Inject(sessiontest.Login, 1, w.Hang())
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, err := w.try(ctx, loginCall(email, password))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
	auth.Close()
}

func TestServerIsAHandler(t *testing.T) {
	w := inProcess(t)
	var out bytes.Buffer
	rw := recorder{header: http.Header{}, body: &out}
	req, err := http.NewRequest(http.MethodGet, jwksPath, nil) // without a body or an address
	require.NoError(t, err)
	w.ServeHTTP(rw, req)
	require.Contains(t, out.String(), `{"keys":[`)
}

// recorder is an http.ResponseWriter and no more: not an http.Flusher.
type recorder struct {
	header http.Header
	body   io.Writer
}

func (r recorder) Header() http.Header         { return r.header }
func (r recorder) WriteHeader(int)             {}
func (r recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
