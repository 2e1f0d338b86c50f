package lock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
)

// flockWatch is how often a holder makes sure that its file is still there.
const flockWatch = time.Second

// Flock locks with flock(2) on files of one directory. The kernel drops the lock
// with the process, however it dies; steps do not inherit it. The files stay:
// removing one while somebody waits for it would let two in.
type Flock struct{ dir string }

// NewFlock returns locks whose files are {dir}/{name}.lock. The directory is made
// where it is missing, and lets nobody else in: anyone who can read a lock's file can
// hold the lock.
func NewFlock(dir string) *Flock { return &Flock{dir: dir} }

// OfDeployments are the locks that keep two runs of a deployment apart.
func OfDeployments(stateDir string) *Flock { return NewFlock(filepath.Join(stateDir, "locks")) }

// OfProcesses are those of the processes of a state_dir. They stand apart from
// those of deployments, which may have any name.
func OfProcesses(stateDir string) *Flock { return NewFlock(filepath.Join(stateDir, "locks", "daemon")) }

// Path is the file that locks name.
func (l *Flock) Path(name string) string { return filepath.Join(l.dir, name+".lock") }

// Acquire waits until this caller alone holds name, or until ctx ends. held is
// derived from ctx and ends with cause ErrLost when the file was removed or
// replaced, for then somebody else can get in. The lock is held until release,
// also after ctx has ended; release may be called more than once.
func (l *Flock) Acquire(ctx context.Context, name string) (held context.Context, release func() error, err error) {
	if err := checkName(name); err != nil {
		return nil, nil, err
	}
	for {
		if ctx.Err() != nil {
			return nil, nil, fmt.Errorf("wait for the lock of %s: %w", name, context.Cause(ctx))
		}
		f, err := l.try(name)
		if err != nil {
			return nil, nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if f != nil {
			held, release := l.hold(ctx, name, f)
			return held, release, nil
		}
		flock.Pause(ctx)
	}
}

// try returns the locked file, or nil where somebody else holds it.
func (l *Flock) try(name string) (*os.File, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	locked, err := flock.Try(f, flock.Exclusive)
	// Between open and flock the file may have been replaced; a lock on a file
	// that has no name keeps nobody out.
	if !locked || !l.inPlace(f) {
		f.Close()
		return nil, err
	}
	return f, nil
}

// open opens the file of name, which it makes where it is missing. A FIFO or a
// link in its place must not be followed.
func (l *Flock) open(name string) (*os.File, error) {
	const flags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK // reading is enough for flock
	f, err := os.OpenFile(l.Path(name), flags, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := makeDir(l.dir); err != nil {
		return nil, err
	}
	f, err = os.OpenFile(l.Path(name), flags|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := likeParent(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// makeDir makes the directory with those above it that are missing.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o750)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir:
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		return makeDir(dir)
	case err != nil:
		return err
	}
	return likeParent(dir)
}

// likeParent gives what root has made to the owner of the directory that it
// stands in, who must be able to use it, too.
func likeParent(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// Held says whether somebody holds name now. It makes no file, and keeps nobody
// who waits for the lock from it for longer than it takes to look.
func (l *Flock) Held(name string) (bool, error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	f, err := os.OpenFile(l.Path(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the lock of %s: %w", name, err)
	}
	defer flock.Release(f) //nolint:errcheck // it was only looked at
	free, err := flock.Try(f, flock.Shared)
	if err != nil {
		return false, fmt.Errorf("look at the lock of %s: %w", name, err)
	}
	return !free, nil
}

// inPlace says whether f is still what its name leads to. When that cannot be
// told it is taken to be so.
func (l *Flock) inPlace(f *os.File) bool {
	mine, err := f.Stat()
	if err != nil {
		return true
	}
	named, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || os.SameFile(mine, named)
}

func (l *Flock) hold(ctx context.Context, name string, f *os.File) (context.Context, func() error) {
	held, cancel := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	var lost bool
	var watching sync.WaitGroup
	watching.Go(func() {
		t := time.NewTicker(flockWatch)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
			}
			if !l.inPlace(f) {
				lost = true
				cancel(fmt.Errorf("%w: %s is not the file that was locked", ErrLost, f.Name()))
				return
			}
		}
	})
	return held, sync.OnceValue(func() error {
		close(stop)
		watching.Wait()
		cancel(context.Canceled)
		err := flock.Release(f)
		if lost {
			return fmt.Errorf("release the lock of %s: %w", name, ErrLost)
		}
		if err != nil {
			return fmt.Errorf("release the lock of %s: %w", name, err)
		}
		return nil
	})
}
