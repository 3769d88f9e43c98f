package session

import (
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

func TestUserIDsFollowTheMatrixGrammar(t *testing.T) {
	valid := []string{
		// Localparts, historical ones included.
		"@alice:h", "@:h", "@ :h", "@a b:h", "@a\u00a0b:h", "@a\u3000b:h", "@ü:h", "@a/b=._-+~!'()*:h", "@Alice:h", "@a@b:h", "@a#?&;,\"<>\\|^`{}[]:h",
		"@\U0001F468\u200d\U0001F469:h", "@a\u200cb:h", "@a\u00adb:h", "@\ufeffa:h", "@a\u2066b\u2069:h", "@\u0301:h", "@\ue000:h", "@\U000F0000:h",
		"@\U0001FAFF:h", "@\U0003FFFD:h", "@\ufffd:h", "@a%b:h", "@..:h", "@.:h",
		// Server names.
		"@a:example.org", "@a:EXAMPLE.org", "@a:xn--bcher-kva.example", "@a:1.2.3.4", "@a:1.2.3.4:1", "@a:h:8", "@a:h:8448", "@a:h:65535", "@a:h:00080",
		"@a:[::1]", "@a:[::1]:8448", "@a:[::]:1", "@a:[2001:db8::1]", "@a:[1:2:3:4:5:6:7:8]:80", "@a:[::ffff:1.2.3.4]", "@a:[ABCD::]",
		"@" + strings.Repeat("a", 252) + ":h", "@a:" + strings.Repeat("h", 252),
	}
	for _, id := range valid {
		if err := checkUserID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	invalid := []string{
		"", "@", ":", "@:", "@a", "@a:", "a:h", " @a:h", "+a:h", "@a h",
		// Localparts.
		"@a\x00b:h", "@\x00:h", "@a\nb:h", "@a\r:h", "@a\tb:h", "@a\x1b[0m:h", "@a\x7f:h", "@a\u0085:h", "@a\u009b:h", "@a\u2028b:h", "@a\u2029b:h",
		"@a\xff:h", "@\xed\xa0\x80:h", "@a\xc0\xaf:h", "@a\xe2\x80:h",
		// Server names.
		"@a:]:[", "@a::80", "@a::", "@a:h:", "@a:h:80:80", "@a:h:80:", "@a:h::80", "@a:h:x", "@a:h:8 ", "@a:h:+8", "@a:h:-8", "@a:h:123456", "@a:h:\u0661",
		"@a:[]", "@a:[::1", "@a:::1]", "@a:::1", "@a:2001:db8::1", "@a:[::1]]", "@a:[[::1]]", "@a:[::1]80", "@a:[::1]:", "@a:[::1]:x", "@a:[::1]:80:80", "@a:[::1].h", "@a:h[::1]",
		"@a:[::1%25eth0]", "@a:[::1%eth0]", "@a:[1.2.3.4]", "@a:[h]", "@a:[::g]", "@a:[:]", "@a:[1:2]", "@a:[::1:2:3:4:5:6:7:8]",
		"@a:h h", "@a: h", "@a:h ", "@a:h\n", "@a:h\x00", "@a:h/x", "@a:h?x", "@a:h#x", "@a:b@h", "@a:h_x", "@a:ü", "@a:h%2f", "@a:http://h", "@a:\u200dh", "@a:h,i", "@a:*",
		"@" + strings.Repeat("a", 253) + ":h", "@" + strings.Repeat("ü", 127) + ":h",
	}
	for _, id := range invalid {
		if err := checkUserID(id); !errors.Is(err, ErrInvalidUserID) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// encodedURIComponents is what JavaScript makes of user IDs.
var encodedURIComponents = map[string]string{
	"@alice:matrix.example": "%40alice%3Amatrix.example",
	"@a b:h":                "%40a%20b%3Ah",
	"@a+b:h":                "%40a%2Bb%3Ah",
	"@ :h":                  "%40%20%3Ah",
	"@:h":                   "%40%3Ah",
	"@a/b:h":                "%40a%2Fb%3Ah",
	"@..:h":                 "%40..%3Ah",
	"@-_.!~*'():h":          "%40-_.!~*'()%3Ah",
	"@;,?&=$#:h":            "%40%3B%2C%3F%26%3D%24%23%3Ah",
	"@\"<>\\|^`{}[]:h":      "%40%22%3C%3E%5C%7C%5E%60%7B%7D%5B%5D%3Ah",
	"@ü\u200d\U0001F468:h":  "%40%C3%BC%E2%80%8D%F0%9F%91%A8%3Ah",
	"@a:[::1]:80":           "%40a%3A%5B%3A%3A1%5D%3A80",
}

func TestUserIDsAreEscapedAsInTypeScript(t *testing.T) {
	for id, want := range encodedURIComponents {
		path := linkPath("/p/", id)
		if path != "/p/"+want {
			t.Errorf("%q becomes %q", id, path)
		}
		req, err := http.NewRequest(http.MethodGet, "http://h"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if req.URL.RequestURI() != path || req.URL.Path != "/p/"+id {
			t.Errorf("%q is sent as %q", id, req.URL.RequestURI())
		}
	}
}

func TestTheExpectedEscapesAreThoseOfNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node")
	}
	for id, want := range encodedURIComponents {
		out, err := exec.CommandContext(t.Context(), node, "-e", "process.stdout.write(encodeURIComponent(process.argv[1]))", "--", id).Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(out) != want {
			t.Errorf("%q becomes %q", id, out)
		}
	}
}
