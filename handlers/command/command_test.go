package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ handlers.Handler = (*Handler)(nil)

// sample makes a bare repository with one commit on a branch.
func sample(t *testing.T, branch string) (remote, commit string) {
	t.Helper()
	dir := t.TempDir()
	remote, work := filepath.Join(dir, "remote.git"), filepath.Join(dir, "work")
	testkit.Git(t, dir, "init", "--quiet", "--bare", remote)
	testkit.Git(t, dir, "init", "--quiet", work)
	if err := os.MkdirAll(filepath.Join(work, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "app", "build.sh"), []byte("#!/bin/sh\necho \"built $DURHACK_COMMIT of $DURHACK_BRANCH for $STAGE\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	testkit.Git(t, work, "add", "--all")
	testkit.Git(t, work, "commit", "--quiet", "-m", "first $(id)\n\n\x1b[2J")
	testkit.Git(t, work, "push", "--quiet", remote, "HEAD:refs/heads/"+branch)
	return remote, testkit.Git(t, work, "rev-parse", "HEAD")
}

func TestDeploy(t *testing.T) {
	t.Parallel()
	const branch = "--upload-pack=x;$(id)"
	remote, commit := sample(t, branch)
	live := filepath.Join(t.TempDir(), "live")
	h := New(Config{Source: source.Source{Path: live, Remote: remote}, Steps: []StepConfig{
		{Name: "build", Run: []string{"./build.sh"}, Dir: "app", Env: map[string]string{"STAGE": "production"}},
		{Name: "literal", Run: []string{"printf", "%s\n", "$HOME", "{commit}", "a b", ""}},
		{Name: "fails", Run: []string{"sh", "-c", "echo hunter2hunter2; exit 3"}},
		{Name: "never", Run: []string{"false"}},
	}})
	job := handlers.Job{Deployment: "site", DeliveryID: "d", Attempt: 1, Branch: branch, Commit: commit}
	plan, err := h.Plan(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"fetch", "checkout", "build", "literal", "fails", "never"}; !slices.Equal(plan.Names(), want) {
		t.Errorf("the plan is %q", plan.Names())
	}
	if _, err := os.Stat(live); err == nil {
		t.Error("planning made something")
	}
	for _, s := range plan.Steps {
		if s.Describe == "" || strings.ContainsRune(s.Describe, '\n') {
			t.Errorf("%s describes itself as %q", s.Name, s.Describe)
		}
	}
	logFile := filepath.Join(t.TempDir(), "runs", "d-1.log")
	runLog, err := handlers.OpenRunLog(logFile, []string{"hunter2hunter2"}, handlers.RunLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	processFile := filepath.Join(t.TempDir(), "process")
	r := handlers.Execute(t.Context(), plan, handlers.Env{
		Out: runLog, Vars: handlers.Environment(job, nil, nil), ProcessFile: processFile,
	}, runLog)
	if err := runLog.Close(); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(logFile)
	if r.FailedStep != "fails" || r.ExitCode == nil || *r.ExitCode != 3 || len(r.Steps) != 5 {
		t.Errorf("result %+v\n%s", r, text)
	}
	if want := "built " + commit + " of " + branch + " for production\n"; !strings.Contains(string(text), want) {
		t.Errorf("%q is not in\n%s", want, text)
	}
	if want := "$HOME\n{commit}\na b\n\n"; !strings.Contains(string(text), want) {
		t.Errorf("%q is not in\n%s", want, text)
	}
	// The program is printed too: it must not tell what its output may not.
	holds := fmt.Sprintf("%s holds commit %.12s, which failed; nothing was live before\n", live, commit)
	if !strings.HasSuffix(string(text), holds) {
		t.Errorf("%q is not at the end of\n%s", holds, text)
	}
	if runLog.Tail() != "$ sh -c \"echo ***; exit 3\"\n***\n" || strings.Contains(string(text), "hunter2") {
		t.Errorf("tail %q in\n%s", runLog.Tail(), text)
	}
	if _, err := os.Stat(processFile); err == nil {
		t.Error("the process file is still there")
	}
}

// A push is told of before its commit can be fetched.
func TestFetchWaitsForALateCommit(t *testing.T) {
	t.Parallel()
	remote, _ := sample(t, "main")
	work := filepath.Join(filepath.Dir(remote), "work")
	testkit.Git(t, work, "commit", "--quiet", "--allow-empty", "-m", "second")
	commit := testkit.Git(t, work, "rev-parse", "HEAD")
	h := New(Config{Source: source.Source{Path: filepath.Join(t.TempDir(), "live"), Remote: remote}})
	plan, err := h.Plan(t.Context(), handlers.Job{Branch: "main", Commit: commit})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	runLog := writer(func(p []byte) {
		out.Write(p)
		if strings.Contains(string(p), "asking again in") {
			testkit.Git(t, work, "push", "--quiet", remote, "HEAD:refs/heads/main")
		}
	})
	r := handlers.Execute(t.Context(), plan, handlers.Env{Out: runLog, Vars: handlers.Environment(handlers.Job{}, nil, nil)}, nil)
	if r.Err != nil || strings.Count(out.String(), "asking again in") != 1 {
		t.Errorf("%v\n%s", r.Err, out.String())
	}
}

// The time that a remote is waited for is part of the step's.
func TestFetchTimeoutEndsTheWait(t *testing.T) {
	t.Parallel()
	remote, _ := sample(t, "main")
	h := New(Config{Source: source.Source{Path: filepath.Join(t.TempDir(), "live"), Remote: remote, FetchTimeout: 300 * time.Millisecond, Patience: 24 * time.Hour}})
	plan, err := h.Plan(t.Context(), handlers.Job{Branch: "main", Commit: strings.Repeat("ab", 20)})
	if err != nil {
		t.Fatal(err)
	}
	r := handlers.Execute(t.Context(), plan, handlers.Env{Vars: handlers.Environment(handlers.Job{}, nil, nil)}, nil)
	if len(r.Steps) != 1 || r.Steps[0].Outcome != handlers.TimedOut || !strings.Contains(r.Err.Error(), "timed out after 300ms") {
		t.Errorf("result %+v", r)
	}
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

func TestStepTimeout(t *testing.T) {
	t.Parallel()
	remote, commit := sample(t, "main")
	run := func(timeout time.Duration) handlers.Result {
		h := New(Config{Source: source.Source{Path: filepath.Join(t.TempDir(), "live"), Remote: remote}, Steps: []StepConfig{
			{Name: "endless", Run: []string{"sleep", "1000"}, Timeout: timeout},
		}})
		plan, err := h.Plan(t.Context(), handlers.Job{Branch: "main", Commit: commit})
		if err != nil {
			t.Fatal(err)
		}
		return handlers.Execute(t.Context(), plan, handlers.Env{Vars: handlers.Environment(handlers.Job{}, nil, nil)}, nil)
	}
	r := run(time.Second)
	if r.Signal == "" { // it had not started by then
		r = run(20 * time.Second)
	}
	if !errors.As(r.Err, new(*handlers.TimeoutError)) || r.FailedStep != "endless" || r.Signal != "SIGTERM" || r.ExitCode != nil {
		t.Errorf("result %+v", r)
	}
}

func TestSearchPaths(t *testing.T) {
	t.Parallel()
	remote, commit := sample(t, "main")
	tools := t.TempDir()
	testkit.Program(t, filepath.Join(tools, "mytool"), "#!/bin/sh\nexit 9\n")
	for name, run := range map[string]string{"found": "mytool", "missing": "othertool"} {
		h := New(Config{
			Source: source.Source{Path: filepath.Join(t.TempDir(), "live"), Remote: remote, SearchPaths: []string{tools}},
			Steps:  []StepConfig{{Name: "s", Run: []string{run}}, {Name: "t", Run: []string{"x"}, Dir: "gone"}},
		})
		plan, err := h.Plan(t.Context(), handlers.Job{Branch: "main", Commit: commit})
		if err != nil {
			t.Fatal(err)
		}
		r := handlers.Execute(t.Context(), plan, handlers.Env{Vars: handlers.Environment(handlers.Job{}, nil, nil)}, nil)
		switch name {
		case "found":
			if r.ExitCode == nil || *r.ExitCode != 9 {
				t.Errorf("%s: %+v", name, r)
			}
		case "missing":
			if !errors.As(r.Err, new(*process.NotFoundError)) || r.ExitCode != nil || !strings.Contains(r.Err.Error(), tools) {
				t.Errorf("%s: %+v", name, r)
			}
		}
		gone := handlers.Execute(t.Context(), handlers.Plan{Steps: plan.Steps[3:]}, handlers.Env{}, nil)
		if gone.Err == nil || !strings.Contains(gone.Err.Error(), "is not a directory at this commit") {
			t.Errorf("a missing dir: %v", gone.Err)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	h := New(Config{Source: source.Source{Path: "/srv/x", Remote: "https://example.com/x.git"}})
	full := strings.Repeat("ab", 20)
	for _, job := range []handlers.Job{{Branch: "main", Commit: "HEAD"}, {Branch: "main"}, {Branch: "a..b", Commit: full}, {Commit: full}} {
		if _, err := h.Plan(t.Context(), job); err == nil {
			t.Errorf("%+v was planned", job)
		}
	}
}
