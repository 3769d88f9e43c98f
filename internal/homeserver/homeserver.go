// Package homeserver runs a real Matrix homeserver, Dendrite, on loopback: for
// tests of bots and for a demo that needs no other server.
//
// Dendrite is built from the module in the directory dendrite, so nothing but Go
// and a module proxy is needed. The first build takes minutes; its result stays
// in the user's cache directory.
package homeserver

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Name is the server name, the part of a user ID behind its first colon.
const Name = "localhost"

const (
	startTimeout = 30 * time.Second // it takes about one
	stopTimeout  = 10 * time.Second
	portAttempts = 5
)

//go:embed dendrite.yaml
var config []byte

// A Server is a running homeserver on which anybody may register. It knows no
// other server.
type Server struct {
	// URL is the base URL of the client API.
	URL string

	dir  string
	proc *process
}

// Start starts the program that [Build] returned and waits until it answers. What
// the server stores is in dir, which has to be empty, and can be removed after
// Stop. The server is stopped by Stop, not by the end of ctx, which only bounds
// the start.
func Start(ctx context.Context, program, dir string) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	key, err := signingKey()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "matrix_key.pem"), key, 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "dendrite.yaml"), configIn(dir), 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for range portAttempts {
		var s *Server
		if s, err = start(ctx, program, dir); !errors.Is(err, errPortTaken) {
			return s, err
		}
	}
	return nil, err
}

var errPortTaken = errors.New("the port is taken")

func start(ctx context.Context, program, dir string) (*Server, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	proc, err := startProcess(dir, program, "-config", "dendrite.yaml",
		"-http-bind-address", addr, "-really-enable-open-registration")
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + addr, dir: dir, proc: proc}
	if err := s.awaitAnswer(ctx); err != nil {
		proc.kill()
		log := s.log()
		if bytes.Contains(log, []byte("address already in use")) {
			err = errPortTaken
		}
		return nil, fmt.Errorf("homeserver: Dendrite on %s did not start: %w\n%s", addr, err, log)
	}
	return s, nil
}

// Stop ends the server and waits until it is gone. It returns an error, with what
// the server printed last, if it had ended by itself.
func (s *Server) Stop() error {
	select {
	case <-s.proc.done:
		return fmt.Errorf("homeserver: Dendrite ended by itself\n%s", s.log())
	default:
		s.proc.stop()
		return nil
	}
}

// awaitAnswer asks the server for a sign of life until there is one.
func (s *Server) awaitAnswer(ctx context.Context) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/_matrix/client/versions", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-s.proc.done:
			return errors.New("it ended by itself")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// log is what the server printed last.
func (s *Server) log() []byte {
	out, _ := os.ReadFile(filepath.Join(s.dir, outputFile))
	const most = 4 << 10
	return out[max(0, len(out)-most):]
}

var database = regexp.MustCompile(`"file:([a-z]+\.db)"`)

// configIn is the configuration of a server in dir. With a write-ahead log, readers
// and the writer of a database do not wait for each other, and nothing has to
// survive the machine, so nothing is flushed to its disk: both make a busy server
// more than twice as fast. Dendrite has no option for it, but takes what is behind
// an escaped question mark in an absolute path.
func configIn(dir string) []byte {
	options := "%3F_pragma=journal_mode(wal)&_pragma=synchronous(off)"
	path := (&url.URL{Path: filepath.ToSlash(dir)}).EscapedPath()
	return database.ReplaceAll(config, []byte(`"file://`+path+"/${1}"+options+`"`))
}

// freeAddress is an address of loopback that nobody listens on. Somebody may take
// it before the server does.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// signingKey is a new key of the server's in the format that Dendrite reads.
func signingKey() ([]byte, error) {
	seed := make([]byte, 32)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{
		Type:    "MATRIX PRIVATE KEY",
		Headers: map[string]string{"Key-ID": "ed25519:" + strings.ToLower(rand.Text()[:6])},
		Bytes:   seed,
	}), nil
}
