package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/mana/session/sessiontest"
)

// testDesk is an auth server that keeps books, and a client of it.
type testDesk struct {
	*authDesk
	t *testing.T
}

func newTestDesk(t *testing.T) testDesk {
	server := sessiontest.New(sessiontest.WithLoginLimit(0))
	t.Cleanup(server.Close)
	server.AddUser("a@example.com", password)
	return testDesk{newAuthDesk(server, newDamage(), rand.New(rand.NewPCG(1, 1))), t}
}

// post returns the refresh token of the answer, and its SID.
func (d testDesk) post(ctx context.Context, path string, body map[string]string) (refreshToken, sid string, err error) {
	b, _ := json.Marshal(body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.server.URL+"/api/v1/auth/"+path, bytes.NewReader(b))
	if err != nil {
		return "", "", err
	}
	client := http.Client{Transport: signed{d.server.Client().Transport, botConfig{Number: 3, Life: 7}}}
	resp, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	var answer struct{ AccessToken, RefreshToken string }
	if b, err = io.ReadAll(resp.Body); err == nil {
		_ = json.Unmarshal(b, &answer)
		c, _ := readClaims(answer.AccessToken)
		sid = c.SID
	}
	return answer.RefreshToken, sid, err
}

func TestBooksTellWhyALoginCouldNotBeKeptUp(t *testing.T) {
	refresh := func(d testDesk, ctx context.Context, token string) {
		_, _, _ = d.post(ctx, "refresh", map[string]string{"refreshToken": token})
	}
	short := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(context.Background(), 30*time.Millisecond)
	}
	done := make(chan struct{})
	late := authFault{name: "late", share: 1, fault: always(func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		defer close(done)
		<-r.Context().Done() // the caller is gone
		answer(w, r)
	})}
	for name, c := range map[string]struct {
		lose   func(testDesk, string)
		killed bool // the bot, soon after it had the answer
		want   string
	}{
		"kept": {func(testDesk, string) {}, false, ""},
		"frozen while somebody waited": {func(d testDesk, token string) {
			ctx, cancel := short()
			defer cancel()
			stop := make(chan struct{})
			time.AfterFunc(100*time.Millisecond, func() { close(stop) })
			go refresh(d, ctx, token)
			d.freeze(stop, time.Hour)
		}, false, lostFrozen},
		"frozen, and answered to somebody who waited": {func(d testDesk, token string) {
			stop := make(chan struct{})
			time.AfterFunc(20*time.Millisecond, func() { close(stop) })
			answered := make(chan struct{})
			go func() { defer close(answered); refresh(d, context.Background(), token) }()
			d.freeze(stop, time.Hour)
			<-answered
		}, false, ""},
		"given up though all was well": {func(d testDesk, token string) {
			ctx, cancel := short()
			defer cancel()
			d.put(deskOps, &late)
			refresh(d, ctx, token)
			<-done
			d.put(deskOps, nil)
		}, false, ""},
		"bot killed with the answer": {func(d testDesk, token string) { refresh(d, context.Background(), token) }, true, lostHolder},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTestDesk(t)
			token, sid, err := d.post(t.Context(), "login", map[string]string{"email": "a@example.com", "password": password})
			if err != nil {
				t.Fatal(err)
			}
			if c.lose(d, token); name != "kept" {
				refresh(d, t.Context(), token) // refused
			}
			killed := func(bot string) int64 {
				if bot != "3.7" {
					t.Errorf("bot %s", bot)
				}
				if c.killed {
					return now()
				}
				return 0
			}
			if got := d.books.broken(sid, now(), killed); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := d.books.wasRefused(sid, now()); got != (name != "kept") {
				t.Errorf("refused: %t", got)
			}
		})
	}
}
