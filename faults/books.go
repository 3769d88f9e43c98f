package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/mana/session/sessiontest"
)

// books say what became of each refresh token: a token is single-use, so when
// the answer that holds its successor is destroyed on its way, or the bot that
// received it is killed before it could store it, no client can save the
// session. Whether a lost session is such a case is read here, not guessed.
type books struct {
	damage *damage

	mu      sync.Mutex
	issued  map[string]*issue   // guarded by mu: by refresh token
	chains  map[string]*chain   // guarded by mu: by SID
	byEmail map[string][]string // guarded by mu: SIDs
}

// issue is a refresh token that was handed out.
type issue struct {
	sid       string
	at        int64
	bot       string // number and life of who asked
	destroyed bool   // by a fault of ours, with the answer it was in
	abandoned bool   // nobody waited any more for the answer of a server that was frozen or restarted
	spent     bool
}

// chain is the refresh tokens of one login.
type chain struct {
	started int64
	last    *issue
	refused int64 // when a token of it was first refused; 0: never
}

func newBooks(d *damage) *books {
	return &books{damage: d, issued: make(map[string]*issue), chains: make(map[string]*chain), byEmail: make(map[string][]string)}
}

// keep returns answer with an entry in the books.
func (b *books) keep(op sessiontest.Op, answer http.HandlerFunc, destroyed bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		arrived := now()
		answer(recorder, r)
		abandoned := r.Context().Err() != nil && b.damage.authDown(arrived, now())
		b.enter(op, r, recorder, destroyed, abandoned)
		maps.Copy(w.Header(), recorder.Header())
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	}
}

func (b *books) enter(op sessiontest.Op, r *http.Request, answer *httptest.ResponseRecorder, destroyed, abandoned bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.issued[r.Header.Get(spentHeader)]
	if answer.Code == http.StatusUnauthorized && old != nil {
		if c := b.chains[old.sid]; c.refused == 0 {
			c.refused = now()
		}
	}
	if answer.Code != http.StatusOK {
		return
	}
	var body struct {
		AccessToken, RefreshToken string
		User                      struct{ Email string }
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil {
		panic(fmt.Sprintf("answer of the fake: %v", err))
	}
	claims, err := readClaims(body.AccessToken)
	if err != nil {
		panic(fmt.Sprintf("token of the fake: %v", err))
	}
	i := &issue{sid: claims.SID, at: now(), bot: r.Header.Get(botHeader), destroyed: destroyed, abandoned: abandoned}
	b.issued[body.RefreshToken] = i
	if op == sessiontest.Login {
		b.chains[i.sid] = &chain{started: i.at}
		b.byEmail[body.User.Email] = append(b.byEmail[body.User.Email], i.sid)
	} else if old != nil {
		old.spent = true
	}
	b.chains[i.sid].last = i
}

// broken says why the login could not be kept up at a time, or "" if it could.
// killed is when a life of a bot ended, 0 if it did not.
func (b *books) broken(sid string, at int64, killed func(bot string) int64) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chains[sid]
	if c == nil || c.refused == 0 || c.refused > at || c.last.spent {
		return ""
	}
	switch end := killed(c.last.bot); {
	case c.last.destroyed:
		return lostAnswer
	case c.last.abandoned:
		return lostFrozen
	case end != 0 && end-c.last.at < int64(refreshLimit):
		return lostHolder
	}
	return ""
}

// wasRefused reports whether the auth server had refused a refresh token of the
// login by a time.
func (b *books) wasRefused(sid string, at int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chains[sid]
	return c != nil && c.refused != 0 && c.refused <= at
}

// granted lists the logins that an email address was granted since a time.
func (b *books) granted(emails []string, since int64) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var sids []string
	for _, email := range emails {
		for _, sid := range b.byEmail[email] {
			if b.chains[sid].started >= since {
				sids = append(sids, sid)
			}
		}
	}
	return sids
}

// describe puts the last of a login's refresh tokens into words, with times
// after the given one.
func (b *books) describe(sid string, began int64) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chains[sid]
	if c == nil {
		return ""
	}
	text := fmt.Sprintf("last refresh token issued to bot %s at %s", c.last.bot, time.Duration(c.last.at-began).Round(time.Millisecond))
	if c.last.destroyed {
		text += ", the answer destroyed"
	}
	if c.last.abandoned {
		text += ", the answer to nobody"
	}
	if c.refused != 0 {
		text += fmt.Sprintf("; one refused at %s", time.Duration(c.refused-began).Round(time.Millisecond))
	}
	return text
}
