package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain also plays the daemon that is killed: see TestKillOrphan.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "run-as-daemon" {
		_ = Run(context.Background(), Command{Argv: []string{"/bin/sh", "-c", os.Args[3]}, File: os.Args[2]})
		return
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of these tests; nothing asserts that it is short.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func sh(script string) Command {
	return Command{Argv: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}, Grace: 50 * time.Millisecond}
}

// pidIn reads a process ID that a script wrote to a file.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	var pid int
	eventually(t, "a process ID in "+file, func() bool {
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
	s, ok := readStat(pid)
	return ok && s.alive()
}

// assertNoZombies: every child that was started here has been reaped.
func assertNoZombies(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if s, ok := readStat(pid); ok && s.state == 'Z' {
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
		mode := os.FileMode(0o755)
		if name == "plain" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
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
	if err := os.WriteFile(filepath.Join(dir, "true"), []byte("#!/bin/sh\nexit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := Command{Argv: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin"}}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.SearchPaths = []string{dir}
	if exit, ok := errors.AsType[*ExitError](Run(t.Context(), c)); !ok || exit.Code != 7 {
		t.Errorf("the program of the search path did not run: %v", exit)
	}
}

func TestNothingIsInherited(t *testing.T) {
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

func TestMuchOutputInLittleMemory(t *testing.T) {
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
				cmd.Grace = patience // a busy machine may not let it see TERM for a while
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

// TestBackgroundChild: what stays behind in the session is ended with the step,
// also when it ignores TERM, and the step's own result stands.
func TestBackgroundChild(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"in the group":     "sleep 1000 & echo $! >$F; exit 3",
		"deaf":             "(trap '' TERM; while :; do sleep 1000; done) & echo $! >$F; exit 3",
		"in another group": "set -m; sleep 1000 & echo $! >$F; exit 3",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			c := sh(script)
			c.Env = append(c.Env, "F="+file)
			exit, ok := errors.AsType[*ExitError](Run(t.Context(), c))
			if !ok || exit.Code != 3 {
				t.Errorf("the result is %v", exit)
			}
			if alive(pidIn(t, file)) {
				t.Error("the child is still alive")
			}
		})
	}
}

// TestDaemonSurvives: a process in a session of its own is nobody's business,
// and although it holds the output open it does not hold up the step.
func TestDaemonSurvives(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	var out bytes.Buffer
	c := sh("setsid sh -c 'echo $$ >$F; exec sleep 1000' & while ! [ -s $F ]; do sleep 0.01; done; echo said")
	c.Env, c.Stdout = append(c.Env, "F="+file), &out
	if err := Run(t.Context(), c); err != nil || out.String() != "said\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	pid := pidIn(t, file)
	if !alive(pid) {
		t.Error("the daemon was ended")
	}
	_ = unix.Kill(pid, unix.SIGKILL)
}

// TestKillOrphan kills the process that ran a program, as kill -9 does a daemon.
func TestKillOrphan(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		// The kernel tells the leader; its deaf child is found by the mark.
		"leader dies, child is deaf": "(trap '' TERM; while :; do sleep 1000; done) & echo $! >%; wait",
		"leader is deaf":             "trap '' TERM; echo $$ >%; while :; do sleep 1000; done",
		"killed before the rename":   "trap '' TERM; echo $$ >%; while :; do sleep 1000; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			pidFile, file := filepath.Join(dir, "pid"), filepath.Join(dir, "process")
			daemon := exec.Command(os.Args[0], "run-as-daemon", file, strings.ReplaceAll(script, "%", pidFile))
			daemon.Env = []string{"PATH=" + os.Getenv("PATH")}
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			pid := pidIn(t, pidFile)
			eventually(t, "a process file", func() bool { _, err := os.Stat(file); return err == nil })
			_ = daemon.Process.Signal(syscall.SIGKILL)
			_ = daemon.Wait()
			if strings.HasPrefix(name, "leader dies") {
				b, err := os.ReadFile(file)
				var r record
				if err != nil || json.Unmarshal(b, &r) != nil || r.PID == pid {
					t.Fatalf("process file %s, %v", b, err)
				}
				eventually(t, "the end of the leader", func() bool { return !alive(r.PID) })
			}
			if !alive(pid) {
				t.Fatal("there is no orphan to find")
			}
			if name == "killed before the rename" {
				if err := os.Rename(file, file+unfinished); err != nil {
					t.Fatal(err)
				}
			}
			killed, err := KillOrphan(file, 20*time.Millisecond)
			if err != nil || !killed {
				t.Fatalf("KillOrphan = %v, %v", killed, err)
			}
			if alive(pid) {
				t.Error("the orphan is still alive")
			}
			if left, err := filepath.Glob(file + "*"); err != nil || len(left) > 0 {
				t.Errorf("process files are still there: %q, %v", left, err)
			}
		})
	}
}

