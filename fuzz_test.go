package session

import (
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mana/session/internal/rediskeys"
)

func FuzzToken(f *testing.F) {
	for _, payload := range []string{`{"exp":1}`, `{"exp":"4102444800"}`, `{"exp":1e300,"sub":7}`, `{}`, `null`, `[]`, `{"exp":-1}`} {
		f.Add("e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln")
	}
	f.Add("opaque")
	f.Add("..")
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, raw string) {
		tok := parseToken(raw)
		if tok.raw.reveal() != raw {
			t.Fatal("the token itself changed")
		}
		switch tok.state(now, 5*time.Minute) {
		case dead:
		case aging:
			if left := tok.expires.Sub(now); left <= minLife || left > 5*time.Minute {
				t.Fatalf("aging with %s left", left)
			}
		case fresh:
			if strings.Count(raw, ".") != 2 {
				t.Fatal("handed out, and not a JWT")
			}
			if !tok.endless && tok.expires.Sub(now) <= 5*time.Minute {
				t.Fatalf("fresh with %s left", tok.expires.Sub(now))
			}
		}
		// The hot path must not judge more kindly.
		l := login{token: tok}
		if now.Unix() < l.freshUntil(5*time.Minute, defaultSessionTTL) && tok.state(now, 5*time.Minute) != fresh {
			t.Fatal("the near cache would hand out what Token would not")
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(`{"token":"a.b.c","email":"a@b","expiresAt":"2026-11-30T08:21:30.123Z","data":{"k":1},"refreshToken":"r"}`)
	f.Add(`{"token":"a","expiresAt":1e300}`)
	f.Add(`{"token":"a","data":[],"expiresAt":null}`)
	f.Add(`{"token":"a","data":{"a":{},"a":[1]},"data":{"\u0000":1}}`)
	f.Add("\xff{")
	f.Add("{\"token\":\"\xf0\xf0\"}")
	f.Add(strings.Repeat("[", maxRecord))
	f.Fuzz(func(t *testing.T, value string) {
		l, err := readPlainText(Record{UserID: "@a:h", Value: value})
		if err != nil {
			if len(err.Error()) > 300 {
				t.Fatalf("error of %d bytes", len(err.Error()))
			}
			return
		}
		l.live(time.Now())
		l.freshUntil(time.Minute, defaultSessionTTL)
		l.dataMap()
		l.expires = time.Unix(1_700_000_000, 0)
		encoded, err := l.plainText()
		if err != nil {
			return // larger than a record may be, once escaped
		}
		again, err := readPlainText(Record{UserID: "@a:h", Value: encoded})
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		// As encoding/json does: each invalid byte becomes U+FFFD, not each run of them.
		valid := func(s string) string { return string([]rune(s)) }
		if again.token.raw.reveal() != valid(l.token.raw.reveal()) || again.email != valid(l.email) || !again.expires.Equal(l.expires) {
			t.Fatalf("%+v became %+v", l, again)
		}
	})
}

func FuzzAuthAnswer(f *testing.F) {
	for _, body := range []string{
		`{"accessToken":"a.b.c","refreshToken":"r","user":{"email":"a@b"}}`, `{"token":"a"}`, `{"message":["a","b"]}`,
		`{"statusCode":500,"message":"Invalid email or password"}`, strings.Repeat("[", maxAuthBody),
		`{"statusCode":401,"message":"Invalid refresh token","timestamp":"2026-11-25T00:00:00.000Z","path":"/p/@a:h"}`, `<html>`, ``, `null`, `{"message":{"a":1}}`,
	} {
		for _, status := range []int{200, 204, 302, 401, 404, 429, 500} {
			f.Add(status, "60", []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, status int, retryAfter string, body []byte) {
		for _, op := range []string{"login", "refresh", "link fetch"} {
			answer := &authAnswer{
				call:   authCall{op: op, key: op == "link fetch", path: "/p/@a:h", hide: newSecret("hunter2")},
				status: status, header: http.Header{"Retry-After": {retryAfter}}, body: body,
			}
			err := answer.verdict()
			if err == nil {
				if g, err := answer.grant(); err == nil && g.token == "" && g.usable() == nil {
					t.Fatal("granted nothing")
				}
				continue
			}
			e, ok := errors.AsType[*AuthError](err)
			if !ok || e.kind == nil {
				t.Fatalf("no kind: %v", err)
			}
			if len(e.Message) > maxMessage || !utf8.ValidString(e.Message) || strings.ContainsAny(e.Message, "\n\r") {
				t.Fatalf("message %q", e.Message)
			}
			if e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter {
				t.Fatalf("RetryAfter %s", e.RetryAfter)
			}
			if strings.Contains(e.Error(), "hunter2") {
				t.Fatal("the secret is in the error")
			}
		}
	})
}

func FuzzUserID(f *testing.F) {
	for _, id := range []string{"@a:h", "@a/b:h", "@a%2Fb:h", "@:", "..", "@a:[::1]:80", "@a{b}c:h", "@a b+c!*'()~:h", "@:h", "@a:]:[", "@a::80", "@a\u200db:h", "@a}b:h", "@ü:h", "@\xff:h", "@a{}b:h"} {
		f.Add(id)
	}
	keys, err := rediskeys.New(defaultKeyPrefix)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if checkUserID(id) != nil {
			return
		}
		if len(id) > maxUserID || !utf8.ValidString(id) || id[0] != '@' || strings.ContainsAny(id, "\x00\r\n") {
			t.Fatalf("%q passed", id)
		}
		record, lease := keys.Record(id), keys.Lease(id)
		if keys.UserID(record) != id {
			t.Fatalf("%q does not come back from its key", id)
		}
		if strings.HasPrefix(lease, keys.Prefix()) {
			t.Fatalf("lease key %q looks like a session", lease)
		}
		if rediskeys.Slot(record) != rediskeys.Slot(lease) {
			t.Fatalf("record and lease of %q are in different slots", id)
		}
		if linkable(id) {
			a := &authClient{base: "http://auth.test", linkPrefix: "/p", serviceKey: newSecret("k")}
			req, _, err := a.request(t.Context(), authCall{method: "GET", path: linkPath("/p/matrix-session/", id)})
			if err != nil {
				t.Fatal(err)
			}
			if req.URL.Path != "/p/matrix-session/"+id || strings.Count(req.URL.EscapedPath(), "/") != 3 {
				t.Fatalf("%q becomes %q", id, req.URL.EscapedPath())
			}
		}
	})
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := newSecret("hunter2")
	for _, text := range []string{s.String(), s.GoString(), s.LogValue().String()} {
		if text != redacted {
			t.Errorf("prints %q", text)
		}
	}
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "secret", s, "nested", struct{ S secret }{s})
	if strings.Contains(b.String(), "hunter2") {
		t.Error(b.String())
	}
}

