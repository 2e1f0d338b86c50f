//go:build integration

package integration

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/command"
	"github.com/ducompsoc/durhack-deployer/handlers/releases"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	proc "github.com/ducompsoc/durhack-deployer/internal/process"
)

// plants are what a step may leave in its working tree, whose parent it may write to as
// well; v is a directory that only root may enter.
var plants = []struct {
	name  string
	plant func(dir, v string) error
}{
	{"target", func(dir, v string) error {
		return os.Symlink(v+"/file", dir+"/.git/durhack-deployer.target")
	}},
	{"target that is not there", func(dir, v string) error {
		return os.Symlink(v+"/new", dir+"/.git/durhack-deployer.target")
	}},
	{"lock", func(dir, v string) error { return replace(v+"/new", dir+"/.git/durhack-deployer.flock") }},
	{"HEAD", func(dir, v string) error { return replace(v+"/file", dir+"/.git/HEAD") }},
	{"refs", func(dir, v string) error { return replace(v, dir+"/.git/refs") }},
	{"refs of the remote", func(dir, v string) error { return replace(v, dir+"/.git/refs/remotes/origin") }},
	{"index", func(dir, v string) error { return replace(v+"/file", dir+"/.git/index") }},
	{"configuration", func(dir, v string) error { return replace(v+"/config", dir+"/.git/config") }},
	{"objects", func(dir, v string) error { return replace(v, dir+"/.git/objects") }},
	{"packs", func(dir, v string) error { return replace(v, dir+"/.git/objects/pack") }},
	{"logs", func(dir, v string) error { return replace(v, dir+"/.git/logs") }},
	{"modules", func(dir, v string) error { return replace(v, dir+"/.git/modules") }},
	{"LFS", func(dir, v string) error { return replace(v, dir+"/.git/lfs") }},
	{"git directory", func(dir, v string) error { return replace(v, dir+"/.git") }},
	{"new git directory", func(dir, v string) error { return os.Symlink(v, dir+"/.git.durhack-deployer") }},
	{"directory of the commit", func(dir, v string) error { return replace(v, dir+"/sub") }},
	{"working tree", func(dir, v string) error { return replace(v, dir) }},
	{"working tree that is not there", func(dir, v string) error { return replace(v+"/tree", dir) }},
	{"above the working tree", func(dir, v string) error { return replace(v, filepath.Dir(dir)) }},
}

// replace puts a link in the place of a file or directory.
func replace(target, name string) error {
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.Symlink(target, name)
}

