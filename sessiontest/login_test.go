package sessiontest_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mana/session/sessiontest"
)

func TestLoginAnswersWithTokens(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		got := w.login("ALICE@example.com", password)
		require.Equal(t, http.StatusOK, got.status)
		issued := got.tokens(t)
		require.Len(t, issued.RefreshToken, 64)
		require.Equal(t, fmt.Sprintf(
			`{"user":{"id":%q,"email":"alice@example.com","name":"alice"},"accessToken":%q,"refreshToken":%q,"expiresIn":900}`,
			w.alice.ID, issued.AccessToken, issued.RefreshToken), got.body)
		require.Equal(t, 1, w.Calls(sessiontest.Login))
	})
}

func TestLoginRefusals(t *testing.T) {
	const (
		wrong   = `"Invalid email or password"`
		invalid = `"Invalid email"`
		notJSON = `"Expected property name or '}' in JSON at position 1"`
		noEmail = `["email must be an email"]`
	)
	for name, c := range map[string]struct {
		body    string
		status  int
		message string // as JSON
	}{
		"wrong password":     {`{"email":"alice@example.com","password":"x"}`, 500, wrong},
		"password by case":   {`{"email":"alice@example.com","password":"Correct horse"}`, 500, wrong},
		"unknown email":      {`{"email":"nobody@example.com","password":"x"}`, 500, wrong},
		"not verified":       {`{"email":"new@example.com","password":"correct horse"}`, 500, `"Email not verified"`},
		"deleted, and wrong": {`{"email":"gone@example.com","password":"x"}`, 500, wrong},
		"malformed email":    {`{"email":"alice","password":"x"}`, 400, noEmail},
		"padded email":       {`{"email":" alice@example.com","password":"x"}`, 400, noEmail},
		"email of no kind":   {`{"email":7,"password":"x"}`, 400, noEmail},
		"host without dot":   {`{"email":"alice@localhost","password":"x"}`, 400, noEmail},
		"two dots":           {`{"email":"al..ice@example.com","password":"x"}`, 400, noEmail},
		"missing email":      {`{"password":"x"}`, 400, noEmail},
		"missing password":   {`{"email":"alice@example.com"}`, 400, `["password must be a string"]`},
		"both missing":       {`{}`, 400, `["email must be an email","password must be a string"]`},
		"no body":            {``, 400, `["email must be an email","password must be a string"]`},
		"extra field":        {`{"email":"alice@example.com","password":"x","device":"<bot>"}`, 400, `["property device should not exist"]`},
		"field by case":      {`{"Email":"alice@example.com","password":"x"}`, 400, `["property Email should not exist","email must be an email"]`},
		"not JSON":           {`{email}`, 400, notJSON},
		"more after JSON":    {`{"email":"alice@example.com","password":"x"}}`, 400, notJSON},
		"not an object":      {`null`, 400, notJSON},
		"200 KB":             {`{"email":"` + strings.Repeat("a", 200<<10) + `"}`, 500, `"request entity too large"`},
		"100 KB and a byte":  {strings.Repeat(" ", 100<<10+1), 500, `"request entity too large"`},
		"100 KB are read":    {strings.Repeat(" ", 100<<10-2) + `{}`, 400, `["email must be an email","password must be a string"]`},
		"not JSON, blank":    {` `, 400, notJSON},
		"device of no kind":  {`{"email":"alice@example.com","password":"x","deviceId":7}`, 400, `["deviceId must be a string"]`},
		"international name": {`{"email":"müller@example.com","password":"correct horse"}`, 500, invalid},
		"international host": {`{"email":"alice@bücher.example","password":"x"}`, 500, invalid},
		"percent sign":       {`{"email":"a%b@example.com","password":"x"}`, 500, invalid},
		"zero-width space":   {`{"email":"ali\u200bce@example.com","password":"x"}`, 500, invalid},
		"zero-width in host": {`{"email":"alice@exam\u200bple.com","password":"x"}`, 500, invalid},
		"wide space":         {`{"email":"al\u2003ice@example.com","password":"x"}`, 500, invalid},
		"exclamation mark":   {`{"email":"al!ce@example.com","password":"x"}`, 500, invalid},
		"slash":              {`{"email":"a/b@example.com","password":"x"}`, 500, invalid},
		"punycode at top":    {`{"email":"a@example.xn--p1ai","password":"x"}`, 500, invalid},
		"punycode below":     {`{"email":"a@xn--bcher-kva.example","password":"x"}`, 500, wrong},
		"apostrophe":         {`{"email":"o'brien@example.com","password":"x"}`, 500, wrong},
		"no-break space":     {`{"email":"al\u00a0ice@example.com","password":"x"}`, 400, noEmail},
		"emoji":              {`{"email":"al😀ce@example.com","password":"x"}`, 400, noEmail},
		"65 before the at":   {`{"email":"` + strings.Repeat("a", 65) + `@example.com","password":"x"}`, 400, noEmail},
		"host with a hyphen": {`{"email":"a@-example.com","password":"x"}`, 400, noEmail},
	} {
		t.Run(name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, w *world) {
				w.AddUnverifiedUser("new@example.com", password)
				w.AddUser("gone@example.com", password)
				w.DeleteUser("gone@example.com")
				w.do(call{method: http.MethodPost, path: loginPath, body: c.body}).refused(t, c.status, c.message, loginPath)
			})
		})
	}
}

