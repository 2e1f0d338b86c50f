package main

import (
	"fmt"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// rawQueue is the least that any durable queue of files must do, in bare system
// calls: write, fsync, link, fsync of the directory. It leaves the file's first
// name in place, which costs less than to remove it.
type rawQueue struct {
	path string
	dir  int
	n    atomic.Int64
}

func newRawQueue(path string) (*rawQueue, error) {
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &rawQueue{path: path, dir: dir}, nil
}

func (q *rawQueue) close() { _ = unix.Close(q.dir) }

func (q *rawQueue) put(content []byte) error {
	n := q.n.Add(1)
	temp := filepath.Join(q.path, fmt.Sprintf(".tmp-%d", n))
	fd, err := unix.Open(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // it was synced
	if _, err := unix.Write(fd, content); err != nil {
		return err
	}
	if err := unix.Fsync(fd); err != nil {
		return err
	}
	if err := unix.Link(temp, filepath.Join(q.path, fmt.Sprintf("%026d_x.json", n))); err != nil {
		return err
	}
	return unix.Fsync(q.dir)
}
