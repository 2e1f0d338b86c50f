package git

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// A step, or anyone else who writes to a working tree's .git/config, cannot have the deployer run
// a program with the next push, or take another repository, or another directory.
func TestPlanted_ConfigurationRunsNothing(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"core.alternateRefsCommand", "core.fsmonitor", "core.pager", "core.editor", "core.askPass", "core.sshCommand", "core.gitProxy",
		"diff.external", "diff.plant.command", "diff.plant.textconv", "merge.plant.driver", "gpg.program", "gc.recentObjectsHook",
		"uploadpack.packObjectsHook", "interactive.diffFilter", "sequence.editor", "pager.fetch", "alias.fetch", "alias.checkout",
		"remote.durhack-deployer.uploadpack", "remote.durhack-deployer.vcs", "remote.durhack-deployer.url", "remote.origin.uploadpack",
		"url.ext::PLANT .insteadOf", "submodule.plant.update", "credential.helper", "core.hooksPath",
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.commit("first", map[string]string{"a": "1", ".gitattributes": "* diff=plant merge=plant\n"})
			w.push("main")
			w.repo = w.sharing("live")
			w.must(w.deploy("main", w.git(w.pusher, "rev-parse", "HEAD")))
			proof, plant := filepath.Join(t.TempDir(), "proof"), filepath.Join(t.TempDir(), "plant")
			testkit.Program(w.t, plant, "#!/bin/sh\ntouch "+proof+"\n")
			value := plant
			switch {
			case key == "core.hooksPath":
				value = filepath.Dir(plant)
				for _, hook := range []string{"post-checkout", "reference-transaction", "post-index-change"} {
					w.must(os.Symlink(plant, filepath.Join(value, hook)))
				}
			case key == "submodule.plant.update", strings.HasPrefix(key, "alias."):
				value = "!" + plant
			case strings.HasPrefix(key, "url."):
				key, value = strings.ReplaceAll(key, "PLANT", plant), w.bare
			case key == "remote.durhack-deployer.url":
				value = filepath.Join(filepath.Dir(w.bare), "another.git")
				w.git(w.bare, "clone", "--quiet", "--bare", w.bare, value) // which will not have what is pushed next
			}
			for _, dir := range []string{w.repo.Dir(), w.repo.lender().dir} {
				w.git(dir, "config", key, value)
			}
			next := w.commit("next", map[string]string{"a": "2"})
			w.push("main")
			if !strings.HasPrefix(key, "url.") {
				w.must(w.deploy("main", next))
				if w.live("a") != "2" {
					t.Error("the push is not live")
				}
			} else if err := w.deploy("main", next); err == nil {
				t.Error("a remote that was sent elsewhere is no error")
			}
			_, _ = w.repo.Edited(t.Context())
			_, _ = w.repo.RemoteTip(t.Context(), "main")
			_, _ = w.repo.Beginning(t.Context(), next[:8])
			w.must(w.repo.FetchHistory(t.Context(), "main", w.git(w.pusher, "rev-parse", "HEAD~1"), &w.out))
			if _, err := w.repo.Tidy(t.Context()); err != nil {
				t.Error(err)
			}
			if exists(proof) {
				t.Error("it was run")
			}
		})
	}
}

func TestPlanted_WorktreeElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(w.deploy("main", func() string { c := w.commit("first", map[string]string{"a": "1"}); w.push("main"); return c }()))
	elsewhere := t.TempDir()
	w.git(w.repo.Dir(), "config", "core.worktree", elsewhere)
	next := w.commit("next", map[string]string{"a": "2"})
	w.push("main")
	err := w.deploy("main", next)
	if err == nil || !strings.Contains(err.Error(), "core.worktree") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(elsewhere); len(left) > 0 {
		t.Errorf("written elsewhere: %v", left)
	}
}

