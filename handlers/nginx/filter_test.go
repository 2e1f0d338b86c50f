package nginx

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The last rule that matches decides; none excludes.
func TestIncluded_LastMatchWins(t *testing.T) {
	t.Parallel()
	names := rapid.SampledFrom([]string{"a.test", "b.test", "c.test", "*"})
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rule {
			return Rule{Include: rapid.Bool().Draw(t, "include"), Select: rapid.SliceOfN(names, 0, 3).Draw(t, "select")}
		}), 0, 6).Draw(t, "rules")
		site := rapid.SampledFrom([]string{"a.test", "b.test", "c.test", "d.test"}).Draw(t, "site")
		want := false
		for _, r := range slices.Backward(rules) {
			if slices.Contains(r.Select, site) || slices.Contains(r.Select, "*") {
				want = r.Include
				break
			}
		}
		if got := included(rules, site); got != want {
			t.Fatalf("%s by %v: %v, want %v", site, rules, got, want)
		}
	})
}

func TestParseName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]fileName{
		"[a.test].nginxconf":          {"a.test", true},
		"[a.test].conf":               {"a.test", true},
		"[a.test].nginxconf.disabled": {"a.test", false},
		"[a.test].conf.disabled":      {"a.test", false},
		"catch-all.nginxconf":         {"", true},
		"catch-all.conf.disabled":     {"", false},
		"[].conf":                     {"", true},
		"[a.test].txt":                {},
		"README.md":                   {},
		".gitkeep":                    {},
		"[a.test]":                    {},
	} {
		if got := parseName(name); got != want {
			t.Errorf("%s is %+v, want %+v", name, got, want)
		}
	}
}
