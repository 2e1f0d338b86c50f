// Package durable owns the few file operations that survive power loss: a file
// is written under a hidden name, synced, given its name without ever replacing
// another, and its directory is synced before anybody is told that it exists.
//
// The order is what matters. A file has its name only after its content is on
// disk, so no crash leaves a half file under a real name; a caller is told of
// success only after the name is on disk, so no crash takes back what was
// acknowledged. An error means "not known to be durable": the file may be there,
// and then it is whole.
//
// A directory is addressed through its descriptor, so names are single path
// elements and nothing here follows a link out of it.
package durable

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
)

// tempPrefix starts the name of every file that is still being written.
const tempPrefix = ".tmp-"

// bufferSize is how much of a file is collected before it is written, in bytes.
const bufferSize = 64 << 10

// maxFileSyncs bounds how many files of a directory are synced at once. Enough
// for the file system to put them into one commit; beyond that, more threads
// only fight for its locks (and each costs a stack), and the last in line waits
// for longer. The Go runtime serves those who wait in the order of arrival.
const maxFileSyncs = 32

var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}

// Dir is an open directory whose writers share its syncs. It may be used by
// several goroutines.
type Dir struct {
	path string
	sys  *sysDir
	ops  Ops
	opts []Option // for directories inside this one
	sync *group
	// volatile says that nothing is synced.
	volatile bool
	// fileSyncs has room for maxFileSyncs.
	fileSyncs chan struct{}
}

// Option changes how a Dir works.
type Option func(*Dir)

// WithOps replaces the writing operations by what wrap makes of the real ones,
// so that a test can fail each of them.
func WithOps(wrap func(Ops) Ops) Option {
	return func(d *Dir) { d.ops = wrap(d.ops) }
}

// WithoutSync leaves the disk to write when it likes: for a directory whose content
// can be made again from elsewhere. A file may then be cut short after a loss of power.
func WithoutSync() Option { return func(d *Dir) { d.volatile = true } }

// Open opens an existing directory. The caller closes it.
func Open(path string, opts ...Option) (*Dir, error) {
	sys, err := openSysDir(path)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return newDir(path, sys, opts...), nil
}

func newDir(path string, sys *sysDir, opts ...Option) *Dir {
	d := &Dir{path: path, sys: sys, ops: sys, opts: opts, fileSyncs: make(chan struct{}, maxFileSyncs)}
	for _, opt := range opts {
		opt(d)
	}
	d.sync = newGroup(func() error { return d.ops.Sync() })
	return d
}

// Path is the path that the directory was opened by.
func (d *Dir) Path() string { return d.path }

// Replaced says whether the path no longer leads to this directory: it was
// removed, or another one was put in its place.
func (d *Dir) Replaced() (bool, error) {
	own, err := d.sys.file.Stat()
	if err != nil {
		return false, fmt.Errorf("stat directory: %w", err)
	}
	there, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat directory: %w", err)
	}
	return !os.SameFile(own, there), nil
}

// Close closes the directory.
func (d *Dir) Close() error { return d.sys.file.Close() }

// Sync returns when every change of names that was made before the call is on
// disk. Concurrent callers share one sync.
func (d *Dir) Sync() error {
	if d.volatile {
		return nil
	}
	if err := d.sync.wait(); err != nil {
		return fmt.Errorf("sync directory %s: %w", d.path, err)
	}
	return nil
}

// Remove removes a file; it is an error (fs.ErrNotExist) if there is none. The
// removal is durable after the next Sync.
func (d *Dir) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := d.ops.Remove(name); err != nil {
		return fmt.Errorf("remove %s from %s: %w", name, d.path, err)
	}
	return nil
}

// Move gives a file a name in another directory (or this one), never replacing
// one (fs.ErrExist). It is durable after a Sync of both, to's first.
func (d *Dir) Move(name string, to *Dir, newName string) error {
	if err := errors.Join(checkName(name), checkName(newName)); err != nil {
		return err
	}
	if err := d.ops.Publish(name, to.sys, newName); err != nil {
		return fmt.Errorf("move %s from %s to %s: %w", name, d.path, to.path, err)
	}
	return nil
}

// Staged is a file whose content is on disk and which has no name yet. Exactly
// one of Publish and Replace may succeed; Discard must be called in any case.
type Staged struct {
	dir  *Dir
	temp string
	file File
	gone bool
}

// Stage writes a file under a hidden name and syncs it. Its mode is the reading
// and writing bits of the directory's, whatever the umask is, and what the
// superuser writes belongs to the directory's owner and group: so all who share
// the directory can read it. After an error nothing is left behind.
func (d *Dir) Stage(write func(io.Writer) error) (*Staged, error) {
	return d.stage(0, write)
}

func (d *Dir) stage(mode fs.FileMode, write func(io.Writer) error) (*Staged, error) {
	temp := fmt.Sprintf("%s%016x", tempPrefix, rand.Uint64())
	f, err := d.ops.Create(temp, mode)
	if err != nil {
		if !errors.Is(err, fs.ErrExist) { // then it is somebody else's
			_ = d.ops.Remove(temp)
		}
		return nil, fmt.Errorf("create a file in %s: %w", d.path, err)
	}
	s := &Staged{dir: d, temp: temp, file: f}
	if err := d.fill(f, write); err != nil {
		s.Discard()
		return nil, fmt.Errorf("write a file in %s: %w", d.path, err)
	}
	return s, nil
}

func (d *Dir) fill(f File, write func(io.Writer) error) error {
	w := buffers.Get().(*bufio.Writer)
	w.Reset(f)
	defer func() {
		w.Reset(nil)
		buffers.Put(w)
	}()
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if d.volatile {
		return nil
	}
	d.fileSyncs <- struct{}{}
	err := f.Sync()
	<-d.fileSyncs
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// Publish gives the file its name, never replacing another (fs.ErrExist; then
// another name may be tried). It is durable after the next Dir.Sync.
func (s *Staged) Publish(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := s.dir.ops.Publish(s.temp, s.dir.sys, name); err != nil {
		return fmt.Errorf("publish %s in %s: %w", name, s.dir.path, err)
	}
	s.gone = true
	return nil
}

// Replace gives the file its name and replaces what had it. It is durable after
// the next Dir.Sync.
func (s *Staged) Replace(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := s.dir.ops.Replace(s.temp, name); err != nil {
		return fmt.Errorf("replace %s in %s: %w", name, s.dir.path, err)
	}
	s.gone = true
	return nil
}

// Discard closes the file, and removes it where it got no name. It may be
// called more than once.
func (s *Staged) Discard() {
	if !s.gone {
		_ = s.dir.ops.Remove(s.temp) // what stays is swept later
		s.gone = true
	}
	if s.file != nil {
		_ = s.file.Close() // its content was synced: nothing is left to fail
		s.file = nil
	}
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is not a file name: %w", name, fs.ErrInvalid)
	}
	return nil
}
