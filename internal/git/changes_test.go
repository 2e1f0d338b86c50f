package git

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	if _, err := w.repo.Changes(ctx, strings.Repeat("a", 40), strings.Repeat("b", 40), 10); !errors.Is(err, ErrNoCommit) {
		t.Errorf("without a clone: %v", err)
	}
	first := w.commit("1", map[string]string{"a": "1\n2\n", "b\tc": "x\n", "gone": "1\n", ".gitattributes": "* diff=evil\n"})
	second := w.commit("2", map[string]string{"a": "1\n3\n4\n", "b\tc": "y\n", "image": "\x00\x01", "new/file": "1\n"})
	w.push("main")
	w.must(w.deploy("main", second))
	// What a step has planted is not run.
	mark := filepath.Join(t.TempDir(), "run")
	for _, key := range []string{"diff.external", "diff.evil.command", "diff.evil.textconv"} {
		w.git(w.repo.Dir(), "config", key, "touch "+mark+" #")
	}
	got, err := w.repo.Changes(ctx, first, second, 3)
	w.must(err)
	want := []Change{{"a", 2, 1}, {"b\tc", 1, 1}, {"image", -1, -1}}
	if got.Count != 4 || !slices.Equal(got.Files, want) {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a program was run that the clone's configuration names")
	}
	if same, err := w.repo.Changes(ctx, second, second, 3); err != nil || same.Count != 0 || len(same.Files) != 0 {
		t.Errorf("of a commit with itself: %+v, %v", same, err)
	}
	for _, unknown := range [][2]string{{first, strings.Repeat("a", 40)}, {strings.Repeat("a", 40), second}} {
		if _, err := w.repo.Changes(ctx, unknown[0], unknown[1], 3); !errors.Is(err, ErrNoCommit) {
			t.Errorf("of a commit that is not here: %v", err)
		}
	}
	if _, err := w.repo.Changes(ctx, "--output=x", second, 3); err == nil || errors.Is(err, ErrNoCommit) {
		t.Errorf("of an option: %v", err)
	}
}

// Where the files of the past are not here, they are named, and not fetched.
func TestChanges_FetchNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.commit("1", map[string]string{"a": "1\n"}), w.commit("2", map[string]string{"a": "2\n", "b": "1\n"})
	w.push("main")
	w.git(w.bare, "config", "uploadpack.allowFilter", "true")
	w.git(w.pusher, "clone", "--quiet", "--filter=blob:none", "file://"+w.bare, w.repo.Dir())
	w.must(os.Rename(w.bare, w.bare+".away"))
	blobless := *w.repo
	blobless.opts.Blobless = true
	got, err := blobless.Changes(t.Context(), first, second, 10)
	w.must(err)
	if want := []Change{{"a", -1, -1}, {"b", -1, -1}}; got.Count != 2 || !slices.Equal(got.Files, want) {
		t.Errorf("%+v", got)
	}
}
