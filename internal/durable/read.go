package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotRegular says that a name belongs to something that holds no content:
// a directory, a link, a pipe, a socket or a device.
var ErrNotRegular = errors.New("not a regular file")

// OpenFile opens a regular file to read it, or with os.O_RDWR also to change
// it in place. It neither follows a link nor waits for a pipe's other end.
func (d *Dir) OpenFile(name string, flag int) (*os.File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	fd, err := d.sys.openat(name, flag&unix.O_ACCMODE|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, unix.EISDIR):
		// A link, a socket, a directory that was to be written.
		return nil, fmt.Errorf("open %s in %s: %w", name, d.path, ErrNotRegular)
	case err != nil:
		return nil, fmt.Errorf("open %s in %s: %w", name, d.path, err)
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("stat %s in %s: %w", name, d.path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = f.Close()
		return nil, fmt.Errorf("open %s in %s: %w", name, d.path, ErrNotRegular)
	}
	return f, nil
}

// OpenRegular opens a regular file to read it, wherever its name leads to. It does not wait
// for a pipe's other end: whoever can write to the directory may have put one there.
func OpenRegular(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: %w", path, ErrNotRegular)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// Exists says whether the name is taken, by whatever kind of file.
func (d *Dir) Exists(name string) (bool, error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	var st unix.Stat_t
	err := d.sys.control(func(fd int) error { return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat %s in %s: %w", name, d.path, err)
	}
	return true, nil
}

// scanChunk is how many names are held at a time.
const scanChunk = 1024

// Scan calls fn for each name in the directory, hidden ones too, in no order.
// A file that is there from the beginning of the call to its end is seen.
func (d *Dir) Scan(fn func(name string, kind fs.FileMode) error) error {
	fd, err := d.sys.openat(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("scan %s: %w", d.path, err)
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close() // opened to read
	for {
		entries, err := f.ReadDir(scanChunk)
		for _, e := range entries {
			if err := fn(e.Name(), e.Type()); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("scan %s: %w", d.path, err)
		}
	}
}

// Sub opens a directory inside this one and makes it, with this one's mode (and
// owner, where the superuser does), if it is missing. The caller closes it. A link is not followed.
func (d *Dir) Sub(name string) (*Dir, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := d.path + "/" + name
	own, err := d.sys.stat()
	if err != nil {
		return nil, fmt.Errorf("stat %s: %w", d.path, err)
	}
	made := d.sys.control(func(fd int) error { return unix.Mkdirat(fd, name, own.Mode&0o777) })
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return nil, fmt.Errorf("make directory %s: %w", path, made)
	}
	fd, err := d.sys.openat(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", path, err)
	}
	if made == nil { // the umask may have taken bits away; the group bit is not inherited everywhere
		if err := adopt(fd, &own); err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("set owner and mode of %s: %w", path, err)
		}
	}
	sys, err := newSysDir(os.NewFile(uintptr(fd), path))
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", path, err)
	}
	return newDir(path, sys, d.opts...), nil
}

// adopt gives a directory that was just made the owner and mode of its parent.
func adopt(fd int, parent *unix.Stat_t) error {
	var made unix.Stat_t
	if err := unix.Fstat(fd, &made); err != nil {
		return err
	}
	if err := giveTo(fd, parent, &made); err != nil {
		return err
	}
	return unix.Fchmod(fd, parent.Mode&0o7777) // after the owner, whose change clears bits
}
