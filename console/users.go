package console

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	pageSize = 50
	maxQuery = 255 // bytes, as a user ID
	barWidth = 100
)

// usersPage is a page of the list of sessions.
type usersPage struct {
	frame
	Query     string
	ByEnd     bool
	Direct    *directLink // to a single user, if that is what was searched for
	Notes     []string
	Have      bool
	Rows      []userRow
	Caption   string
	Full      string // what a full bar stands for
	BarWidth  int
	Position  string
	First     string
	Previous  string
	Next      string
	Last      string
	ByIDLink  string
	ByEndLink string
}

type directLink struct{ Name, Link string }

type userRow struct {
	Name, Link string
	Left       string
	Bar        int // of barWidth
	Ends       *moment
}

func (v visit) serveUsers() {
	form := v.r.URL.Query()
	query := strings.TrimSpace(strings.ToValidUTF8(form.Get("q"), "\uFFFD"))
	if len(query) > maxQuery {
		query = strings.ToValidUTF8(query[:maxQuery], "")
	}
	page := usersPage{
		frame: v.frame("Sessions", "users"),
		Query: query, ByEnd: form.Get("sort") == "end", BarWidth: barWidth,
		ByIDLink: usersLink(query, false, 1), ByEndLink: usersLink(query, true, 1),
	}
	if strings.HasPrefix(query, "@") && strings.Contains(query, ":") {
		page.Direct = &directLink{visible(query), userLink(query)}
	}
	seen := v.list.look(v.r.Context())
	page.Notes = listNotes(seen)
	if seen.listing != nil {
		page.fill(seen.listing, number(form.Get("page")))
	}
	v.show(http.StatusOK, "users.html", page)
}

// listNotes say how old and how whole the list is.
func listNotes(seen looked) (notes []string) {
	if seen.listing != nil {
		at := moment{seen.at}
		notes = append(notes, "As of "+at.Human()+", "+at.Away()+".")
		if seen.cut {
			notes = append(notes, "There are more sessions than the "+count(maxListed)+" that are listed.")
		}
	}
	switch {
	case seen.walking && seen.listing == nil:
		notes = append(notes, "The list is being read: "+some(seen.read, "session")+" so far. Load this page again in a moment.")
	case seen.walking:
		notes = append(notes, "A newer list is being read.")
	case seen.failure != nil:
		notes = append(notes, "The list could not be read. "+trouble(seen.failure), "A single user can be looked up all the same: enter the whole user ID.")
	case seen.listing == nil:
		notes = append(notes, "The list has not been read.")
	}
	return notes
}

func (p *usersPage) fill(l *listing, number int) {
	found, total, page, pages := l.page(p.Query, p.ByEnd, number, pageSize)
	p.Have = true
	p.Full = span(l.longest.Round(time.Minute))
	for _, s := range found {
		p.Rows = append(p.Rows, newUserRow(s, l.longest))
	}
	p.Caption = some(total, "session")
	if p.Query != "" {
		p.Caption += " with “" + visible(p.Query) + "” in the user ID"
	}
	if pages == 1 {
		return
	}
	p.Position = "Page " + count(page) + " of " + count(pages)
	if page > 1 {
		p.First, p.Previous = usersLink(p.Query, p.ByEnd, 1), usersLink(p.Query, p.ByEnd, page-1)
	}
	if page < pages {
		p.Next, p.Last = usersLink(p.Query, p.ByEnd, page+1), usersLink(p.Query, p.ByEnd, pages)
	}
}

func newUserRow(s listed, longest time.Duration) userRow {
	row := userRow{Name: visible(s.userID), Link: userLink(s.userID), Left: "Never ends", Bar: barWidth}
	if s.ends == 0 {
		return row
	}
	row.Ends = &moment{time.Unix(s.ends, 0)}
	left := time.Until(row.Ends.Time)
	if left <= 0 {
		row.Left, row.Bar = "Has ended", 0
		return row
	}
	row.Left = span(left)
	if longest > 0 {
		row.Bar = min(barWidth, max(1, int(float64(left)/float64(longest)*barWidth)))
	}
	return row
}

// number is the number of a page; what is none is the first.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil && n <= 0 { // out of range, it is the largest number
		return 1
	}
	return n
}

func usersLink(query string, byEnd bool, page int) string {
	form := url.Values{}
	if query != "" {
		form.Set("q", query)
	}
	if byEnd {
		form.Set("sort", "end")
	}
	if page > 1 {
		form.Set("page", strconv.Itoa(page))
	}
	if len(form) == 0 {
		return "users"
	}
	return "users?" + form.Encode()
}

func userLink(userID string) string { return "user?" + url.Values{"id": {userID}}.Encode() }
