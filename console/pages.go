package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
)

//go:embed page
var files embed.FS

// pages are the templates and what the browser is told about them.
type pages struct {
	templates *template.Template
	style     template.CSS
	policy    string // Content-Security-Policy
}

func newPages() (*pages, error) {
	style, err := files.ReadFile("page/style.css")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	templates, err := template.ParseFS(files, "page/*.html")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	hash := sha256.Sum256(style)
	return &pages{
		templates: templates,
		style:     template.CSS(style), //nolint:gosec // our own
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
			"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	}, nil
}

func (p *pages) setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// frame is what all pages have.
type frame struct {
	Title    string
	Here     string // the page in the navigation
	Operator string // "" for who is not let in
	Style    template.CSS
}

func (v visit) frame(title, here string) frame {
	return frame{title, here, v.operator, v.pages.style}
}

// show sends a page.
func (v visit) show(status int, name string, data any) {
	var body bytes.Buffer
	if err := v.pages.templates.ExecuteTemplate(&body, name, data); err != nil {
		v.logger.Error("console: a page could not be made", "page", name, "error", err)
		http.Error(v.w, "This page could not be made.", http.StatusInternalServerError)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	v.w.WriteHeader(status)
	_, _ = v.w.Write(body.Bytes())
}

// message sends a page with a few sentences.
func (v visit) message(status int, title string, sentences ...string) {
	v.messageAbout("", status, title, sentences...)
}

// messageAbout is message with a way back to a user's page.
func (v visit) messageAbout(userID string, status int, title string, sentences ...string) {
	page := struct {
		frame
		Sentences []string
		Link      string
	}{v.frame(title, ""), sentences, ""}
	if userID != "" {
		page.Link = userLink(userID)
	}
	v.show(status, "message.html", page)
}
