package git

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestEdited(t *testing.T) {
	w := newWorld(t)
	edited := func(want ...string) {
		t.Helper()
		got, err := w.repo.Edited(t.Context())
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("edited %q, %v; want %q", got, err, want)
		}
	}
	edited() // there is no checkout yet
	odd := "sub dir/a\nb \"c\" -> d"
	commit := w.commit("first", map[string]string{"kept": "1", "changed": "1", "removed": "1", "staged": "1", odd: "1", "mode": "1"})
	w.push("main")
	if err := w.deploy("main", commit); err != nil {
		t.Fatal(err)
	}
	edited()
	live := w.repo.Dir()
	w.write(filepath.Join(live, "changed"), "2")
	w.write(filepath.Join(live, odd), "2")
	w.write(filepath.Join(live, "staged"), "2")
	w.git(live, "add", "staged")
	w.write(filepath.Join(live, "untracked"), "2")
	if err := os.Remove(filepath.Join(live, "removed")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(live, "mode"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.git(live, "mv", "kept", "moved") // removed there, and added here
	edited("changed", "kept", "mode", "moved", "removed", "staged", odd)
	if err := w.deploy("main", commit); err != nil {
		t.Fatal(err)
	}
	edited()
	// A commit by hand is another HEAD, and no edit of it.
	w.write(filepath.Join(live, "changed"), "3")
	w.git(live, "commit", "--quiet", "--all", "-m", "by hand")
	edited()
	if head, err := w.repo.Head(t.Context()); err != nil || head == commit {
		t.Errorf("HEAD is %s, %v", head, err)
	}
}
