package world

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/mana/session/sessiontest"
)

// everyLog is what all Services of all tests have logged, at every level.
var everyLog struct {
	mu   sync.Mutex
	logs []*Logged // guarded by mu
}

// SecretShapes is what a JWT, a refresh token (64 characters of base32), and
// the password and service key of most tests look like.
var SecretShapes = regexp.MustCompile(`eyJ[\w-]{8,}\.[\w-]{8,}|[A-Z2-7]{40,}|` +
	regexp.QuoteMeta(Password) + `|` + regexp.QuoteMeta(sessiontest.DefaultServiceKey))

// Main runs a package's tests, and fails if a secret was logged by any of them.
func Main(m *testing.M) {
	// Tests that run side by side mostly wait, for servers of their own.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	code := m.Run()
	everyLog.mu.Lock()
	defer everyLog.mu.Unlock()
	for _, log := range everyLog.logs {
		for line := range strings.Lines(log.String()) {
			if SecretShapes.MatchString(line) {
				fmt.Println("a secret in a log line:", line)
				code = max(code, 1)
			}
		}
	}
	os.Exit(code)
}

// Logged collects log lines.
type Logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// NewLogged makes a log that Main looks through.
func NewLogged() *Logged {
	l := &Logged{}
	everyLog.mu.Lock()
	defer everyLog.mu.Unlock()
	everyLog.logs = append(everyLog.logs, l)
	return l
}

func (l *Logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *Logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
