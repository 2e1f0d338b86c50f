package testkit

import (
	"os"
	"path/filepath"
	"strings"
)

// Documented are the indented blocks of the documents in docs/handlers, under root, that
// are marked with <!-- loaded by a test: NAME -->, by their document and number.
func Documented(t TB, root, name string) map[string]string {
	t.Helper()
	blocks := map[string]string{}
	files, err := filepath.Glob(filepath.Join(root, "docs", "handlers", "*.md"))
	for _, file := range files {
		text, readErr := os.ReadFile(file)
		if readErr != nil {
			err = readErr
		}
		for i, rest := range strings.Split(string(text), "<!-- loaded by a test: "+name+" -->\n")[1:] {
			block := ""
			for line := range strings.Lines(rest) {
				code, indented := strings.CutPrefix(line, "    ")
				if !indented && strings.TrimSpace(line) != "" {
					break
				}
				block += code
			}
			blocks[filepath.Base(file)+" "+string(rune('1'+i))] = block
		}
	}
	if err != nil || len(blocks) == 0 {
		t.Fatalf("docs/handlers has no %s that a test could load: %v", name, err)
	}
	return blocks
}
