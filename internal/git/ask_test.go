package git

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAuthored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	if got, err := w.repo.Authored(ctx, []string{anyCommit}); err != nil || len(got) != 0 {
		t.Errorf("without a clone: %v, %v", got, err)
	}
	first := w.commit("Größer, \"as\" ever\n\nThe body.", map[string]string{"a": "1"})
	second := w.commit("two\x01\x1b[31m", map[string]string{"a": "2"})
	w.push("main")
	elsewhere := w.commit("not fetched", map[string]string{"a": "3"})
	author := w.git(w.pusher, "log", "-1", "--format=%an")
	for name, opts := range map[string]Options{"whole": {}, "blobless": {Blobless: true}} {
		w.repo = Open(filepath.Join(t.TempDir(), name), "file://"+w.bare, opts)
		w.git(w.bare, "config", "uploadpack.allowFilter", "true")
		w.must(w.deploy("main", second))
		w.git(w.pusher, "push", "--quiet", "--force", w.bare, elsewhere+":refs/heads/later")
		mark := filepath.Join(t.TempDir(), "run")
		for _, key := range []string{"gpg.program", "core.pager", "core.sshCommand", "core.fsmonitor", "core.alternateRefsCommand", "pager.rev-list"} {
			w.git(w.repo.Dir(), "config", key, "touch "+mark+" #")
		}
		for _, kv := range [][2]string{{"log.showSignature", "true"}, {"log.mailmap", "true"}, {"i18n.logOutputEncoding", "ISO-8859-1"}} {
			w.git(w.repo.Dir(), "config", kv[0], kv[1])
		}
		tree, blob := w.git(w.repo.Dir(), "rev-parse", second+"^{tree}"), w.git(w.repo.Dir(), "rev-parse", second+":a")
		packs := func() []string {
			list, _ := filepath.Glob(filepath.Join(w.repo.Dir(), ".git/objects/pack/*.pack"))
			return list
		}
		before := packs()
		got, err := w.repo.Authored(ctx, []string{first, elsewhere, anyCommit, tree, blob, strings.Repeat("ab", 32), second})
		want := map[string]Authored{first: {"Größer, \"as\" ever", author}, second: {"two\x01\x1b[31m", author}}
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if _, err := w.repo.Changes(ctx, elsewhere, second, 3); !errors.Is(err, ErrNoCommit) {
			t.Errorf("%s: changes of a commit that is not here: %v", name, err)
		}
		if changes, err := w.repo.Changes(ctx, first, second, 3); err != nil || changes.Count != 1 {
			t.Errorf("%s: %+v, %v", name, changes, err)
		}
		if after := packs(); len(before) == 0 || !slices.Equal(before, after) {
			t.Errorf("%s: something was fetched: %q, then %q", name, before, after)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Errorf("%s: a program was run that the clone's configuration names", name)
		}
		if _, err := w.repo.Authored(ctx, []string{first, "--output=x"}); err == nil {
			t.Errorf("%s: an option is taken for a commit", name)
		}
	}
}
