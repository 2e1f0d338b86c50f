package git

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// library is a repository, and a clone to push from.
func (w *world) library(name string) (bare, pusher string) {
	dir := w.t.TempDir()
	bare, pusher = filepath.Join(dir, name+".git"), filepath.Join(dir, name)
	w.git(dir, "init", "--quiet", "--bare", "--initial-branch=main", bare)
	w.git(dir, "init", "--quiet", "--initial-branch=main", pusher)
	return bare, pusher
}

func (w *world) commitIn(bare, pusher string, files map[string]string) string {
	w.t.Helper()
	own := w.pusher
	defer func() { w.pusher = own }()
	w.pusher = pusher
	commit := w.commit("library", files)
	w.git(pusher, "push", "--quiet", bare, "HEAD:refs/heads/main")
	return commit
}

// submodule makes a commit with a submodule at a commit, or without.
func (w *world) submodule(path, url, commit string) string {
	w.t.Helper()
	if commit == "" {
		w.git(w.pusher, "rm", "--quiet", "--cached", path)
		w.git(w.pusher, "config", "--file", ".gitmodules", "--remove-section", "submodule."+path)
	} else {
		w.git(w.pusher, "update-index", "--add", "--cacheinfo", modeSubmodule+","+commit+","+path)
		w.git(w.pusher, "config", "--file", ".gitmodules", "submodule."+path+".path", path)
		w.git(w.pusher, "config", "--file", ".gitmodules", "submodule."+path+".url", url)
	}
	w.git(w.pusher, "add", ".gitmodules")
	w.git(w.pusher, "commit", "--quiet", "-m", "submodule "+path)
	w.push("main")
	return w.git(w.pusher, "rev-parse", "HEAD")
}

func (w *world) withSubmodules() {
	w.repo.opts.Submodules = true
}

