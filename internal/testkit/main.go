package testkit

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
)

const (
	memory = "/dev/shm"
	// memoryNeeded is many times what the tests of one run keep at once, bytes.
	memoryNeeded = 2 << 30

	scratchPrefix = "durhack-test-"
)

// Main runs the tests and then what is to end after them. Meanwhile TMPDIR is a
// directory of this test binary's own, in memory where there is room and the
// environment names no other place: a test database is some hundred files and a
// repository some dozen, which a disk makes slowly. What a killed test binary left
// there, a later one removes. Properties get fewer checks; see shorten. The result is
// for os.Exit.
func Main(m interface{ Run() int }, ends ...func() error) (code int) {
	remove, err := scratch()
	if err != nil {
		return report(1, err)
	}
	if err := shorten(); err != nil {
		return report(1, errors.Join(err, remove()))
	}
	code = m.Run()
	for _, end := range append(ends, remove) {
		code = report(code, end())
	}
	return code
}

// MainNoLeaks is Main, and fails if goroutines are left when all has ended.
func MainNoLeaks(m interface{ Run() int }, ends ...func() error) int {
	code := Main(m, ends...)
	if code == 0 {
		code = report(code, goleak.Find())
	}
	return code
}

// percent is how many of a property's checks are made by these packages, whose
// checks mostly start something: 30 of rapid's 100, or of RAPID_CHECKS. (-rapid.checks
// is read later, and so is what it says.)
const percent = 30

func shorten() error {
	checks := flag.Lookup("rapid.checks")
	if checks == nil {
		return nil // no properties in this binary
	}
	n, err := strconv.Atoi(checks.Value.String())
	if err != nil {
		return err
	}
	return checks.Value.Set(strconv.Itoa(max(1, n*percent/100)))
}

func report(code int, err error) int {
	if err == nil {
		return code
	}
	fmt.Fprintln(os.Stderr, "after the tests:", err)
	return max(code, 1)
}

// scratch makes the directory and sets TMPDIR. Its flock says that it is in use.
func scratch() (remove func() error, err error) {
	parent := os.TempDir()
	if os.Getenv("TMPDIR") == "" && roomInMemory() {
		parent = memory
	}
	removeLeftovers(parent)
	dir, err := os.MkdirTemp(parent, scratchPrefix)
	if err != nil {
		return nil, err
	}
	held, err := os.Open(dir)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	remove = func() error { return errors.Join(os.RemoveAll(dir), held.Close()) }
	_, err = flock.Try(held, flock.Shared)
	err = errors.Join(
		err,
		held.Chmod(0o777|os.ModeSticky), // as the system's: some processes of the tests are other users'
		os.Setenv("TMPDIR", dir),
	)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

func roomInMemory() bool {
	var fs unix.Statfs_t
	return unix.Statfs(memory, &fs) == nil && fs.Type == unix.TMPFS_MAGIC && fs.Flags&unix.MS_NOEXEC == 0 &&
		fs.Bavail*uint64(fs.Bsize) >= memoryNeeded && unix.Access(memory, unix.W_OK) == nil
}

// removeLeftovers is a courtesy, so it reports nothing.
func removeLeftovers(parent string) {
	dirs, err := filepath.Glob(filepath.Join(parent, scratchPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		// Its maker may be about to take the lock.
		if st, err := os.Lstat(dir); err != nil || !st.IsDir() || time.Since(st.ModTime()) < time.Minute {
			continue
		}
		f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
		if err != nil {
			continue
		}
		if unused, _ := flock.Try(f, flock.Exclusive); unused {
			_ = os.RemoveAll(dir)
		}
		_ = f.Close()
	}
}
