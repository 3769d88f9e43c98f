package weblogin

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/mana/session"
)

const (
	linkParam = "link"
	maxForm   = 8 << 10 // bytes; an email of 254 and a password of 1024, each escaped, with room

	browserLength = 26 // of rand.Text
)

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.page.secure(w.Header())
	t := h.page.texts(r)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h.page.write(w, h.open(w, r, t))
	case http.MethodPost:
		h.page.write(w, h.submit(w, r, t))
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		h.page.write(w, view{T: t, Status: http.StatusMethodNotAllowed, Title: t.BadRequestTitle, Text: t.MethodNotAllowed})
	}
}

// open shows the form of a link. It changes nothing: link previews and scanners of
// links come here before the user does.
func (h *Handler) open(w http.ResponseWriter, r *http.Request, t *texts) view {
	f, refused := h.find(w, r, t)
	if refused != nil {
		return *refused
	}
	return f.view(http.StatusOK, "")
}

// form is a request for a link that holds.
type form struct {
	t       *texts
	address address
	userID  string
	browser string // what the browser's cookie says
	email   string
}

func (f form) view(status int, alert string) view {
	return view{
		T: f.t, Status: status, Title: f.t.LogIn, Alert: alert,
		Form: true, UserID: f.userID, Email: f.email, Token: f.token(),
	}
}

// find looks the link of a request up. If it does not hold it returns what to show.
func (h *Handler) find(w http.ResponseWriter, r *http.Request, t *texts) (form, *view) {
	address, ok := parseAddress(r.URL.Query().Get(linkParam))
	if !ok {
		return form{}, &view{T: t, Status: http.StatusNotFound, Title: t.NoLinkTitle, Text: t.NoLink}
	}
	kept, _, err := h.links.read(r.Context(), address.key())
	if err != nil {
		h.logger.Warn("weblogin: a link could not be looked up", "error", err)
		return form{}, &view{T: t, Status: http.StatusServiceUnavailable, Title: t.Error, Text: t.StoreAway, retryAfter: time.Minute}
	}
	l := kept.opened(address, time.Now())
	if l == nil || l.Asked >= passwordsPerLink {
		return form{}, gone(t)
	}
	return form{t: t, address: address, userID: kept.UserID, browser: h.browser(w, r)}, nil
}

func gone(t *texts) *view {
	return &view{T: t, Status: http.StatusGone, Title: t.GoneTitle, Text: t.Gone}
}

// submit passes email and password on, and turns the link into a code if the auth
// server takes them.
func (h *Handler) submit(w http.ResponseWriter, r *http.Request, t *texts) view {
	if !h.sameOrigin(r) {
		return view{T: t, Status: http.StatusForbidden, Title: t.ForeignTitle, Text: t.Foreign}
	}
	if refused := parse(w, r, t); refused != nil {
		return *refused
	}
	f, refused := h.find(w, r, t)
	if refused != nil {
		return *refused
	}
	f.email = strings.TrimSpace(r.PostForm.Get("email"))
	password := r.PostForm.Get("password")
	switch {
	case !hmac.Equal([]byte(r.PostForm.Get("token")), []byte(f.token())):
		return f.view(http.StatusForbidden, t.Stale)
	case f.email == "" || password == "":
		return f.view(http.StatusUnprocessableEntity, t.Missing)
	}
	code, err := h.logIn(r.Context(), f, password)
	if err != nil {
		return h.refusal(r.Context(), f, err)
	}
	return view{T: t, Status: http.StatusOK, Title: t.Done, Code: code, UserID: f.userID, Email: f.email}
}

// logIn has the auth server check the password, and returns the code that the link
// has become. The password is counted first, so that there are no more of them by
// sending many at once.
func (h *Handler) logIn(ctx context.Context, f form, password string) (string, error) {
	last := false
	err := h.editLink(ctx, f, func(l *link) error {
		if l.Asked >= passwordsPerLink {
			return errTooManyPasswords
		}
		l.Asked++
		last = l.Asked == passwordsPerLink
		return nil
	})
	if err != nil {
		return "", err
	}
	pending, err := h.prepare(ctx, f, password)
	switch {
	case errors.Is(err, session.ErrInvalidCredentials) && last:
		return "", errTooManyPasswords
	case err != nil:
		if !errors.Is(err, session.ErrInvalidCredentials) {
			h.giveBack(ctx, f)
		}
		return "", err
	}
	code := newCode()
	err = h.editLink(ctx, f, func(l *link) error {
		l.accept(code, pending, time.Now())
		return nil
	})
	if err == nil {
		h.logger.Info("weblogin: a password is accepted, and a code shown", "user", f.userID)
	}
	return code, err
}

