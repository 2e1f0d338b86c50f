package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// knownKeys lists every key that takes effect, with the tables that it is in.
func knownKeys(f *field, tables ...string) map[string][][]string {
	keys := map[string][][]string{}
	add := func(more map[string][][]string) {
		for key, places := range more {
			keys[key] = append(keys[key], places...)
		}
	}
	for key, child := range f.fields {
		if child.unused != "" || f.each != nil { // beside names that people choose
			continue
		}
		keys[key] = append(keys[key], slices.Clone(tables))
		add(knownKeys(child, append(slices.Clone(tables), key)...))
	}
	switch {
	case f.form == takesTables:
		add(knownKeys(f.each, tables...))
	case f.each != nil:
		add(knownKeys(f.each, append(slices.Clone(tables), "web")...))
	}
	return keys
}

// typed writes key = 1 in its table; the schema's lists of tables get an element.
func typed(tables []string, key string) string {
	header := ""
	if len(tables) > 0 {
		header = "[" + strings.Join(tables, ".") + "]\n"
		if last := tables[len(tables)-1]; last == "steps" || last == "sites" || last == "notify" {
			header = "[" + strings.TrimSpace(header) + "]\n"
		}
	}
	return header + key + " = 1\n"
}

func TestUnknownKeys_TypoOfAnyKeySuggestsIt(t *testing.T) {
	known := knownKeys(schema())
	if len(known) < 30 {
		t.Fatalf("only %d keys are known", len(known))
	}
	names := sortedKeys(known)
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SampledFrom(names).Draw(t, "key")
		tables := rapid.SampledFrom(known[key]).Draw(t, "table")
		at := rapid.IntRange(0, len(key)-1).Draw(t, "letter")
		var typo string
		switch rapid.SampledFrom([]string{"drop", "swap", "double", "upper"}).Draw(t, "slip") {
		case "drop":
			typo = key[:at] + key[at+1:]
		case "swap":
			if at+1 == len(key) || key[at] == key[at+1] {
				return
			}
			typo = key[:at] + string(key[at+1]) + string(key[at]) + key[at+2:]
		case "double":
			typo = key[:at] + key[at:at+1] + key[at:]
		case "upper":
			typo = strings.ToUpper(key)
		}
		if typo == "" {
			return
		}
		_, err := parse(environment(), typed(tables, typo))
		var all *Errors
		if !errors.As(err, &all) {
			t.Fatalf("%s is accepted", typo)
		}
		for _, e := range all.List {
			if !strings.Contains(e.Message, fmt.Sprintf("unknown key %q", typo)) {
				continue
			}
			// A slip can lie between two keys; both are named then.
			if !strings.HasPrefix(e.Suggestion, "did you mean ") || !strings.Contains(e.Suggestion, fmt.Sprintf("%q", key)) {
				t.Fatalf("%v: suggests %q, not %q", e, e.Suggestion, key)
			}
			if e.File != "a.toml" || e.Line == 0 || e.Column != 1 {
				t.Fatalf("%v: is at %s:%d:%d", e, e.File, e.Line, e.Column)
			}
			return
		}
		t.Fatalf("%s is not among the errors:\n%v", typo, err)
	})
}

