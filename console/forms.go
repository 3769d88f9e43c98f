package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"time"
)

const (
	cookieName = "mana_console_form"
	formLife   = time.Hour
	maxForm    = 16 << 10 // bytes
)

// Why a form is refused, for people; "" if it is not.
const (
	otherSite = "This request came from another site. Log users out on this console's own pages."
	noToken   = "This form did not come with the cookie and the token of this console. Open the user's page again and send it from there."
	stale     = "This form is too old. Open the user's page again and send it from there."
)

// forms makes the tokens of the logout forms and checks them. A token holds for a
// browser, by its cookie, for an operator and a user, and for an hour.
type forms struct {
	key     []byte
	origins *http.CrossOriginProtection
}

func newForms(key []byte) forms {
	if key == nil {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails
	}
	return forms{key, http.NewCrossOriginProtection()}
}

// token returns the token of a form, and sets the browser's cookie if it has none.
func (f forms) token(w http.ResponseWriter, r *http.Request, operator, userID string) string {
	secret := browserSecret(r)
	if secret == "" {
		secret = rand.Text()
		http.SetCookie(w, &http.Cookie{
			Name:  cookieName,
			Value: secret,
			// No Path: a browser takes the directory of the page, wherever that is mounted.
			HttpOnly: true,
			SameSite: http.SameSiteStrictMode,
			Secure:   r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
		})
	}
	return f.sign(secret, operator, userID, time.Now().Add(formLife))
}

// refusal says why a form must not be obeyed, or "".
func (f forms) refusal(r *http.Request, operator, userID string) string {
	if f.origins.Check(r) != nil {
		return otherSite
	}
	secret, token := browserSecret(r), r.PostForm.Get("token")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) != 8+sha256.Size || secret == "" {
		return noToken
	}
	until := time.Unix(int64(binary.BigEndian.Uint64(raw)), 0)
	if !hmac.Equal([]byte(token), []byte(f.sign(secret, operator, userID, until))) {
		return noToken
	}
	if !time.Now().Before(until) {
		return stale
	}
	return ""
}

// browserSecret is the value of the browser's cookie, or "".
func browserSecret(r *http.Request) string {
	cookie, err := r.Cookie(cookieName)
	if err != nil || len(cookie.Value) != len(rand.Text()) {
		return ""
	}
	return cookie.Value
}

func (f forms) sign(secret, operator, userID string, until time.Time) string {
	raw := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	mac := hmac.New(sha256.New, f.key)
	mac.Write(raw)
	for _, part := range []string{secret, operator, userID} { // by length, so that they cannot run into each other
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		mac.Write([]byte(part))
	}
	return base64.RawURLEncoding.EncodeToString(mac.Sum(raw))
}