func TestSubmodules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withSubmodules()
	innerBare, inner := w.library("inner")
	innerCommit := w.commitIn(innerBare, inner, map[string]string{"i": "1"})
	libBare, lib := w.library("lib")
	w.commitIn(libBare, lib, map[string]string{"f": "1"})
	own := w.pusher
	w.pusher = lib
	w.git(lib, "update-index", "--add", "--cacheinfo", modeSubmodule+","+innerCommit+",inner")
	w.git(lib, "config", "--file", ".gitmodules", "submodule.inner.path", "inner")
	w.git(lib, "config", "--file", ".gitmodules", "submodule.inner.url", innerBare)
	w.git(lib, "add", ".gitmodules")
	w.git(lib, "commit", "--quiet", "-m", "inner")
	w.git(lib, "push", "--quiet", libBare, "HEAD:refs/heads/main")
	libFirst := w.git(lib, "rev-parse", "HEAD")
	w.pusher = own

	w.commit("first", map[string]string{"a": "1"})
	without := w.git(w.pusher, "rev-parse", "HEAD")
	with := w.submodule("vendor/lib", libBare, libFirst)
	w.must(w.deploy("main", with))
	if w.live("vendor/lib/f") != "1" || w.live("vendor/lib/inner/i") != "1" {
		t.Fatalf("the submodules are not there: %q, %q", w.live("vendor/lib/f"), w.live("vendor/lib/inner/i"))
	}
	if edited, err := w.repo.Edited(t.Context()); err != nil || len(edited) > 0 {
		t.Errorf("edited %q, %v", edited, err)
	}

	// Edits go, also hidden ones; another commit and another URL come.
	w.write(filepath.Join(w.repo.Dir(), "vendor/lib/f"), "by hand")
	if edited, err := w.repo.Edited(t.Context()); err != nil || !slices.Equal(edited, []string{"vendor/lib"}) {
		t.Errorf("edited %q, %v", edited, err)
	}
	w.git(filepath.Join(w.repo.Dir(), "vendor/lib"), "update-index", "--skip-worktree", "f")
	moved := libBare + "-moved"
	w.must(os.Rename(libBare, moved))
	libSecond := w.commitIn(moved, lib, map[string]string{"f": "2", "g": "2"})
	second := w.submodule("vendor/lib", moved, libSecond)
	w.write(filepath.Join(w.repo.Dir(), "vendor/lib/upload"), "mine")
	w.must(w.deploy("main", second))
	if _, err := os.Lstat(filepath.Join(w.repo.Dir(), "vendor/lib/inner")); err == nil {
		t.Error("a submodule of the submodule is still there")
	}
	if w.live("vendor/lib/f") != "2" || w.live("vendor/lib/g") != "2" || w.live("vendor/lib/upload") != "mine" {
		t.Errorf("f is %q, upload is %q", w.live("vendor/lib/f"), w.live("vendor/lib/upload"))
	}
	w.must(w.deploy("main", with))
	if w.live("vendor/lib/f") != "1" || w.live("vendor/lib/g") != "" {
		t.Errorf("f is %q, g is %q", w.live("vendor/lib/f"), w.live("vendor/lib/g"))
	}

	// What is untracked in a submodule is in the way there, too.
	w.write(filepath.Join(w.repo.Dir(), "vendor/lib/g"), "mine")
	err := w.deploy("main", second)
	if !errors.As(err, new(*ObstructedError)) || w.live("vendor/lib/g") != "mine" {
		t.Errorf("g is %q, %v", w.live("vendor/lib/g"), err)
	}
	w.must(os.Remove(filepath.Join(w.repo.Dir(), "vendor/lib/g")))

	// It is no more: its files go, what is untracked stays.
	w.must(w.deploy("main", without))
	if w.live("vendor/lib/upload") != "mine" {
		t.Error("an untracked file of a submodule was deleted")
	}
	for _, gone := range []string{"vendor/lib/f", "vendor/lib/.git", "vendor/lib/inner", ".git/modules/vendor/lib"} {
		if _, err := os.Lstat(filepath.Join(w.repo.Dir(), gone)); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	// And back: the directory is in use now.
	if err := w.deploy("main", second); !errors.As(err, new(*ObstructedError)) || !strings.Contains(err.Error(), `"vendor/lib/upload"`) {
		t.Errorf("a directory with untracked files: %v", err)
	}
	w.must(os.RemoveAll(filepath.Join(w.repo.Dir(), "vendor")))
	w.must(w.deploy("main", second))
	if w.live("vendor/lib/f") != "2" {
		t.Errorf("f is %q", w.live("vendor/lib/f"))
	}
	// A clone of a submodule that was killed has no commit.
	module := filepath.Join(w.repo.Dir(), ".git/modules/vendor/lib")
	for _, part := range []string{"objects/pack", "refs/heads", "refs/remotes", "packed-refs"} {
		w.must(os.RemoveAll(filepath.Join(module, part)))
	}
	w.must(os.WriteFile(filepath.Join(module, "HEAD"), []byte("ref: refs/heads/main\n"), 0o644))
	w.must(w.deploy("main", second))
	w.assertLive(second)
}

func TestSubmodulesBecomeSomethingElse(t *testing.T) {
	t.Parallel()
	for _, enabled := range []bool{true, false} {
		w := newWorld(t)
		libBare, lib := w.library("lib")
		libCommit := w.commitIn(libBare, lib, map[string]string{"f": "1", "g": "1"})
		w.commit("first", map[string]string{"a": "1"})
		with := w.submodule("lib", libBare, libCommit)
		w.submodule("lib", "", "")
		directory := w.commit("a directory", map[string]string{"lib/f": "2"})
		w.commit("away", map[string]string{"lib/f": ""})
		w.must(os.RemoveAll(filepath.Join(w.pusher, "lib")))
		file := w.commit("a file", map[string]string{"lib": "3"})
		w.push("main")
		for _, c := range []struct{ commit, name, content string }{{directory, "lib/f", "2"}, {file, "lib", "3"}} {
			w.withSubmodules()
			w.must(w.deploy("main", with))
			w.repo.opts.Submodules = enabled
			upload := filepath.Join(w.repo.Dir(), "lib", "upload")
			w.write(upload, "mine")
			err := w.deploy("main", c.commit)
			if c.commit == file {
				if !errors.As(err, new(*ObstructedError)) || w.live("lib/upload") != "mine" || w.live("lib/f") != "1" {
					t.Errorf("upload is %q, f is %q, %v", w.live("lib/upload"), w.live("lib/f"), err)
				}
				w.must(os.Remove(upload))
				err = w.deploy("main", c.commit)
			}
			w.must(err)
			w.assertLive(c.commit)
			if w.live(c.name) != c.content || w.live("lib/g") != "" {
				t.Errorf("%s is %q", c.name, w.live(c.name))
			}
			w.must(os.RemoveAll(filepath.Join(w.repo.Dir(), "lib")))
		}
	}
}

