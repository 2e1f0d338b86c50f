package git

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHeal: what a loss of power, or a bad disk, has taken from .git is put right
// by the next deploy, and no untracked file goes with it.
func TestHeal(t *testing.T) {
	t.Parallel()
	zero := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		_ = os.Chmod(path, 0o644)
		return os.WriteFile(path, make([]byte, info.Size()), 0o644)
	}
	empty := func(path string) error { return errors.Join(os.Chmod(path, 0o644), os.Truncate(path, 0)) }
	// each does something to all files of a directory.
	each := func(do func(string) error, match string) func(dir string) error {
		return func(dir string) error {
			return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || !strings.HasSuffix(path, match) {
					return err
				}
				return do(path)
			})
		}
	}
	for name, lose := range map[string]struct {
		in   string
		do   func(path string) error
		kept bool // the objects, so that nothing is cloned again
	}{
		"HEAD emptied":         {"HEAD", empty, true},
		"HEAD zeroed":          {"HEAD", zero, true},
		"refs emptied":         {"refs", each(empty, ""), true},
		"configuration zeroed": {"config", zero, true},
		"packed refs zeroed":   {"packed-refs", zero, false},
		"a ref to what is lost": {"refs", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "heads", "lost"), []byte(strings.Repeat("ab", 20)+"\n"), 0o644)
		}, false},
		"packs lost":            {"objects/pack", each(os.Remove, ""), false},
		"packs zeroed":          {"objects/pack", each(zero, ".pack"), false},
		"packs cut":             {"objects/pack", each(empty, ".pack"), false},
		"indexes of packs gone": {"objects/pack", each(empty, ".idx"), false},
		"loose objects emptied": {"objects", each(empty, ""), false},
		"loose objects lost":    {"objects", each(os.Remove, ""), false},
	} {
		heals := func(t *testing.T, shared bool) {
			t.Parallel()
			w := newWorld(t)
			if shared {
				w.repo = w.sharing("live")
			}
			first := w.commit("first", map[string]string{"a": "1", "gone": "1", "d/same": "1"})
			w.push("main")
			w.must(w.deploy("main", first))
			second := w.commit("second", map[string]string{"a": "2", "gone": ""})
			w.push("main")
			if strings.HasPrefix(lose.in, "objects") {
				// So that the second commit is here, but not whole.
				w.must(w.repo.FetchCommit(t.Context(), "main", second, nil))
			}
			live := w.repo.Dir()
			gitDir := filepath.Join(live, ".git")
			lost := gitDir
			if shared {
				lost = filepath.Join(w.repo.lender().dir, ".git")
			}
			switch lose.in {
			case "objects":
				w.sh(filepath.Dir(lost), "mv .git/objects/pack packs; for pack in packs/*.pack; do git unpack-objects -q < $pack || exit 1; done; rm -r packs")
			case "packed-refs":
				w.git(filepath.Dir(lost), "pack-refs", "--all")
			}
			w.write(filepath.Join(live, "untracked"), "mine")
			w.git(live, "config", "core.sshCommand", "ssh -i mine")
			w.write(filepath.Join(gitDir, "lfs/objects/x"), "large")
			w.must(lose.do(filepath.Join(lost, lose.in)))
			// A deploy begins with these questions.
			if head, err := w.repo.Head(t.Context()); err != nil || head != first && lose.in != "HEAD" {
				t.Errorf("HEAD is %q, %v", head, err)
			}
			if _, err := w.repo.Has(t.Context(), second); err != nil {
				t.Error(err)
			}
			w.must(w.deploy("main", second))
			w.assertHead(second)
			if w.live("untracked") != "mine" || w.live(".git/lfs/objects/x") != "large" || w.live("gone") != "" || w.live("d/same") != "1" {
				t.Errorf("untracked is %q, LFS has %q, gone is %q", w.live("untracked"), w.live(".git/lfs/objects/x"), w.live("gone"))
			}
			if config := w.live(".git/config"); lose.in != "config" && !strings.Contains(config, "ssh -i mine") {
				t.Errorf("what was configured is lost:\n%s", config)
			}
			if _, err := os.Stat(filepath.Join(gitDir, damagedName)); err == nil && lose.kept {
				t.Error("everything was fetched again")
			}
			if _, err := os.Lstat(filepath.Join(live, freshName)); err == nil {
				t.Error("the place of the new clone is still there")
			}
			w.must(w.deploy("main", first)) // and it goes on
			w.assertHead(first)
			if shared && w.repo.lender() == nil {
				t.Error("it borrows no more")
			}
		}
		t.Run(name, func(t *testing.T) { heals(t, false) })
		t.Run(name+" in the store", func(t *testing.T) { heals(t, true) })
	}
}

