package clients_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/examples/clients"
	"github.com/mana/session/examples/clients/calendar"
	"github.com/mana/session/examples/clients/calendar/calendarconnect"
	"github.com/mana/session/sessiontest"
)

const alice, bob = "@alice:matrix.example", "@bob:matrix.example"

// backend is a server that knows its users by their tokens, and refuses those that it
// is told to.
type backend struct {
	svc *session.Service

	mu      sync.Mutex
	refused map[string]bool // tokens; guarded by mu
	asked   int             // guarded by mu
}

// user is who is asking, or "".
func (b *backend) user(r http.Header) string {
	token := strings.TrimPrefix(r.Get("Authorization"), "Bearer ")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	if token == "" || b.refused[token] {
		return ""
	}
	for _, id := range []string{alice, bob} {
		if s, err := b.svc.Session(context.Background(), id); err == nil && s.Token() == token {
			return id
		}
	}
	return ""
}

func (b *backend) refuse(t *testing.T, id string) {
	t.Helper()
	token, err := b.svc.Token(t.Context(), id)
	require.NoError(t, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused[token] = true
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := b.user(r.Header)
	if id == "" {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`["lists of ` + id + `"]`))
}

func (b *backend) Today(_ context.Context, req *connect.Request[calendar.TodayRequest]) (*connect.Response[calendar.TodayResponse], error) {
	id := b.user(req.Header())
	if id == "" {
		return nil, connect.NewError(connect.CodeUnauthenticated, nil)
	}
	return connect.NewResponse(&calendar.TodayResponse{Appointments: []string{"day of " + id}}), nil
}

func start(t *testing.T) (*clients.Clients, *backend) {
	t.Helper()
	auth := sessiontest.New()
	t.Cleanup(auth.Close)
	for id, email := range map[string]string{alice: "alice@example.com", bob: "bob@example.com"} {
		auth.AddUser(email, "password")
		auth.Link(id, email)
	}
	svc, err := session.New(auth.Options()...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, svc.Close()) })
	b := &backend{svc: svc, refused: make(map[string]bool)}
	mux := http.NewServeMux()
	mux.Handle("/lists", b)
	mux.Handle(calendarconnect.NewCalendarHandler(b))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	require.NoError(t, err)
	c, err := clients.New(svc, server.URL, u.Host, server.URL, u.Host)
	require.NoError(t, err)
	return c, b
}

// calls are what each of the clients says to a user.
func calls(c *clients.Clients) map[string]func(ctx context.Context) (string, error) {
	return map[string]func(context.Context) (string, error){
		"oapi-codegen": func(ctx context.Context) (string, error) {
			resp, err := c.Todo.GetListsWithResponse(ctx)
			if err != nil {
				return "", err
			}
			if resp.JSON200 == nil {
				return resp.Status(), nil
			}
			return strings.TrimPrefix((*resp.JSON200)[0], "lists of "), nil
		},
		"connect": func(ctx context.Context) (string, error) {
			resp, err := c.Calendar.Today(ctx, connect.NewRequest(&calendar.TodayRequest{}))
			if err != nil {
				return "", err
			}
			return strings.TrimPrefix(resp.Msg.GetAppointments()[0], "day of "), nil
		},
	}
}

func TestOneClientServesAllUsers(t *testing.T) {
	c, _ := start(t)
	for name, call := range calls(c) {
		t.Run(name, func(t *testing.T) {
			var group sync.WaitGroup
			for range 20 {
				for _, id := range []string{alice, bob} {
					group.Go(func() {
						got, err := call(session.WithUser(t.Context(), id))
						if err != nil || got != id {
							t.Errorf("the answer for %s was for %q, error %v", id, got, err)
						}
					})
				}
			}
			group.Wait()
		})
	}
}

func TestRefusedTokenIsReplacedOnce(t *testing.T) {
	for _, name := range []string{"oapi-codegen", "connect"} {
		t.Run(name, func(t *testing.T) {
			c, b := start(t)
			b.refuse(t, alice)
			got, err := calls(c)[name](session.WithUser(t.Context(), alice))
			require.NoError(t, err)
			require.Equal(t, alice, got)
			require.Equal(t, 2, b.asked)
		})
	}
}

func TestCallsWithoutAUserFail(t *testing.T) {
	c, b := start(t)
	for name, call := range calls(c) {
		t.Run(name, func(t *testing.T) {
			_, err := call(t.Context())
			require.Error(t, err)
			require.Zero(t, b.asked)
		})
	}
}

func TestErrorsOfTheSessionComeThrough(t *testing.T) {
	c, _ := start(t)
	for name, call := range calls(c) {
		t.Run(name, func(t *testing.T) {
			_, err := call(session.WithUser(t.Context(), "@nobody:matrix.example"))
			require.ErrorIs(t, err, session.ErrNotLoggedIn)
		})
	}
}
