package git

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	w.must(w.deploy("main", commit))
	at := func(name string) string { return filepath.Join(w.repo.Dir(), ".git", name) }
	left := []string{
		"objects/pack/tmp_pack_abcdef", "objects/pack/tmp_idx_abcdef", "objects/tmp_objdir-incoming-abcdef/pack/tmp_pack_x",
		"objects/pack/.tmp-12-pack-x.pack", "objects/c2/tmp_obj_x", "lfs/tmp/x", "lfs/logs/x.log", "lfs/incomplete/x.part",
		"modules/libs/lib/objects/pack/tmp_pack_x", "modules/libs/lib/modules/inner/objects/tmp_objdir-x/ab/c",
	}
	kept := []string{"objects/pack/pack-1.keep", "objects/pack/pack-1.pack", "lfs/objects/ab/x", "modules/libs/lib/objects/pack/pack-2.pack", "objects/pack/tmp_pack_open"}
	for _, name := range append(left, kept...) {
		w.write(at(name), "x")
	}
	w.write(at("objects/pack/pack-3.keep"), "fetch-pack 12 on host")
	open, err := os.Open(at("objects/pack/tmp_pack_open"))
	w.must(err)
	defer func() { _ = open.Close() }()
	unlock, err := w.repo.lock(t.Context())
	w.must(err)
	unlock()
	for _, name := range append(left, "objects/tmp_objdir-incoming-abcdef", "objects/pack/pack-3.keep") {
		if _, err := os.Lstat(at(name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range kept {
		if _, err := os.Lstat(at(name)); err != nil {
			t.Error(err)
		}
	}
}

// TestSweepAfterAFailedFetch: a fetch that failed leaves nothing, also where no
// other deploy follows.
func TestSweepAfterAFailedFetch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	w.must(w.deploy("main", commit))
	// git's own index-pack is killed by the limit on its files' size: the pack
	// stays as it is.
	var noise strings.Builder
	for noise.Len() < 1<<18 {
		noise.WriteString(rand.Text())
	}
	next := w.commit("large", map[string]string{"b": noise.String()})
	w.push("main")
	limited := filepath.Join(t.TempDir(), "git")
	testkit.Program(w.t, limited, "#!/bin/sh\nulimit -f 64\nexec "+gitProgram(t)+" \"$@\"\n")
	w.repo.opts.SearchPaths = []string{filepath.Dir(limited)}
	if err := w.repo.FetchCommit(t.Context(), "main", next, nil); err == nil {
		t.Fatal("the fetch has not failed")
	}
	for _, pattern := range []string{"objects/pack/tmp_*", "objects/tmp_*"} {
		if found, _ := filepath.Glob(filepath.Join(w.repo.Dir(), ".git", pattern)); len(found) > 0 {
			t.Errorf("left behind: %q", found)
		}
	}
}