func TestLoginTakesADevice(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		c := loginCall(email, password)
		c.body = `{"email":"alice@example.com","password":"correct horse","deviceId":"bot","deviceName":"<Bot>"}`
		require.Equal(t, http.StatusOK, w.do(c).status)
	})
}

func TestDeletedAccountCanStillLogIn(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		w.DeleteUser(email)
		issued := w.login(email, password).tokens(t)
		require.Equal(t, http.StatusOK, w.do(call{method: http.MethodPost, path: logoutPath, bearer: issued.AccessToken}).status)
		w.do(refreshCall(issued.RefreshToken)).refused(t, 401, `"Invalid refresh token"`, refreshPath)
	})
}

func TestLogoutRevokesNothing(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		issued := w.login(email, password).tokens(t)
		out := call{method: http.MethodPost, path: logoutPath, bearer: issued.AccessToken}
		require.Equal(t, `{"success":true,"message":"Logged out"}`, w.do(out).body)
		require.Equal(t, http.StatusOK, w.do(out).status, "the access token goes on working")
		w.do(refreshCall(issued.RefreshToken)).tokens(t)
		w.do(call{method: http.MethodPost, path: logoutPath}).refused(t, 401, `"Unauthorized"`, logoutPath)
	})
}

// parts splits a token and verifies its signature.
func parts(t *testing.T, token string, key ed25519.PublicKey) (header, claims string) {
	t.Helper()
	part := strings.Split(token, ".")
	require.Len(t, part, 3)
	decoded := make([][]byte, 3)
	for i := range part {
		var err error
		decoded[i], err = base64.RawURLEncoding.DecodeString(part[i])
		require.NoError(t, err)
	}
	require.True(t, ed25519.Verify(key, []byte(part[0]+"."+part[1]), decoded[2]), "signature")
	return string(decoded[0]), string(decoded[1])
}

func TestTokensHoldTheServersClaims(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		before := time.Now().Unix()
		header, claims := parts(t, w.login(email, password).tokens(t).AccessToken, w.PublicKey())
		require.Regexp(t, `^\{"alg":"EdDSA","kid":"\w+"\}$`, header)
		var c struct {
			SID string `json:"sid"`
			Exp int64  `json:"exp"`
			JTI string `json:"jti"`
		}
		require.NoError(t, json.Unmarshal([]byte(claims), &c))
		require.Equal(t, fmt.Sprintf(`{"sub":%q,"email":"alice@example.com","role":"user","sid":%q,"exp":%d,"iss":%q,"aud":"manacore","jti":%q}`,
			w.alice.ID, c.SID, c.Exp, w.URL, c.JTI), claims)
		require.Len(t, c.JTI, 16)
		require.GreaterOrEqual(t, c.Exp, before+900)
		require.LessOrEqual(t, c.Exp, time.Now().Unix()+900)
	})
}

