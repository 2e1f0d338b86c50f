// Package process runs one program at a time on behalf of a deployment step:
// argv only, in its own session and process group, ended as a whole, and
// reported only once it is reaped.
//
// A program gets a new session (setsid) and not just a new group: the effect on
// signals is the same, and it also has no controlling terminal, so that nothing
// under it can stop to ask for a password. Whatever is still alive in that
// session when the program exits is ended; a daemon that made a session of its
// own, as pm2's does, survives.
package process

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultGrace is the time between TERM and KILL where a Command names none.
const DefaultGrace = 5 * time.Second

// markVar is set in the environment of every program that has a File. It tells
// what is left of a program from a stranger that got the same number.
const markVar = "DURHACK_PROCESS_MARK"

const (
	// killWait bounds the wait for processes that KILL does not end at once
	// (uninterruptible sleep) once the program itself is gone.
	killWait = 5 * time.Second
	pollEach = 5 * time.Millisecond
)

// Command says what to run.
type Command struct {
	// Argv is the program and its arguments. A name without a slash is looked
	// up in SearchPaths, then in the PATH of Env; one with a slash is relative
	// to Dir.
	Argv []string
	// Dir is the working directory; empty is the caller's.
	Dir string
	// Env is the complete environment; nothing is inherited.
	Env         []string
	SearchPaths []string
	// Stdin is what the program reads; nil is nothing.
	Stdin *os.File
	// Stdout and Stderr receive the output; nil drops it. A nil Stderr goes
	// where Stdout goes, in order. They are never written to at once, so both may
	// lead to one buffer. A Writer's errors are ignored: logging must not stop a program.
	Stdout, Stderr io.Writer
	// Leftovers, if set, goes on reading what outlives the program in a session of
	// its own and still has its output open; the output then ends with a line
	// that says so. Otherwise nobody reads it any more.
	Leftovers *Leftovers
	// Grace is the time between TERM and KILL; zero is DefaultGrace.
	Grace time.Duration
	// Nice is added to our own niceness, as nice(1) does.
	Nice int
	// As is with whose rights the program runs. It does not inherit those of the caller: see As.Enter.
	As As
	// Group, if set, is the open directory of the control group that the program starts in.
	Group *os.File
	// File, if set, names the running program for KillOrphan. It is removed
	// once the program is reaped.
	File string
}

// Run runs the command until it has exited and nothing of its session is left.
// When ctx ends first, the session gets TERM, after Grace KILL, and the error
// is a *StoppedError that wraps the cause of ctx. A program that ends by itself
// with anything but 0 is an *ExitError, one that is not there a *NotFoundError.
func Run(ctx context.Context, c Command) error {
	return Outside(func() error { return run(ctx, c) }) // File is not the user's
}

func run(ctx context.Context, c Command) error {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return errors.New("run a program: no program is named")
	}
	program := c.Argv[0]
	if ctx.Err() != nil {
		return &StoppedError{Program: program, Cause: context.Cause(ctx)}
	}
	path, out, err := c.prepare()
	if err != nil {
		return err
	}
	if c.Grace <= 0 {
		c.Grace = DefaultGrace
	}
	env := slices.Clip(c.Env)
	if env == nil {
		env = []string{} // a nil Env would inherit ours
	}
	mark := ""
	if c.File != "" {
		mark = rand.Text()
		env = append(env, markVar+"="+mark)
	}
	cmd := &exec.Cmd{
		Path: path, Args: c.Argv, Dir: c.Dir, Env: env,
		Stdout: out.stdout(), Stderr: out.stderr(),
		SysProcAttr: &syscall.SysProcAttr{
			Setsid: true,
			// If we are killed, the program is told at once and not only when a
			// successor finds the File. TERM lets git remove its lock files. The
			// signal comes when the parent *thread* ends: see start.
			Pdeathsig:  unix.SIGTERM,
			Credential: c.As.credential(),
		},
	}
	if c.Group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(c.Group.Fd())
	}
	if c.Stdin != nil { // a nil *os.File is not a nil io.Reader
		cmd.Stdin = c.Stdin
	}
	if c.File != "" {
		// Without the file a crash would leave an orphan that nobody finds.
		if err := writeFile(c.File, 0, mark); err != nil {
			out.abort()
			return &StartError{Program: program, Path: path, Err: err}
		}
		defer func() {
			_ = os.Remove(c.File)
			_ = os.Remove(c.File + unfinished)
		}()
	}
	exited, err := start(cmd, c.Nice, c.As.Umask)
	if err != nil {
		out.abort()
		return &StartError{Program: program, Path: path, Err: err}
	}
	out.started()
	pid := cmd.Process.Pid
	if c.File != "" {
		_ = writeFile(c.File, pid, mark) // else it is known by its mark
	}
	stopped := await(ctx, pid, exited, c.Grace)
	out.drain(c.Leftovers)
	// The leader was left as a zombie until here, so that its number, which is
	// also that of the session, could not be given to somebody else.
	waitErr := cmd.Wait()
	return outcome(ctx, program, cmd.ProcessState, waitErr, stopped)
}

