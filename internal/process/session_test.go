package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

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

// TestDaemonSurvives: a process in its own session is nobody's business,
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

// Processes that a program leaves behind can go on writing, and the output says that it
// is there.
func TestLeftoversCanWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out bytes.Buffer
	var left Leftovers
	c := sh("setsid sh -c 'echo $$ >started; while ! [ -e go ]; do sleep 0.01; done; echo one; echo two; echo $$ >written; exec sleep 1000' & while ! [ -s started ]; do sleep 0.01; done; printf 'no end'")
	c.Dir, c.Stdout, c.Leftovers = dir, &out, &left
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	said := out.String()
	if !regexp.MustCompile(`\Ano end\nprocess \d+ \((sh|setsid)\) was left behind and still has this output open: .*\n\z`).MatchString(said) {
		t.Errorf("the output is %q", said)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, filepath.Join(dir, "written"))
	left.Close()
	if !alive(pid) || out.String() != said {
		t.Errorf("alive: %v; the output is %q", alive(pid), out.String())
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
		"killed after the fork":      "trap '' TERM; echo $$ >%; while :; do sleep 1000; done",
		// One that made a session for itself is meant to go on.
		"killed after the fork, with a daemon": "trap '' TERM; setsid sleep 1000 & echo $$ >%; while :; do sleep 1000; done",
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
			var named record
			testkit.Wait(t, "a process file", func() bool {
				b, err := os.ReadFile(file)
				return err == nil && json.Unmarshal(b, &named) == nil && named.PID != 0
			})
			_ = daemon.Process.Signal(syscall.SIGKILL)
			_ = daemon.Wait()
			if strings.HasPrefix(name, "leader dies") {
				b, err := os.ReadFile(file)
				var r record
				if err != nil || json.Unmarshal(b, &r) != nil || r.PID == pid {
					t.Fatalf("process file %s, %v", b, err)
				}
				testkit.Wait(t, "the end of the leader", func() bool { return !alive(r.PID) })
			}
			if !alive(pid) {
				t.Fatal("there is no orphan to find")
			}
			if name == "killed before the rename" {
				if err := os.Rename(file, file+unfinished); err != nil {
					t.Fatal(err)
				}
			}
			var survivors []Stat
			if strings.HasPrefix(name, "killed after the fork") {
				if err := writeFile(file, 0, named.Mark); err != nil {
					t.Fatal(err)
				}
				testkit.Wait(t, "the daemon", func() bool {
					survivors = processes(func(p int) bool { return hasMark(p, named.Mark) }, func(s Stat) bool { return s.Session != pid })
					return len(survivors) > 0 || !strings.HasSuffix(name, "daemon")
				})
			}
			killed, err := KillOrphan(file, 20*time.Millisecond)
			if err != nil || !killed {
				t.Fatalf("KillOrphan = %v, %v", killed, err)
			}
			for _, s := range survivors {
				if !alive(s.PID) {
					t.Errorf("process %d, which left the session, was ended", s.PID)
				}
				_ = syscall.Kill(s.PID, syscall.SIGKILL)
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
	testkit.Wait(t, "the end of the program", func() bool { return !alive(pid) })
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
	s, ok := ReadStat(pid)
	if !ok {
		t.Fatal("cannot read its stat")
	}
	for name, content := range map[string]string{
		"other start": `{"pid":` + strconv.Itoa(pid) + `,"start":` + strconv.FormatUint(s.Start+1, 10) + `,"boot":"` + bootID() + `","mark":"x"}`,
		"other boot":  `{"pid":` + strconv.Itoa(pid) + `,"start":` + strconv.FormatUint(s.Start, 10) + `,"boot":"x","mark":"x"}`,
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

func TestChildren_AreThoseOfOneParent(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	of := func(parent int) bool {
		return slices.ContainsFunc(Children(parent), func(s Stat) bool { return s.PID == cmd.Process.Pid })
	}
	if !of(os.Getpid()) || of(1) {
		t.Errorf("it is a child of ours: %v; of the first process: %v", of(os.Getpid()), of(1))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if of(os.Getpid()) {
		t.Error("it has ended and is still a child")
	}
}
