package self

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	schema = 7
	old    = "first"
)

// site is a host with a deployer of release `first`, whose repository holds the next.
type site struct {
	t                  *testing.T
	dir, state, remote string
	commit             string
	out                bytes.Buffer
	// reasons keep the process from being ready; handedOver says that it made way.
	reasons    []string
	handedOver context.CancelCauseFunc
	oneWay     bool
}

// next is the program of a commit: what `version` and the rest answer.
const next = `package main

import (
	"fmt"
	"os"
)

var commit string

func main() {
	switch os.Args[1] {
	case "version":
		fmt.Printf("{\"revision\":%%q,\"schema\":%d}\n", commit)
	case "config":
		fmt.Println(os.Args[1:], os.Getenv("STATE_DIRECTORY"))
		%s
	case "migrate":
		fmt.Println("migrated")
	case "doctor":
		fmt.Println(%q)
	}
}
`

// newSite makes one; the next version has this schema, and its `config check` and
// doctor do this.
func newSite(t *testing.T, nextSchema int, check, doctor string) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, dir: filepath.Join(dir, "opt"), state: filepath.Join(dir, "state"), remote: filepath.Join(dir, "remote")}
	must(t, os.MkdirAll(filepath.Join(s.remote, "cmd", program), 0o755))
	must(t, os.WriteFile(filepath.Join(s.remote, "go.mod"), []byte("module example.com/x\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(s.remote, "cmd", program, "main.go"), fmt.Appendf(nil, next, nextSchema, check, doctor), 0o644))
	testkit.Git(t, s.remote, "init", "--quiet", "--initial-branch=main")
	testkit.Git(t, s.remote, "add", "-A")
	testkit.Git(t, s.remote, "commit", "--quiet", "-m", "next")
	s.commit = testkit.Git(t, s.remote, "rev-parse", "HEAD")
	s.putRelease(old)
	must(t, os.Symlink("releases/"+old, filepath.Join(s.dir, "current")))
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) putRelease(name string) {
	s.t.Helper()
	must(s.t, os.MkdirAll(filepath.Join(s.dir, "releases", name), 0o755))
	must(s.t, os.WriteFile(filepath.Join(s.dir, "releases", name, program), nil, 0o755))
}

// start is a process of the release that the link leads to.
func (s *site) start() *Handler {
	s.t.Helper()
	executable, err := filepath.EvalSymlinks(filepath.Join(s.dir, "current", program))
	must(s.t, err)
	return New(Config{
		Source: source.Source{Path: filepath.Join(filepath.Dir(s.dir), "www"), Remote: s.remote},
		Dir:    s.dir, StateDir: s.state, ReadyFor: 30 * time.Millisecond, Probation: time.Hour, Schema: schema, OneWay: s.oneWay,
		Command: "work", Arguments: []string{"--config", "/etc/x"}, Environment: []string{"STATE_DIRECTORY=/var/lib/x"},
	}, Process{
		Executable: executable,
		Ready:      func(context.Context) []string { return s.reasons },
		HandOver: func() {
			if s.handedOver != nil {
				s.handedOver(errMadeWay)
			}
		},
	})
}

var errMadeWay = errors.New("made way")

// goesOn is of a run that nobody cancels.
func goesOn() error { return nil }

func (s *site) job() handlers.Job {
	return handlers.Job{Deployment: "deployer", DeliveryID: "d-1", Attempt: 1, Branch: "main", Commit: s.commit, Path: filepath.Join(filepath.Dir(s.dir), "www")}
}

// deploy runs the first n steps of the plan; all where n is 0.
func (s *site) deploy(h *Handler, n int) handlers.Result {
	s.t.Helper()
	plan, err := h.Plan(s.t.Context(), s.job())
	must(s.t, err)
	if n > 0 {
		plan.Steps = plan.Steps[:n]
	}
	env := handlers.Env{Out: &s.out, Vars: os.Environ(), Job: s.job(), Grace: time.Second}
	return handlers.Execute(s.t.Context(), plan, env, nil)
}

// current is the release that the link leads to.
func (s *site) current() string {
	s.t.Helper()
	link, err := os.Readlink(filepath.Join(s.dir, "current"))
	must(s.t, err)
	return filepath.Base(link)
}

// guard is what systemd runs before each start.
func (s *site) guard() string {
	s.t.Helper()
	guard, err := filepath.Abs("../../deploy/systemd/guard.sh")
	must(s.t, err)
	cmd := exec.Command(guard, s.dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "STATE_DIRECTORY=" + filepath.Dir(s.state) + ":/elsewhere"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("the guard: %v: %s", err, out)
	}
	return string(out)
}

func TestSelf_NewVersionIsBuiltTriedAndPutInPlace(t *testing.T) {
	t.Parallel()
	s := newSite(t, schema, "", `{"check":"git","level":"fail","text":"a remote is away"}`)
	s.state = filepath.Join(filepath.Dir(s.state), "self") // where the guard looks
	h := s.start()
	r := s.deploy(h, 0)
	if r.Err != nil || !r.HandedOver || s.current() != s.commit {
		t.Fatalf("result %+v, current %s\n%s", r, s.current(), &s.out)
	}
	for _, text := range []string{"[config check --for work --config /etc/x] /var/lib/x\n", "migrated\n", "doctor: git: a remote is away\n", "switched from first to " + s.commit} {
		if !strings.Contains(s.out.String(), text) {
			t.Errorf("the output lacks %q:\n%s", text, &s.out)
		}
	}
	if said := s.guard(); said != "" {
		t.Errorf("the guard says %q", said)
	}
	h = s.start()
	if handedOver, err := h.Resume(t.Context(), "d-1", 1, goesOn); !handedOver || err != nil {
		t.Errorf("handed over %v, error %v", handedOver, err)
	}
	for i := range 6 {
		s.putRelease(fmt.Sprintf("old-%d", i))
	}
	h.Settle()
	if left, _ := os.ReadDir(s.state); len(left) > 0 {
		t.Errorf("the probation left %v", left)
	}
	if kept, _ := os.ReadDir(h.releases()); len(kept) != keep+1 {
		t.Errorf("%d releases are kept", len(kept))
	}
	// The same commit again: it runs already.
	if r := s.deploy(h, 0); r.Err != nil || r.HandedOver {
		t.Errorf("result %+v\n%s", r, &s.out)
	}
}

func TestSelf_VersionThatWouldNotWorkIsNotPutInPlace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		schema        int
		check, doctor string
		spoil         func(s *site)
		step, want    string
	}{
		"configuration": {schema, `fmt.Println("unknown key"); os.Exit(1)`, "", nil, "check", "exited with code 1"},
		"schema":        {schema + 1, "", "", nil, "check", `changes the database's schema from version 7 to 8`},
		"doctor": {schema, "", `{"check":"database","level":"fail","text":"it is too old"}`, nil,
			"migrate", "the new binary would not work: database: it is too old"},
		"no Go": {schema, "", "", func(s *site) {
			must(s.t, os.WriteFile(filepath.Join(s.remote, "go.mod"), []byte("nonsense"), 0o644))
			s.commitAgain()
		}, "build", "exited with code 1"},
		"no link": {schema, "", "", func(s *site) { must(s.t, os.Remove(filepath.Join(s.dir, "current"))) }, "build", "put the first release in place by hand"},
		"link to nowhere": {schema, "", "", func(s *site) {
			must(s.t, os.Remove(filepath.Join(s.dir, "current")))
			must(s.t, os.Symlink("releases/gone", filepath.Join(s.dir, "current")))
		}, "build", "current leads to releases/gone, which holds no durhack-deployer: put it to a release that does"},
		"link moved meanwhile": {schema, "", "", func(s *site) {
			s.putRelease("other")
			must(s.t, os.Remove(filepath.Join(s.dir, "current")))
			must(s.t, os.Symlink("releases/other", filepath.Join(s.dir, "current")))
		}, "build", "restart the deployer first"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, test.schema, test.check, test.doctor)
			h := s.start()
			if test.spoil != nil {
				test.spoil(s)
			}
			r := s.deploy(h, 0)
			if r.FailedStep != test.step || r.Err == nil || !strings.Contains(r.Err.Error(), test.want) || r.HandedOver {
				t.Errorf("result %+v, want %q\n%s", r, test.want, &s.out)
			}
			if _, err := os.Stat(s.state); err == nil {
				t.Error("there is a probation")
			}
		})
	}
}

