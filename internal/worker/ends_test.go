package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/command"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// Every kind of end, one after the other in one queue: each is recorded as what
// it is, and the next one gets its turn.
func TestEnd_EachIsRecordedAndTheQueueGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	steps := []string{
		"ok", "echo fine",
		"exit", "echo the secret is " + secret + " >&2; exit 3",
		"missing", "",
		"flood", `head -c 52428800 /dev/zero | tr '\0' x; echo; echo the end; exit 4`,
		"signal", "kill -SEGV $$",
		"binary", `printf 'a\000b\377c\n'; exit 5`,
		"child", "sleep 1000 & echo $! > $DIR/child.pid; echo left a child",
		"again", "echo fine",
	}
	commits := map[string]string{}
	for pair := range slices.Chunk(steps, 2) {
		commits[pair[0]] = s.push(pair[1])
		s.order(pair[0], commits[pair[0]], false)
	}
	s.run()
	s.checkRuns()

	for _, name := range []string{"ok", "child", "again"} {
		s.expect(name, "forwarded 1", "started 1", "deployed 1")
		if d := last[eventlog.Deployed](s, name); d.Commit != commits[name] || len(d.Steps) != 3 || d.RunLogDigest != digest(t, d.RunLog) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if d := last[eventlog.Deployed](s, "child"); d.PreviousCommit != commits["ok"] {
		t.Errorf("what was live before is %s, want %s: what failed was not live", d.PreviousCommit, commits["ok"])
	}
	pid, err := strconv.Atoi(strings.TrimSpace(s.read("child.pid")))
	if err != nil {
		t.Fatal(err)
	}
	if p, there := process.ReadStat(pid); there && p.Alive() {
		t.Errorf("the background child %d is still there: %+v", pid, p)
	}

	for name, want := range map[string]struct {
		code        int // -1: did not exit by itself
		signal      string
		error, tail string
	}{
		"exit":    {3, "", "exit", "the secret is "},
		"missing": {-1, "", "./build", ""},
		"flood":   {4, "", "exit", "the end\n"},
		"signal":  {-1, "SIGSEGV", "SIGSEGV", ""},
		"binary":  {5, "", "exit", "a\uFFFDb\uFFFDc\n"},
	} {
		s.expect(name, "forwarded 1", "started 1", "failed 1")
		f := last[eventlog.Failed](s, name)
		code := -1
		if f.ExitCode != nil {
			code = *f.ExitCode
		}
		if f.Step != "build" || code != want.code || f.Signal != want.signal || f.Commit != commits[name] {
			t.Errorf("%s: step %q, exit code %d, signal %q", name, f.Step, code, f.Signal)
		}
		if !strings.Contains(f.Error, want.error) || !strings.Contains(f.OutputTail, want.tail) {
			t.Errorf("%s: error %q, tail %q", name, f.Error, f.OutputTail)
		}
		if n := len(f.Steps); n != 3 || f.Steps[2].Name != "build" || f.Steps[2].Result != "failed" {
			t.Errorf("%s: steps %+v", name, f.Steps)
		}
		if f.RunLogDigest != digest(t, f.RunLog) {
			t.Errorf("%s: the digest is not that of the run log", name)
		}
		if info, err := os.Stat(f.RunLog); err != nil || info.Size() > 21<<20 {
			t.Errorf("%s: run log: %v, %v", name, info, err)
		}
	}
	for _, e := range s.events("") {
		if len(e.Data) > 16<<10 || strings.Contains(string(e.Data), secret) {
			t.Errorf("%s of %s has %d bytes, or a secret", e.Type, e.DeliveryID, len(e.Data))
		}
	}
	if strings.Contains(s.read("runs/web/exit-1.log"), secret) {
		t.Error("the run log has a secret")
	}
	for _, pattern := range []string{"*.result.json", "*.process"} {
		if left, _ := filepath.Glob(filepath.Join(s.Dir, "runs", slug, pattern)); left != nil {
			t.Errorf("left behind: %v", left)
		}
	}
}

