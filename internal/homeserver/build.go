package homeserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	dendrite = "github.com/matrix-org/dendrite/cmd/dendrite"
	pkg      = "github.com/mana/session/internal/homeserver"
)

// Build returns the path of the homeserver's program. Unless it is in the user's
// cache directory it is built, which takes minutes at the first time and is
// announced on progress. It needs the go command, and the package's source as a
// dependency of the module in the working directory: go run and go test have
// both.
func Build(ctx context.Context, progress io.Writer) (string, error) {
	source, err := goCommand(ctx, "list", "-f", "{{.Dir}}", pkg)
	if err != nil {
		return "", err
	}
	module := filepath.Join(strings.TrimSpace(source), "dendrite")
	program, err := cached(module)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(program); !errors.Is(err, fs.ErrNotExist) {
		return program, err
	}
	fmt.Fprint(progress, "Building the homeserver Dendrite; this takes some minutes, once.\n")
	return program, build(ctx, module, program)
}

// cached is where the program is kept that the module is built into: another
// version of Dendrite, of a dependency or of Go is another program.
func cached(module string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sums, err := os.ReadFile(filepath.Join(module, "go.sum"))
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Appendf(sums, "%s %s %s", runtime.Version(), runtime.GOOS, runtime.GOARCH))
	return filepath.Join(cache, "mana-session", fmt.Sprintf("dendrite-%x", key[:8])), nil
}

// build puts the program in its place in one step: others may build it, too.
func build(ctx context.Context, module, program string) error {
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(program), "build-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fresh := filepath.Join(dir, "dendrite")
	if _, err := goCommand(ctx, "build", "-C", module, "-race=false", "-ldflags=-s -w", "-o", fresh, dendrite); err != nil {
		return err
	}
	return os.Rename(fresh, program)
}

// goCommand runs the go command and returns what it prints. Without cgo Dendrite
// needs no C compiler and has SQLite in Go.
func goCommand(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("homeserver: go %s: %w\n%s", args[0], err, stderr.Bytes())
	}
	return stdout.String(), nil
}