// Otherwise builds that fail, one push after another, would fill the disk.
func TestSelf_WhatFailedBuildsLeftIsRemovedBeforeTheNext(t *testing.T) {
	t.Parallel()
	s := newSite(t, schema, `fmt.Println("unknown key"); os.Exit(1)`, "")
	for i := range 6 {
		s.putRelease(fmt.Sprintf("failed-%d", i))
	}
	s.putRelease(halfMade + "a")
	h := s.start()
	if r := s.deploy(h, 0); r.FailedStep != "check" {
		t.Errorf("result %+v\n%s", r, &s.out)
	}
	left, err := os.ReadDir(h.releases())
	must(t, err)
	if len(left) != keep+2 || strings.HasPrefix(left[0].Name(), halfMade) { // the one that runs, and the new one
		t.Errorf("left are %v", left)
	}
}

func (s *site) commitAgain() {
	testkit.Git(s.t, s.remote, "commit", "--quiet", "-a", "-m", "again")
	s.commit = testkit.Git(s.t, s.remote, "rev-parse", "HEAD")
}

func TestSelf_ProcessOutsideOfTheReleasesCannotDeployItself(t *testing.T) {
	t.Parallel()
	s := newSite(t, schema, "", "")
	h := s.start()
	h.process.Executable = "/usr/local/bin/durhack-deployer"
	if r := s.deploy(h, 4); r.FailedStep != "build" || !strings.Contains(r.Err.Error(), "set ExecStart="+s.dir+"/current/durhack-deployer") {
		t.Errorf("result %+v", r)
	}
}

