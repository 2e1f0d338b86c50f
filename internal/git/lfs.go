package git

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// pointerStart is how a file begins that stands for one which LFS keeps.
var pointerStart = []byte("version https://git-lfs.github.com/spec/")

// LFSPointers lists the files, relative to the working tree, that should be
// what LFS keeps and are only its pointers, because git-lfs is not there or not
// set up for this user.
func (r *Repo) LFSPointers(ctx context.Context) ([]string, error) {
	defer r.opts.As.Enter()()
	if !r.exists() {
		return nil, nil
	}
	text, err := r.list(ctx, "ls-files", "-z", "--", ":(attr:filter=lfs)")
	if err != nil {
		return nil, fmt.Errorf("look for files of LFS: %w", err)
	}
	var pointers []string
	for name := range strings.SplitSeq(strings.TrimSuffix(text, "\x00"), "\x00") {
		if isPointer(filepath.Join(r.dir, name)) {
			pointers = append(pointers, name)
		}
	}
	return pointers, nil
}

func isPointer(name string) bool {
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	begin := make([]byte, len(pointerStart))
	_, err = io.ReadFull(f, begin)
	return err == nil && bytes.Equal(begin, pointerStart)
}

// PointersText says what LFSPointers has found, and what to do.
func PointersText(pointers []string) string {
	return fmt.Sprintf("%s only an LFS pointer: %s; install git-lfs and run `git lfs install` as the deployer's user, then deploy again",
		count(len(pointers), "file is", "files are"), named(pointers))
}