func FuzzSealed(f *testing.F) {
	c := newCodec(f, WithEncryption(testKey(1), testKey(2)))
	genuine := sealedBefore()
	f.Add("@a:h", genuine)
	f.Add("@b:h", genuine)
	f.Add("@a:h", genuine[:len(genuine)-1])
	f.Add("@a:h", sealedPrefix)
	f.Add("@a:h", sealedPrefix+strings.Repeat("\x00", 24))
	f.Add("@a:h", "sealed2:"+genuine[len(sealedPrefix):])
	f.Add("", `{"token":"a.b.c"}`)
	f.Fuzz(func(t *testing.T, userID, value string) {
		l, err := c.decode(Record{UserID: userID, Value: value})
		switch sealed := strings.HasPrefix(value, sealedPrefix); {
		case err == nil && sealed && (userID != "@a:h" || value != genuine):
			t.Fatal("opened what nobody sealed")
		case err == nil && l.stored.Value != value:
			t.Fatal("not the record that the store compares")
		case err != nil && (l != nil && sealed || len(err.Error()) > 300):
			t.Fatalf("%v beside %v", l, err)
		}
		// Whatever is sealed comes back, for its user and no other.
		for _, key := range c.keys {
			_, box, _ := strings.Cut(key.seal(userID, value), sealedPrefix)
			if plain, ok := key.open(userID, box); !ok || plain != value {
				t.Fatalf("%q came back as %q", value, plain)
			}
			if _, ok := key.open(userID+"x", box); ok {
				t.Fatal("opened for another user")
			}
		}
	})
}
