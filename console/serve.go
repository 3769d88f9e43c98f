package console

import (
	"errors"
	"net/http"
	"path"
	"slices"
	"strings"
)

// ServeHTTP implements [http.Handler].
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.pages.setHeaders(w.Header())
	route, inside := strings.CutPrefix(r.URL.Path, c.prefix)
	root := route == "" || route == "/"
	inside = inside && (root || c.prefix == "" || route[0] == '/')
	route = strings.TrimPrefix(route, "/")
	switch {
	case inside && route == "healthz":
		c.serveHealthz(w, r)
		return
	case inside && route == "readyz":
		c.serveReadyz(w, r)
		return
	}
	v, ok := c.admit(w, r)
	if !ok {
		return
	}
	switch {
	case c.behind.isClosed():
		v.message(http.StatusServiceUnavailable, "Closed", "This console has been closed.")
	case !inside:
		v.message(http.StatusNotFound, "Not found", "There is no such page.")
	case root && !strings.HasSuffix(address(r), "/"):
		v.toDirectory()
	case root:
		v.get(v.serveOverview)
	case route == "users":
		v.get(v.serveUsers)
	case route == "user":
		v.get(v.serveUser)
	case route == "logout":
		v.serveLogout()
	default:
		v.message(http.StatusNotFound, "Not found", "There is no such page.")
	}
}

// visit is a request by an operator.
type visit struct {
	*Console
	w        http.ResponseWriter
	r        *http.Request
	operator string
}

// admit asks who makes the request, and refuses it if they must not.
func (c *Console) admit(w http.ResponseWriter, r *http.Request) (visit, bool) {
	operator, err := c.authorize(r)
	if err == nil && operator != "" {
		return visit{c, w, r, operator}, true
	}
	v, status, text := visit{c, w, r, ""}, http.StatusForbidden, "You may not see this page."
	if errors.Is(err, ErrUnauthenticated) {
		status, text = http.StatusUnauthorized, "Please log in to see this page."
		if c.challenge != "" {
			w.Header().Set("WWW-Authenticate", c.challenge)
		}
	}
	v.message(status, http.StatusText(status), text)
	return v, false
}

// get serves a page that may only be looked at.
func (v visit) get(serve func()) {
	if !allow(v.w, v.r, http.MethodGet, http.MethodHead) {
		v.message(http.StatusMethodNotAllowed, "Method not allowed", "This page can only be looked at.")
		return
	}
	serve()
}

// allow reports whether the request has one of the methods, and else says which are.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return false
}

// address is the path that the browser asked for: a handler in front may have taken a
// prefix off the request's URL.
func address(r *http.Request) string {
	asked, _, _ := strings.Cut(r.RequestURI, "?")
	if asked == "" { // a request that no server has read
		return r.URL.Path
	}
	return asked
}

// toDirectory leads from the address without a slash at its end to the one with it,
// which the links on the pages are relative to. So is this one, because only the
// browser knows its address.
func (v visit) toDirectory() {
	v.redirect(http.StatusTemporaryRedirect, "./"+path.Base(address(v.r))+"/")
}

// redirect leaves the address relative, where [http.Redirect] would make it absolute by
// a path that may lack a prefix.
func (v visit) redirect(status int, to string) {
	v.w.Header().Set("Location", to)
	v.w.WriteHeader(status)
}
