package session

import (
	"math/rand/v2"
	"time"

	"github.com/mana/session/internal/nearcache"
)

// nearCache holds the sessions that this process knows: see the package nearcache
// for when they are believed.
type nearCache struct {
	*nearcache.Cache[known]
	ahead time.Duration // the refresh-ahead window
	ttl   time.Duration // of a session
}

// known is a session, with what the hot path returns beside it.
type known struct {
	raw   string // the token
	login *login
}

// nearEntrySize is what an entry may take on average, in bytes: the cache is
// bounded by their sum as well as by their number.
const nearEntrySize = 2 << 10

func newNearCache(size int, ahead, ttl time.Duration) *nearCache {
	return &nearCache{
		Cache: nearcache.New[known](size, max(int64(size)*nearEntrySize, maxRecord)),
		ahead: ahead,
		ttl:   ttl,
	}
}

// fill keeps what a read returned, unless the user's record changed since the
// ticket was drawn.
func (n *nearCache) fill(t nearcache.Ticket, l *login, readAt time.Time) {
	n.Fill(l.userID, t, n.item(l, readAt))
}

// wrote keeps what a write stored for while the store is away, unless the session
// has ended since the ticket was drawn.
func (n *nearCache) wrote(t nearcache.Ticket, l *login, at time.Time) {
	n.Wrote(l.userID, t, n.item(l, at))
}

// holds reports whether the user's entry has this token, and the record was not
// written since: then it was found good when the entry was filled.
func (n *nearCache) holds(userID string, token secret) bool {
	k, ok := n.Unwritten(userID)
	return ok && k.login.token.raw.equal(token)
}

func (n *nearCache) item(l *login, readAt time.Time) nearcache.Item[known] {
	const fixed = 512 // the structs, and the map's own
	raw := l.token.raw.reveal()
	return nearcache.Item[known]{
		Value:      known{raw, l},
		FreshUntil: l.freshUntil(n.jittered(), n.ttl),
		LiveUntil:  l.expires,
		ReadAt:     readAt,
		Size:       fixed + int64(len(l.stored.Value)+len(raw)+len(l.userID)),
	}
}

// jittered shortens the refresh-ahead window by up to a fifth, per process and
// token, so that bots which share a session do not refresh together.
func (n *nearCache) jittered() time.Duration {
	if n.ahead <= minLife {
		return n.ahead
	}
	return n.ahead - time.Duration(rand.Int64N(int64(n.ahead-minLife)/5+1))
}

// freshUntil is the first second, by the wall clock, at which the token must
// not be handed out without a second look.
func (l *login) freshUntil(ahead, ttl time.Duration) int64 {
	const never = 1 << 62
	until := int64(never)
	switch {
	case !l.token.readable:
		return 0
	case !l.token.endless:
		until = l.token.expires.Add(-max(ahead, minLife)).Unix()
	}
	if !l.expires.IsZero() {
		until = min(until, l.halfSpent(ttl).Unix())
	}
	return until
}
