package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/mana/session"
)

const (
	lookTimeout = 2500 * time.Millisecond // for a user: more than the store's own time limit

	// logoutTimeout is more than the Service's own limits for the store and the auth
	// server.
	logoutTimeout = 20 * time.Second
)

// userPage is the page of one user.
type userPage struct {
	frame
	UserID  string
	Name    string
	Done    string // what was done just now
	Problem string
	Session *sessionView
	Absence string // why there is none
	Trail   []step
	NoTrail string
	Token   string // of the form
	Linked  bool   // a logout may not last
}

type sessionView struct {
	Email, Subject string
	Ends           *moment
	TokenEnds      *moment
	TokenLeft      string
}

// step is an event of the trail.
type step struct {
	Text        string
	First, Last moment
	Many        bool
}

func (v visit) serveUser() {
	form := v.r.URL.Query()
	userID := form.Get("id")
	if userID == "" {
		v.redirect(http.StatusSeeOther, "users")
		return
	}
	ctx, cancel := context.WithTimeout(v.r.Context(), lookTimeout)
	defer cancel()
	var (
		found          *session.Session
		trail          []session.TrailEvent
		err, noTrail   error
		both           sync.WaitGroup
		name, somebody = visible(strings.ToValidUTF8(userID, "\uFFFD")), v.svc.State().SSOLinkEnabled
	)
	both.Go(func() {
		noTrail = guard(func() (err error) { trail, err = v.svc.Trail(ctx, userID); return err })
	})
	found, err = v.svc.Peek(ctx, userID)
	both.Wait()
	if errors.Is(err, session.ErrInvalidUserID) {
		v.message(http.StatusBadRequest, "Not a user ID", "“"+name+"” is not a Matrix user ID: "+why(err)+".",
			"A Matrix user ID is of the form @localpart:domain.")
		return
	}
	page := userPage{
		frame: v.frame(name, "users"), UserID: userID, Name: name, Linked: somebody,
		Trail: steps(trail), Done: done(form.Get("done"), found != nil),
	}
	switch {
	case err == nil:
		page.Session = newSessionView(found)
	case errors.Is(err, session.ErrNotLoggedIn) && noTrail == nil:
		page.Absence = absence(trail, time.Now(), v.svc.Counters().Queued > 0)
	case errors.Is(err, session.ErrNotLoggedIn):
		page.Absence = "There is no session."
	default:
		page.Problem = "Whether there is a session is not known just now. " + trouble(err)
	}
	switch {
	case noTrail != nil:
		page.NoTrail = "The trail could not be read. " + trouble(noTrail)
	case len(trail) == 0:
		page.NoTrail = "There is no trail of this user."
	}
	// A browser that hides where the page is also hides where its form came from, and
	// the form would look like one of another site. To other sites nothing is told.
	v.w.Header().Set("Referrer-Policy", "same-origin")
	page.Token = v.forms.token(v.w, v.r, v.operator, userID)
	v.show(http.StatusOK, "user.html", page)
}

// why is what an ErrInvalidUserID says.
func why(err error) string {
	return strings.TrimPrefix(err.Error(), session.ErrInvalidUserID.Error()+": ")
}

func newSessionView(s *session.Session) *sessionView {
	view := &sessionView{Email: visible(s.Email), Subject: visible(s.Subject), TokenLeft: "does not say when it runs out"}
	if !s.ExpiresAt.IsZero() {
		view.Ends = &moment{s.ExpiresAt}
	}
	if s.TokenExpiresAt.IsZero() {
		return view
	}
	view.TokenEnds = &moment{s.TokenExpiresAt}
	switch left := time.Until(s.TokenExpiresAt); {
	case left > time.Minute:
		view.TokenLeft = "good for " + span(left) + ", until"
	case left > 0:
		view.TokenLeft = "less than a minute left, so replaced at the next use; runs out"
	default:
		view.TokenLeft = "has run out, so replaced at the next use; ran out"
	}
	return view
}

func steps(trail []session.TrailEvent) []step {
	var all []step
	for _, e := range trail {
		all = append(all, step{sentence(e), moment{e.First}, moment{e.Last}, e.Count > 1})
	}
	return all
}

// done says what a logout came to, by the parameter that it left in the address.
func done(what string, hasSession bool) string {
	var s string
	switch what {
	case "logout":
		s = "Logged out."
	case "unlink":
		s = "Logged out, and the link at the auth server is removed."
	default:
		return ""
	}
	if hasSession {
		s += " A new session has begun since."
	}
	return s
}

func (v visit) serveLogout() {
	if !allow(v.w, v.r, http.MethodPost) {
		v.message(http.StatusMethodNotAllowed, "Method not allowed", "Log a user out with the button on their page.")
		return
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		v.message(http.StatusBadRequest, "Not a form", "What was sent is not the form of a user's page.")
		return
	}
	userID := v.r.PostForm.Get("id")
	if refusal := v.forms.refusal(v.r, v.operator, userID); refusal != "" {
		v.messageAbout(userID, http.StatusForbidden, "Nobody was logged out", refusal)
		return
	}
	unlink := v.r.PostForm.Get("unlink") != ""
	err := v.logout(userID, unlink)
	about := []any{"operator", v.operator, "user", userID, "unlink", unlink}
	if err != nil {
		about = append(about, "error", err)
	}
	v.logger.Info("console: logout by an operator", about...)
	if err == nil {
		what := "logout"
		if unlink {
			what = "unlink"
		}
		v.redirect(http.StatusSeeOther, "user?"+url.Values{"id": {userID}, "done": {what}}.Encode())
		return
	}
	status, sentences := logoutFailure(err)
	v.messageAbout(userID, status, "Not quite logged out", sentences...)
}

// logout goes on when the browser does not wait for it.
func (v visit) logout(userID string, unlink bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(v.r.Context()), logoutTimeout)
	defer cancel()
	if unlink {
		return v.svc.Logout(ctx, userID, session.AndUnlink())
	}
	return v.svc.Logout(ctx, userID)
}

// logoutFailure says what a logout came to that returned an error.
func logoutFailure(err error) (status int, sentences []string) {
	_, ofLink := errors.AsType[*session.AuthError](err)
	ofLink = ofLink || errors.Is(err, session.ErrServiceKeyRejected)
	switch {
	case errors.Is(err, session.ErrClosed):
		return http.StatusServiceUnavailable, []string{"The service has been closed. The user is still logged in."}
	case errors.Is(err, session.ErrStoreUnavailable):
		sentences = append(sentences, "The user is logged out in this process, and everywhere when the store is back, unless they log in again before.")
		if ofLink {
			sentences = append(sentences, "Their link is not removed.")
		}
	case ofLink:
		sentences = append(sentences, "The user is logged out, but the link is not removed: the next command would log them in again.")
	default:
		sentences = append(sentences, "Whether the user is logged out is not known. Look at their page.")
	}
	return http.StatusBadGateway, append(sentences, trouble(err))
}
