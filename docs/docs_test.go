// Package docs_test compares the documents with the tree: what they link to,
// the tests that they name and the messages that they explain must be there.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = ".."

// documents returns the text of each Markdown file by its path from root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	walk(t, ".md", func(path, text string) { found[path] = text })
	if len(found) < 15 {
		t.Fatalf("only %d documents were found", len(found))
	}
	return found
}

// walk calls f for each file of the tree with the suffix.
func walk(t *testing.T, suffix string, f func(path, text string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, suffix) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f(path, string(text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := documents(t)
	for path, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := path
			if target != "" {
				to = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
				continue
			}
			if anchor != "" && !strings.Contains(anchors(all[to]), "\n"+anchor+"\n") {
				t.Errorf("%s links to %s, which has no such heading", path, m[1])
			}
		}
	}
}

var (
	heading    = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInASlug = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchors lists the headings as GitHub names them, a line each.
func anchors(text string) string {
	list := "\n"
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		list += strings.ReplaceAll(notInASlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-") + "\n"
	}
	return list
}

var (
	named    = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
)

func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	walk(t, "_test.go", func(_, text string) {
		for _, m := range declared.FindAllStringSubmatch(text, -1) {
			known[m[1]] = true
		}
	})
	count := 0
	for path, text := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			count++
			if !known[m[1]] {
				t.Errorf("%s names the test %s, which does not exist", path, m[1])
			}
		}
	}
	if count == 0 {
		t.Error("no test is named in the documents; the pattern must be wrong")
	}
}

var (
	complaint = regexp.MustCompile(`\.(?:Warn|Error)\(\s*"([^"\\]+)"`)
	quoted    = regexp.MustCompile("`([^`]+)`")
)

// Every warning and error that the daemon logs is explained, and nothing is
// explained that it does not log.
func TestMessagesAreExplained(t *testing.T) {
	t.Parallel()
	operations := documents(t)[filepath.Join(root, "docs", "operations.md")]
	_, section, _ := strings.Cut(operations, "### The daemon's log\n")
	section, _, _ = strings.Cut(section, "\n### ")
	var explained []string
	for row := range strings.Lines(section) {
		if first := strings.SplitN(row, "|", 3); len(first) == 3 {
			for _, m := range quoted.FindAllStringSubmatch(first[1], -1) {
				explained = append(explained, strings.TrimRight(strings.TrimSuffix(m[1], "..."), "; "))
			}
		}
	}
	if len(explained) == 0 {
		t.Fatal("no message is explained; the heading must have changed")
	}
	var sources strings.Builder
	walk(t, ".go", func(path, text string) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, filepath.Join(root, "integration")) {
			return
		}
		sources.WriteString(text)
		for _, m := range complaint.FindAllStringSubmatch(text, -1) {
			if !slices.ContainsFunc(explained, func(e string) bool { return strings.HasPrefix(m[1], e) }) {
				t.Errorf("%s logs %q, which docs/operations.md does not explain", path, m[1])
			}
		}
	})
	for _, e := range explained {
		if !strings.Contains(sources.String(), e) {
			t.Errorf("docs/operations.md explains %q, which is logged nowhere", e)
		}
	}
}
