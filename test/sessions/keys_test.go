package sessions_test

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/world"
)

// A key whose base64 has all that differs between the alphabets.
func rawKey(last byte) []byte {
	return append([]byte(strings.Repeat("\xfb\xff", 15)), 0xbe, last)
}

func TestKeysAreReadAsToolsPrintThem(t *testing.T) {
	want := rawKey(7)
	for name, text := range map[string]string{
		"base64":               base64.StdEncoding.EncodeToString(want),
		"base64, no padding":   base64.RawStdEncoding.EncodeToString(want),
		"base64, for URLs":     base64.URLEncoding.EncodeToString(want),
		"the same, no padding": base64.RawURLEncoding.EncodeToString(want),
		"hexadecimal":          hex.EncodeToString(want),
		"in upper case":        strings.ToUpper(hex.EncodeToString(want)),
		"with a line break":    base64.StdEncoding.EncodeToString(want) + "\r\n",
		"with spaces around":   " \t" + hex.EncodeToString(want) + " ",
	} {
		key, err := session.ParseKey(text)
		require.NoError(t, err, name)
		require.Equal(t, want, key, name)
	}
}

func TestWhatIsNoKeyIsRefusedAndNotQuoted(t *testing.T) {
	long := base64.StdEncoding.EncodeToString(append(rawKey(7), 1))
	text := base64.StdEncoding.EncodeToString(rawKey(7))
	for name, bad := range map[string]string{
		"nothing": "", "white space": " \n", "short": text[:20], "long": long, "short hexadecimal": hex.EncodeToString(rawKey(7)[:31]),
		"long hexadecimal": hex.EncodeToString(append(rawKey(7), 1)), "a password": "correct horse battery staple 123",
		"a line break inside": text[:20] + "\n" + text[20:], "two keys": text + "," + text, "the raw bytes": string(rawKey(7)),
		"trailing bits": strings.TrimRight(base64.StdEncoding.EncodeToString(make([]byte, 32)), "=")[:42] + "B",
	} {
		_, err := session.ParseKey(bad)
		require.Error(t, err, name)
		if len(bad) > 4 {
			require.NotContains(t, err.Error(), bad[:len(bad)/2], name)
		}
	}
}

func TestKeysComeFromTheEnvironment(t *testing.T) {
	for _, name := range []string{"MANA_CORE_AUTH_URL", "MANA_CORE_SERVICE_KEY", "SESSION_STORAGE_MODE", "REDIS_URL", "REDIS_HOST", "REDIS_PORT"} {
		t.Setenv(name, "")
	}
	old, current := base64.StdEncoding.EncodeToString(rawKey(1)), hex.EncodeToString(rawKey(2))
	store := session.NewMemoryStore()
	defer store.Close()
	w := world.New(t, store)
	stored := func(keys string, opts ...session.Option) (svc *session.Service, sealed bool) {
		t.Helper()
		t.Setenv("SESSION_ENCRYPTION_KEYS", keys)
		svc = w.Service(append(opts, session.FromEnv())...)
		w.Login(svc)
		return svc, strings.HasPrefix(w.Stored(world.Alice), "sealed")
	}
	_, sealed := stored("")
	require.False(t, sealed)
	_, sealed = stored("," + old)
	require.False(t, sealed, "without a current key it is written in plain text")
	first, sealed := stored(old)
	require.True(t, sealed)
	second, sealed := stored(" " + current + " , " + old)
	require.True(t, sealed)
	world.MustToken(t, second, world.Alice)
	_, err := first.Session(t.Context(), world.Alice)
	require.ErrorIs(t, err, session.ErrNotLoggedIn, "it has not the new key")
	_, sealed = stored(old, session.WithEncryption(nil, rawKey(1)))
	require.False(t, sealed, "the option wins")
	_, sealed = stored(old, session.WithEncryptionRequired())
	require.True(t, sealed)

	for _, bad := range []string{",", "secret", old + ",", old + ",secret", old + ",," + old} {
		t.Setenv("SESSION_ENCRYPTION_KEYS", bad)
		_, err := session.New(session.WithStore(store), session.FromEnv())
		require.ErrorContains(t, err, "SESSION_ENCRYPTION_KEYS", bad)
		require.NotContains(t, err.Error(), "secret")
		require.NotContains(t, err.Error(), old)
	}
}
