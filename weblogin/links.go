package weblogin

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/mana/session"
)

const (
	linkLife = 10 * time.Minute // of a link, until a password is accepted
	codeLife = 10 * time.Minute // of a code, as of a session.PendingLogin

	// Per user, within a window of time.
	window         = 10 * time.Minute
	linksPerWindow = 5
	wrongPerWindow = 10

	passwordsPerLink = 5
	wrongPerCode     = 5

	maxRoomID      = 255 // bytes, https://spec.matrix.org/v1.11/appendices/#room-ids
	putBackTimeout = 2 * time.Second
)

// The letters of a code: no vowels, so that there are no words, and none that look
// like another or like a digit. https://www.rfc-editor.org/rfc/rfc8628#section-6.1
const (
	alphabet   = "BCDFGHJKLMNPQRSTVWXZ"
	codeLength = 8
)

// newCode returns one of 20^8 codes.
func newCode() string {
	code := make([]byte, 0, codeLength)
	for len(code) < codeLength {
		var b [1]byte
		rand.Read(b[:])                        // never fails
		if int(b[0]) < 256-256%len(alphabet) { // or some letters come more often
			code = append(code, alphabet[int(b[0])%len(alphabet)])
		}
	}
	return string(code)
}

// normalize undoes what people and their keyboards do to a code.
func normalize(code string) string {
	if len(code) > 64 {
		return ""
	}
	return strings.ToUpper(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.In(r, unicode.Pd, unicode.Cf) { // Cf: what cannot be seen
			return -1
		}
		return r
	}, code))
}

// An address is what a link carries: where the user's record is, and a secret.
type address struct {
	user   [16]byte
	secret [24]byte
}

// newAddress returns where the record of the user is, with a secret of its own.
func newAddress(userID string) (a address) {
	sum := sha256.Sum256([]byte("login link of " + userID))
	copy(a.user[:], sum[:])
	rand.Read(a.secret[:])
	return a
}

func parseAddress(s string) (a address, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(a.user)+len(a.secret) {
		return a, false
	}
	copy(a.user[:], b)
	copy(a.secret[:], b[len(a.user):])
	return a, true
}

func (a address) String() string {
	return base64.RawURLEncoding.EncodeToString(append(a.user[:], a.secret[:]...))
}

// key is the name of the record in the store.
func (a address) key() string { return base64.RawURLEncoding.EncodeToString(a.user[:]) }

// hash is what the record keeps of the secret, which has 192 random bits.
func (a address) hash() []byte {
	sum := sha256.Sum256(a.secret[:])
	return sum[:]
}

// record is all that is kept about a user, in one value, so that every change is
// one atomic step in the store, on a Redis Cluster, too.
type record struct {
	// Serial makes every value differ from all others: a store may tell records
	// apart by value, and two wrong codes at once must not look like one.
	Serial []byte `json:"serial"`

	UserID string    `json:"user"`
	Window time.Time `json:"window"` // end of the time that the counters are for
	Links  int       `json:"links"`
	Wrong  int       `json:"wrong"`
	Link   *link     `json:"link,omitempty"`
}

// link is a link that can be opened, or a code that can be sent.
type link struct {
	Room   string    `json:"room"`
	Secret []byte    `json:"secret"` // hashed
	Until  time.Time `json:"until"`
	Asked  int       `json:"asked"` // passwords

	// Since a password was accepted.
	Salt       []byte `json:"salt,omitempty"`
	Code       []byte `json:"code,omitempty"` // hashed
	Pending    []byte `json:"pending,omitempty"`
	WrongCodes int    `json:"wrongCodes,omitempty"`
}

func (r *record) recent(now time.Time) bool { return now.Before(r.Window) }

// claim makes r the user's, and begins a new window if the last one is over.
func (r *record) claim(userID string, now time.Time) {
	if r.UserID != userID || !r.recent(now) {
		r.UserID, r.Window, r.Links, r.Wrong = userID, now.Add(window), 0, 0
	}
}

// opened returns the link that a belongs to, if a password can be sent for it.
func (r *record) opened(a address, now time.Time) *link {
	if l := r.Link; l.live(now) && l.Code == nil && subtle.ConstantTimeCompare(l.Secret, a.hash()) == 1 {
		return l
	}
	return nil
}

func (l *link) live(now time.Time) bool { return l != nil && now.Before(l.Until) }

// accept turns the link into a code.
func (l *link) accept(code string, pending []byte, now time.Time) {
	l.Salt = make([]byte, 16)
	rand.Read(l.Salt)
	l.Code, l.Pending, l.Until = stretch(code, l.Salt), pending, now.Add(codeLife)
}

// A guess is a code that somebody has sent.
type guess struct {
	code            string
	salt, stretched []byte // what stretch made of it last, which takes milliseconds
}

// opens reports whether the guess is the code of the link.
func (g *guess) opens(l *link) bool {
	if l.Code == nil || len(g.code) != codeLength {
		return false
	}
	if g.stretched == nil || !bytes.Equal(g.salt, l.Salt) {
		g.salt, g.stretched = l.Salt, stretch(g.code, l.Salt)
	}
	return subtle.ConstantTimeCompare(l.Code, g.stretched) == 1
}

// stretch makes a code costly to find for who can read the store: all of them take
// a graphics card a day, and a code lives for minutes.
func stretch(code string, salt []byte) []byte {
	key, err := pbkdf2.Key(sha256.New, code, salt, 20_000, sha256.Size)
	if err != nil {
		panic(err) // only for a key length that no hash has
	}
	return key
}

// links keeps the records of all users.
type links struct{ store session.Store }

// read returns the record, empty if there is none, and as it is stored.
func (k links) read(ctx context.Context, key string) (record, session.Record, error) {
	stored, err := k.store.Get(ctx, key)
	if errors.Is(err, session.ErrNotFound) {
		stored, err = session.Record{UserID: key}, nil
	}
	if err != nil {
		return record{}, stored, storeError(ctx, "read", err)
	}
	var r record
	if json.Unmarshal([]byte(stored.Value), &r) != nil {
		r = record{} // something else, to be replaced
	}
	return r, stored, nil
}

// edit stores what change makes of the record, unless that returns an error. It
// calls change again when somebody else has changed the record meanwhile.
func (k links) edit(ctx context.Context, key string, change func(*record) error) error {
	for range 100 {
		r, old, err := k.read(ctx, key)
		if err != nil {
			return err
		}
		if err := change(&r); err != nil {
			return err
		}
		r.Serial = make([]byte, 9)
		rand.Read(r.Serial)
		value, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("weblogin: encode a link: %w", err)
		}
		next := session.Record{UserID: key, Value: string(value), Expires: r.Window}
		if r.Link != nil && r.Link.Until.After(next.Expires) {
			next.Expires = r.Link.Until
		}
		if _, err = k.store.Swap(ctx, old, next); !errors.Is(err, session.ErrConflict) {
			return storeError(ctx, "write", err)
		}
	}
	return fmt.Errorf("%w: a link is changed by too many at once", session.ErrStoreUnavailable)
}