// TestRenew_Killed: between the two renames there is no .git.
func TestRenew_Killed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	w.must(w.deploy("main", first))
	live := w.repo.Dir()
	w.write(filepath.Join(live, "untracked"), "mine")
	w.git(live, "clone", "--quiet", "--no-checkout", w.bare, freshName)
	w.write(filepath.Join(live, ".git/modules/sub/objects/x"), "1")
	w.must(os.Rename(filepath.Join(live, ".git"), filepath.Join(live, freshName, ".git", damagedName)))
	if err := CheckDir(live); err != nil {
		t.Error(err)
	}
	w.must(w.deploy("main", first))
	w.assertLive(first)
	if w.live("untracked") != "mine" || w.live(".git/modules/sub/objects/x") != "1" {
		t.Error("something was lost")
	}
	// It was killed before: nothing of it is used.
	w.git(live, "clone", "--quiet", "--no-checkout", w.bare, freshName)
	w.must(os.WriteFile(filepath.Join(live, ".git", "packed-refs"), []byte("\x00\x00\n"), 0o644))
	w.must(w.deploy("main", first))
	w.assertLive(first)
}

// TestHeal_IndexAndHistory: with the index the objects of HEAD are lost, and
// nothing tells what was tracked.
func TestHeal_IndexAndHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", map[string]string{"a": "1", "same": "1"})
	w.push("main")
	w.must(w.deploy("main", first))
	live := w.repo.Dir()
	w.git(w.pusher, "reset", "--quiet", "--soft", first)
	w.git(w.pusher, "commit", "--quiet", "--amend", "-m", "instead")
	second := w.commit("second", map[string]string{"a": "2"})
	w.push("main")
	w.must(os.Truncate(filepath.Join(live, ".git/index"), 0))
	w.must(os.RemoveAll(filepath.Join(live, ".git/objects/pack")))
	w.must(os.RemoveAll(filepath.Join(live, ".git/refs/remotes")))
	if err := w.deploy("main", second); !errors.As(err, new(*ObstructedError)) || !strings.Contains(err.Error(), `: "a"`) {
		t.Errorf("a file that may be anybody's: %v", err)
	}
	w.must(os.Remove(filepath.Join(live, "a")))
	w.must(w.deploy("main", second))
	w.assertHead(second)
}

func TestObjectFormat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("sha1", nil)
	w.push("main")
	w.must(w.deploy("main", w.git(w.pusher, "rev-parse", "HEAD")))
	sha1 := w.repo.Dir()
	for _, dir := range []string{w.bare, w.pusher} {
		w.must(os.RemoveAll(dir))
	}
	w.git(filepath.Dir(w.bare), "init", "--quiet", "--bare", "--object-format=sha256", "--initial-branch=main", w.bare)
	w.git(filepath.Dir(w.bare), "init", "--quiet", "--object-format=sha256", "--initial-branch=main", w.pusher)
	w.repo = Open(filepath.Join(t.TempDir(), "live"), w.bare, Options{})
	first := w.commit("first", map[string]string{"a": "1"})
	second := w.commit("second", map[string]string{"a": "2", "b": "1"})
	w.push("main")
	if tip, err := w.repo.RemoteTip(t.Context(), "main"); err != nil || tip != second {
		t.Errorf("the tip is %q, %v", tip, err)
	}
	w.must(w.deploy("main", first))
	w.write(filepath.Join(w.repo.Dir(), "b"), "1") // what the commit has
	w.must(w.deploy("main", second))
	w.assertLive(second)
	if edited, err := w.repo.Edited(t.Context()); err != nil || len(edited) > 0 {
		t.Errorf("edited %q, %v", edited, err)
	}
	w.repo = Open(sha1, w.bare, Options{})
	if err := w.deploy("main", second); err == nil || !strings.Contains(err.Error(), "is of the format sha1") {
		t.Errorf("a clone of the other format: %v", err)
	}
}