// picture is all of a directory that can be seen to change.
func picture(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := []byte{}
		if info.Mode().IsRegular() {
			if text, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		fmt.Fprintf(&b, "%s %v %d %q\n", path, info.Mode(), info.Sys().(*syscall.Stat_t).Uid, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// victim makes a directory of root's, with files that git and we like to write and remove.
func victim(t *testing.T) string {
	t.Helper()
	v := filepath.Join(tempDir(t), "victim")
	for _, dir := range []string{"", "/objects", "/pack", "/tmp", "/sub", "/releases"} {
		if err := os.Mkdir(v+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"file": "hunter2hunter2\n", "config": "[hunter2hunter2]\n\x00", "HEAD": "", "tmp_pack": "", "objects/tmp_pack": "", "tmp/left": "", "pack/tmp_pack": "", "index.lock": "",
	} {
		if err := os.WriteFile(filepath.Join(v, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// What is planted where another user's commits are checked out leads to nothing that this
// user could not write or read itself, though root does the work.
func TestPlanted_RootFollowsNoLinkOfAnotherUser(t *testing.T) {
	t.Parallel()
	as, err := proc.AsUser(other, 0o022)
	if err != nil || as.User == nil {
		t.Fatalf("only root can work as another user: %v", err)
	}
	r := newRepo(t)
	commits := r.push("main", commit{"One", map[string]string{"a": "1", "sub/b": "1"}}, commit{"Two", map[string]string{"a": "2", "sub/b": "2"}})
	roots := newRepo(t)
	roots.git(nil, "fetch", "--quiet", r.dir, "+refs/heads/*:refs/heads/*")
	own(t, r.dir)
	astray := 0
	for _, p := range plants {
		for _, as := range []proc.As{as, {}} {
			v, base := victim(t), home(t)
			remote := r.dir
			open := func(as proc.As) *git.Repo {
				return git.Open(filepath.Join(base, "web"), remote, git.Options{As: as, Vars: append(gitEnv(), "PATH="+os.Getenv("PATH"))})
			}
			var out strings.Builder
			deploy := func(repo *git.Repo, commit string) error {
				ctx := t.Context()
				err := repo.EnsureClone(ctx, commit, &out)
				if err == nil {
					err = repo.FetchCommit(ctx, "main", commit, &out)
				}
				if err == nil {
					err = repo.Checkout(ctx, commit, &out)
				}
				return err
			}
			user, _ := proc.AsUser(other, 0o022)
			if err := deploy(open(user), commits[0]); err != nil {
				t.Fatal(err)
			}
			func() {
				defer user.Enter()()
				if err := p.plant(filepath.Join(base, "web"), v); err != nil {
					t.Fatalf("%s: %v", p.name, err)
				}
			}()
			before := picture(t, v)
			if as.User == nil {
				remote = roots.dir
			}
			repo := open(as)
			fmt.Fprintln(&out, deploy(repo, commits[1]))
			said, edited := repo.Edited(t.Context())
			_, unfinished := repo.Unfinished()
			_, tip := repo.RemoteTip(t.Context(), "main")
			_, head := repo.Head(t.Context())
			_, tidied := repo.Tidy(t.Context())
			fmt.Fprintln(&out, said, edited, unfinished, tip, head, tidied)
			touched := picture(t, v) != before || strings.Contains(out.String(), "hunter2")
			if as.User != nil && touched {
				t.Errorf("%s: this was changed, or read:\n%s\n%s", p.name, picture(t, v), out.String())
			}
			if as.User == nil && touched {
				astray++
			}
		}
	}
	if astray < 5 { // else the test could not fail
		t.Errorf("root without the user's rights is led astray by %d of %d", astray, len(plants))
	}
}

// home is a directory of the other user, in one that is this user's, too.
func home(t *testing.T) string {
	t.Helper()
	above := filepath.Join(tempDir(t), "home")
	if err := os.MkdirAll(filepath.Join(above, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	own(t, above)
	return filepath.Join(above, "www")
}

// Root makes a directory for another user only where no other user could have led it elsewhere.
func TestPlanted_RootMakesNoDirectoryBehindALink(t *testing.T) {
	t.Parallel()
	as, err := proc.AsUser(other, 0o027)
	if err != nil || as.User == nil {
		t.Fatalf("only root can work as another user: %v", err)
	}
	v, base, roots := victim(t), home(t), filepath.Join(tempDir(t), "www")
	if err := os.Symlink(v, filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	before := picture(t, v)
	for _, path := range []string{filepath.Join(base, "link", "site"), filepath.Join(base, "link", "a", "site"), filepath.Join(v, "objects")} {
		if err := as.Provide(path); err == nil {
			t.Errorf("%s is no error", path)
		}
	}
	if now := picture(t, v); now != before {
		t.Errorf("this was changed:\n%s", now)
	}
	for range 2 { // the second time it is there
		if err := as.Provide(filepath.Join(roots, "deep", "site")); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]int{roots: 0, filepath.Join(roots, "deep"): 0, filepath.Join(roots, "deep", "site"): idOf(t)} {
		if info, err := os.Lstat(path); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

// The same of releases, whose links and marks are not git's.
func TestPlanted_ReleasesFollowNoLinkOfAnotherUser(t *testing.T) {
	t.Parallel()
	as, err := proc.AsUser(other, 0o022)
	if err != nil || as.User == nil {
		t.Fatalf("only root can work as another user: %v", err)
	}
	r := newRepo(t)
	commits := r.pages("main", 2)
	own(t, r.dir)
	for _, name := range []string{"releases", "shared", "current", "current.next", "objects"} {
		v, base := victim(t), home(t)
		cfg := releases.Config{Path: base, Keep: 1, Shared: []string{"uploads", "sub/kept"}, Build: "1"}
		src := source.Source{Remote: r.dir, Store: filepath.Join(base, "objects")}
		h := releases.Pruned(releases.New(src, cfg, func(src source.Source) handlers.Handler { return command.New(command.Config{Source: src}) }), cfg)
		deploy := func(commit string) error {
			job := handlers.Job{Deployment: "web", Branch: "main", Commit: commit, Path: base}
			plan, err := h.Plan(t.Context(), job)
			if err != nil {
				t.Fatal(err)
			}
			return handlers.Execute(t.Context(), plan, handlers.Env{Out: io.Discard, As: as, Job: job, Vars: append(gitEnv(), "PATH="+os.Getenv("PATH"))}, nil).Err
		}
		if err := deploy(commits[0]); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(filepath.Join(base, "current")); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != idOf(t) {
			t.Errorf("the link to the release: %v, %v", info, err)
		}
		func() {
			defer as.Enter()()
			if err := replace(v, filepath.Join(base, name)); err != nil {
				t.Fatal(err)
			}
		}()
		before := picture(t, v)
		err := deploy(commits[1])
		if now := picture(t, v); now != before {
			t.Errorf("%s (%v): this was changed:\n%s", name, err, now)
		}
	}
}
