package git

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// sharing is one of several working trees of the remote, which share a store.
func (w *world) sharing(name string) *Repo {
	dir := filepath.Dir(w.bare)
	return Open(filepath.Join(dir, name), w.bare, Options{Store: filepath.Join(dir, "repos")})
}

// deployTo is deploy for one of several trees.
func (w *world) deployTo(repo *Repo, commit string) error {
	w.repo = repo
	return w.deploy("main", commit)
}

func TestStore_TreesBorrowAndHarmNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	one, two := w.sharing("one"), w.sharing("two")
	w.must(w.deployTo(one, commit))
	away := w.bare + ".away"
	w.must(os.Rename(w.bare, away))
	w.must(w.deployTo(two, commit)) // what is here is not asked for again
	w.must(os.Rename(away, w.bare))
	for _, repo := range []*Repo{one, two} {
		w.repo = repo
		w.assertLive(commit)
		if n := w.packs(); n > 0 || repo.lender() == nil {
			t.Errorf("%s has %d packs itself", repo.Dir(), n)
		}
		if at := w.git(repo.Dir(), "rev-parse", "refs/remotes/origin/main"); at != commit {
			t.Errorf("origin/main is %s", at)
		}
	}
	w.must(os.RemoveAll(one.Dir()))
	next := w.commit("next", map[string]string{"a": "2"})
	w.push("main")
	w.must(w.deployTo(two, next))
	w.must(w.deployTo(one, commit))
	w.assertLive(commit)
	w.git(two.Dir(), "fsck", "--connectivity-only")
}

// A commit that is on no branch any more stays as long as the store does: packs are
// packed together, also by hand, and it can be deployed when the remote has dropped it.
func TestStore_KeepsWhatWasPushedAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("base", nil)
	gone := w.commit("gone", map[string]string{"a": "1"})
	w.push("main")
	one, two := w.sharing("one"), w.sharing("two")
	w.must(w.deployTo(one, gone))
	w.git(w.pusher, "reset", "--quiet", "--hard", "HEAD^")
	for i := range manyPacks + 1 {
		instead := w.commit("instead", map[string]string{"a": fmt.Sprint(i)})
		w.push("main")
		w.must(w.deployTo(two, instead))
	}
	w.git(w.bare, "gc", "--quiet", "--prune=now")
	if done, err := two.Tidy(t.Context()); err != nil || len(done) != 1 {
		t.Errorf("tidied %v, %v", done, err)
	}
	w.git(two.lender().dir, "gc", "--quiet")
	w.repo = one
	w.assertLive(gone)
	w.must(w.deployTo(two, gone))
	w.assertLive(gone)
}

// The store is made again, though not all that was in it is there to be had.
func TestStore_Deleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", map[string]string{"a": "1", "b": "1"})
	w.push("main")
	one, two := w.sharing("one"), w.sharing("two")
	w.must(w.deployTo(one, first))
	w.must(w.deployTo(two, first))
	gone := w.commit("gone", map[string]string{"a": "2"})
	w.push("main")
	w.must(w.deployTo(two, gone))
	w.write(filepath.Join(two.Dir(), "untracked"), "mine")
	w.git(w.pusher, "reset", "--quiet", "--hard", first)
	next := w.commit("next", map[string]string{"b": "3"})
	w.push("main")
	w.git(w.bare, "gc", "--quiet", "--prune=now")
	w.must(os.RemoveAll(filepath.Join(filepath.Dir(w.bare), "repos")))
	for _, repo := range []*Repo{two, one} {
		w.must(w.deployTo(repo, next))
		w.assertHead(next)
		if w.live("a") != "1" || w.live("b") != "3" || repo.lender() == nil {
			t.Errorf("%s: a is %q, b is %q", repo.Dir(), w.live("a"), w.live("b"))
		}
	}
	w.repo = two
	if w.live("untracked") != "mine" {
		t.Error("an untracked file is lost")
	}
	// And where nothing is to be fetched.
	w.must(os.RemoveAll(filepath.Join(filepath.Dir(w.bare), "repos")))
	w.must(w.deployTo(one, next))
	w.assertLive(next)
}