func TestSubmodulesFromThisMachine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withSubmodules()
	bare, pusher := w.library("secret")
	commit := w.commitIn(bare, pusher, map[string]string{"f": "1"})
	w.commit("first", map[string]string{"a": "1"})
	with := w.submodule("lib", bare, commit)
	w.must(w.deploy("main", with))
	// A remote elsewhere may not name what is here.
	w.must(os.RemoveAll(filepath.Join(w.repo.Dir(), ".git/modules")))
	w.must(os.RemoveAll(filepath.Join(w.repo.Dir(), "lib")))
	w.repo.remote = "https://example.invalid/x.git"
	if err := w.repo.Checkout(t.Context(), with, nil); err == nil || !strings.Contains(err.Error(), "transport 'file' not allowed") {
		t.Errorf("got %v", err)
	}
}

func TestLend(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string][2]string{
		"https://user:secret@example.com:8443/o/r.git": {"url.https://user:secret@example.com:8443/.insteadOf", "https://example.com:8443/"},
		"http://token@example.com/o/r.git":             {"url.http://token@example.com/.insteadOf", "http://example.com/"},
		"https://example.com/o/r.git":                  {},
		"ssh://git@example.com/o/r.git":                {},
		"git@example.com:o/r.git":                      {},
		"/srv/a@b.git":                                 {},
	} {
		got := Open("/d", remote, Options{}).lend()
		if want[0] == "" && len(got) > 0 || want[0] != "" && !slices.Contains(got, want) {
			t.Errorf("%s: %q", remote, got)
		}
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", map[string]string{"a": "1"})
	second := w.commit("second", map[string]string{"a": "2"})
	w.push("main")
	tag := func(commit string) {
		w.git(w.pusher, "push", "--quiet", "--force", w.bare, commit+":refs/tags/v1")
	}
	tag(first)
	w.must(w.deploy("main", second))
	if tags := w.git(w.repo.Dir(), "tag"); tags != "" {
		t.Errorf("tags that were not asked for: %s", tags)
	}
	w.repo.opts.Tags = true
	for _, commit := range []string{first, second} { // it is moved
		tag(commit)
		w.must(w.deploy("main", second))
		if got := w.git(w.repo.Dir(), "rev-parse", "v1"); got != commit {
			t.Errorf("v1 is %s, want %s", got, commit)
		}
	}
}

func TestLFSPointers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// As where git-lfs is not set up, also on a machine that has it.
	w.repo.vars = []string{"GIT_CONFIG_NOSYSTEM=1"}
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("ab", 32) + "\nsize 3\n"
	w.git(w.pusher, "config", "filter.lfs.clean", "cat")
	w.git(w.pusher, "config", "filter.lfs.process", "")
	commit := w.commit("first", map[string]string{
		".gitattributes": "*.bin filter=lfs\n", "a.bin": pointer, "b.bin": "there", "about.md": pointer,
	})
	w.push("main")
	w.must(w.deploy("main", commit))
	if pointers, err := w.repo.LFSPointers(t.Context()); err != nil || !slices.Equal(pointers, []string{"a.bin"}) {
		t.Errorf("%q, %v", pointers, err)
	}
	if want := "warning: 1 file is only an LFS pointer: \"a.bin\"; install git-lfs"; !strings.Contains(w.out.String(), want) {
		t.Errorf("%q is not in\n%s", want, w.out.String())
	}
}