func (h *Handler) prepare(ctx context.Context, f form, password string) ([]byte, error) {
	if wait := refuse(h.asked); wait > 0 {
		return nil, tooMany("too many passwords", wait)
	}
	pending, err := h.svc.PrepareLogin(ctx, f.userID, f.email, password)
	if err != nil {
		return nil, err
	}
	return pending.MarshalBinary()
}

// giveBack takes a password off the count that did not turn out to be wrong.
func (h *Handler) giveBack(ctx context.Context, f form) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTimeout)
	defer cancel()
	err := h.editLink(ctx, f, func(l *link) error {
		l.Asked--
		return nil
	})
	if err != nil {
		h.logger.Debug("weblogin: a password stays counted", "user", f.userID, "error", err)
	}
}

// editLink changes the link of f, if it still holds.
func (h *Handler) editLink(ctx context.Context, f form, change func(*link) error) error {
	return h.links.edit(ctx, f.address.key(), func(r *record) error {
		l := r.opened(f.address, time.Now())
		if l == nil {
			return session.ErrLoginExpired
		}
		return change(l)
	})
}

var errTooManyPasswords = errors.New("weblogin: too many wrong passwords for a link")

// refusal is what to show after an error.
func (h *Handler) refusal(ctx context.Context, f form, err error) view {
	var said *session.AuthError
	wait := time.Minute
	if errors.As(err, &said) && said.RetryAfter > 0 {
		wait = said.RetryAfter
	}
	var v view
	switch t := f.t; {
	case errors.Is(err, context.Canceled): // nobody sees it
		v = f.view(http.StatusServiceUnavailable, t.Failed)
	case errors.Is(err, session.ErrInvalidCredentials):
		v = f.view(http.StatusUnprocessableEntity, t.WrongPassword)
	case errors.Is(err, session.ErrEmailNotVerified):
		v = f.view(http.StatusForbidden, t.Unverified)
	case errors.Is(err, errTooManyPasswords):
		v = *gone(t)
		v.Text = t.TooManyPasswords
	case errors.Is(err, session.ErrLoginExpired):
		v = *gone(t)
	case errors.Is(err, session.ErrRateLimited):
		v = f.view(http.StatusTooManyRequests, strings.Replace(t.RateLimited, "%s", t.wait(wait), 1))
		v.retryAfter = wait
	case errors.Is(err, session.ErrAuthUnavailable), errors.Is(err, context.DeadlineExceeded):
		v = f.view(http.StatusServiceUnavailable, t.AuthAway)
		v.retryAfter = wait
	case errors.Is(err, session.ErrStoreUnavailable), errors.Is(err, session.ErrClosed):
		v = f.view(http.StatusServiceUnavailable, t.StoreAway)
		v.retryAfter = wait
	default:
		v = f.view(http.StatusInternalServerError, t.Failed)
	}
	h.logger.Log(ctx, levelOf(err), "weblogin: a password did not become a code", "user", f.userID, "error", err)
	return v
}

// parse reads the form of a request, within bounds.
func parse(w http.ResponseWriter, r *http.Request, t *texts) *view {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return &view{T: t, Status: http.StatusUnsupportedMediaType, Title: t.BadRequestTitle, Text: t.NotAForm}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return &view{T: t, Status: http.StatusRequestEntityTooLarge, Title: t.BadRequestTitle, Text: t.TooLarge}
		}
		return &view{T: t, Status: http.StatusBadRequest, Title: t.BadRequestTitle, Text: t.NotAForm}
	}
	return nil
}

// sameOrigin refuses forms that other sites send. A browser too old for
// Sec-Fetch-Site has nothing but Origin to say, and that is "null", because this
// page asks for no-referrer: it is let through to the check of the form's token.
func (h *Handler) sameOrigin(r *http.Request) bool {
	return h.origins.Check(r) == nil ||
		r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "null"
}

// token is what a form carries to show that this page made it, for this browser and
// this link. No other site knows the cookie that it is derived from.
func (f form) token() string {
	mac := hmac.New(sha256.New, []byte(f.browser))
	mac.Write([]byte("login form " + f.address.String()))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// browser is what the cookie of the browser says, which is set if there is none.
func (h *Handler) browser(w http.ResponseWriter, r *http.Request) string {
	cookie := http.Cookie{
		Name: "login-form", Path: "/", MaxAge: int(time.Hour / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
	if h.base.Scheme == "https" {
		cookie.Name, cookie.Secure = "__Host-login-form", true // which no subdomain can set
	}
	if sent, err := r.Cookie(cookie.Name); err == nil && len(sent.Value) == browserLength {
		cookie.Value = sent.Value
	} else {
		cookie.Value = rand.Text()
	}
	http.SetCookie(w, &cookie)
	return cookie.Value
}
