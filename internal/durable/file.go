package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
)

// WriteFile replaces the content of a file, or makes it, in one step: a process that
// reads it, at any time and after any crash, sees the old content or the new.
// It is on disk when WriteFile returns nil. Mode 0 is the reading and writing
// bits of the directory's mode.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, (*Staged).Replace)
}

// CreateFile makes a file that is not there yet, in one step; fs.ErrExist where
// there is one. Mode is as in WriteFile. It is on disk when CreateFile returns nil.
func CreateFile(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, (*Staged).Publish)
}

// ReadJSON decodes the content of a file; false where there is none.
func ReadJSON(path string, into any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	return err == nil, err
}

func write(path string, data []byte, mode fs.FileMode, give func(*Staged, string) error) error {
	dir, err := Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // nothing was written through this descriptor
	return dir.write(filepath.Base(path), data, mode, give)
}

// write writes a file, has give give it its name, and syncs.
func (d *Dir) write(name string, data []byte, mode fs.FileMode, give func(*Staged, string) error) error {
	staged, err := d.stage(mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	defer staged.Discard()
	if err := give(staged, name); err != nil {
		return err
	}
	return d.Sync()
}

// staleAge is when an unfinished file is taken for abandoned on a file system
// that has no locks to tell.
const staleAge = time.Hour

// IsTemp says whether a name is that of a file that is still being written.
func IsTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// Sweep removes an unfinished file whose writer is dead. A living writer holds
// a lock on it from just after its creation to the end; the kernel drops the
// lock with the process, however it ends. A writer whose file is swept before
// it could take the lock notices, and starts again.
func (d *Dir) Sweep(temp string) (removed bool, err error) {
	if !IsTemp(temp) {
		return false, fmt.Errorf("sweep %q: %w", temp, fs.ErrInvalid)
	}
	f, err := d.OpenFile(temp, os.O_RDONLY)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	defer f.Close() // opened to read
	dead, err := flock.Try(f, flock.Exclusive)
	switch {
	case lockless(err):
		info, err := f.Stat()
		if err != nil || time.Since(info.ModTime()) < staleAge {
			return false, err
		}
	case err != nil:
		return false, fmt.Errorf("lock %s in %s: %w", temp, d.path, err)
	case !dead:
		return false, nil
	}
	// The writer may have published it after it was opened here: then the name
	// is gone and this removes nothing.
	if err := d.ops.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove %s from %s: %w", temp, d.path, err)
	}
	return true, nil
}
