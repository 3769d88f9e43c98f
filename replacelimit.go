package session

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/mana/session/internal/bounded"
	"golang.org/x/time/rate"
)

// A backend that answers 401 to everything must not use up the calls that the
// auth server allows to all users together (100 a minute). So a token that was
// made on demand is not replaced on demand within replacedFor, and one user has
// replaceBurst replacements and then one every replaceEvery.
const (
	replacedFor  = time.Minute
	replaceBurst = 3
	replaceEvery = 2 * time.Minute
)

// replaceLimit bounds how many tokens are replaced because a backend refused
// them, per user and in this process.
type replaceLimit struct {
	users *bounded.Map[*replaceState]
	seed  maphash.Seed // tokens are compared by hash, so that none is kept
}

type replaceState struct {
	mu       sync.Mutex // guards what follows
	limiter  *rate.Limiter
	round    int    // of replacements, counted from 1
	replaces uint64 // the token that is being replaced in this round, or 0
	made     uint64 // the token that the last replacement brought
	madeAt   time.Time
}

func newReplaceLimit(users int) *replaceLimit {
	return &replaceLimit{bounded.New[*replaceState](users), maphash.MakeSeed()}
}

// begin reports whether the refused token may be replaced now. If so, done is to
// be called with the token that came of it, or "" if none did. Callers who come
// while the same token is being replaced share in it.
func (l *replaceLimit) begin(userID, refused string, now time.Time) (done func(made string), ok bool) {
	user := l.users.LoadOrMake(userID, func() *replaceState {
		return &replaceState{limiter: rate.NewLimiter(rate.Every(replaceEvery), replaceBurst)}
	})
	user.mu.Lock()
	defer user.mu.Unlock()
	token := l.hash(refused)
	if user.replaces != token {
		if user.made == token && now.Sub(user.madeAt) < replacedFor || !user.limiter.AllowN(now, 1) {
			return nil, false
		}
		user.round++
		user.replaces = token
	}
	round := user.round
	return func(made string) {
		user.mu.Lock()
		defer user.mu.Unlock()
		if user.round != round {
			return
		}
		user.replaces = 0
		if made != "" {
			user.made, user.madeAt = l.hash(made), time.Now()
		}
	}, true
}

func (l *replaceLimit) hash(token string) uint64 { return max(1, maphash.String(l.seed, token)) }
