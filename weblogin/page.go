package weblogin

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // of the page
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

var (
	//go:embed page.html
	pageSource string
	//go:embed style.css
	style string
)

// pages renders the one page there is.
type pages struct {
	template *template.Template
	policy   string // Content-Security-Policy
	name     string
	command  string
}

func newPages(name, command string) pages {
	sum := sha256.Sum256([]byte(style))
	return pages{
		template: template.Must(template.New("page").Parse(pageSource)),
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; " +
			"form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		name: name, command: command,
	}
}

// view is what the page shows: a form, a code, or a text.
type view struct {
	T      *texts
	Status int
	Title  string
	Alert  string // above the form
	Text   string // instead of it

	Form   bool
	Token  string
	UserID string
	Email  string

	Code string

	retryAfter time.Duration
}

// Style is in the page, so that nothing has to be loaded.
func (view) Style() template.CSS { return template.CSS(style) }

// MatrixID is whom the page is for, with all that could make it look like somebody
// else written out: homeservers still have users with other characters than ASCII.
func (v view) MatrixID() string {
	var b strings.Builder
	for _, r := range v.UserID {
		if '!' <= r && r <= '~' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u{%X}`, r)
		}
	}
	return b.String()
}

// Spelled is the code for reading aloud.
func (v view) Spelled() string { return strings.Join(strings.Split(v.Code, ""), " ") }

// texts are those that the browser prefers, with the names filled in.
func (p pages) texts(r *http.Request) *texts {
	t := *preferred(r.Header.Get("Accept-Language"))
	name := p.name
	if name == "" {
		name = t.Bot
	}
	t.LogIn = fmt.Sprintf(t.LogIn, name)
	for _, text := range []*string{&t.Gone, &t.TooManyPasswords, &t.NoLink} {
		*text = fmt.Sprintf(*text, p.command)
	}
	return &t
}

// secure sets the headers of every answer, whatever it is.
func (p pages) secure(h http.Header) {
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	h.Set("Vary", "Accept-Language")
}

func (p pages) write(w http.ResponseWriter, v view) {
	var body bytes.Buffer
	data := struct {
		view
		Command string
	}{v, p.command}
	if err := p.template.Execute(&body, data); err != nil {
		panic(err) // the template and its data do not fit
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Language", v.T.Lang)
	if v.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((v.retryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(v.Status)
	_, _ = w.Write(body.Bytes()) // whoever is gone needs no page
}
