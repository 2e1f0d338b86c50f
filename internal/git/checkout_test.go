package git

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCheckoutLeavesUntracked: whatever is in the way of a commit and not
// tracked stops its checkout before anything is changed.
func TestCheckoutLeavesUntracked(t *testing.T) {
	t.Parallel()
	type setup func(t *testing.T, dir string)
	put := func(names ...string) setup {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte("photo"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	edit := func(name string) setup {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("other"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	exclude := func(name string) setup {
		return func(t *testing.T, dir string) {
			info := filepath.Join(dir, ".git", "info")
			if err := errors.Join(os.MkdirAll(info, 0o755), os.WriteFile(filepath.Join(info, "exclude"), []byte(name), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(name, to string) setup {
		return func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) setup {
		return func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var many []string
	for i := range 25 {
		many = append(many, fmt.Sprintf("up/%02d", i))
	}
	for name, test := range map[string]struct {
		before, after []setup // of the two commits
		disk          []setup // by hand, between them
		want          []string
	}{
		"directory becomes a link":              {[]setup{put("up/kept")}, []setup{link("up", "elsewhere")}, []setup{put("up/photo", "up/sub/ignored")}, []string{"up/photo", "up/sub/ignored"}},
		"directory becomes a file":              {[]setup{put("up/kept")}, []setup{remove("up"), put("up")}, []setup{put("up/photo")}, []string{"up/photo"}},
		"directory becomes a link, many":        {[]setup{put("up/kept")}, []setup{link("up", "elsewhere")}, []setup{put(many...)}, many},
		"directory with tracked files only":     {[]setup{put("up/kept")}, []setup{link("up", "elsewhere")}, nil, nil},
		"directory with an empty one":           {[]setup{put("up/kept")}, []setup{link("up", "elsewhere")}, []setup{func(t *testing.T, dir string) { _ = os.Mkdir(filepath.Join(dir, "up", "empty"), 0o755) }}, nil},
		"directory with a repository":           {[]setup{put("up/kept")}, []setup{link("up", "elsewhere")}, []setup{put("up/lib/.git/HEAD")}, []string{"up/lib/.git/"}},
		"file":                                  {nil, []setup{edit("new")}, []setup{put("new")}, []string{"new"}},
		"ignored file":                          {nil, []setup{edit("new")}, []setup{put("new"), exclude("new")}, []string{"new"}},
		"file with the same content":            {nil, []setup{put("new")}, []setup{put("new")}, nil},
		"link with the same end":                {nil, []setup{link("new", "there")}, []setup{link("new", "there")}, nil},
		"link with another end":                 {nil, []setup{link("new", "there")}, []setup{link("new", "here")}, []string{"new"}},
		"link where the commit has a file":      {nil, []setup{put("new")}, []setup{link("new", "here")}, []string{"new"}},
		"file where the commit has a directory": {nil, []setup{put("new/deep/a", "new/b")}, []setup{put("new")}, []string{"new"}},
		"link where the commit has a directory": {nil, []setup{put("new/a")}, []setup{link("new", "data")}, []string{"new"}},
		"link in place of a tracked directory":  {[]setup{put("up/kept")}, []setup{put("up/more")}, []setup{link("up", "data")}, []string{"up"}},
		"directory in place of a tracked file":  {[]setup{put("page")}, nil, []setup{remove("page"), put("page/draft")}, []string{"page/draft"}},
		"tracked link becomes a directory":      {[]setup{link("up", "data")}, []setup{remove("up"), put("up/a")}, nil, nil},
		"tracked file becomes a directory":      {[]setup{put("up")}, []setup{remove("up"), put("up/a")}, nil, nil},
		"tracked file that was edited":          {[]setup{put("page")}, []setup{edit("page")}, []setup{link("page", "draft")}, nil},
		"beside the commit's files":             {[]setup{put("up/a")}, []setup{remove("up/a"), put("up/b")}, []setup{put("up/photo", "up/sub/ignored")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.commit("ignore", map[string]string{".gitignore": "sub\n", "always": "1"})
			apply := func(list []setup, dir string) {
				for _, s := range list {
					s(t, dir)
				}
			}
			apply(test.before, w.pusher)
			before := w.commit("before", nil)
			apply(test.after, w.pusher)
			after := w.commit("after", map[string]string{"always": "2"})
			w.push("main")
			w.must(w.deploy("main", before))
			apply(test.disk, w.repo.Dir())
			err := w.deploy("main", after)
			if test.want == nil {
				w.must(err)
				w.assertLive(after)
				return
			}
			obstructed, ok := errors.AsType[*ObstructedError](err)
			if !ok || !slices.Equal(obstructed.Files, test.want) {
				t.Fatalf("the error is %v, want one that names %q", err, test.want)
			}
			if head, err := w.repo.Head(t.Context()); err != nil || head != before || w.live("always") != "1" {
				t.Errorf("HEAD is %s, %v, and %q is there: something was changed", head, err, w.live("always"))
			}
			for _, name := range test.want {
				if _, err := os.Lstat(filepath.Join(w.repo.Dir(), name)); err != nil {
					t.Error(err)
				}
			}
			if n := len(test.want); n > 10 && (!strings.Contains(err.Error(), "25 untracked files are") || !strings.Contains(err.Error(), `"up/09", and 15 more`)) {
				t.Errorf("the error is %v", err)
			}
			// It is no reason not to deploy another commit.
			other := w.git(w.pusher, "commit-tree", "-m", "other", before+"^{tree}")
			w.git(w.pusher, "push", "--quiet", w.bare, other+":refs/heads/other")
			if name != "link in place of a tracked directory" && name != "directory in place of a tracked file" { // in the way of both
				w.must(w.deploy("other", other))
			}
		})
	}
}

func TestObstructedFoldsCase(t *testing.T) {
	t.Parallel()
	// As on a file system that takes both names for one file.
	dir := t.TempDir()
	for _, name := range []string{"README", "readme", "other"} {
		if err := os.WriteFile(filepath.Join(dir, "README"), []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
		if name != "README" {
			_ = os.Link(filepath.Join(dir, "README"), filepath.Join(dir, name))
		}
	}
	r := Open(dir, "/x", Options{})
	ours := files{"README": {mode: "100644"}}
	if err := r.obstructed(files{"readme": {mode: "100644"}}, ours); err != nil {
		t.Errorf("the tracked file under its other name: %v", err)
	}
	if err := r.obstructed(files{"other": {mode: "100644"}}, ours); err == nil {
		t.Error("another file was taken for the tracked one")
	}
}

// TestCheckoutAfterOneThatFails: a commit that cannot be checked out is no reason
// not to go back, or forward.
func TestCheckoutAfterOneThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.commit("good", map[string]string{"a": "1", "d/old": "1"})
	// A name that no file system has, written by git's plumbing.
	blob := w.git(w.pusher, "rev-parse", "HEAD:a")
	w.commit("bad", map[string]string{"a": "2", "d/old": "", "before": "x", "zz": "x"})
	w.git(w.pusher, "update-index", "--add", "--cacheinfo", "100644,"+blob+",m"+strings.Repeat("n", 300))
	w.git(w.pusher, "commit", "--quiet", "-m", "bad")
	bad := w.git(w.pusher, "rev-parse", "HEAD")
	w.push("main")
	w.must(w.deploy("main", good))
	for range 2 {
		if err := w.deploy("main", bad); err == nil || !strings.Contains(err.Error(), "File name too long") {
			t.Fatalf("the bad commit: %v", err)
		}
	}
	w.must(w.deploy("main", good))
	w.assertLive(good)
	for _, name := range []string{"before", "zz"} {
		if w.live(name) != "" {
			t.Errorf("%s of the bad commit is still there", name)
		}
	}
	// A filter that fails, as that of an LFS object that is not to be had.
	w.git(w.repo.Dir(), "config", "filter.broken.smudge", "false")
	w.git(w.repo.Dir(), "config", "filter.broken.required", "true")
	w.git(w.pusher, "reset", "--quiet", "--hard", good)
	bad = w.commit("bad", map[string]string{".gitattributes": "*.bin filter=broken\n", "big.bin": "pointer", "a": "3"})
	w.push("main")
	if err := w.deploy("main", bad); err == nil || !strings.Contains(err.Error(), "smudge filter") {
		t.Fatalf("the bad commit: %v", err)
	}
	fixed := w.commit("fixed", map[string]string{".gitattributes": "", "big.bin": "", "a": "4"})
	w.push("main")
	w.must(w.deploy("main", fixed))
	w.assertLive(fixed)
	w.git(w.repo.Dir(), "diff-index", "--quiet", "HEAD")
	if status := w.git(w.repo.Dir(), "status", "--porcelain"); status != "" {
		t.Errorf("left behind:\n%s", status)
	}
}

// TestCheckoutReadsWhatGitWasToldNotTo: flags of the index hide nothing.
func TestCheckoutReadsWhatGitWasToldNotTo(t *testing.T) {
	t.Parallel()
	for name, hide := range map[string]func(w *world, live string){
		"skip-worktree":    func(w *world, live string) { w.git(live, "update-index", "--skip-worktree", "a") },
		"assume-unchanged": func(w *world, live string) { w.git(live, "update-index", "--assume-unchanged", "a") },
		"sparse checkout":  func(w *world, live string) { w.git(live, "sparse-checkout", "set", "sub") },
		"sparse index":     func(w *world, live string) { w.git(live, "sparse-checkout", "set", "--sparse-index", "sub") },
		"ignored times": func(w *world, live string) {
			w.git(live, "config", "core.ignoreStat", "true")
			w.git(live, "config", "core.checkStat", "minimal")
			w.git(live, "config", "core.trustctime", "false")
			info, err := os.Stat(filepath.Join(live, "other/file"))
			w.must(err)
			w.write(filepath.Join(live, "other/file"), "2")
			w.must(os.Chtimes(filepath.Join(live, "other/file"), time.Time{}, info.ModTime()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			first := w.commit("first", map[string]string{"a": "1", "sub/b": "1", "other/file": "1"})
			second := w.commit("second", map[string]string{"sub/b": "2"})
			third := w.commit("third", map[string]string{"a": "3"})
			w.push("main")
			w.must(w.deploy("main", first))
			hide(w, w.repo.Dir())
			if name != "ignored times" {
				w.write(filepath.Join(w.repo.Dir(), "a"), "by hand")
			}
			edited, err := w.repo.Edited(t.Context())
			if err != nil || len(edited) == 0 {
				t.Errorf("edited %q, %v: the edit is not seen", edited, err)
			}
			for _, commit := range []string{second, third} {
				w.must(w.deploy("main", commit))
				for _, file := range []string{"a", "sub/b", "other/file"} {
					if want := w.git(w.pusher, "show", commit+":"+file); w.live(file) != want {
						t.Errorf("%s is %q, want %q", file, w.live(file), want)
					}
				}
				if edited, err := w.repo.Edited(t.Context()); err != nil || len(edited) > 0 {
					t.Errorf("edited %q, %v", edited, err)
				}
			}
		})
	}
}

func TestCheckoutFollowsAttributes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", map[string]string{"a.txt": "1\n2\n", "sub/b.txt": "1\n2\n", "sub/c.md": "1\n"})
	second := w.commit("crlf below sub", map[string]string{"sub/.gitattributes": "*.txt text eol=crlf\n"})
	third := w.commit("no more", map[string]string{"sub/.gitattributes": ""})
	w.push("main")
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, step := range []struct{ commit, b string }{{first, "1\n2\n"}, {second, "1\r\n2\r\n"}, {third, "1\n2\n"}} {
		w.must(w.deploy("main", step.commit))
		if w.live("a.txt") != "1\n2\n" || w.live("sub/b.txt") != step.b {
			t.Errorf("a is %q, b is %q, want %q", w.live("a.txt"), w.live("sub/b.txt"), step.b)
		}
		if info, err := os.Stat(filepath.Join(w.repo.Dir(), "a.txt")); err != nil || step.commit != first && !info.ModTime().Equal(old) {
			t.Errorf("a.txt, which the change is not about, was written again at %v, %v", info.ModTime(), err)
		}
		w.must(os.Chtimes(filepath.Join(w.repo.Dir(), "a.txt"), old, old))
		w.git(w.repo.Dir(), "status", "--short") // so that the index has the time
		if edited, err := w.repo.Edited(t.Context()); err != nil || len(edited) > 0 {
			t.Errorf("edited %q, %v", edited, err)
		}
		if step.commit == second {
			w.write(filepath.Join(w.repo.Dir(), "sub/b.txt"), "1\n2\n")
			if edited, err := w.repo.Edited(t.Context()); err != nil || !slices.Equal(edited, []string{"sub/b.txt"}) {
				t.Errorf("edited %q, %v", edited, err)
			}
		}
	}
	// Cut short after its index was written.
	w.must(w.deploy("main", first))
	w.write(filepath.Join(w.repo.Dir(), "sub/.gitattributes"), "*.txt text eol=crlf\n")
	w.git(w.repo.Dir(), "read-tree", second)
	w.git(w.repo.Dir(), "update-index", "-q", "--refresh")
	w.write(filepath.Join(w.repo.Dir(), ".git", targetName), second+"\n")
	w.must(w.deploy("main", second))
	if w.live("sub/b.txt") != "1\r\n2\r\n" {
		t.Errorf("b is %q", w.live("sub/b.txt"))
	}
}

// TestCheckoutAfterPowerLoss: files that were being written are empty.
func TestCheckoutAfterPowerLoss(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", map[string]string{"a": "1", "gone": "1"})
	second := w.commit("second", map[string]string{"a": "2", "gone": ""})
	w.push("main")
	w.must(w.deploy("main", first))
	w.write(filepath.Join(w.repo.Dir(), "untracked"), "mine")
	for name, lose := range map[string]func(path string) error{
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"zeros":   func(path string) error { return os.WriteFile(path, make([]byte, 50), 0o644) },
		"removed": os.Remove,
	} {
		w.must(lose(filepath.Join(w.repo.Dir(), ".git", "index")))
		edited, err := w.repo.Edited(t.Context())
		if err == nil && len(edited) == 0 {
			t.Errorf("index %s: not seen", name)
		}
		if err := w.deploy("main", second); err != nil {
			t.Fatalf("index %s: %v", name, err)
		}
		w.assertLive(second)
		if w.live("gone") != "" || w.live("untracked") != "mine" {
			t.Errorf("index %s: gone is %q, untracked is %q", name, w.live("gone"), w.live("untracked"))
		}
		w.must(w.deploy("main", first))
	}
	// The name of the target: nothing is known but that it was cut short.
	w.write(filepath.Join(w.repo.Dir(), ".git", targetName), "")
	w.must(w.deploy("main", second))
	w.assertLive(second)
	if err := w.repo.Checkout(canceled(t), first, nil); err == nil {
		t.Error("a context that has ended: no error")
	}
	w.assertLive(second)
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// Whatever names and links a commit has, nothing is written outside of the working
// tree, nor where git would take it for its own, and the next commit can go live.
func TestCheckout_WritesNothingOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	outside := filepath.Join(filepath.Dir(w.bare), "outside")
	w.must(os.Mkdir(outside, 0o755))
	w.commit("a link", map[string]string{".gitattributes": "* filter=evil diff=evil merge=evil\n", "a": "1"})
	w.must(os.Symlink(outside, filepath.Join(w.pusher, "out")))
	w.must(os.Symlink(".git/hooks", filepath.Join(w.pusher, "hooks")))
	link := w.commit("links", nil)
	w.push("main")
	w.must(w.deploy("main", link))
	w.assertLive(link)
	for _, name := range []string{"out", "hooks"} {
		w.must(os.Remove(filepath.Join(w.pusher, name)))
	}
	through := w.commit("files where the links were", map[string]string{"out/x": "1", "hooks/post-checkout": "touch proof"})
	w.push("main")
	w.must(w.deploy("main", through))
	w.assertLive(through)
	// A link that git does not track, put there by a step.
	w.must(os.Symlink(outside, filepath.Join(w.repo.Dir(), "later")))
	below := w.commit("below it", map[string]string{"later/x": "1"})
	w.push("main")
	if err := w.deploy("main", below); !errors.As(err, new(*ObstructedError)) {
		t.Errorf("a link in the way: %v", err)
	}
	w.assertLive(through)
	raw := func(name string) []byte {
		b, err := hex.DecodeString(w.git(w.pusher, "rev-parse", name))
		w.must(err)
		return b
	}
	folder := func(name string) string { return fmt.Sprintf("40000 %s\x00%s", name, raw("HEAD:later")) }
	file := func(name string) string { return fmt.Sprintf("100644 %s\x00%s", name, raw("HEAD:a")) }
	beside := filepath.Join(outside, "beside")
	for _, forged := range []string{
		// As git itself would not make them.
		folder(".."), folder(".git"), folder(".GIT"), folder("."), file("."), file("a//b"), file(beside),
		file("../" + filepath.Base(w.repo.Dir()) + ".beside"), file("../outside/beside"),
		strings.Replace(folder("../outside/sub"), "40000", "160000", 1),
	} {
		w.must(errors.Join(os.RemoveAll(beside), os.RemoveAll(w.repo.Dir()+".beside")))
		w.write(filepath.Join(filepath.Dir(w.bare), "tree"), forged)
		tree := w.git(w.pusher, "hash-object", "-w", "-t", "tree", "--literally", "../tree")
		bad := w.git(w.pusher, "commit-tree", "-m", "bad", tree)
		w.git(w.pusher, "push", "--quiet", "--force", w.bare, bad+":refs/heads/main")
		if err := w.deploy("main", bad); err == nil || !strings.Contains(err.Error(), "it leads out of the working tree, or into .git") {
			t.Errorf("%q: %v", forged, err)
		}
		// What the checkout would have written is not what the next one takes away.
		w.write(beside, "mine")
		w.write(w.repo.Dir()+".beside", "mine")
		w.must(w.deploy("main", through))
		for _, name := range []string{beside, w.repo.Dir() + ".beside"} {
			if !exists(name) {
				t.Errorf("%q: %s was removed", forged, name)
			}
		}
	}
	w.must(os.Remove(beside))
	w.push("main")
	w.must(os.Remove(filepath.Join(w.repo.Dir(), "later")))
	w.must(w.deploy("main", below))
	w.assertLive(below)
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 || exists(filepath.Join(filepath.Dir(w.repo.Dir()), "x")) || exists(filepath.Join(w.repo.Dir(), ".git", "x")) || exists(filepath.Join(w.repo.Dir(), ".git", "hooks", "post-checkout")) {
		t.Errorf("written outside: %v, %v", left, err)
	}
}
