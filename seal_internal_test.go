package session

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testKey is a key of which every byte is b.
func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// newCodec is the codec of a Service with the given options.
func newCodec(t testing.TB, opts ...Option) codec {
	t.Helper()
	var c config
	require.NoError(t, c.apply(append(opts, WithStore(new(MemoryStore)))))
	return c.codec
}

func sealedLogin() *login {
	return &login{
		userID: "@a:h", token: parseToken("a.b.c"), email: "a@b", refresh: newSecret("r"),
		expires: time.Unix(1_700_000_000, 0), data: `{"k":1}`,
	}
}

// sealedBefore is sealedLogin as an earlier build sealed it with testKey(1).
func sealedBefore() string {
	value, err := base64.StdEncoding.DecodeString("c2VhbGVkMTq8yvYcnWSIbkDqqv7OV9qcLtZqnRiDSrQ5qnEwlmDwBq035qE5s+iLZvVf9ejv/T9/egmGpwTg+/BfZk20vW3J6OdC" +
		"jQd57kMRhJ2q4bYOGdC0VW784odvsm8LklihBsItw3dM3NpN7mdaAmiouLcnuSOlt08sgkxd0eOLLm/830PLDX3kEuSyDxroB9It" +
		"m2A=")
	if err != nil {
		panic(err)
	}
	return string(value)
}

func TestValuesSealedByEarlierBuildsOpen(t *testing.T) {
	l, err := newCodec(t, WithEncryption(testKey(1))).decode(Record{UserID: "@a:h", Value: sealedBefore()})
	require.NoError(t, err)
	want, err := sealedLogin().plainText()
	require.NoError(t, err)
	got, err := l.plainText()
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestSealedValueOpensOnlyAsItWasWritten(t *testing.T) {
	c := newCodec(t, WithEncryption(testKey(1)))
	value, err := c.encode(sealedLogin())
	require.NoError(t, err)
	l, err := c.decode(Record{UserID: "@a:h", Value: value, Version: 7})
	require.NoError(t, err)
	require.Equal(t, Record{UserID: "@a:h", Value: value, Version: 7}, l.stored, "what the store compares is what it holds")
	require.Equal(t, `{"k":1}`, l.data)
	require.Equal(t, "r", l.refresh.reveal())

	refused := func(what string, r Record) {
		t.Helper()
		l, err := c.decode(r)
		require.Error(t, err, what)
		require.Nil(t, l, what)
		require.Less(t, len(err.Error()), 100, what)
	}
	for i := range len(value) {
		for bit := range 8 {
			changed := []byte(value)
			changed[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of byte %d", bit, i), Record{UserID: "@a:h", Value: string(changed)})
		}
		refused(fmt.Sprintf("the first %d bytes", i), Record{UserID: "@a:h", Value: value[:i]})
		refused(fmt.Sprintf("without byte %d", i), Record{UserID: "@a:h", Value: value[:i] + value[i+1:]})
	}
	refused("a byte more", Record{UserID: "@a:h", Value: value + "\x00"})
	refused("twice", Record{UserID: "@a:h", Value: value + value})
	refused("another user", Record{UserID: "@A:h", Value: value})
	refused("no user", Record{Value: value})
	refused("sealed twice", Record{UserID: "@a:h", Value: c.keys[0].seal("@a:h", value)})
}

func TestNoTwoSealedValuesAreTheSame(t *testing.T) {
	c := newCodec(t, WithEncryption(testKey(1)))
	seen := make(map[string]bool)
	for range 1000 {
		value, err := c.encode(sealedLogin())
		require.NoError(t, err)
		nonce := value[len(sealedPrefix):][:24]
		require.False(t, seen[nonce], "a nonce came twice")
		seen[nonce] = true
	}
}

func TestSizeOfARecordIsBoundedAsItIsStored(t *testing.T) {
	for name, c := range map[string]codec{"plain text": {}, "sealed": newCodec(t, WithEncryption(testKey(1)))} {
		t.Run(name, func(t *testing.T) {
			l := sealedLogin()
			l.data = `{"k":""}`
			empty, err := c.encode(l)
			require.NoError(t, err)
			fill := strings.Repeat("x", maxRecord-len(empty))
			l.data = `{"k":"` + fill + `"}`
			value, err := c.encode(l)
			require.NoError(t, err)
			require.Len(t, value, maxRecord)
			_, err = c.decode(Record{UserID: l.userID, Value: value})
			require.NoError(t, err)

			l.data = `{"k":"x` + fill + `"}`
			_, err = c.encode(l)
			require.ErrorContains(t, err, fmt.Sprint(maxRecord+1))
			_, err = c.decode(Record{UserID: l.userID, Value: value + " "})
			require.ErrorContains(t, err, "larger")
		})
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	key := []byte("0123456789abcdefghijklmnopqrstuv")
	c := newCodec(t, WithEncryption(key, testKey(1)))
	within := struct {
		key   sealKey
		codec *codec
		Keys  []sealKey
	}{c.keys[0], &c, c.keys}
	var printed strings.Builder
	logger := slog.New(slog.NewJSONHandler(&printed, nil))
	text := slog.New(slog.NewTextHandler(&printed, nil))
	for _, v := range []any{
		c, &c, c.keys, c.keys[0], &c.keys[0], within, &within, []any{within}, map[string]sealKey{"k": c.keys[0]},
		config{codec: c}, &config{codec: c}, &Service{records: &records{codec: c}}, WithEncryption(key),
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U", "%b"} {
			fmt.Fprintf(&printed, verb+"\n", v)
		}
		logger.Info("x", "v", v)
		text.Info("x", "v", v)
		if b, err := json.Marshal(v); err == nil {
			printed.Write(b)
		}
	}
	all := strings.ToLower(printed.String())
	for form, secret := range map[string]string{
		"as it is": string(key[:8]), "hex": hex.EncodeToString(key[:8]), "base64": base64.StdEncoding.EncodeToString(key[:9]),
		"decimal": "48 49 50 51", "with commas": "48, 49, 50", "Go syntax": "0x30, 0x31, 0x32", "runes": "u+0030 u+0031", "characters": "0 1 2 3",
	} {
		require.False(t, strings.Contains(all, strings.ToLower(secret)), form)
	}
	require.Contains(t, all, redacted)
}
