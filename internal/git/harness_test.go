package git

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.MainNoLeaks(m)) }

// world is a bare remote, a clone to push from, and the Repo under test.
type world struct {
	t            *testing.T
	bare, pusher string
	repo         *Repo
	out          bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, bare: filepath.Join(dir, "remote.git"), pusher: filepath.Join(dir, "pusher")}
	w.git(dir, "init", "--quiet", "--bare", "--initial-branch=main", w.bare)
	w.git(dir, "init", "--quiet", "--initial-branch=main", w.pusher)
	w.repo = Open(filepath.Join(dir, "live"), w.bare, Options{Grace: 100 * time.Millisecond})
	return w
}

// git runs git by hand, outside the code under test.
func (w *world) git(dir string, args ...string) string {
	w.t.Helper()
	return testkit.Git(w.t, dir, args...)
}

// commit makes a commit of files in the pusher; a nil content removes.
func (w *world) commit(message string, files map[string]string) string {
	w.t.Helper()
	for name, content := range files {
		path := filepath.Join(w.pusher, name)
		if content == "" {
			_ = os.Remove(path)
			continue
		}
		w.write(path, content)
	}
	w.git(w.pusher, "add", "--all")
	w.git(w.pusher, "commit", "--quiet", "--allow-empty", "-m", message)
	return w.git(w.pusher, "rev-parse", "HEAD")
}

func (w *world) push(branch string) {
	w.t.Helper()
	w.git(w.pusher, "push", "--quiet", "--force", w.bare, "HEAD:refs/heads/"+branch)
}

func (w *world) write(path, content string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) live(name string) string {
	b, err := os.ReadFile(filepath.Join(w.repo.Dir(), name))
	if err != nil {
		return ""
	}
	return string(b)
}

// deploy is what the command handler does.
func (w *world) deploy(branch, commit string) error {
	ctx := w.t.Context()
	if err := w.repo.EnsureClone(ctx, commit, &w.out); err != nil {
		return err
	}
	if err := w.repo.FetchCommit(ctx, branch, commit, &w.out); err != nil {
		return err
	}
	return w.repo.Checkout(ctx, commit, &w.out)
}

// assertHead is assertLive in a repository that git complains about.
func (w *world) assertHead(commit string) {
	w.t.Helper()
	head, err := w.repo.Head(w.t.Context())
	edited, editedErr := w.repo.Edited(w.t.Context())
	if err != nil || editedErr != nil || head != commit || len(edited) > 0 {
		w.t.Errorf("HEAD is %q, %v; want %s; edited %q, %v", head, err, commit, edited, editedErr)
	}
}

// assertLive: the working tree is exactly commit, but for untracked files.
func (w *world) assertLive(commit string) {
	w.t.Helper()
	if head, err := w.repo.Head(w.t.Context()); err != nil || head != commit {
		w.t.Errorf("HEAD is %q, %v; want %s", head, err, commit)
	}
	if diff := w.git(w.repo.Dir(), "status", "--porcelain", "--untracked-files=no"); diff != "" {
		w.t.Errorf("the working tree differs from %s:\n%s", commit, diff)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v\noutput:\n%s", err, w.out.String())
	}
}

func gitProgram(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// anyCommit stands where only its format matters.
var anyCommit = strings.Repeat("ab", 20)

func (w *world) sh(dir, script string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
}
