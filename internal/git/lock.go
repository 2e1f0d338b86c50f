package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// lockName is our own lock, in .git. Its name does not end in .lock, which is
// how git's own, which we may remove, are told.
const lockName = "durhack-deployer.flock"

// lock excludes every other Repo on the same directory until unlock is called,
// and then removes what a git that failed or was killed has left behind.
func (r *Repo) lock(ctx context.Context) (unlock func(), err error) {
	unlock, err = r.flock(ctx, lockName)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(r.removeStaleLocks(), r.heal()); err != nil {
		unlock()
		return nil, err
	}
	r.sweep()
	return unlock, nil
}

// flock takes one of our locks in .git.
func (r *Repo) flock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := r.openLock(name)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", r.dir, err)
	}
	unlock = func() { _ = flock.Release(f) } // nothing is written to it
	if err := flock.Lock(ctx, f, flock.Exclusive); err != nil {
		unlock()
		return nil, fmt.Errorf("wait for the lock of %s: %w", r.dir, err)
	}
	return unlock, nil
}

func (r *Repo) openLock(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(r.dir, ".git", name), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
}

// removeStaleLocks removes the lock files of git that no process has open. Our
// own lock is held, so only somebody's git by hand could be at work: that one
// has its lock file open, and is an error.
func (r *Repo) removeStaleLocks() error {
	var locks []string
	gitDir := filepath.Join(r.dir, ".git")
	// No ref may end in .lock, so under refs too such a file is a lock.
	roots := []string{gitDir, filepath.Join(gitDir, "refs")}
	for _, module := range moduleDirs(os.DirFS(gitDir)) {
		roots = append(roots, filepath.Join(gitDir, module), filepath.Join(gitDir, module, "refs"))
	}
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case d.IsDir() && filepath.Base(root) != "refs" && path != root:
				return fs.SkipDir
			case d.Type().IsRegular() && strings.HasSuffix(path, ".lock"):
				locks = append(locks, path)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for stale locks: %w", err)
		}
	}
	if len(locks) == 0 {
		return nil
	}
	open := process.FindOpenFiles(0)
	for _, lock := range locks {
		info, err := os.Lstat(lock)
		if err == nil {
			if who := open.By(info); who != "" {
				return fmt.Errorf("%s is held by %s: somebody else's git is at work there", lock, who)
			}
		}
		if err := os.Remove(lock); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove stale lock: %w", err)
		}
	}
	return nil
}
