package names

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 65)
	for name, test := range map[string]struct {
		is        func(string) bool
		good, bad []string
	}{
		"Plain":           {Plain, []string{"a", "0", "A.b-c_d", "main", long[1:]}, []string{"", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "\u00fc", "a\x00", long}},
		"Slug":            {Slug, []string{"a", "docs.example.com", "mains"}, []string{"", "main", "Main", "../a", long}},
		"DeliveryID":      {DeliveryID, []string{"a", "-", "72d3162e-cc78-11e3-81ab-4c9367dc0958", long[1:]}, []string{"", "a_b", "a.b", "a/b", "a\n", long}},
		"Commit":          {Commit, []string{strings.Repeat("a0", 20), strings.Repeat("a0", 32)}, []string{"", "HEAD", strings.Repeat("A0", 20), strings.Repeat("a0", 21), strings.Repeat("g0", 20), strings.Repeat("a0", 20) + "\n"}},
		"Unit":            {Unit, []string{"a.service", "getty@tty1", `dev-disk-by\x2dlabel.mount`, "a"}, []string{"", "-a", "a/b", "a b", "a;b", "a\n", "*.service", strings.Repeat("x", 256)}},
		"CommitBeginning": {CommitBeginning, []string{"abcd", strings.Repeat("a0", 32)}, []string{"", "abc", "ABCD", "abcg", strings.Repeat("a", 65)}},
	} {
		for _, s := range test.good {
			if !test.is(s) {
				t.Errorf("%s(%q) is false", name, s)
			}
		}
		for _, s := range test.bad {
			if test.is(s) {
				t.Errorf("%s(%q) is true", name, s)
			}
		}
	}
}

func TestWholeUnit_CompletesAServiceAlone(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{"web": "web.service", "web.service": "web.service", "web.timer": "web.timer", "a.b": "a.b.service", "": ".service"} {
		if got := WholeUnit(s); got != want {
			t.Errorf("WholeUnit(%q) is %q", s, got)
		}
	}
}

// TestNames_AreWhatPatternsSay compares with patterns, which are shorter to read and, with
// their counts, too large to be compiled by every start.
func TestNames_AreWhatPatternsSay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		is      func(string) bool
		pattern string
	}{
		"Repository": {Repository, `[A-Za-z0-9_][A-Za-z0-9_-]{0,99}/[A-Za-z0-9_.-]{1,100}`},
		"Host":       {Host, `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+`},
		"Header":     {Header, `[A-Za-z0-9][A-Za-z0-9-]{0,99}`},
		"User":       {User, `[A-Za-z_][A-Za-z0-9_.@-]{0,255}`},
		"EventName":  {EventName, `[!-~]{1,64}`},
		"HookID":     {HookID, `[A-Za-z0-9_-]{1,64}`},
		"App":        {App, `[A-Za-z0-9_@][A-Za-z0-9_.@:-]{0,199}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pattern := regexp.MustCompile(`\A` + test.pattern + `\z`)
			compare := func(s string) {
				beside := name == "Repository" && (strings.HasSuffix(s, "/.") || strings.HasSuffix(s, "/..")) || name == "Host" && len(s) > 253
				if got, want := test.is(s), pattern.MatchString(s) && !beside; got != want {
					t.Errorf("%s(%q) is %v", name, s, got)
				}
			}
			for n := range 260 {
				compare(strings.Repeat("a", n))
				compare(strings.Repeat("a", n) + "/b")
				compare("a/" + strings.Repeat("b", n))
				compare(strings.Repeat("a", n) + ".example")
			}
			compare(strings.Repeat("a", 101) + "/b")
			rapid.Check(t, func(t *rapid.T) {
				compare(rapid.StringMatching(`[aZ0_./@:!~ \n\x{fc}-]{0,6}`).Draw(t, "s"))
				compare(rapid.StringMatching(test.pattern).Draw(t, "good"))
			})
		})
	}
	if !Host(strings.Repeat("a.", 126)+"a") || Host(strings.Repeat("a.", 127)+"a") {
		t.Error("a host's name is not bounded by 253 bytes")
	}
	for _, s := range []string{"a/.", "a/.."} {
		if Repository(s) {
			t.Errorf("Repository(%q)", s)
		}
	}
}

// TestBranchIsGits compares our rules with git's own.
func TestBranchIsGits(t *testing.T) {
	t.Parallel()
	if Branch("\xff") {
		t.Error("a name that JSON cannot hold is accepted")
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`(\.|\.\.|/|@|\{|-|a|b|lock|\.lock| |~|\^|:|\?|\*|\[|\\|\x7f|\x01|\x{fc}){1,6}`).Draw(t, "name")
		err := exec.Command("git", "check-ref-format", "refs/heads/"+name).Run()
		// git allows the branch refs/heads/@; we do not need it.
		if want := err == nil && name != "@"; Branch(name) != want {
			t.Fatalf("Branch(%q) = %v", name, !want)
		}
	})
}
