package releases

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/command"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a remote with a few commits, and a deployment of it.
type site struct {
	t       *testing.T
	dir     string
	cfg     Config
	commits []string
	out     strings.Builder
}

func newSite(t *testing.T, commits int, shared ...string) *site {
	s := &site{t: t, dir: t.TempDir()}
	s.cfg = Config{Path: filepath.Join(s.dir, "live"), Keep: 2, Shared: shared, Build: "build 1"}
	testkit.Git(t, s.dir, "init", "--quiet", "--initial-branch=main", s.remote())
	for i := range commits {
		s.commit(map[string]string{"file": fmt.Sprint(i)})
	}
	return s
}

func (s *site) remote() string { return filepath.Join(s.dir, "remote") }

func (s *site) commit(files map[string]string) {
	s.t.Helper()
	for name, text := range files {
		path := filepath.Join(s.remote(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	testkit.Git(s.t, s.remote(), "add", "--all")
	testkit.Git(s.t, s.remote(), "commit", "--quiet", "--message", "next")
	s.commits = append(s.commits, testkit.Git(s.t, s.remote(), "rev-parse", "HEAD"))
}

func (s *site) plan(commit string, build string) handlers.Plan {
	s.t.Helper()
	src := source.Source{Remote: s.remote(), Store: filepath.Join(s.dir, "store")}
	h := Pruned(New(src, s.cfg, func(src source.Source) handlers.Handler {
		return command.New(command.Config{Source: src, Steps: []command.StepConfig{{Name: "build", Run: []string{"sh", "-ec", build}}}})
	}), s.cfg)
	plan, err := h.Plan(s.t.Context(), handlers.Job{Branch: "main", Commit: commit, PreviousCommit: s.cfg.live()})
	if err != nil {
		s.t.Fatal(err)
	}
	return plan
}

const built = `test "$PWD" = "$DURHACK_RELEASE"; echo once >> built`

func (s *site) run(plan handlers.Plan) handlers.Result {
	s.out.Reset()
	return handlers.Execute(s.t.Context(), plan, handlers.Env{Out: &s.out, Vars: handlers.Environment(handlers.Job{}, nil, nil)}, nil)
}

func (s *site) deploy(commit string) {
	s.t.Helper()
	if r := s.run(s.plan(commit, built)); r.Err != nil {
		s.t.Fatalf("%v\n%s", r.Err, s.out.String())
	}
	s.isWhole(commit)
}

// isWhole says that this commit is live, and was built once.
func (s *site) isWhole(commit string) {
	s.t.Helper()
	text, _ := os.ReadFile(filepath.Join(s.cfg.Path, Current, "built"))
	if got := s.cfg.live(); got != commit || string(text) != "once\n" {
		s.t.Errorf("%s is live, built %q; want %s\n%s", got, text, commit, s.out.String())
	}
}

func (s *site) releases() []string {
	found, _ := filepath.Glob(filepath.Join(s.cfg.Path, "releases", "*"))
	hidden, _ := filepath.Glob(filepath.Join(s.cfg.Path, "releases", ".*"))
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return append(found, hidden...)
}

func (s *site) has(commits ...string) {
	s.t.Helper()
	slices.Sort(commits)
	if got := s.releases(); !slices.Equal(got, commits) {
		s.t.Errorf("the releases are %q, want %q\n%s", got, commits, s.out.String())
	}
}

func TestReleases_TheLastStayAndAreSwitchedToWithoutABuild(t *testing.T) {
	t.Parallel()
	s := newSite(t, 4)
	c := s.commits
	if want := []string{"fetch", "checkout", "build", "switch", "prune"}; !slices.Equal(s.plan(c[0], built).Names(), want) {
		t.Errorf("the plan is %q", s.plan(c[0], built).Names())
	}
	s.deploy(c[0])
	s.deploy(c[1])
	s.has(c[0], c[1])
	s.deploy(c[0]) // as a rollback
	if text := s.out.String(); strings.Contains(text, "$ sh") || strings.Count(text, "nothing to do") != 3 {
		t.Errorf("the output is\n%s", text)
	}
	s.deploy(c[2])
	s.has(c[0], c[2]) // c[1] was live longest ago

	app := exec.CommandContext(t.Context(), "sleep", "1000")
	app.Dir = filepath.Join(s.cfg.Path, Current)
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	s.deploy(c[3])
	s.deploy(c[1])
	s.has(c[1], c[2], c[3]) // where the app runs
	_, _ = app.Process.Kill(), app.Wait()
	s.deploy(c[1])
	s.has(c[1], c[3])
}

func TestReleases_ABuildThatFailsLeavesWhatIsLive(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2)
	first := s.run(s.plan(s.commits[0], "exit 3"))
	if first.FailedStep != "build" || strings.Contains(first.Err.Error(), Current) {
		t.Errorf("result %+v", first)
	}
	s.deploy(s.commits[0])
	r := s.run(s.plan(s.commits[1], "echo half >> built; exit 3"))
	if want := fmt.Sprintf("%s still holds commit %.12s", filepath.Join(s.cfg.Path, Current), s.commits[0]); r.Err == nil || !strings.Contains(r.Err.Error(), want) {
		t.Errorf("the error is %v, want %q", r.Err, want)
	}
	s.isWhole(s.commits[0])
	s.deploy(s.commits[1]) // nothing of the half is left
}

// Builds that fail one after another do not fill the disk.
func TestReleases_HalfOnesDoNotStay(t *testing.T) {
	t.Parallel()
	s := newSite(t, 4)
	s.deploy(s.commits[0])
	for _, commit := range s.commits[1:] {
		if r := s.run(s.plan(commit, "exit 3")); r.FailedStep != "build" {
			t.Fatalf("result %+v", r)
		}
		s.has(s.commits[0], commit)
	}
}

// A run that ends after any step, as when the deployer is killed, leaves a whole release
// live, and is completed by the next.
func TestReleases_ARunThatIsCutShortLeavesAWholeRelease(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, "data")
	s.deploy(s.commits[0])
	steps := s.plan(s.commits[1], built).Steps
	for cut := range len(steps) + 1 {
		s.deploy(s.commits[0])
		if err := s.cfg.remove(s.commits[1]); err != nil {
			t.Fatal(err)
		}
		plan := s.plan(s.commits[1], built)
		plan.Steps = plan.Steps[:cut]
		s.run(plan)
		live := s.commits[0]
		if cut > 4 { // fetch, checkout, shared, build, switch
			live = s.commits[1]
		}
		s.isWhole(live)
		s.deploy(s.commits[1])
	}
}

func TestReleases_AnotherBuildIsBuiltAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2)
	s.deploy(s.commits[0])
	s.deploy(s.commits[1])
	s.cfg.Build = "build 2"
	s.deploy(s.commits[0]) // from nothing
	s.cfg.Build = "build 3"
	if r := s.run(s.plan(s.commits[0], `test "$(cat built)" = once; echo again > built`)); r.Err != nil { // where it is live
		t.Errorf("%v\n%s", r.Err, s.out.String())
	}
	if r := s.run(s.plan(s.commits[0], "exit 3")); r.Err != nil {
		t.Errorf("it was built again without a reason: %v", r.Err)
	}
}

