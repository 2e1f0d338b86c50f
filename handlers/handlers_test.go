package handlers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// diary is a Reporter that remembers.
type diary struct{ lines []string }

func (d *diary) StepStarted(name string) { d.lines = append(d.lines, name) }
func (d *diary) StepEnded(r StepResult) {
	d.lines = append(d.lines, fmt.Sprintf("%s %s %v", r.Name, r.Outcome, r.Err))
}

func step(name string, run func(ctx context.Context, env Env) error) Step {
	return Step{Name: name, Run: run}
}

func program(name string, argv ...string) Step {
	return step(name, func(ctx context.Context, env Env) error { return env.Run(ctx, "", nil, argv...) })
}

func nothing(context.Context, Env) error { return nil }

var testEnv = Env{Vars: []string{"PATH=/usr/bin:/bin"}, Grace: 20 * time.Millisecond}

func TestExecuteStopsAtTheFirstFailure(t *testing.T) {
	t.Parallel()
	var d diary
	plan := Plan{Steps: []Step{step("a", nothing), program("b", "sh", "-c", "exit 3"), step("c", nothing)}}
	r := Execute(t.Context(), plan, testEnv, &d)
	want := []string{"a", "a ok <nil>", "b", "b failed sh exited with code 3"}
	if !slices.Equal(d.lines, want) {
		t.Errorf("reported %q, want %q", d.lines, want)
	}
	if r.Err == nil || r.Err.Error() != `step "b": sh exited with code 3` || r.FailedStep != "b" ||
		r.ExitCode == nil || *r.ExitCode != 3 || r.Signal != "" || r.Canceled || len(r.Steps) != 2 {
		t.Errorf("result %+v", r)
	}
	if names := plan.Names(); !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("names %q", names)
	}
}