// Of many trees that want the same at once, one fetches.
func TestStore_OneFetchForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	counting := filepath.Join(dir, "git")
	testkit.Program(w.t, counting, "#!/bin/sh\n[ $1 != fetch ] || echo $PWD >> "+dir+"/fetches\nexec "+gitProgram(t)+" \"$@\"\n")
	repos := make([]*Repo, 5)
	for i := range repos {
		repos[i] = w.sharing(fmt.Sprint("tree", i))
		repos[i].opts.SearchPaths = []string{dir}
	}
	for i := range 2 {
		commit := w.commit("one more", map[string]string{"a": fmt.Sprint(i)})
		w.push("main")
		_ = os.Remove(filepath.Join(dir, "fetches"))
		var wg sync.WaitGroup
		for _, repo := range repos {
			wg.Go(func() {
				each := *w
				each.out.Reset()
				each.repo = repo
				if err := each.deploy("main", commit); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		b, _ := os.ReadFile(filepath.Join(dir, "fetches"))
		if n := strings.Count(string(b), "/repos/"); n != 1 {
			t.Errorf("%d fetches from the remote:\n%s", n, b)
		}
		for _, repo := range repos {
			w.repo = repo
			w.assertLive(commit)
		}
	}
}

// A store that cannot be made or used costs space, and no deploy.
func TestStore_CannotBeUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	repos := filepath.Join(filepath.Dir(w.bare), "repos")
	w.write(repos, "a file")
	w.must(w.deployTo(w.sharing("one"), commit))
	w.assertLive(commit)
	if w.packs() == 0 || !strings.Contains(w.out.String(), "shares no objects") {
		t.Errorf("%d packs; it said %s", w.packs(), w.out.String())
	}
	// A clone that has everything itself stays so.
	w.must(os.Remove(repos))
	next := w.commit("next", map[string]string{"a": "2"})
	w.push("main")
	w.must(w.deploy("main", next))
	w.assertLive(next)
	if exists(repos) {
		t.Error("a clone that has everything itself made a store")
	}
	// One that has lost its store gets all of its own.
	two := w.sharing("two")
	w.must(w.deployTo(two, commit))
	w.must(os.RemoveAll(repos))
	w.write(repos, "a file")
	w.must(w.deployTo(two, next))
	w.assertHead(next)
}

func TestStore_NothingInItRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	one := w.sharing("one")
	w.must(w.deployTo(one, commit))
	store, proof := one.lender().dir, filepath.Join(t.TempDir(), "proof")
	for _, hook := range []string{"post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc", "pre-receive", "post-update"} {
		path := filepath.Join(store, ".git", "hooks", hook)
		testkit.Program(w.t, path, "#!/bin/sh\ntouch "+proof+"\n")
	}
	for _, key := range []string{"core.fsmonitor", "uploadpack.packObjectsHook", "core.alternateRefsCommand", "core.pager", "core.editor"} {
		w.git(store, "config", key, "touch "+proof)
	}
	_ = os.Remove(proof)
	next := w.commit("next", map[string]string{"a": "2"})
	w.push("main")
	for _, repo := range []*Repo{one, w.sharing("two")} {
		w.must(w.deployTo(repo, next))
		w.assertLive(next)
	}
	_, err := one.Tidy(t.Context())
	w.must(err)
	if exists(proof) {
		t.Error("something in the store was run")
	}
}

func TestStoreName(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for remote, begins := range map[string]string{
		"https://github.com/Owner/Name.git":       "Owner-Name-",
		"https://user:s3cr3t@host/owner/name.git": "owner-name-",
		"git@host:owner/name":                     "owner-name-",
		"/srv/git/../x":                           "x-",
		"https://host/a b;$(id)":                  "host-a-b-id-",
		"file:///" + strings.Repeat("x", 300):     "xxx",
	} {
		name := Open("/x", remote, Options{Store: "/repos"}).store().dir
		if !strings.HasPrefix(name, "/repos/"+begins) || filepath.Dir(name) != "/repos" || len(name) > 100 || strings.Contains(name, "s3cr3t") || seen[name] {
			t.Errorf("%s: %s", remote, name)
		}
		seen[name] = true
	}
}

// A clone without the files of the past, of which a checkout asks for nothing more.
func TestBlobless_HasTheFilesOfItsCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.git(w.bare, "config", "uploadpack.allowFilter", "true")
	w.commit("old", map[string]string{"a": "old", "b": "1"})
	first := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	w.repo = Open(w.repo.Dir(), w.bare, Options{Blobless: true, Store: filepath.Join(filepath.Dir(w.bare), "repos")})
	w.must(w.deploy("main", first))
	w.assertLive(first)
	if missing := w.git(w.repo.Dir(), "rev-list", "--objects", "--missing=print", "--all"); strings.Count(missing, "?") != 1 {
		t.Errorf("not without the one file of the past:\n%s", missing)
	}
	var last string
	for i := range manyPacks {
		last = w.commit("more", map[string]string{"a": fmt.Sprint("more", i)})
		w.push("main")
		w.must(w.repo.FetchCommit(t.Context(), "main", last, nil))
	}
	if done, err := w.repo.Tidy(t.Context()); err != nil || len(done) != 1 || done[0].After > 3 {
		t.Errorf("tidied %v, %v", done, err)
	}
	w.must(os.Rename(w.bare, w.bare+".away"))
	w.must(w.deploy("main", last))
	w.assertLive(last)
	if edited, err := w.repo.Edited(t.Context()); err != nil || len(edited) > 0 {
		t.Errorf("edited %q, %v", edited, err)
	}
	if exists(filepath.Join(filepath.Dir(w.bare), "repos")) {
		t.Error("it has a store")
	}
}