func digest(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// A step that never ends, with a timeout of its own, and with the deployment's.
func TestTimeoutsEndTheRun(t *testing.T) {
	const timeout = 10 * time.Second
	for name, c := range map[string]struct {
		script, signal, error string
		step, deployment      time.Duration
	}{
		"of the step":       {"trap '' TERM; echo waiting; while :; do sleep 0.05; done", "SIGKILL", "timed out after 10s", timeout, 0},
		"of the deployment": {"echo waiting; while :; do sleep 0.05; done", "SIGTERM", "longer than its timeout", 0, timeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.order("slow", s.push(c.script), false)
			s.order("quick", s.push("echo fine"), false)
			handler := command.New(command.Config{Source: source.Source{Path: s.live(), Remote: s.remote()}, Steps: []command.StepConfig{
				{Name: "build", Run: []string{"./build"}, Timeout: c.step},
			}})
			s.run(func(o *Options) { o.Handler, o.Deployment.Timeout = handler, c.deployment })
			s.checkRuns()
			f := last[eventlog.Failed](s, "slow")
			if f.Step != "build" || f.Signal != c.signal || f.ExitCode != nil || !strings.Contains(f.Error, c.error) || !strings.HasSuffix(f.OutputTail, "waiting\n") {
				t.Errorf("failed: %+v", f)
			}
			if f.Steps[len(f.Steps)-1].Result != "timeout" {
				t.Errorf("steps: %+v", f.Steps)
			}
			s.expect("quick", "forwarded 1", "started 1", "deployed 1")
		})
	}
}

// A run without a plan fails before the first step, in bounded words, and with
// secrets masked.
func TestPlanErrorFailsTheAttempt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good := s.push("echo fine")
	s.order("good", good, false)
	s.order("bad", "--upload-pack="+secret+strings.Repeat("x", 10_000), true)
	s.order("after", s.push("echo fine"), false)
	s.run()
	s.checkRuns()
	f := last[eventlog.Failed](s, "bad")
	if f.Step != stepPlan || len(f.Steps) != 0 || f.ExitCode != nil || f.RunLog == "" {
		t.Errorf("failed: %+v", f)
	}
	if len(f.Error) > maxText || strings.Contains(f.Error, secret) || !strings.Contains(f.Error, "not a full commit hash") {
		t.Errorf("error: %q", f.Error)
	}
	s.expect("after", "forwarded 1", "started 1", "deployed 1")
}

func TestUnreachableRemoteFails(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push("echo fine"), false)
	if err := os.Rename(s.remote(), s.remote()+".away"); err != nil {
		t.Fatal(err)
	}
	s.run()
	if f := last[eventlog.Failed](s, "d"); f.Step != names.StepFetch {
		t.Errorf("failed: %+v", f)
	}
}

func TestBoundedTextFitsAnEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SampledFrom([]string{"a", "\x00", "\xff", "\u00e9", "\U0001F680", "\n"})
		text := strings.Repeat(strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "pieces"), ""), rapid.IntRange(0, 2000).Draw(t, "times"))
		got := bounded(text)
		if len(got) > maxText || !utf8.ValidString(got) || strings.Contains(got, "\x00") {
			t.Fatalf("%d bytes, valid %v", len(got), utf8.ValidString(got))
		}
		if clean := strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD"); len(clean) <= maxText && got != clean {
			t.Fatalf("a short text was changed: %q to %q", clean, got)
		}
	})
}

func TestTellWarnsOfAFailedRunWithStepAndExitCode(t *testing.T) {
	t.Parallel()
	code := 3
	for want, end := range map[string]eventlog.Data{
		`level=WARN msg=failed delivery=d attempt=2 commit=c step=build error="exit status 3" run_log=/runs/d-2.log exit_code=3`: eventlog.Failed{Step: "build", Error: "exit status 3", ExitCode: &code},
		`level=WARN msg=failed delivery=d attempt=2 commit=c step=build error=killed run_log=/runs/d-2.log signal=SIGKILL`:       eventlog.Failed{Step: "build", Error: "killed", Signal: "SIGKILL"},
		`level=INFO msg=deployed delivery=d attempt=2 commit=c`:                                                                  eventlog.Deployed{},
	} {
		if f, ok := end.(eventlog.Failed); ok {
			f.RunLog = "/runs/d-2.log"
			end = f
		}
		var out strings.Builder
		w := &Worker{o: Options{Logger: slog.New(slog.NewTextHandler(&out, nil))}}
		w.tell(run{deliveryID: "d", attempt: 2, started: eventlog.Started{Commit: "c"}}, end)
		if _, got, _ := strings.Cut(strings.TrimSpace(out.String()), " "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestRun_GoesOnWithoutTheLimitsThatCannotBeSet(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("limits", s.push("echo fine"), false)
	s.run(func(o *Options) {
		o.Limit = func() (handlers.Limits, error) { return nil, errors.New("nothing is delegated") }
	})
	log, err := os.ReadFile(last[eventlog.Deployed](s, "limits").RunLog)
	if want := "memory_max and tasks_max do nothing in this run: nothing is delegated\n"; err != nil || !strings.Contains(string(log), want) {
		t.Errorf("the run log, %v:\n%s\nwant %s", err, log, want)
	}
}
