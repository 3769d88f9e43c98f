package docs_test

import (
	"bytes"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// pages are the README, the docs and what lies beside them.
func pages(t *testing.T) map[string]string {
	t.Helper()
	pages := make(map[string]string)
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			name, err := filepath.Rel(root, path)
			require.NoError(t, err)
			pages[name] = string(text)
		}
	}
	require.Contains(t, pages, "README.md")
	require.Contains(t, pages, filepath.Join("docs", "operations.md"))
	return pages
}

var goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// Every Go block is a whole program or test, which compiles, in the module that
// has what it imports.
func TestGoBlocksCompile(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles other modules")
	}
	t.Parallel()
	modules := make(map[string][]string) // of blocks
	for page, text := range pages(t) {
		found := goBlock.FindAllStringSubmatch(text, -1)
		require.Len(t, found, strings.Count(text, "```go"), "a block of %s has no end", page)
		for _, block := range found {
			formatted, err := format.Source([]byte(block[1]))
			require.NoError(t, err, page)
			require.Equal(t, string(formatted), block[1], "gofmt would change a block of %s", page)
			module := "."
			for _, nested := range []string{"jwks", "oauth2", "grpc", "prom", "otel", "botcmd"} {
				if strings.Contains(block[1], `"github.com/mana/session/`+nested+`"`) {
					module = nested
				}
			}
			modules[module] = append(modules[module], block[1])
		}
	}
	require.Len(t, modules, 7)
	for module, blocks := range modules {
		for i, block := range blocks {
			file := filepath.Join(t.TempDir(), "main.go")
			if strings.Contains(block, "_test\n") {
				file = filepath.Join(t.TempDir(), "block_test.go")
			}
			require.NoError(t, os.WriteFile(file, []byte(block), 0o600))
			vet := exec.CommandContext(t.Context(), "go", "vet", file)
			vet.Dir = filepath.Join(root, module)
			out, err := vet.CombinedOutput()
			require.NoError(t, err, "block %d that belongs to module %s: %s", i, module, out)
		}
	}
}

// The test that docs/testing.md shows passes.
func TestTestInTheDocsPasses(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a test")
	}
	t.Parallel()
	block := goBlock.FindStringSubmatch(pages(t)[filepath.Join("docs", "testing.md")])
	require.NotNil(t, block)
	file := filepath.Join(t.TempDir(), "bot_test.go")
	require.NoError(t, os.WriteFile(file, []byte(block[1]), 0o600))
	run := exec.CommandContext(t.Context(), "go", "test", "-v", file)
	run.Dir = root
	out, err := run.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.True(t, bytes.Contains(out, []byte("--- PASS: Test")), "%s", out)
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// anchor is what forges make of a heading.
func anchor(heading string) string {
	kept := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		case r == ' ':
			return '-'
		}
		return -1
	}, heading)
	return kept
}

// Links within the repository lead somewhere.
func TestLinksLeadSomewhere(t *testing.T) {
	pages := pages(t)
	links := 0
	for page, text := range pages {
		text = goBlock.ReplaceAllString(text, "") // where brackets have another meaning
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target, fragment, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				require.True(t, strings.HasPrefix(target, "https://"), "%s: %s", page, match[1])
				continue
			}
			links++
			to := page
			if target != "" {
				to = filepath.Join(filepath.Dir(page), target)
				_, err := os.Stat(filepath.Join(root, to))
				require.NoError(t, err, "%s: %s", page, match[1])
			}
			if fragment == "" {
				continue
			}
			var anchors []string
			for _, h := range heading.FindAllStringSubmatch(pages[to], -1) {
				anchors = append(anchors, anchor(h[1]))
			}
			require.Contains(t, anchors, fragment, "%s: %s", page, match[1])
		}
	}
	require.Greater(t, links, 10)
}
