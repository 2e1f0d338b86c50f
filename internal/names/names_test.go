package names

import (
	"os/exec"
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
