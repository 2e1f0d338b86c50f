// Package flock owns the use of flock(2): locks on open files, between the processes
// of a host. The kernel drops a lock with the last process that has the open file,
// however it ends; a program that is run does not inherit it (os.File is close-on-exec).
package flock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// Kind is what a lock lets others have meanwhile.
type Kind int

// Any number can hold a lock shared, or one exclusively.
const (
	Shared    Kind = unix.LOCK_SH
	Exclusive Kind = unix.LOCK_EX
)

// poll is how often a waiter tries again. A blocking flock(2) could not be given up
// when the context ends.
const poll = 20 * time.Millisecond

// Try takes the lock of a file; false where somebody else holds it.
func Try(f *os.File, kind Kind) (bool, error) {
	err := flock(f, int(kind)|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// Lock waits for the lock of a file, or until ctx ends: then it returns the cause.
func Lock(ctx context.Context, f *os.File, kind Kind) error {
	for {
		if locked, err := Try(f, kind); locked || err != nil {
			return err
		}
		if !Pause(ctx) {
			return context.Cause(ctx)
		}
	}
}

// Await is Lock, and calls waits first where somebody else holds it.
func Await(ctx context.Context, f *os.File, kind Kind, waits func()) error {
	if locked, err := Try(f, kind); locked || err != nil {
		return err
	}
	waits()
	return Lock(ctx, f, kind)
}

// Pause is the time between two tries, for a caller that tries more than a lock; false
// where ctx ended first.
func Pause(ctx context.Context) bool { return retry.Sleep(ctx, poll) }

// Unlock frees the lock of a file that stays open.
func Unlock(f *os.File) error { return flock(f, unix.LOCK_UN) }

// Release frees the lock of a file and closes it. Closing alone would leave it
// locked for as long as a child that is being started shares the file: from fork to
// exec a child shares all that is open.
func Release(f *os.File) error { return errors.Join(Unlock(f), f.Close()) }

func flock(f *os.File, how int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) {
		for {
			if inner = unix.Flock(int(fd), how); inner != unix.EINTR {
				return
			}
		}
	})
	if err == nil && inner != nil {
		err = &fs.PathError{Op: "flock", Path: f.Name(), Err: inner}
	}
	return err
}

// Holder names the process that holds the lock of a file; "" where none is known to, as
// by now, or in this container.
func Holder(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return "", nil
	}
	defer locks.Close()
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// "1: FLOCK  ADVISORY  WRITE 1234 fd:01:131 0 EOF"; a waiter has "->" before its kind.
		if f := strings.Fields(lines.Text()); len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			return processName(f[4]), nil
		}
	}
	return "", nil
}

func processName(pid string) string {
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
}