// Killed after each step, and within the switch, the next process tells an end, and a
// version that was not tried is never in place.
func TestSelf_KilledAnywhereTheNextProcessTellsTheEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, schema, "", "")
	begun := func(h *Handler) probation {
		p := probation{From: old, To: s.commit, DeliveryID: "d-1", Attempt: 1, Deadline: time.Now().Add(time.Hour).Unix()}
		must(t, h.begin(p))
		return p
	}
	for n := range 5 {
		s.deploy(s.start(), n+1)
		h := s.start()
		if handedOver, err := h.Resume(t.Context(), "d-1", 1, goesOn); handedOver || err != nil || s.current() != old {
			t.Errorf("after %d steps: handed over %v, error %v, current %s", n+1, handedOver, err, s.current())
		}
		h.Settle()
	}
	begun(s.start())
	h := s.start()
	if handedOver, err := h.Resume(t.Context(), "d-1", 1, goesOn); !handedOver || err == nil || !strings.Contains(err.Error(), "was ended in the switch") || s.current() != old {
		t.Errorf("before the link: handed over %v, error %v, current %s", handedOver, err, s.current())
	}
	h.Settle()
	must(t, h.point(begun(s.start()).To))
	for range 3 { // it is killed in its probation, twice
		if said := s.guardOf(); said != "" {
			t.Errorf("the guard says %q", said)
		}
		h = s.start()
	}
	if handedOver, err := h.Resume(t.Context(), "d-1", 1, goesOn); !handedOver || err != nil || s.current() != s.commit {
		t.Errorf("after the link: handed over %v, error %v, current %s", handedOver, err, s.current())
	}
	// Killed after the end was recorded, before the probation went.
	s.start().Settle()
	for range 5 {
		if said := s.guardOf(); said != "" {
			t.Errorf("the guard says %q after the end", said)
		}
	}
}

// guardOf runs the guard on a state directory that ends in self, as it does in the daemon.
func (s *site) guardOf() string {
	s.t.Helper()
	link := filepath.Join(filepath.Dir(s.state), "self")
	if _, err := os.Lstat(link); err != nil {
		must(s.t, os.Symlink(filepath.Base(s.state), link))
	}
	return s.guard()
}