func TestReleases_WhatIsSharedIsLinked(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1, "uploads", ".env", "var/data")
	s.commit(map[string]string{"uploads/of-the-commit": "x"})
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(s.cfg.Path, name), []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.deploy(s.commits[0])
	write("current/uploads/a")
	write("current/var/data/a")
	write("current/.env")
	s.deploy(s.commits[1])
	for _, name := range []string{"current/uploads/a", "current/var/data/a", "shared/.env", "current/.env"} {
		if text, err := os.ReadFile(filepath.Join(s.cfg.Path, name)); string(text) != "kept" {
			t.Errorf("%s is %q: %v", name, text, err)
		}
	}
	s.cfg.Keep = 1
	s.deploy(s.commits[1])
	s.has(s.commits[1])
	if _, err := os.Stat(filepath.Join(s.cfg.Path, "shared/uploads/a")); err != nil {
		t.Errorf("it went with the release: %v", err)
	}

	s.commit(map[string]string{"conf.ini": "of the commit", "secrets": "of the commit"})
	for _, name := range []string{"conf.ini", "secrets"} {
		s.cfg.Shared = []string{name}
		if r := s.run(s.plan(s.commits[2], built)); r.FailedStep != "shared" || !strings.Contains(r.Err.Error(), "shared/"+name+" is not there") {
			t.Errorf("result %+v", r)
		}
	}
}

// A link in the commit does not lead out of the release.
func TestReleases_LinksOfTheCommitLeadNowhere(t *testing.T) {
	t.Parallel()
	s := newSite(t, 0, "out/victim")
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "victim"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(s.remote(), "out")); err != nil {
		t.Fatal(err)
	}
	s.commit(nil)
	if r := s.run(s.plan(s.commits[0], built)); r.FailedStep != "shared" {
		t.Errorf("result %+v", r)
	}
	if info, err := os.Lstat(filepath.Join(outside, "victim")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
}

func TestReleases_CurrentThatIsNoLinkIsNotReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	if err := os.MkdirAll(filepath.Join(s.cfg.Path, Current), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := s.run(s.plan(s.commits[0], built)); r.FailedStep != "fetch" || !strings.Contains(r.Err.Error(), "move it away") {
		t.Errorf("result %+v", r)
	}
}
