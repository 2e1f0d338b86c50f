package process

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	listenPID = "LISTEN_PID" // see sd_listen_fds(3)
	passedOn  = "passed on"
)

// Init does the work of PID 1 where this process has that number, as in a
// container: it runs the program again as its only child, passes signals on, and
// reaps the processes that others leave to PID 1. ok says that it did, and that
// the program should exit with the code; otherwise the program goes on by itself.
func Init() (code int, ok bool) {
	if os.Getpid() == 1 {
		return superviseSelf()
	}
	if os.Getenv(listenPID) == passedOn {
		_ = os.Setenv(listenPID, strconv.Itoa(os.Getpid()))
	}
	return 0, false
}

func superviseSelf() (code int, ok bool) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	others := make(chan os.Signal, 16)
	signal.Notify(others, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	defer signal.Stop(others)
	child, err := startSelf()
	if err != nil {
		return 0, false
	}
	for {
		select {
		case sig := <-others:
			_ = unix.Kill(child, sig.(syscall.Signal))
		case <-children:
			if status, ended := reap(child); ended {
				if status.Signaled() {
					return 128 + int(status.Signal()), true
				}
				return status.ExitStatus(), true
			}
		}
	}
}

// startSelf starts this program with the same arguments, and with the sockets
// that were passed to it.
func startSelf() (pid int, err error) {
	path, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("run as the child of PID 1: %w", err)
	}
	attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
	if own := strconv.Itoa(os.Getpid()); os.Getenv(listenPID) == own {
		n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
		for range n {
			attr.Files = append(attr.Files, os.NewFile(uintptr(len(attr.Files)), "passed"))
		}
		_ = os.Setenv(listenPID, passedOn)
		defer func() { _ = os.Setenv(listenPID, own) }()
	}
	child, err := os.StartProcess(path, os.Args, attr)
	if err != nil {
		return 0, fmt.Errorf("run as the child of PID 1: %w", err)
	}
	pid = child.Pid
	_ = child.Release() // reap waits for it
	return pid, nil
}

// reap reaps all children that have ended, and says whether child is among them.
func reap(child int) (status unix.WaitStatus, ended bool) {
	for {
		var s unix.WaitStatus
		pid, err := unix.Wait4(-1, &s, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || pid <= 0:
			return status, ended
		case pid == child:
			status, ended = s, true
		}
	}
}