// A pipe that nobody writes to holds up no deploy: git itself has a time limit, and we do not wait.
func TestPlanted_PipesAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"HEAD": "", targetName: "is not a file; remove it"} {
		w := newWorld(t)
		w.commit("first", map[string]string{"a": "1"})
		w.push("main")
		w.must(w.deploy("main", w.git(w.pusher, "rev-parse", "HEAD")))
		at := filepath.Join(w.repo.Dir(), ".git", name)
		w.must(os.RemoveAll(at))
		w.must(unix.Mkfifo(at, 0o644))
		next := w.commit("next", map[string]string{"a": "2"})
		w.push("main")
		ended := make(chan error, 1)
		go func() { ended <- w.deploy("main", next) }()
		select {
		case err := <-ended:
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: it does not end", name)
		}
	}
}

// An index with a path that git would not take is made again.
func TestPlanted_IndexLeadsElsewhere(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/aaa/b", "../a/b", ".git/b"} {
		w := newWorld(t)
		w.must(w.deploy("main", func() string { c := w.commit("first", map[string]string{"aaaa/b": "1"}); w.push("main"); return c }()))
		index := filepath.Join(w.repo.Dir(), ".git", "index")
		b, err := os.ReadFile(index)
		w.must(err)
		w.must(os.WriteFile(index, []byte(strings.Replace(string(b), "aaaa/b", path, 1)), 0o644))
		next := w.commit("next", map[string]string{"aaaa/b": "2"})
		w.push("main")
		if err := w.deploy("main", next); err != nil || w.live("aaaa/b") != "2" {
			t.Errorf("%s: %v\n%s", path, err, &w.out)
		}
	}
}

// The same of the clone of a submodule, whose remote has a name that everybody knows.
func TestPlanted_ConfigurationOfASubmodule(t *testing.T) {
	t.Parallel()
	for key, refused := range map[string]bool{
		"core.worktree": false, "core.fsmonitor": false, "core.hooksPath": false,
		"remote.origin.uploadpack": true, "remote.origin.vcs": true, "include.path": true,
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.withSubmodules()
			bare, lib := w.library("lib")
			w.commit("first", map[string]string{"a": "1"})
			w.must(w.deploy("main", w.submodule("lib", bare, w.commitIn(bare, lib, map[string]string{"f": "1"}))))
			dir := t.TempDir()
			proof, plant := filepath.Join(dir, "proof"), filepath.Join(dir, "plant")
			testkit.Program(t, plant, "#!/bin/sh\ntouch "+proof+"\n")
			elsewhere := filepath.Join(dir, "elsewhere")
			w.must(os.Mkdir(elsewhere, 0o755))
			value := plant
			switch key {
			case "core.worktree":
				value = elsewhere
			case "core.hooksPath":
				value = elsewhere
				w.must(os.Symlink(plant, filepath.Join(elsewhere, "post-checkout")))
			case "include.path":
				value = filepath.Join(dir, "more")
				w.write(value, "[remote \"origin\"]\nuploadpack = "+plant+"\n")
			}
			w.git(filepath.Join(w.repo.Dir(), "lib"), "config", key, value)
			w.write(filepath.Join(w.repo.Dir(), "lib", "upload"), "mine")
			next := w.submodule("lib", bare, w.commitIn(bare, lib, map[string]string{"f": "2"}))
			err := w.deploy("main", next)
			if refused && (err == nil || !strings.Contains(err.Error(), "config --unset-all remote.origin.")) {
				t.Errorf("the error is %v", err)
			}
			if refused {
				w.git(filepath.Join(w.repo.Dir(), "lib"), "config", "--unset-all", key)
				err = w.deploy("main", next)
			}
			if err != nil || w.live("lib/f") != "2" || w.live("lib/upload") != "mine" {
				t.Errorf("f is %q, upload is %q, %v", w.live("lib/f"), w.live("lib/upload"), err)
			}
			if exists(proof) || exists(filepath.Join(elsewhere, "f")) {
				t.Error("it was run, or written to")
			}
		})
	}
}