func TestNoTwoTokensAreEqual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // within the same second
		w := inProcess(t)
		w.Link(alice, email)
		seen := make(map[string]bool)
		see := func(token string) { require.False(t, seen[token]); seen[token] = true }
		for range 3 {
			see(w.do(linkCall(alice)).tokens(t).Token)
			issued := w.login(email, password).tokens(t)
			see(issued.AccessToken)
			see(w.do(refreshCall(issued.RefreshToken)).tokens(t).AccessToken)
			see(w.MintToken(email, time.Now().Add(time.Hour)))
		}
	})
}

func TestExpiryFollowsLifetimeAndClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t, sessiontest.WithTokenTTL(time.Minute))
		expires := func() time.Duration {
			got := w.login(email, password)
			_, claims := parts(t, got.tokens(t).AccessToken, w.PublicKey())
			var c struct{ Exp int64 }
			require.NoError(t, json.Unmarshal([]byte(claims), &c))
			return time.Until(time.Unix(c.Exp, 0))
		}
		require.Equal(t, time.Minute, expires())
		w.SetTokenTTL(time.Hour)
		require.Contains(t, w.login(email, password).body, `"expiresIn":3600`)
		require.Equal(t, time.Hour, expires())
		w.SetClockSkew(-10 * time.Minute)
		require.Equal(t, 50*time.Minute, expires())
		require.Contains(t, w.do(call{method: "GET", path: "/x"}).body, `"timestamp":"1999-12-31T23:50:00.000Z"`)
	})
}

func TestMintedAndSignedTokensAreReal(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		expires := time.Now().Add(time.Hour)
		_, claims := parts(t, w.MintToken(email, expires), w.PublicKey())
		require.Contains(t, claims, fmt.Sprintf(`"exp":%d,`, expires.Unix()))
		_, claims = parts(t, w.Sign(map[string]any{"sub": "<me>"}), w.PublicKey())
		require.Equal(t, `{"sub":"<me>"}`, claims)
		require.PanicsWithValue(t, "sessiontest: MintToken: no account with email x@example.com", func() { w.MintToken("x@example.com", expires) })
	})
}

func TestServerTakesNoTokenThatExpiredOrIsForeign(t *testing.T) {
	w := inProcess(t)
	foreign := sessiontest.New()
	foreign.AddUser(email, password)
	for name, token := range map[string]string{
		"expired":         w.MintToken(email, time.Now().Add(-time.Second)),
		"foreign":         foreign.MintToken(email, time.Now().Add(time.Hour)),
		"no token":        "x",
		"bad signature":   w.MintToken(email, time.Now().Add(time.Hour)) + "!",
		"unknown subject": w.Sign(map[string]any{"sub": "nobody", "exp": time.Now().Add(time.Hour).Unix()}),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, http.StatusUnauthorized, w.do(call{method: http.MethodPost, path: logoutPath, bearer: token}).status)
		})
	}
	c := call{method: http.MethodPost, path: logoutPath, header: http.Header{"Authorization": {w.MintToken(email, time.Now().Add(time.Hour))}}}
	require.Equal(t, http.StatusUnauthorized, w.do(c).status, "a token without its scheme")
}

func TestKeySetHoldsTheKeysOfAllTokens(t *testing.T) {
	everyWay(t, func(t *testing.T, w *world) {
		old := w.MintToken(email, time.Now().Add(time.Hour))
		oldKey := w.PublicKey()
		w.RotateSigningKey()
		require.NotEqual(t, oldKey, w.PublicKey())
		got := w.do(call{method: http.MethodGet, path: jwksPath})
		var set struct{ Keys []map[string]string }
		require.NoError(t, json.Unmarshal([]byte(got.body), &set))
		require.Len(t, set.Keys, 2)
		for i, key := range []ed25519.PublicKey{oldKey, w.PublicKey()} {
			require.Equal(t, base64.RawURLEncoding.EncodeToString(key), set.Keys[i]["x"])
		}
		require.Regexp(t, `^\{"keys":\[\{"alg":"EdDSA","crv":"Ed25519","x":"[\w-]{43}","kty":"OKP","kid":"\w+"\},`, got.body)
		header, _ := parts(t, old, oldKey)
		require.Contains(t, header, set.Keys[0]["kid"])
		require.Equal(t, http.StatusOK, w.do(call{method: http.MethodPost, path: logoutPath, bearer: old}).status)
	})
}
