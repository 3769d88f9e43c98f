package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/mana/session"
)

// checked remembers that what was written got lost, as on a disk that is full.
type checked struct {
	w   io.Writer
	err error // the first
}

func (c *checked) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.err = cmp.Or(c.err, err)
	return n, err
}

// printJSON prints one document, indented; jsonLine one on a line.
func (a *app) printJSON(v any) error { return a.encode(v, "  ") }
func (a *app) jsonLine(v any) error  { return a.encode(v, "") }

func (a *app) encode(v any, indent string) error {
	enc := json.NewEncoder(printing{a.out})
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	return enc.Encode(v)
}

// printing writes documents, of which it gets each as a whole.
type printing struct{ w io.Writer }

func (p printing) Write(document []byte) (int, error) {
	_, err := p.w.Write(printableJSON(document))
	return len(document), err
}

// printableJSON is JSON that says the same and has nothing in it that moves a cursor,
// hides text or turns its direction: of these, the encoder escapes ASCII alone.
func printableJSON(text []byte) []byte {
	hidden := func(r rune) bool { return r >= 0x7f && unprintable(r) }
	if bytes.IndexFunc(text, hidden) < 0 {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

// print prints a value: as JSON if that is wanted, or else as text does.
func (a *app) print(v any, text func()) error {
	if a.json {
		return a.printJSON(v)
	}
	text()
	return nil
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

// table aligns the columns of what rows prints, which tabs separate.
func (a *app) table(rows func(row func(columns ...string))) {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	rows(func(columns ...string) { fmt.Fprintf(w, "%s\n", strings.Join(columns, "\t")) })
	_ = w.Flush()
}

// The colours of a terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
)

// colored is a text in a colour, if colours are wanted.
func (a *app) colored(color, text string) string {
	if !a.color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// clean is a text from outside as a terminal may be shown it: on one line, without
// what moves the cursor, hides text or turns its direction.
func clean(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			b.WriteString(escaped(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// escaped is a character as Go, Python and shells spell it.
func escaped(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// moment is a time as people read it.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// length is a time span as people read it, in its two largest units.
func length(d time.Duration) string {
	if d < 0 {
		return "-" + length(-d)
	}
	units := []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	d = d.Truncate(time.Second)
	for i, u := range units {
		if d < u.size {
			continue
		}
		text := fmt.Sprintf("%d %s", d/u.size, u.name)
		if rest := d % u.size; i+1 < len(units) && rest >= units[i+1].size {
			text += fmt.Sprintf(" %d %s", rest/units[i+1].size, units[i+1].name)
		}
		return text
	}
	return "less than 1 s"
}

// inUTC is a time in JSON that is always there.
func inUTC(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// trailInUTC is a trail in JSON: an empty one is a list, too.
func trailInUTC(trail []session.TrailEvent) []session.TrailEvent {
	same := make([]session.TrailEvent, len(trail))
	for i, e := range trail {
		e.First, e.Last = inUTC(e.First), inUTC(e.Last)
		if !e.SessionEnds.IsZero() {
			e.SessionEnds = inUTC(e.SessionEnds)
		}
		same[i] = e
	}
	return same
}

// timeOrNull is a time in JSON: null for none.
func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = inUTC(t)
	return &t
}

// secondsUntil is what is left until a time in JSON: null for no time.
func secondsUntil(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	left := int64(time.Until(t) / time.Second)
	return &left
}