func TestExecuteOutcomes(t *testing.T) {
	t.Parallel()
	errLost := errors.New("the lock was lost")
	sleep := []string{"sleep", "1000"}
	const ready = time.Second // by then a program has started, and a shell has set its trap, or else by ten times that
	for name, c := range map[string]struct {
		run      func(ctx context.Context, env Env) error
		timeout  time.Duration
		cancel   bool
		outcome  Outcome
		exitCode int // -1 is nil
		signal   string
		as       any
		is       error
	}{
		"ok":        {run: nothing, outcome: OK, exitCode: -1},
		"killed":    {run: program("", "sh", "-c", "kill -KILL $$").Run, outcome: Failed, exitCode: -1, signal: "SIGKILL", as: new(*process.ExitError)},
		"not found": {run: program("", "nonesuch").Run, outcome: Failed, exitCode: -1, as: new(*process.NotFoundError)},
		"timeout":   {run: program("", sleep...).Run, timeout: ready, outcome: TimedOut, exitCode: -1, signal: "SIGTERM", as: new(*TimeoutError)},
		"deaf timeout": {
			run:     program("", "sh", "-c", "trap '' TERM; while :; do sleep 1000; done").Run,
			timeout: ready, outcome: TimedOut, exitCode: -1, signal: "SIGKILL", as: new(*TimeoutError),
		},
		"canceled":            {run: program("", sleep...).Run, cancel: true, outcome: Canceled, exitCode: -1, signal: "SIGTERM", is: errLost},
		"canceled wins":       {run: program("", sleep...).Run, cancel: true, timeout: time.Hour, outcome: Canceled, exitCode: -1, signal: "SIGTERM", is: errLost},
		"built in, canceled":  {run: func(ctx context.Context, _ Env) error { <-ctx.Done(); return ctx.Err() }, cancel: true, outcome: Canceled, exitCode: -1, is: errLost},
		"built in, timed out": {run: func(ctx context.Context, _ Env) error { <-ctx.Done(); return ctx.Err() }, timeout: time.Millisecond, outcome: TimedOut, exitCode: -1, as: new(*TimeoutError)},
		"done though late":    {run: func(ctx context.Context, _ Env) error { <-ctx.Done(); return nil }, timeout: time.Millisecond, outcome: OK, exitCode: -1},
		"failed though late":  {run: func(ctx context.Context, e Env) error { <-ctx.Done(); return &process.ExitError{Program: "p", Code: 5} }, timeout: time.Millisecond, outcome: Failed, exitCode: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			env := testEnv
			env.ProcessFile = filepath.Join(t.TempDir(), "process")
			s := Step{Name: "s", Timeout: c.timeout, Run: func(ctx context.Context, env Env) error {
				returned := make(chan struct{})
				var canceling sync.WaitGroup
				defer canceling.Wait()
				defer close(returned)
				if c.cancel {
					canceling.Go(func() {
						// The program has to run to be ended by a signal.
						for c.signal != "" && !exists(env.ProcessFile) {
							select {
							case <-returned:
								return
							case <-time.After(time.Millisecond):
							}
						}
						cancel(errLost)
					})
				}
				return c.run(ctx, env)
			}}
			r := Execute(ctx, Plan{Steps: []Step{s}}, env, nil)
			if c.timeout == ready && r.Signal != c.signal {
				s.Timeout *= 10
				r = Execute(ctx, Plan{Steps: []Step{s}}, env, nil)
			}
			if len(r.Steps) != 1 || r.Steps[0].Outcome != c.outcome || r.Signal != c.signal ||
				(r.Err == nil) != (c.outcome == OK) || r.Canceled != (c.outcome == Canceled) {
				t.Fatalf("result %+v", r)
			}
			if got := r.ExitCode; (got == nil) != (c.exitCode == -1) || got != nil && *got != c.exitCode {
				t.Errorf("exit code %v, want %d", got, c.exitCode)
			}
			if c.as != nil && !errors.As(r.Err, c.as) {
				t.Errorf("%v is not a %T", r.Err, c.as)
			}
			if c.is != nil && !errors.Is(r.Err, c.is) {
				t.Errorf("%v does not wrap %v", r.Err, c.is)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestCanceledBetweenSteps(t *testing.T) {
	t.Parallel()
	errShutdown := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var d diary
	first := step("a", func(context.Context, Env) error { cancel(errShutdown); return nil })
	r := Execute(ctx, Plan{Steps: []Step{first, step("b", nothing)}}, testEnv, &d)
	if !r.Canceled || !errors.Is(r.Err, errShutdown) || r.FailedStep != "b" || len(r.Steps) != 1 {
		t.Errorf("result %+v", r)
	}
	if want := []string{"a", "a ok <nil>"}; !slices.Equal(d.lines, want) {
		t.Errorf("reported %q", d.lines)
	}
	// A plan whose last step was done is done.
	late, cancelLate := context.WithCancelCause(t.Context())
	last := step("a", func(context.Context, Env) error { cancelLate(errShutdown); return nil })
	if r := Execute(late, Plan{Steps: []Step{last}}, testEnv, nil); r.Err != nil {
		t.Error(r.Err)
	}
}

func TestEnvironmentIsClean(t *testing.T) {
	for _, secret := range []string{"DATABASE_URL", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "DURHACK_WEBHOOK_SECRET", "GIT_DIR", "LD_PRELOAD"} {
		t.Setenv(secret, "leaked")
	}
	t.Setenv("PATH", "/p1:/p2")
	passed := []string{
		"HTTP_PROXY=1", "https_proxy=2", "ALL_PROXY=3", "no_proxy=4", "SSL_CERT_FILE=5", "SSL_CERT_DIR=6",
		"GIT_SSL_CAINFO=7", "GIT_SSH_COMMAND=8", "SSH_AUTH_SOCK=9", "XDG_RUNTIME_DIR=10",
	}
	for _, kv := range passed {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	vars := Environment(Job{Deployment: "site", DeliveryID: "d-1", Attempt: 2, Branch: "--upload-pack=x\x00y", Commit: "c", PreviousCommit: "p"}, []string{"A=1"}, []string{"/s1", "/s2"})
	if text := strings.Join(vars, "\n"); strings.Contains(text, "leaked") {
		t.Errorf("leaked: %q", vars)
	}
	for _, want := range append(passed, "A=1",
		"PATH=/s1:/s2:/p1:/p2", "DURHACK_DEPLOYMENT=site", "DURHACK_DELIVERY_ID=d-1", "DURHACK_ATTEMPT=2",
		"DURHACK_BRANCH=--upload-pack=xy", "DURHACK_COMMIT=c", "DURHACK_PREVIOUS_COMMIT=p",
	) {
		if !slices.Contains(vars, want) {
			t.Errorf("%s is missing in %q", want, vars)
		}
	}
	if vars := Environment(Job{}, []string{"PATH=/own"}, []string{"/s1"}); vars[slices.IndexFunc(vars, func(kv string) bool { return strings.HasPrefix(kv, "DURHACK_") })-1] != "PATH=/s1:/own" {
		t.Errorf("a configured PATH does not count in %q", vars)
	}
	t.Setenv("PATH", "")
	if vars := Environment(Job{}, nil, nil); !slices.Contains(vars, "PATH="+fallbackPath) {
		t.Errorf("no PATH in %q", vars)
	}
}

func TestEnvironmentAs_HasNothingPersonal(t *testing.T) {
	for name, value := range map[string]string{
		"HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/x", "TMPDIR": "/root/tmp", "XDG_RUNTIME_DIR": "/run/user/0",
		"GIT_SSH_COMMAND": "ssh -i /root/key", "SSH_AUTH_SOCK": "/root/agent", "HTTPS_PROXY": "http://ada:hunter2@proxy", "HTTP_PROXY": "http://proxy",
		"PATH": "/bin", "SSL_CERT_FILE": "/etc/ssl/x",
	} {
		t.Setenv(name, value)
	}
	as := As{User: &process.User{Name: "app", Home: "/srv/app", Shell: "/bin/sh"}}
	vars := EnvironmentAs(as, Job{}, []string{"SHELL=/own"}, nil)
	if text := strings.Join(vars, "\n"); strings.Contains(text, "root") || strings.Contains(text, "hunter2") {
		t.Errorf("the daemon's own are in %q", vars)
	}
	for _, want := range []string{"HOME=/srv/app", "USER=app", "LOGNAME=app", "HTTP_PROXY=http://proxy", "SHELL=/own"} {
		if !slices.Contains(vars, want) {
			t.Errorf("%s is missing in %q", want, vars)
		}
	}
	if i, j := slices.Index(vars, "SHELL=/bin/sh"), slices.Index(vars, "SHELL=/own"); i > j {
		t.Errorf("what is configured does not win in %q", vars)
	}
}

func fixedClock() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func openLog(t *testing.T, path string, secrets []string, limit int64) *RunLog {
	t.Helper()
	l, err := OpenRunLog(path, secrets, RunLogOptions{Limit: limit, Now: fixedClock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestRunLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "site", "d-1.log")
	l := openLog(t, path, []string{"hunter2hunter2"}, 0)
	l.Note("commit %s", "abc\nforged")
	l.StepStarted("fetch")
	_, _ = l.Write([]byte("token hunt"))
	_, _ = l.Write([]byte("er2hunter2 used, no newline"))
	l.StepEnded(StepResult{Name: "fetch", Outcome: OK, Duration: 1234567 * time.Nanosecond})
	l.StepStarted("build")
	_, _ = l.Write([]byte("one\ntwo\n"))
	l.StepEnded(StepResult{Name: "build", Outcome: Failed, Err: errors.New("with hunter2hunter2\nin it")})
	if got := l.Tail(); got != "one\ntwo\n" {
		t.Errorf("tail %q", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	want := `== 2026-01-02T03:04:05.000Z commit abc forged
== 2026-01-02T03:04:05.000Z step fetch
token *** used, no newline
== 2026-01-02T03:04:05.000Z step fetch: ok after 1ms
== 2026-01-02T03:04:05.000Z step build
one
two
== 2026-01-02T03:04:05.000Z step build: failed after 0s: with *** in it
`
	b, err := os.ReadFile(path)
	if err != nil || string(b) != want {
		t.Errorf("got\n%s\nwant\n%s%v", b, want, err)
	}
	if sum := sha256.Sum256(b); l.Digest() != hex.EncodeToString(sum[:]) {
		t.Error("the digest is not that of the file")
	}
	if l.Mask("a hunter2hunter2") != "a ***" {
		t.Error("Mask does not mask")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("everybody may read it: %v %v", info.Mode(), err)
	}
	if err := l.Close(); err != nil {
		t.Error("closing again:", err)
	}
}

func TestRunLogOfFiftyMiB(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.log")
	l := openLog(t, path, []string{"hunter2hunter2"}, 0)
	env := testEnv
	env.Out = l
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	loud := program("loud", "sh", "-c", "yes 'a line of output of ordinary length' | head -c 52428800; echo; echo the end")
	r := Execute(t.Context(), Plan{Steps: []Step{loud, step("after", nothing)}}, env, l)
	tailOfAfter := l.Tail()
	if err := l.Close(); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("%d bytes allocated", used)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < DefaultRunLogLimit || len(b) > DefaultRunLogLimit+headroom {
		t.Errorf("the file has %d bytes", len(b))
	}
	for _, want := range []string{
		"the output is longer than 20971520 bytes; what follows is dropped\n", "step loud: ok", "step after: ok",
		"bytes of output were dropped; the last lines of the output were:\n",
	} {
		if n := strings.Count(string(b), want); n != 1 {
			t.Errorf("%d times %q", n, want)
		}
	}
	if tailOfAfter != "" {
		t.Errorf("the tail of a silent step is %q", tailOfAfter)
	}
	if sum := sha256.Sum256(b); l.Digest() != hex.EncodeToString(sum[:]) {
		t.Error("the digest is not that of the file")
	}
}

// TestRunLogOnAFullDisk: /dev/full takes nothing. The deploy must go on.
func TestRunLogOnAFullDisk(t *testing.T) {
	t.Parallel()
	l := openLog(t, "/dev/full", nil, 0)
	env := testEnv
	env.Out = l
	r := Execute(t.Context(), Plan{Steps: []Step{program("a", "echo", "hello")}}, env, l)
	if r.Err != nil || l.Tail() != "hello\n" {
		t.Errorf("%v, tail %q", r.Err, l.Tail())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestRunLogThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "target"), link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, read := filepath.Join(dir, "pipe"), filepath.Join(dir, "read")
	if err := errors.Join(unix.Mkfifo(pipe, 0o600), unix.Mkfifo(read, 0o600)); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(read, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, path := range []string{link, dir, filepath.Join(dir, "file", "below"), pipe, read} {
		l, err := OpenRunLog(path, nil, RunLogOptions{})
		if err == nil {
			t.Errorf("%s: no error", path)
		}
		if n, err := l.Write([]byte("works\n")); n != 6 || err != nil || l.Tail() != "works\n" || l.Digest() != "" || l.Close() != nil {
			t.Errorf("%s: it does not work without a file", path)
		}
	}
}

func TestRunLogKeepsTheTailBeyondTheLimit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run.log")
	l := openLog(t, path, nil, 10)
	for i := range 100 {
		_, _ = fmt.Fprintf(l, "line %d\n", i)
	}
	lines := strings.Split(strings.TrimSuffix(l.Tail(), "\n"), "\n")
	if len(lines) != tailLines || lines[0] != "line 80" || lines[19] != "line 99" {
		t.Errorf("tail %q", lines)
	}
	_ = l.Close()
	b, _ := os.ReadFile(path)
	if !strings.HasPrefix(string(b), "line 0\nlin\n== ") || !strings.HasSuffix(string(b), "line 99\n") {
		t.Errorf("file %q", b)
	}
}

// TestTailIsTheEnd: whatever is written in whatever pieces, the tail is valid
// text within its limits, and, but for replaced bytes, the end of the output.
func TestTailIsTheEnd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.OneOf(
			rapid.StringMatching(`[a-z\n]{0,40}`), rapid.StringN(0, 900, -1),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 3000), func(b []byte) string { return string(b) }),
			rapid.Just(strings.Repeat("\u00e9", 3000)),
		)
		chunks := rapid.SliceOfN(line, 0, 12).Draw(t, "chunks")
		var tl tail
		for _, c := range chunks {
			tl.write([]byte(c))
		}
		text := tl.String()
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			t.Fatalf("not clean: %q", text)
		}
		if len(text) > tailBytes || strings.Count(strings.TrimSuffix(text, "\n"), "\n") >= tailLines {
			t.Fatalf("%d bytes, %d lines", len(text), strings.Count(text, "\n"))
		}
		all := strings.ReplaceAll(strings.ToValidUTF8(strings.Join(chunks, ""), "\uFFFD"), "\x00", "\uFFFD")
		if !utf8.ValidString(strings.Join(chunks, "")) {
			return // a cut inside of a run of bad bytes replaces it differently
		}
		if !strings.HasSuffix(all, text) {
			t.Fatalf("%q is not the end of %q", text, all)
		}
		if len(all) <= tailBytes && strings.Count(strings.TrimSuffix(all, "\n"), "\n") < tailLines && text != all {
			t.Fatalf("got %q of %q", text, all)
		}
		if len(all) > 0 && text == "" {
			t.Fatal("the tail is empty")
		}
	})
}

func FuzzTail(f *testing.F) {
	f.Add([]byte("one\ntwo"), 3, 5000)
	f.Fuzz(func(t *testing.T, b []byte, step, repeat int) {
		step, repeat = min(max(step, 1), 10000), min(max(repeat, 1), 500)
		var tl tail
		for range repeat {
			for rest := b; len(rest) > 0; rest = rest[min(step, len(rest)):] {
				tl.write(rest[:min(step, len(rest))])
			}
		}
		if text := tl.String(); !utf8.ValidString(text) || len(text) > tailBytes || len(tl.buf) > 2*tailBytes {
			t.Fatalf("%d bytes kept, tail %q", len(tl.buf), text)
		}
	})
}

func TestExecute_UndoesWhatDidNotComeToItsEnd(t *testing.T) {
	t.Parallel()
	errStop := errors.New("shutting down")
	for name, c := range map[string]struct {
		steps []Step
		want  string // in the error; empty is success
	}{
		"done":     {[]Step{step("a", nothing)}, ""},
		"failed":   {[]Step{step("a", nothing), program("b", "false")}, `step "b": false exited with code 1; the old one serves`},
		"canceled": {[]Step{step("a", nil), step("b", nothing)}, `step "b": shutting down; the old one serves`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if c.steps[0].Run == nil {
				c.steps[0].Run = func(context.Context, Env) error { cancel(errStop); return nil }
			}
			undone := 0
			r := Execute(ctx, Plan{Steps: c.steps, Undo: func(ctx context.Context, _ Env) string {
				if undone++; ctx.Err() != nil {
					t.Errorf("it cannot be undone: %v", ctx.Err())
				}
				return "the old one serves"
			}}, testEnv, nil)
			switch {
			case c.want == "" && (r.Err != nil || undone > 0):
				t.Errorf("result %+v, undone %d times", r, undone)
			case c.want != "" && (undone != 1 || r.Err == nil || r.Err.Error() != c.want):
				t.Errorf("result %v, undone %d times; want %s", r.Err, undone, c.want)
			}
		})
	}
}

func TestProgress_IsTheStepThatBeganLast(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "d-1.log")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	log, err := OpenRunLog(file, nil, RunLogOptions{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	plan := []string{"fetch", "build it", "restart"}
	expect := func(want int) {
		t.Helper()
		if n, since, err := Progress(file, plan); err != nil || n != want || n > 0 && !since.Equal(now) {
			t.Errorf("step %d since %v, %v; want %d", n, since, err, want)
		}
	}
	expect(0)
	log.StepStarted("fetch")
	expect(1)
	log.StepEnded(StepResult{Name: "fetch", Outcome: OK})
	now = now.Add(time.Minute)
	log.StepStarted("build it")
	fmt.Fprintf(log, "%s\n== soon step restart\n== 2026-01-02T03:04:05.000Z step fetch\nstep restart\n", strings.Repeat("x", 200<<10))
	expect(2)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Progress(file+".gone", plan); err == nil {
		t.Error("a log that is not there has a step")
	}
}

// ledger is Limits that were met by what is in it.
type ledger struct {
	Limits
	exceeded string
}

func (l *ledger) Dir() *os.File { return nil }
func (l *ledger) Exceeded() string {
	defer func() { l.exceeded = "" }()
	return l.exceeded
}

func TestExecute_SaysWhichLimitAFailedStepMet(t *testing.T) {
	t.Parallel()
	limits := &ledger{}
	env := testEnv
	env.Limits = limits
	meets := func(s Step) Step {
		run := s.Run
		s.Run = func(ctx context.Context, env Env) error {
			limits.exceeded = "it used too much"
			return run(ctx, env)
		}
		return s
	}
	plan := Plan{Steps: []Step{meets(step("a", nothing)), program("b", "sh", "-c", "kill -KILL $$")}}
	if r := Execute(t.Context(), plan, env, nil); r.Err == nil || strings.Contains(r.Err.Error(), "too much") {
		t.Errorf("a limit that an earlier step met: %v", r.Err)
	}
	plan.Steps[1] = meets(plan.Steps[1])
	if r := Execute(t.Context(), plan, env, nil); r.Err == nil || r.Signal != "SIGKILL" || !strings.HasSuffix(r.Err.Error(), "; it used too much") {
		t.Errorf("result %+v", r)
	}
}