// What tags name must be there: a slip in one would check nothing.
func TestTagsOfSettingsNameWhatThereIs(t *testing.T) {
	var look func(f *field, path string)
	look = func(f *field, path string) {
		if check := f.tag.Get("check"); check != "" && checks[check] == nil {
			t.Errorf("%s: there is no check %q", path, check)
		}
		if text := f.tag.Get("default"); f.form == takesDuration && text != "" {
			if _, err := parseDuration(text); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		if limit := f.tag.Get("max"); f.form == takesInt && f.unused == "" {
			if _, err := strconv.Atoi(limit); err != nil {
				t.Errorf("%s: max: %v", path, err)
			}
		}
		if f.form == takesTableOr && f.fields[f.tag.Get("single")] == nil {
			t.Errorf("%s: there is no key %q", path, f.tag.Get("single"))
		}
		for key, child := range f.fields {
			look(child, join(path, key))
		}
		if f.each != nil {
			look(f.each, path+"[]")
		}
	}
	look(schema(), "")
}

func TestConfig_EveryKnownKeyIsAccepted(t *testing.T) {
	for key, places := range knownKeys(schema()) {
		for _, tables := range places {
			if _, err := parse(environment(), typed(tables, key)); err != nil && strings.Contains(err.Error(), "unknown key") {
				t.Errorf("%s: %v", key, err)
			}
		}
	}
}

// However the lines of a configuration are spread over files, in order, the
// result is that of one file with them all.
func TestSplittingOverFilesChangesNothing(t *testing.T) {
	lines := []string{
		`origin = "https://a.example"`, `listen.host = "a"`, `listen.port = 1`, `deployments.web.repository = "octo/web"`,
		`deployments.web.branch = "main"`, `deployments.web.path = "/srv/web"`, `deployments.web.timeout = 7`,
		build1Dotted, `deployments.two.repository = "octo/two"`, `deployments.two.branch = "b"`,
		`deployments.two.path = "/srv/two"`, `deployments.two.handler = "command"`, `webhook_secret_token = ["a", "b"]`,
	}
	whole, err := parse(environment(), strings.Join(lines, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	whole.Files, whole.origins = nil, nil
	for _, d := range whole.Deployments {
		d.at = position{}
	}
	rapid.Check(t, func(t *rapid.T) {
		files := make([]string, rapid.IntRange(1, 4).Draw(t, "files"))
		for _, line := range rapid.Permutation(lines).Draw(t, "order") {
			i := rapid.IntRange(0, len(files)-1).Draw(t, "file")
			files[i] += line + "\n"
		}
		c, err := parse(environment(), files...)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range c.Deployments {
			d.at = position{}
		}
		c.Files, c.origins = nil, nil
		if got, want := dump(c), dump(whole); got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

const build1Dotted = `deployments.web.steps = [{ name = "build", run = ["make"] }]`

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"branch", "branch", 0}, {"brnach", "branch", 1}, {"banch", "branch", 1},
		{"brranch", "branch", 1}, {"brench", "branch", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 6, -1)
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := distance(a, b)
		if d != distance(b, a) || (d == 0) != (a == b) || d > max(len(a), len(b)) {
			t.Fatalf("distance(%q, %q) = %d, and %d the other way", a, b, d, distance(b, a))
		}
	})
}

// FuzzLoad: any two files end in a configuration or in errors with places in
// them, never in a panic, and no error or warning shows a secret.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/show/*.toml", "testdata/python/*.toml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal(files, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data), "")
			f.Add("[deployments.web]\nhandler = \"command\"", string(data))
		}
	}
	f.Add("[[deployments]]", "[deployments]\nweb = 1")
	f.Add("a.b.c = {d = [{e = 1}]}", "[[a]]\n[a.b]\n[[a.b]]")
	f.Add("[[deployments.a.steps]]\n[deployments.a.steps.env]\nA='x'\n[[deployments.a.steps]]", "deployments.a.steps = 1")
	f.Add("database_url = \"postgres://a:b@c:d/e\"\nlock = { url = \"redis://%zz\", ttl = 0x10 }", "origin = '''\n'''")
	const secret = "correct-horse-battery"
	f.Fuzz(func(t *testing.T, first, second string) {
		// No input may make the loader read the machine's own files.
		if strings.Contains(first+second, "webhook_secret_f") || strings.Contains(first+second, "url_f") {
			return
		}
		c, err := parse(environment("DATABASE_URL", "postgres://u:"+secret+"@h/d"), first, second, "[lock]\nurl = \"http://:"+secret+"@h\"")
		if err == nil {
			t.Fatalf("a wrong lock.url is accepted: %s", dump(c))
		}
		var all *Errors
		if !errors.As(err, &all) || len(all.List) == 0 {
			t.Fatalf("error is a %T", err)
		}
		if strings.Contains(err.Error(), secret) {
			t.Fatalf("the error shows a secret: %v", err)
		}
		c, err = parse(environment(), first, second)
		if err != nil {
			return
		}
		for _, slug := range c.Slugs() {
			d := c.Deployments[slug]
			if len(d.Digest) != 64 || d.Handler == "" || !filepath.IsAbs(d.Path) || d.Repository == "" || d.Branch == "" || d.Remote == "" {
				t.Fatalf("deployment %q is not whole: %s", slug, dump(c))
			}
			for _, s := range d.Steps {
				if len(s.Run) == 0 || s.Name == "" || (s.Dir != "" && !filepath.IsLocal(s.Dir)) {
					t.Fatalf("a step is not whole: %s", dump(c))
				}
			}
		}
	})
}
