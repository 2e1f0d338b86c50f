package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The modes of what is no plain file, as git writes them.
const (
	modeLink      = "120000"
	modeSubmodule = "160000"
)

// entry is what the index or a tree has at a path.
type entry struct{ mode, hash string }

// files are entries by their path, which is relative to the working tree.
type files map[string]entry

// errOutside is of a path that git itself would neither commit nor write.
var errOutside = errors.New("it leads out of the working tree, or into .git: commit again without it")

// isInside says whether a path, which anyone may have put into a tree, stays in the
// working tree and out of its .git.
func isInside(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || strings.EqualFold(part, ".git") {
			return false
		}
	}
	return true
}

// tree lists the files of a commit.
func (r *Repo) tree(ctx context.Context, commit string) (files, error) {
	text, err := r.list(ctx, "ls-tree", "-r", "-z", "--full-tree", "--end-of-options", commit)
	if err != nil {
		return nil, fmt.Errorf("list the files of %s: %w", commit, err)
	}
	list := files{}
	for line := range strings.SplitSeq(text, "\x00") {
		info, path, _ := strings.Cut(line, "\t")
		if field := strings.Fields(info); len(field) == 3 { // mode, type, hash
			if !isInside(path) {
				return nil, fmt.Errorf("commit %s has a file %q: %w", commit, path, errOutside)
			}
			list[path] = entry{mode: field[0], hash: field[2]}
		}
	}
	return list, nil
}

// index lists the files that git tracks, and those of them that it was told not
// to look at: assume-unchanged, skip-worktree, outside of a sparse checkout.
func (r *Repo) index(ctx context.Context) (tracked, hidden files, err error) {
	text, err := r.list(ctx, "ls-files", "-z", "-v", "--stage")
	if err != nil {
		return nil, nil, fmt.Errorf("list the tracked files: %w", err)
	}
	tracked, hidden = files{}, files{}
	for line := range strings.SplitSeq(text, "\x00") {
		info, path, _ := strings.Cut(line, "\t")
		field := strings.Fields(info) // tag, mode, hash, stage
		if len(field) != 4 {
			continue
		}
		if !isInside(path) {
			return nil, nil, fmt.Errorf("the index has a file %q: %w", path, errOutside)
		}
		tracked[path] = entry{mode: field[1], hash: field[2]}
		if tag := field[0]; tag == "S" || tag != strings.ToUpper(tag) {
			hidden[path] = tracked[path]
		}
	}
	return tracked, hidden, nil
}

// forget makes git look at files again whatever it remembers of them: their
// times, and that it was told not to look.
func (r *Repo) forget(ctx context.Context, list files) error {
	if len(list) == 0 {
		return nil
	}
	var lines bytes.Buffer
	for path, e := range list {
		fmt.Fprintf(&lines, "%s %s\t%s\x00", e.mode, e.hash, path)
	}
	return r.feed(ctx, lines.Bytes(), nil, "update-index", "-z", "--index-info")
}

// feed runs git with something to read.
func (r *Repo) feed(ctx context.Context, text []byte, stdout io.Writer, args ...string) error {
	// A file in memory: a full disk is no reason to fail here.
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("git %s: %w", args[0], err)
	}
	stdin := os.NewFile(uintptr(fd), "stdin")
	defer func() { _ = stdin.Close() }()
	if _, err := stdin.Write(text); err != nil {
		return fmt.Errorf("git %s: %w", args[0], err)
	}
	if _, err := stdin.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("git %s: %w", args[0], err)
	}
	fed := *r
	fed.stdin = stdin
	return fed.run(ctx, r.dir, stdout, nil, args...)
}

// list is output for answers that are as long as the working tree has files.
func (r *Repo) list(ctx context.Context, args ...string) (string, error) {
	var b bytes.Buffer
	err := r.run(ctx, r.dir, &b, nil, args...)
	return b.String(), err
}

// readFile is os.ReadFile of a file in the tree. A step may have put a pipe in its
// place, which nobody writes to: waiting for it would have no end.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeDevice) != 0 {
		return nil, errors.Join(err, fmt.Errorf("%s is not a file; remove it", name))
	}
	return io.ReadAll(f)
}
