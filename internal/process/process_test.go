package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// TestMain also plays the daemon that is killed, and PID 1: see TestKillOrphan, TestInit.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "run-as-daemon" {
		_ = Run(context.Background(), Command{Argv: []string{"/bin/sh", "-c", os.Args[3]}, File: os.Args[2]})
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "as-init" {
		os.Exit(asInit())
	}
	goleak.VerifyTestMain(m)
}

func sh(script string) Command {
	return Command{Argv: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}, Grace: 50 * time.Millisecond}
}

// A program and its children are as nice as they are told to be, and nobody else is.
func TestRun_Nice(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	own := 0
	for _, nice := range []int{0, 7, 30, 0} {
		said.Reset()
		c := sh("nice; (nice)")
		c.Stdout, c.Nice = &said, nice
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		var program, child int
		if _, err := fmt.Sscan(said.String(), &program, &child); err != nil {
			t.Fatal(err)
		}
		if nice == 0 {
			own = program
		}
		if want := min(own+nice, 19); program != want || child != want {
			t.Errorf("with %d more than %d the program has %d, and its child %d", nice, own, program, child)
		}
	}
}

// pidIn reads a process ID that a script wrote to a file.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	var pid int
	testkit.Wait(t, "a process ID in "+file, func() bool {
		b, err := os.ReadFile(file)
		if err != nil || !bytes.HasSuffix(b, []byte("\n")) {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	return pid
}

func alive(pid int) bool {
	s, ok := ReadStat(pid)
	return ok && s.Alive()
}

// assertNoZombies: every child that was started here has been reaped.
func assertNoZombies(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if s, ok := ReadStat(pid); ok && s.State == 'Z' {
			if b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status"); strings.Contains(string(b), "PPid:\t"+strconv.Itoa(os.Getpid())+"\n") {
				t.Errorf("child %d was not reaped", pid)
			}
		}
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"plain": "x", "noformat": "\x01\x02", "nointerp": "#!/does/not/exist\n"} {
		testkit.Program(t, filepath.Join(dir, name), content)
	}
	if err := os.Chmod(filepath.Join(dir, "plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cmd  Command
		want string // the error; empty for none
	}{
		"ok":             {sh("exit 0"), ""},
		"exit 3":         {sh("exit 3"), "sh exited with code 3"},
		"own signal":     {sh("kill -KILL $$"), "sh was killed by SIGKILL"},
		"own TERM":       {sh("kill -TERM $$"), "sh was killed by SIGTERM"},
		"not found":      {Command{Argv: []string{"nonesuch"}, Env: []string{"PATH=/a:/b"}, SearchPaths: []string{"/opt/x", "rel"}}, `program "nonesuch" was not found; searched /opt/x:/a:/b (add its directory to executable_search_paths)`},
		"no PATH":        {Command{Argv: []string{"nonesuch"}}, `program "nonesuch" was not found; executable_search_paths and PATH are both empty`},
		"path not found": {Command{Argv: []string{"./nonesuch"}, Dir: dir}, `program "./nonesuch" was not found`},
		"not executable": {Command{Argv: []string{"./plain"}, Dir: dir}, `program "./plain" cannot be run: ` + dir + `/plain is not executable`},
		"a directory":    {Command{Argv: []string{dir}}, `program "` + dir + `" cannot be run: ` + dir + ` is a directory`},
		"no format":      {Command{Argv: []string{dir + "/noformat"}}, "start " + dir + "/noformat: it is neither a binary for this machine nor a script that begins with #!"},
		"no interpreter": {Command{Argv: []string{dir + "/nointerp"}}, "start " + dir + "/nointerp: the interpreter that its first line names is missing"},
		"no directory":   {Command{Argv: []string{"/bin/true"}, Dir: dir + "/gone"}, "start /bin/true: chdir " + dir + "/gone: no such file or directory"},
		"nothing":        {Command{}, "run a program: no program is named"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Run(t.Context(), c.cmd)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestExitErrorIsTyped(t *testing.T) {
	t.Parallel()
	exit, ok := errors.AsType[*ExitError](Run(t.Context(), sh("exit 3")))
	if !ok || exit.Code != 3 || exit.Signal != "" {
		t.Errorf("exit 3: %+v", exit)
	}
	exit, ok = errors.AsType[*ExitError](Run(t.Context(), sh("kill -9 $$")))
	if !ok || exit.Code != -1 || exit.Signal != "SIGKILL" {
		t.Errorf("kill -9: %+v", exit)
	}
}

func TestSearchPathsComeFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testkit.Program(t, filepath.Join(dir, "true"), "#!/bin/sh\nexit 7\n")
	c := Command{Argv: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin"}}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.SearchPaths = []string{dir}
	if exit, ok := errors.AsType[*ExitError](Run(t.Context(), c)); !ok || exit.Code != 7 {
		t.Errorf("the program of the search path did not run: %v", exit)
	}
}

func TestRun_InheritsNothing(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://secret")
	var out bytes.Buffer
	if err := Run(t.Context(), Command{Argv: []string{"/usr/bin/env"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.Len() != 0 {
		t.Errorf("the environment is not empty: %q", out.String())
	}
	ours, err := os.Create(filepath.Join(t.TempDir(), "ours"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	out.Reset()
	if err := Run(t.Context(), Command{Argv: []string{"/bin/ls", "-l", "/proc/self/fd"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), ours.Name()) || !strings.Contains(out.String(), "0 -> /dev/null") {
		t.Errorf("descriptors:\n%s", out.String())
	}
}

type counter struct {
	mu  sync.Mutex
	n   int64
	max int
}

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += int64(len(p))
	c.max = max(c.max, len(p))
	return len(p), nil
}

func TestOutput_MuchInLittleMemory(t *testing.T) {
	const size = 50 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var out counter
	if err := Run(t.Context(), sh("head -c "+strconv.Itoa(size)+" /dev/zero; echo end >&2")); err != nil {
		t.Fatal(err)
	}
	c := sh("head -c " + strconv.Itoa(size) + " /dev/zero; echo end >&2")
	c.Stdout = &out
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if out.n != size+4 {
		t.Errorf("%d bytes of output, want %d", out.n, size+4)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 2<<20 {
		t.Errorf("%d bytes allocated for %d of output", used, size)
	}
}

func TestSlowWriterLosesNothing(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	slow := writerFunc(func(p []byte) (int, error) {
		time.Sleep(drainWait + 50*time.Millisecond) // past the deadline of the drain
		return got.Write(p)
	})
	c := sh("head -c 60000 /dev/zero")
	c.Stdout = slow
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got.Len() != 60000 {
		t.Errorf("%d bytes of output, want 60000", got.Len())
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestFailingWriterStopsNothing(t *testing.T) {
	t.Parallel()
	c := sh("head -c 1000000 /dev/zero && exit 4")
	c.Stdout = writerFunc(func([]byte) (int, error) { return 0, io.ErrClosedPipe })
	if exit, ok := errors.AsType[*ExitError](Run(t.Context(), c)); !ok || exit.Code != 4 {
		t.Errorf("the program did not run to its end: %v", exit)
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	c := sh("echo a; echo b >&2; echo c")
	c.Stdout = &stdout
	if err := Run(t.Context(), c); err != nil || stdout.String() != "a\nb\nc\n" {
		t.Errorf("one stream: %q, %v", stdout.String(), err)
	}
	stdout.Reset()
	c.Stderr = &stderr
	if err := Run(t.Context(), c); err != nil || stdout.String() != "a\nc\n" || stderr.String() != "b\n" {
		t.Errorf("two streams: %q %q, %v", stdout.String(), stderr.String(), err)
	}
}

var errWanted = errors.New("somebody wanted it")

func TestCancel(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script, signal string
	}{
		"ends at TERM":           {"echo $$ >$F; exec sleep 1000", "SIGTERM"},
		"exits at TERM":          {"trap 'exit 0' TERM; echo $$ >$F; while :; do sleep 0.01; done", ""},
		"ignores TERM":           {"trap '' TERM; echo $$ >$F; while :; do sleep 1000; done", "SIGKILL"},
		"is stopped":             {"echo $$ >$F; kill -STOP $$; sleep 1000", "SIGTERM"},
		"has a deaf child":       {"(trap '' TERM; echo $$ >$F; while :; do sleep 1000; done) & wait", "SIGTERM"},
		"prints without an end":  {"echo $$ >$F; exec yes", "SIGTERM"},
		"has a child in a group": {"set -m; sh -c 'echo $$ >$F; sleep 1000' & wait", "SIGTERM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			cmd := sh(c.script)
			if !strings.Contains(c.script, "trap '' TERM") {
				cmd.Grace = time.Minute // a busy machine may not let it see TERM for a while
			}
			cmd.Env = append(cmd.Env, "F="+file)
			done := make(chan error, 1)
			go func() { done <- Run(ctx, cmd) }()
			pid := pidIn(t, file)
			cancel(errWanted)
			err := <-done
			stopped, ok := errors.AsType[*StoppedError](err)
			if !ok || !errors.Is(err, errWanted) || stopped.Signal != c.signal {
				t.Errorf("got %v (%+v), want it stopped by %q", err, stopped, c.signal)
			}
			if _, ok := errors.AsType[*ExitError](err); ok {
				t.Error("a stopped program must not look like one that exited by itself")
			}
			if alive(pid) {
				t.Error("it is still alive")
			}
			assertNoZombies(t, pid)
		})
	}
}

func TestEndedBeforeItBegan(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errWanted)
	file := filepath.Join(t.TempDir(), "ran")
	if err := Run(ctx, Command{Argv: []string{"/usr/bin/touch", file}}); !errors.Is(err, errWanted) {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the program ran")
	}
}

func TestProcessFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "process")
	c := sh("cat " + file + "; true")
	var out bytes.Buffer
	c.File, c.Stdout = file, &out
	testkit.Wait(t, "the file's content while the program runs", func() bool {
		out.Reset() // the program may be faster than the file
		if err := Run(t.Context(), c); err != nil && !errors.As(err, new(*ExitError)) {
			t.Fatal(err)
		}
		return strings.Contains(out.String(), `"pid":`)
	})
	if _, err := os.Stat(file); err == nil {
		t.Error("the process file is still there")
	}
	// A file that cannot be written is the end of the program.
	c.File = filepath.Join(t.TempDir(), "no", "such", "dir")
	if err := Run(t.Context(), c); !errors.As(err, new(*StartError)) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkRun is the cost of a program beyond itself: see BenchmarkExec.
func BenchmarkRun(b *testing.B) {
	c := Command{Argv: []string{"/bin/true"}, File: filepath.Join(b.TempDir(), "process")}
	for b.Loop() {
		if err := Run(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExec(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("/bin/true").Run(); err != nil {
			b.Fatal(err)
		}
	}
}

// A control group needs rights that no test can count on; that the program is started
// through the directory is seen where it is none.
func TestRun_StartsNothingOutsideOfItsGroup(t *testing.T) {
	t.Parallel()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var said bytes.Buffer
	c := sh("echo it runs")
	c.Stdout, c.Group = &said, dir
	if _, ok := errors.AsType[*StartError](Run(t.Context(), c)); !ok || said.Len() > 0 {
		t.Errorf("no StartError, and it said %q", said.String())
	}
}