// TestPdeathsig: a program that does not refuse ends with the one who ran it.
func TestPdeathsig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	daemon := exec.Command(os.Args[0], "run-as-daemon", filepath.Join(dir, "process"), "echo $$ >"+pidFile+"; exec sleep 1000")
	daemon.Env = []string{"PATH=" + os.Getenv("PATH")}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, pidFile)
	_ = daemon.Process.Signal(syscall.SIGKILL)
	_ = daemon.Wait()
	eventually(t, "the end of the program", func() bool { return !alive(pid) })
}

// TestPdeathsigIsNotSpurious: the thread that started the program must outlive
// it, however many other threads end meanwhile.
func TestPdeathsigIsNotSpurious(t *testing.T) {
	t.Parallel()
	var programs, threads sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		threads.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					runtime.LockOSThread() // and never unlocks: the thread ends
				}()
				<-ended
				time.Sleep(time.Millisecond) // two cores have other work, too
			}
		})
		programs.Go(func() {
			for range 10 {
				if err := Run(t.Context(), sh("sleep 0.02")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	programs.Wait()
	close(stop)
	threads.Wait()
}

// TestKillOrphanSparesStrangers: the number was given to somebody else.
func TestKillOrphanSparesStrangers(t *testing.T) {
	t.Parallel()
	stranger := exec.Command("sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	pid := stranger.Process.Pid
	s, ok := readStat(pid)
	if !ok {
		t.Fatal("cannot read its stat")
	}
	for name, content := range map[string]string{
		"other start": `{"pid":` + strconv.Itoa(pid) + `,"start":` + strconv.FormatUint(s.start+1, 10) + `,"boot":"` + bootID() + `","mark":"x"}`,
		"other boot":  `{"pid":` + strconv.Itoa(pid) + `,"start":` + strconv.FormatUint(s.start, 10) + `,"boot":"x","mark":"x"}`,
		"no mark":     `{"pid":` + strconv.Itoa(pid) + `,"boot":"` + bootID() + `"}`,
		"pid 0":       `{"pid":0,"boot":"` + bootID() + `"}`,
		"pid 1":       `{"pid":1,"boot":"` + bootID() + `"}`,
		"pid -1":      `{"pid":-1,"boot":"` + bootID() + `"}`,
		"half":        `{"pid":`,
		"empty":       ``,
	} {
		file := filepath.Join(t.TempDir(), "process")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if killed, err := KillOrphan(file, time.Millisecond); killed || err != nil {
			t.Errorf("%s: KillOrphan = %v, %v", name, killed, err)
		}
		if !alive(pid) {
			t.Fatalf("%s: the stranger was killed", name)
		}
	}
	if killed, err := KillOrphan(filepath.Join(t.TempDir(), "none"), 0); killed || err != nil {
		t.Errorf("missing file: %v, %v", killed, err)
	}
	// The same file with the right start time does end it: the test can fail.
	file := filepath.Join(t.TempDir(), "process")
	if err := writeFile(file, pid, "x"); err != nil {
		t.Fatal(err)
	}
	if killed, err := KillOrphan(file, time.Second); !killed || err != nil || alive(pid) {
		t.Errorf("the right file: %v, %v", killed, err)
	}
}

func TestProcessFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "process")
	c := sh("cat " + file + "; true")
	var out bytes.Buffer
	c.File, c.Stdout = file, &out
	eventually(t, "the file's content while the program runs", func() bool {
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