func TestSelf_VersionThatDoesNotComeUpMakesWay(t *testing.T) {
	t.Parallel()
	switched := func(t *testing.T, deadline time.Time, oneWay bool) *site {
		s := newSite(t, schema, "", "")
		s.putRelease(s.commit)
		h := s.start()
		must(t, h.begin(probation{From: old, To: s.commit, DeliveryID: "d-1", Attempt: 1, Deadline: deadline.Unix(), OneWay: oneWay}))
		must(t, h.point(s.commit))
		return s
	}
	failed := func(t *testing.T, s *site, want string) {
		t.Helper()
		handedOver, err := s.start().Resume(t.Context(), "d-1", 1, goesOn)
		if !handedOver || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("handed over %v, error %v, want %q", handedOver, err, want)
		}
	}
	t.Run("three starts", func(t *testing.T) {
		s := switched(t, time.Now().Add(time.Hour), false)
		for range 3 {
			if said := s.guardOf(); said != "" || s.current() != s.commit {
				t.Fatalf("the guard says %q, current %s", said, s.current())
			}
		}
		if said := s.guardOf(); !strings.Contains(said, "did not come up in 3 starts; switched back to first") || s.current() != old {
			t.Fatalf("the guard says %q, current %s", said, s.current())
		}
		failed(t, s, "the new version did not come up in 3 starts; switched back to first")
	})
	t.Run("the deadline", func(t *testing.T) {
		s := switched(t, time.Now().Add(-time.Minute), false)
		if s.guardOf(); s.current() != s.commit {
			t.Fatal("it got no start at all")
		}
		if s.guardOf(); s.current() != old {
			t.Fatal("it got another start")
		}
		failed(t, s, "did not come up in 1 starts")
	})
	t.Run("starts that cannot be counted", func(t *testing.T) {
		s := switched(t, time.Now().Add(time.Hour), false)
		must(t, os.Mkdir(filepath.Join(s.state, "starts"), 0o755)) // as on a full disk
		for range 4 {
			if s.guardOf(); s.current() != s.commit {
				t.Fatal("it got no time")
			}
		}
		must(t, s.start().note(probation{From: old, To: s.commit, DeliveryID: "d-1", Attempt: 1, Deadline: 1}))
		if s.guardOf(); s.current() != old {
			t.Fatal("it got another start")
		}
	})
	t.Run("put back by hand", func(t *testing.T) {
		s := switched(t, time.Now().Add(time.Hour), false)
		s.guardOf()
		must(t, s.start().point(old))
		s.guardOf()
		failed(t, s, "the link was put back to first by hand")
	})
	t.Run("no way back", func(t *testing.T) {
		s := switched(t, time.Now().Add(-time.Minute), true)
		for range 6 {
			if s.guardOf(); s.current() != s.commit {
				t.Fatal("the guard switched back")
			}
		}
		s.reasons = []string{"the database does not answer"}
		failed(t, s, "the new version stays, for it has changed the schema, but it was not ready for 30ms: the database does not answer")
	})
	t.Run("not ready", func(t *testing.T) {
		s := switched(t, time.Now().Add(-time.Minute), false)
		s.guardOf()
		s.reasons = []string{"a part has failed"}
		h := s.start()
		ctx, cancel := context.WithCancelCause(t.Context())
		s.handedOver = cancel
		if _, err := h.Resume(ctx, "d-1", 1, goesOn); !errors.Is(err, errMadeWay) || s.current() != old {
			t.Fatalf("error %v, current %s", err, s.current())
		}
		failed(t, s, "switched back to first: it was not ready for 30ms: a part has failed")
	})
	t.Run("canceled", func(t *testing.T) {
		s := switched(t, time.Now().Add(time.Hour), false)
		s.guardOf()
		h := s.start()
		ctx, cancel := context.WithCancelCause(t.Context())
		s.handedOver = cancel
		canceled := func() error { return errors.New("canceled by ada") }
		if _, err := h.Resume(ctx, "d-1", 1, canceled); !errors.Is(err, errMadeWay) || s.current() != old {
			t.Fatalf("error %v, current %s", err, s.current())
		}
		failed(t, s, "switched back to first: canceled by ada")
	})
	t.Run("stopped in the probation", func(t *testing.T) {
		s := switched(t, time.Now().Add(time.Hour), false)
		s.reasons = []string{"not yet"}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errMadeWay)
		if handedOver, err := s.start().Resume(ctx, "d-1", 1, goesOn); !handedOver || !errors.Is(err, errMadeWay) {
			t.Errorf("handed over %v, error %v", handedOver, err)
		}
		s.reasons = nil
		if handedOver, err := s.start().Resume(t.Context(), "d-1", 1, goesOn); !handedOver || err != nil {
			t.Errorf("handed over %v, error %v", handedOver, err)
		}
	})
	t.Run("another run's probation", func(t *testing.T) {
		s := switched(t, time.Now().Add(time.Hour), false)
		if handedOver, err := s.start().Resume(t.Context(), "d-1", 2, goesOn); handedOver || err != nil {
			t.Errorf("handed over %v, error %v", handedOver, err)
		}
	})
	t.Run("a third version", func(t *testing.T) {
		s := switched(t, time.Now().Add(time.Hour), false)
		s.putRelease("third")
		must(t, s.start().point("third"))
		failed(t, s, "neither the new version nor the one before it runs")
	})
}

func TestSelf_UnitMustLeadToTheLinkAndHaveTheGuard(t *testing.T) {
	t.Parallel()
	h := New(Config{Command: "work"}, Process{})
	const good = "Restart=always\nTimeoutStartUSec=1min\n" +
		"ExecStartPre={ path=/usr/local/lib/durhack-deployer/guard ; argv[]=/usr/local/lib/durhack-deployer/guard /opt/durhack-deployer ; ignore_errors=yes ; }\n" +
		"ExecStart={ path=/opt/durhack-deployer/current/durhack-deployer ; argv[]=/opt/durhack-deployer/current/durhack-deployer work ; ignore_errors=no ; }\n"
	if problems := h.unitProblems("x.service", good); len(problems) > 0 {
		t.Errorf("problems %q", problems)
	}
	want := []string{
		"x.service has no ExecStart=/opt/durhack-deployer/current/durhack-deployer work",
		"x.service has no ExecStartPre=-/usr/local/lib/durhack-deployer/guard /opt/durhack-deployer",
		"x.service has no Restart=always",
		"x.service waits for ever for a version that hangs: set TimeoutStartSec=60s",
	}
	bad := "Restart=on-failure\nTimeoutStartUSec=infinity\nExecStart={ path=/usr/local/bin/durhack-deployer ; }\n"
	if problems := h.unitProblems("x.service", bad); !slices.Equal(problems, want) {
		t.Errorf("problems %q, want %q", problems, want)
	}
}
