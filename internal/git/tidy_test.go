package git

import (
	"context"
	"crypto/sha1"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func (w *world) packs() int {
	found, err := filepath.Glob(filepath.Join(w.repo.Dir(), ".git/objects/pack/*.pack"))
	w.must(err)
	return len(found)
}

// Twice the pushes leave as few packs, and no push waits for that.
func TestTidy_PacksDoNotGrowWithPushes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var first string
	after := map[int]int{}
	for i := 1; i <= 60; i++ {
		commit := w.commit("one of many", map[string]string{"a": fmt.Sprint(i)})
		if first == "" {
			first = commit
		}
		w.push("main")
		w.must(w.repo.EnsureClone(t.Context(), commit, nil))
		w.must(w.repo.FetchCommit(t.Context(), "main", commit, nil))
		if i%30 != 0 {
			continue
		}
		if n := w.packs(); n < 30 {
			t.Errorf("%d packs after %d pushes: something has packed them during a push", n, i)
		}
		done, err := w.repo.Tidy(t.Context())
		w.must(err)
		if len(done) != 1 || done[0].After != w.packs() || done[0].Before < 30 {
			t.Errorf("told of %+v, and there are %d packs", done, w.packs())
		}
		after[i] = w.packs()
	}
	if after[60] > manyPacks || after[60] > 2*after[30] {
		t.Errorf("packs that are left after so many pushes: %v", after)
	}
	w.must(w.repo.Checkout(t.Context(), first, nil))
	w.assertLive(first)
	if done, err := w.repo.Tidy(t.Context()); err != nil || len(done) > 0 {
		t.Errorf("where all is tidy it did %v, %v", done, err)
	}
}

// Loose objects that nothing refers to are packed, too, and stay.
func TestTidy_DropsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	w.must(w.deploy("main", commit))
	var hashes, paths []string
	for i := 0; len(hashes) <= manyLoose; i++ {
		text := fmt.Sprint(i)
		hash := fmt.Sprintf("%x", sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(text), text)))
		if strings.HasPrefix(hash, "17") {
			paths, hashes = append(paths, filepath.Join(t.TempDir(), "blob")), append(hashes, hash)
			w.write(paths[len(paths)-1], text)
		}
	}
	w.git(w.repo.Dir(), append([]string{"hash-object", "-w", "--"}, paths...)...)
	done, err := w.repo.Tidy(t.Context())
	w.must(err)
	if left, _ := os.ReadDir(filepath.Join(w.repo.Dir(), ".git/objects/17")); len(done) != 1 || len(left) > 0 {
		t.Errorf("told of %+v, and %d loose objects are left", done, len(left))
	}
	for _, hash := range hashes {
		w.git(w.repo.Dir(), "cat-file", "-e", hash)
	}
}

// A push that comes while objects are packed does not wait for it, takes nothing
// away from it, and when it is told to end nothing is left.
func TestTidy_EndsForAPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	w.must(w.deploy("main", first))
	for i := range manyPacks + 1 {
		w.write(filepath.Join(w.repo.Dir(), fmt.Sprintf(".git/objects/pack/pack-%d.pack", i)), "")
	}
	slow := filepath.Join(t.TempDir(), "git")
	testkit.Program(w.t, slow, "#!/bin/sh\ncase $1 in repack) echo > objects/pack/tmp_pack_x; echo > objects/pack/.tmp-1-pack-x.pack; exec sleep 1000;; esac\nexec "+gitProgram(t)+" \"$@\"\n")
	tidying := *w.repo
	tidying.opts.SearchPaths = []string{filepath.Dir(slow)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := tidying.Tidy(ctx)
		ended <- err
	}()
	half := filepath.Join(w.repo.Dir(), ".git/objects/pack/.tmp-1-pack-x.pack")
	for deadline := time.Now().Add(time.Minute); !exists(half); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not begin")
		}
	}
	second := w.commit("second", map[string]string{"a": "2"})
	w.push("main")
	w.must(w.deploy("main", second))
	w.assertHead(second)
	if !exists(half) {
		t.Error("the push took away what was being packed")
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("it was ended, and says nothing of it")
	}
	if left, _ := filepath.Glob(filepath.Join(w.repo.Dir(), ".git/objects/pack/*tmp*")); exists(half) || len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
