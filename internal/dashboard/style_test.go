package dashboard

import (
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// variables are the colours of the stylesheet, in one scheme.
func variables(t *testing.T, block string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6})\b`).FindAllStringSubmatch(block, -1) {
		found[m[1]] = m[2]
	}
	return found
}

// luminance is that of WCAG 2.
func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	var sum float64
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(colour[1+2*i:3+2*i], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

func TestStyle_Contrast(t *testing.T) {
	t.Parallel()
	raw, err := fs.ReadFile(files, "assets/style.css")
	if err != nil {
		t.Fatal(err)
	}
	light, rest, found := strings.Cut(string(raw), "@media (prefers-color-scheme: dark)")
	if !found {
		t.Fatal("the stylesheet has no dark scheme")
	}
	dark, _, _ := strings.Cut(rest, "\n}")
	schemes := map[string]map[string]string{"light": variables(t, light), "dark": variables(t, light)}
	for name, colour := range variables(t, dark) {
		schemes["dark"][name] = colour
	}
	type pair struct {
		texts, grounds string
		least          float64
	}
	for scheme, colours := range schemes {
		if len(colours) < 30 {
			t.Fatalf("%s has %d colours", scheme, len(colours))
		}
		for _, p := range []pair{
			{"text soft faint accent ok bad run hold", "bg panel", 4.5},
			{"text soft accent", "ok-bg bad-bg run-bg hold-bg none-bg", 4.5},
			{"ok", "ok-bg", 4.5}, {"bad", "bad-bg none-bg", 4.5}, {"run", "run-bg", 4.5}, {"hold", "hold-bg", 4.5}, {"faint", "none-bg", 4.5},
			{"panel", "accent", 4.5}, // the first button
			{"log-text log-soft red green yellow blue magenta cyan black white", "log log-line", 4.5},
			{"strong ok-bar usual bad run", "panel", 3}, // borders of fields, and drawings
			{"strong", "bg", 3},
		} {
			for a := range strings.FieldsSeq(p.texts) {
				for b := range strings.FieldsSeq(p.grounds) {
					la, lb := luminance(t, colours[a]), luminance(t, colours[b])
					if ratio := (max(la, lb) + 0.05) / (min(la, lb) + 0.05); ratio < p.least {
						t.Errorf("%s: %s %s on %s %s has a contrast of %.2f, not %.1f", scheme, a, colours[a], b, colours[b], ratio, p.least)
					}
				}
			}
		}
	}
}

func TestStyle_NamesOnlyWhatIsThere(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for _, dir := range []string{"assets", "templates"} {
		entries, err := fs.ReadDir(files, dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			raw, err := fs.ReadFile(files, dir+"/"+e.Name())
			if err != nil {
				t.Fatal(err)
			}
			all.Write(raw)
		}
	}
	text := all.String()
	for _, m := range regexp.MustCompile(`var\(--([a-z-]+)\)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(text, fmt.Sprintf("--%s: ", m[1])) {
			t.Errorf("the stylesheet uses --%s, which it does not have", m[1])
		}
	}
	for _, bad := range []string{"http://", "https://", "//cdn", "@import", "url("} {
		style, _ := fs.ReadFile(files, "assets/style.css")
		script, _ := fs.ReadFile(files, "assets/dashboard.js")
		if strings.Contains(string(style)+string(script), bad) {
			t.Errorf("the stylesheet or the script has %q", bad)
		}
	}
}
