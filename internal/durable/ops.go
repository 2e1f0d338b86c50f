package durable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
)

// File is a file that is being written.
type File interface {
	io.Writer
	Sync() error
	Close() error
}

// Parent is a directory in which a name can be made.
type Parent interface {
	control(func(fd int) error) error
}

// Ops are the operations on one directory that durability rests on. Names are
// single path elements. A test wraps them to fail any, before or after its effect.
type Ops interface {
	// Create makes a new file, locked (flock) for as long as it is open. With
	// mode 0 the directory decides: its reading and writing bits, and where the
	// superuser writes, its owner and group.
	Create(name string, mode fs.FileMode) (File, error)
	// Publish renames without replacing: fs.ErrExist.
	Publish(old string, to Parent, name string) error
	// Replace renames within the directory.
	Replace(old, name string) error
	Remove(name string) error
	// Sync syncs the directory itself.
	Sync() error
}

// readWrite is every reading and writing bit.
const readWrite = 0o666

// sysDir is the real Ops.
type sysDir struct {
	file *os.File
	conn syscall.RawConn
	// noRenameat2 is learnt at the first refusal: the file system (NFS and
	// some FUSE ones) does not know RENAME_NOREPLACE.
	noRenameat2 atomic.Bool
}

func openSysDir(path string) (*sysDir, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return newSysDir(f)
}

func newSysDir(f *os.File) (*sysDir, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &sysDir{file: f, conn: conn}, nil
}

// control calls fn with the directory's descriptor, which stays open meanwhile.
func (d *sysDir) control(fn func(fd int) error) error {
	var inner error
	if err := d.conn.Control(func(fd uintptr) {
		inner = fn(int(fd))
		for inner == unix.EINTR { //nolint:errorlint // a bare errno by construction; network file systems interrupt
			inner = fn(int(fd))
		}
	}); err != nil {
		return err
	}
	return inner
}

// stat is of the directory itself.
func (d *sysDir) stat() (unix.Stat_t, error) {
	var st unix.Stat_t
	err := d.control(func(fd int) error { return unix.Fstat(fd, &st) })
	return st, err
}

func (d *sysDir) openat(name string, flags int, mode uint32) (int, error) {
	var got int
	err := d.control(func(fd int) (err error) {
		got, err = unix.Openat(fd, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY, mode)
		return err
	})
	return got, err
}

// Create implements Ops.
func (d *sysDir) Create(name string, mode fs.FileMode) (File, error) {
	perm := uint32(mode.Perm())
	var own *unix.Stat_t // nil: the caller decided
	if perm == 0 {
		st, err := d.stat()
		if err != nil {
			return nil, err
		}
		own, perm = &st, st.Mode&readWrite
	}
	for {
		fd, err := d.openat(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), name)
		swept, err := claim(f, perm, own)
		if err == nil && !swept {
			return f, nil
		}
		_ = f.Close()
		if err != nil {
			_ = d.Remove(name)
			return nil, err
		}
	}
}

// claim locks a new file against the sweeper, and corrects its owner and mode. A
// sweeper may have come between the creation and the lock; then the file has no name.
func claim(f *os.File, perm uint32, own *unix.Stat_t) (swept bool, err error) {
	if err := flock.Lock(context.Background(), f, flock.Exclusive); err != nil && !lockless(err) {
		return false, fmt.Errorf("lock: %w", err)
	}
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if st.Nlink == 0 {
		return true, nil
	}
	if own != nil {
		if err := giveTo(fd, own, &st); err != nil {
			return false, err
		}
	}
	if st.Mode&0o777 != perm { // the umask took bits away
		return false, unix.Fchmod(fd, perm)
	}
	return false, nil
}

// giveTo gives what the superuser made to the owner and group of the directory,
// whose programs could not use it otherwise. Others cannot and need not.
func giveTo(fd int, dir, made *unix.Stat_t) error {
	if unix.Geteuid() != 0 || made.Uid == dir.Uid && made.Gid == dir.Gid {
		return nil
	}
	if err := unix.Fchown(fd, int(dir.Uid), int(dir.Gid)); err != nil {
		return fmt.Errorf("give to the directory's owner: %w", err)
	}
	return nil
}

// Publish implements Ops.
func (d *sysDir) Publish(old string, to Parent, name string) error {
	return d.control(func(from int) error {
		return to.control(func(dir int) error {
			if !d.noRenameat2.Load() {
				err := unix.Renameat2(from, old, dir, name, unix.RENAME_NOREPLACE)
				if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
					return err
				}
				d.noRenameat2.Store(true)
			}
			if err := unix.Linkat(from, old, dir, name, 0); err != nil {
				return err
			}
			// The file has its name; a second, hidden one is only litter.
			_ = unix.Unlinkat(from, old, 0)
			return nil
		})
	})
}

// Replace implements Ops.
func (d *sysDir) Replace(old, name string) error {
	return d.control(func(fd int) error { return unix.Renameat(fd, old, fd, name) })
}

// Remove implements Ops.
func (d *sysDir) Remove(name string) error {
	return d.control(func(fd int) error { return unix.Unlinkat(fd, name, 0) })
}

// Sync implements Ops.
func (d *sysDir) Sync() error { return d.file.Sync() }

// lockless says that the file system has no locks.
func lockless(err error) bool {
	return errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}