// prepare finds the program, as far as whoever runs it may see it, and makes pipes that
// it may open again, as /dev/stderr.
func (c Command) prepare() (path string, out *outputs, err error) {
	defer c.As.Enter()()
	program := c.Argv[0]
	if c.Dir != "" {
		// exec would blame the program.
		if _, err := os.Stat(c.Dir); err != nil {
			return "", nil, &StartError{Program: program, Path: program, Err: &os.PathError{Op: "chdir", Path: c.Dir, Err: errors.Unwrap(err)}}
		}
	}
	if path, err = LookPath(program, c.Dir, c.SearchPaths, c.Env); err != nil {
		return "", nil, err
	}
	if out, err = newOutputs(c.Stdout, c.Stderr); err != nil {
		return "", nil, &StartError{Program: program, Path: path, Err: err}
	}
	return path, out, nil
}

// start starts cmd and returns a channel that is closed when it has exited (and
// is not reaped yet). The goroutine keeps its thread for as long as the program
// lives: PR_SET_PDEATHSIG is bound to the thread that forked.
func start(cmd *exec.Cmd, nice, umask int) (<-chan struct{}, error) {
	started := make(chan error, 1)
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		runtime.LockOSThread()
		var err error
		// Both are the thread's, and so the program's from the beginning. As no thread may
		// take back the first, this one then ends with the goroutine that has locked it.
		if nice > 0 {
			err = beNicer(nice)
		} else {
			defer runtime.UnlockOSThread()
		}
		defer As{Umask: umask}.Enter()()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err != nil {
			return
		}
		for {
			err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	err := <-started
	if err != nil {
		<-exited
	}
	return exited, err
}

// beNicer adds to the niceness of the calling thread.
func beNicer(nice int) error {
	free, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // 20 less the niceness
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-free+nice)
	}
	if err != nil {
		return fmt.Errorf("add %d to the niceness: %w", nice, err)
	}
	return nil
}

// await returns once the program has exited and its session is empty, and says
// whether it was we who ended the program.
func await(ctx context.Context, pid int, exited <-chan struct{}, grace time.Duration) (stopped bool) {
	var killAt time.Time
	select {
	case <-exited:
	case <-ctx.Done():
		select {
		case <-exited: // both at once: it ended by itself
		default:
			stopped = true
			killAt = time.Now().Add(grace)
			signalSession(pid, unix.SIGTERM)
			timer := time.NewTimer(grace)
			select {
			case <-exited:
			case <-timer.C:
				signalSession(pid, unix.SIGKILL)
				<-exited
			}
			timer.Stop()
		}
	}
	endSession(pid, killAt, grace)
	return stopped
}

// endSession ends what is alive in a session: TERM, KILL at killAt (or after
// grace, if killAt is zero), and a bounded wait. It says whether there was anything.
func endSession(sid int, killAt time.Time, grace time.Duration) bool {
	if len(sessionMembers(sid)) == 0 {
		return false
	}
	if killAt.IsZero() {
		killAt = time.Now().Add(grace)
		signalSession(sid, unix.SIGTERM)
	}
	giveUp := killAt.Add(killWait)
	for now := time.Now(); now.Before(giveUp); now = time.Now() {
		if len(sessionMembers(sid)) == 0 {
			return true
		}
		if now.After(killAt) {
			signalSession(sid, unix.SIGKILL)
		}
		time.Sleep(pollEach)
	}
	return true
}

func outcome(ctx context.Context, program string, state *os.ProcessState, waitErr error, stopped bool) error {
	code, signal := -1, ""
	if state != nil {
		if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			signal = unix.SignalName(status.Signal())
		} else {
			code = state.ExitCode()
		}
	}
	switch {
	case stopped:
		return &StoppedError{Program: program, Cause: context.Cause(ctx), Signal: signal}
	case state == nil:
		return &StartError{Program: program, Path: program, Err: waitErr}
	case signal != "" || code != 0:
		return &ExitError{Program: program, Code: code, Signal: signal}
	}
	return nil
}
