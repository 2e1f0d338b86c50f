package integration

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// repo is a bare repository, as at GitHub.
type repo struct {
	t   *testing.T
	dir string
}

func gitEnv() []string {
	return []string{
		"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
	}
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	r := &repo{t: t, dir: filepath.Join(tempDir(t), "repo.git")}
	r.git(nil, "init", "--quiet", "--bare", "--template=", "--initial-branch=main", r.dir)
	return r
}

func (r *repo) git(in []byte, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(gitEnv(), "PATH="+os.Getenv("PATH"))
	if args[0] != "init" {
		cmd.Args = append([]string{"git", "--git-dir=" + r.dir}, args...)
	}
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("git %q: %v: %s", args, err, &stderr)
	}
	return string(out)
}

// commit is one to be made: a message and the whole tree. Names that end in .sh
// are executable.
type commit struct {
	message string
	files   map[string]string
}

// push puts commits on a branch, each on top of the one before, and returns
// their hashes.
func (r *repo) push(branch string, commits ...commit) []string {
	r.t.Helper()
	ref := "refs/heads/" + branch
	parent := ""
	if tip, err := exec.Command("git", "--git-dir="+r.dir, "rev-parse", "--verify", "--quiet", "--end-of-options", ref).Output(); err == nil {
		parent = strings.TrimSpace(string(tip))
	}
	var in bytes.Buffer
	for i, c := range commits {
		fmt.Fprintf(&in, "commit refs/made/here\nmark :%d\ncommitter Ada <ada@example.com> %d +0000\ndata %d\n%s\n",
			i+1, 1700000000+i, len(c.message), c.message)
		if i == 0 && parent != "" {
			fmt.Fprintf(&in, "from %s\n", parent)
		}
		in.WriteString("deleteall\n")
		for _, name := range slices.Sorted(maps.Keys(c.files)) {
			mode := "100644"
			if strings.HasSuffix(name, ".sh") {
				mode = "100755"
			}
			fmt.Fprintf(&in, "M %s inline %s\ndata %d\n%s\n", mode, name, len(c.files[name]), c.files[name])
		}
	}
	if parent == "" {
		in = *bytes.NewBuffer(append([]byte("reset refs/made/here\n"), in.Bytes()...))
	}
	marks := filepath.Join(r.dir, "marks")
	r.git(in.Bytes(), "fast-import", "--quiet", "--force", "--export-marks="+marks)
	b, err := os.ReadFile(marks)
	if err != nil {
		r.t.Fatal(err)
	}
	hashes := make([]string, len(commits))
	for line := range strings.Lines(string(b)) {
		var mark int
		var hash string
		if _, err := fmt.Sscanf(line, ":%d %s", &mark, &hash); err != nil {
			r.t.Fatal(err)
		}
		hashes[mark-1] = hash
	}
	r.git(nil, "update-ref", ref, hashes[len(hashes)-1])
	return hashes
}

// pages puts n ordinary commits on a branch.
func (r *repo) pages(branch string, n int) []string {
	r.t.Helper()
	commits := make([]commit, n)
	for i := range commits {
		commits[i] = commit{fmt.Sprintf("Page %d", i+1), map[string]string{"index.html": fmt.Sprintf("<h1>%d</h1>\n", i+1)}}
	}
	return r.push(branch, commits...)
}
