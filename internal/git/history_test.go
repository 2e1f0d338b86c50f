package git

import (
	"maps"
	"os"
	"strings"
	"testing"
)

// knows asks the Repo, and whether a is an ancestor of b.
func (w *world) knows(commit string) bool {
	w.t.Helper()
	known, err := w.repo.Knows(w.t.Context(), commit)
	w.must(err)
	return known
}

func TestHistoryOfAShallowClone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	first, second, third := w.commit("1", nil), w.commit("2", nil), w.commit("3", nil)
	w.push("main")
	w.git(w.bare, "config", "uploadpack.allowAnySHA1InWant", "true")
	w.git(w.pusher, "clone", "--quiet", "--depth=1", "file://"+w.bare, w.repo.Dir())
	if w.knows(third) {
		t.Error("a shallow clone knows the history of its tip")
	}
	w.must(w.repo.FetchHistory(ctx, "main", third, &w.out))
	if older, err := w.repo.IsAncestor(ctx, first, third); !w.knows(third) || !older || err != nil {
		t.Errorf("after the fetch: known %v, ancestor %v, %v\n%s", w.knows(third), older, err, w.out.String())
	}
	if head := w.git(w.repo.Dir(), "rev-parse", "main"); head != third {
		t.Errorf("the branch moved to %s", head)
	}

	// What is live is not in the branch any more.
	w.must(os.RemoveAll(w.repo.Dir()))
	w.git(w.pusher, "clone", "--quiet", "--depth=1", "file://"+w.bare, w.repo.Dir())
	w.git(w.bare, "update-ref", "refs/heads/kept", third)
	w.git(w.bare, "update-ref", "refs/heads/main", second)
	w.must(w.repo.FetchHistory(ctx, "main", third, &w.out))
	if !w.knows(third) {
		t.Error("the history of a commit outside of the branch is not known")
	}
}

func TestHistoryWithoutAClone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.commit("1", map[string]string{"a": "1"}), w.commit("2", nil)
	w.push("main")
	if w.knows(second) {
		t.Error("known without a clone")
	}
	w.must(w.repo.FetchHistory(t.Context(), "main", second, &w.out))
	if older, err := w.repo.IsAncestor(t.Context(), first, second); !older || err != nil {
		t.Errorf("ancestor: %v, %v", older, err)
	}
	if entries, _ := os.ReadDir(w.repo.Dir()); len(entries) != 1 {
		t.Errorf("the working tree has %v", entries)
	}
}

func TestHistoryThatCannotBeHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("1", nil)
	w.push("main")
	repo, said := w.patient(w.bare, soon)
	err := repo.FetchHistory(t.Context(), "main", strings.Repeat("ab", 20), &w.out)
	if err == nil || !strings.Contains(err.Error(), "not our ref") || len(said.lines) > 0 {
		t.Errorf("a commit that is gone: %v; said %q", err, said.lines)
	}

	// A remote that is a shallow clone itself.
	tip := w.commit("2", nil)
	w.push("main")
	w.must(os.Rename(w.bare, w.bare+".whole"))
	w.git(w.pusher, "clone", "--quiet", "--bare", "--depth=1", "file://"+w.bare+".whole", w.bare)
	w.must(os.RemoveAll(w.repo.Dir()))
	w.git(w.pusher, "clone", "--quiet", "file://"+w.bare, w.repo.Dir())
	err = w.repo.FetchHistory(t.Context(), "main", tip, &w.out)
	if err == nil || !strings.Contains(err.Error(), "shallow clone itself") {
		t.Errorf("a shallow remote: %v", err)
	}
}

func TestKin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second, third := w.commit("1", nil), w.commit("2", nil), w.commit("3", nil)
	w.push("main")
	w.git(w.pusher, "checkout", "--quiet", first)
	aside := w.commit("aside", nil)
	w.git(w.pusher, "merge", "--quiet", "--no-edit", second)
	merged := w.git(w.pusher, "rev-parse", "HEAD")
	w.push("other")
	w.must(w.repo.FetchHistory(t.Context(), "main", third, &w.out))
	w.must(w.repo.FetchHistory(t.Context(), "other", merged, &w.out))
	gone := strings.Repeat("ab", 20)
	others := []string{first, gone, third, aside, merged}
	before, after, unknown, err := w.repo.Kin(t.Context(), second, others)
	is := func(commits ...string) map[string]bool {
		m := map[string]bool{}
		for _, c := range commits {
			m[c] = true
		}
		return m
	}
	if err != nil || !maps.Equal(before, is(first)) || !maps.Equal(after, is(third, merged)) || !maps.Equal(unknown, is(gone)) {
		t.Errorf("before %v, after %v, unknown %v, %v", before, after, unknown, err)
	}
	w.must(os.RemoveAll(w.repo.Dir()))
	w.git(w.pusher, "clone", "--quiet", "--depth=1", "file://"+w.bare, w.repo.Dir())
	if _, _, unknown, err = w.repo.Kin(t.Context(), third, others); err != nil || !maps.Equal(unknown, is(others...)) {
		t.Errorf("in a shallow clone: unknown %v, %v", unknown, err)
	}
	if _, _, _, err = w.repo.Kin(t.Context(), "--all", others); err == nil {
		t.Error("an option is taken for a commit")
	}
}

// Replaced objects and grafts do not tell of the history that was pushed.
func TestHistoryThatWasReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.commit("1", nil), w.commit("2", nil)
	w.push("main")
	w.must(w.deploy("main", second))
	w.git(w.repo.Dir(), "replace", "--graft", second)
	w.write(w.repo.Dir()+"/.git/info/grafts", second+"\n")
	if older, err := w.repo.IsAncestor(t.Context(), first, second); !older || err != nil {
		t.Errorf("ancestor: %v, %v", older, err)
	}
}

// Git says nothing that a person would have to wonder about.
func TestDeploySaysOnlyWhatItDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("1", nil)
	w.push("main")
	w.must(w.deploy("main", commit))
	if said := w.out.String(); strings.Contains(said, "hint:") || strings.Contains(said, "warning:") {
		t.Errorf("it says:\n%s", said)
	}
}
