package session

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/crypto/chacha20poly1305"
)

// Records are sealed with XChaCha20-Poly1305. Its random nonces have 192 bits,
// so that one key does for any number of writes. The 96 bits of AES-GCM are
// good for 2^32 of them, which 100,000 users who refresh every ten minutes have
// made after ten months: an operator would have to rotate by the calendar.

// sealedMark begins a sealed value of any version, and sealedPrefix one of this:
//
//	"sealed1:" | nonce, 24 bytes | ciphertext and tag, 16 bytes longer than the record
//
// It is no beginning of a JSON text. The tag also covers prefix and user ID, so
// that a value means nothing under another user or as another version.
const (
	sealedMark   = "sealed"
	sealedPrefix = sealedMark + "1:"
)

// sealedExtra is by how much a sealed value is longer than what is in it.
const sealedExtra = len(sealedPrefix) + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// WithEncryption seals the records in the store, so that whoever reads the
// store learns nothing from them but their size, and whoever writes to it can
// neither change one nor hand one user's to another. Keys have 32 random bytes:
// [ParseKey] reads what openssl rand -base64 32 prints. They are copied.
//
// It may be given once: a second one would silently replace the first.
//
// Records are written with current and read with current and older, so keys
// rotate in three steps, each of which every bot has taken before the next
// begins: add the new key as older, make it current, drop the old one. In the
// same way encryption is switched on: a nil current (an empty one is an error)
// goes on writing plain text while reading what the older keys sealed, until
// all bots have the key and it can become current. The same steps backwards
// switch it off. A bot without the key takes a sealed record for no session, and
// so does the TypeScript service: both overwrite it.
//
// Plain text is still read, and sealed by the next write. Until that is ended
// by [WithEncryptionRequired], whoever can write to the store can plant records
// in plain text. They can also put back an older record of the same user at any
// time, or remove it.
//
// A record that no key opens reads as no session, with a line in the log.
func WithEncryption(current []byte, older ...[]byte) Option {
	var keys []sealKey
	var err error
	add := func(key []byte) {
		k, keyErr := newSealKey(key)
		keys, err = append(keys, k), errors.Join(err, keyErr)
	}
	if current != nil {
		add(current)
	}
	for _, key := range older {
		add(key)
	}
	if len(keys) == 0 {
		err = errors.New("session: WithEncryption: no key")
	}
	return func(c *config) error {
		if c.codec.keys != nil {
			return errors.New("session: WithEncryption: given twice")
		}
		c.codec.keys, c.codec.seals = keys, current != nil
		return err
	}
}

// WithEncryptionRequired ends the migration that [WithEncryption] begins: a
// record in plain text reads as no session from now on, as one does that no key
// opens. Sessions that were not written since encryption was switched on end
// with it; a week after, there are none left.
func WithEncryptionRequired() Option {
	return func(c *config) error {
		c.codec.sealedOnly = true
		return nil
	}
}

// sealKey is a key for records. fmt, which looks through a pointer to a struct
// under some verbs, stops at one to an interface.
type sealKey struct {
	hidden
	aead *cipher.AEAD
}

func newSealKey(key []byte) (sealKey, error) {
	switch {
	case len(key) != chacha20poly1305.KeySize:
		return sealKey{}, fmt.Errorf("session: WithEncryption: a key has %d bytes, not %d", chacha20poly1305.KeySize, len(key))
	case bytes.Equal(key, make([]byte, chacha20poly1305.KeySize)):
		return sealKey{}, errors.New("session: WithEncryption: the key is all zeros")
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return sealKey{}, errors.New("session: WithEncryption: key not accepted")
	}
	return sealKey{aead: &aead}, nil
}

// codec makes the values of records from logins and logins from records: in
// plain text (record.go), sealed if there are keys. It is immutable.
type codec struct {
	keys       []sealKey
	seals      bool // with the first key; else the keys only open
	sealedOnly bool // plain text is not a record
}

// check refuses what makes no sense.
func (c codec) check() error {
	if c.sealedOnly && !c.seals {
		return errors.New("session: WithEncryptionRequired: there is no key to write with; see WithEncryption")
	}
	return nil
}

// encode returns the value of the record that holds l.
func (c codec) encode(l *login) (string, error) {
	plain, err := l.plainText()
	if err != nil || !c.seals {
		return plain, err
	}
	if size := len(plain) + sealedExtra; size > maxRecord {
		return "", fmt.Errorf("session: record of %d bytes, at most %d are allowed", size, maxRecord)
	}
	return c.keys[0].seal(l.userID, plain), nil
}

// decode reads a record. The error says why it is not a session, without
// quoting it.
func (c codec) decode(r Record) (*login, error) {
	sealed, isSealed := strings.CutPrefix(r.Value, sealedPrefix)
	switch {
	case len(r.Value) > maxRecord:
		return nil, fmt.Errorf("larger than %d bytes", maxRecord)
	case !isSealed && strings.HasPrefix(r.Value, sealedMark):
		return nil, errors.New("sealed in a way that this version does not know")
	case !isSealed && c.sealedOnly:
		return nil, errors.New("in plain text, though encryption is required")
	case !isSealed:
		return readPlainText(r)
	case len(c.keys) == 0:
		return nil, errors.New("sealed, and there is no key")
	}
	for _, key := range c.keys {
		if plain, ok := key.open(r.UserID, sealed); ok {
			l, err := readPlainText(Record{UserID: r.UserID, Value: plain})
			if err != nil {
				return nil, err
			}
			l.stored = r // as the store compares it
			return l, nil
		}
	}
	return nil, errors.New("sealed with another key, for another user, or changed since")
}

// believed reports whether a record may be taken for a session without having
// been decoded.
func (c codec) believed(r Record) bool {
	return !c.sealedOnly && !strings.HasPrefix(r.Value, sealedMark)
}

// seal returns the sealed value for a user's record.
func (k sealKey) seal(userID, plain string) string {
	value := make([]byte, len(sealedPrefix)+chacha20poly1305.NonceSizeX, len(plain)+sealedExtra)
	nonce := value[copy(value, sealedPrefix):]
	rand.Read(nonce) // which never fails
	return asString((*k.aead).Seal(value, nonce, []byte(plain), sealedFor(userID)))
}

// open is the reverse of seal, for a value less its prefix.
func (k sealKey) open(userID, sealed string) (plain string, ok bool) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return "", false
	}
	box := []byte(sealed) // opened in place
	nonce, ciphertext := box[:chacha20poly1305.NonceSizeX], box[chacha20poly1305.NonceSizeX:]
	b, err := (*k.aead).Open(ciphertext[:0], nonce, ciphertext, sealedFor(userID))
	return asString(b), err == nil
}

// sealedFor is what the tag of a sealed value covers beside what is in it.
func sealedFor(userID string) []byte { return []byte(sealedPrefix + userID) }

// asString spares the copy of bytes that nobody else has.
func asString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
