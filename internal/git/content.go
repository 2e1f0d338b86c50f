package git

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxContent bounds what Files reads, in bytes.
const maxContent = 64 << 20

// File is a file of a commit, as it was committed: no filter has converted it.
type File struct {
	// Path is relative to the working tree. It may be anything that somebody made a tree of.
	Path string
	// Regular is false for a link and a submodule, which have no Content here.
	Regular bool
	Content []byte
}

// Files reads those of a commit that have one of these names or lie below them, sorted
// by path. None may be larger than most.
func (r *Repo) Files(ctx context.Context, commit string, most int, names ...string) ([]File, error) {
	defer r.opts.As.Enter()()
	if err := checkHash(commit); err != nil {
		return nil, fmt.Errorf("read the files of a commit: %w", err)
	}
	tree, err := r.tree(ctx, commit)
	if err != nil {
		return nil, err
	}
	var list []File
	var hashes bytes.Buffer
	for path, e := range tree {
		if !slices.ContainsFunc(names, func(name string) bool { return path == name || strings.HasPrefix(path, name+"/") }) {
			continue
		}
		list = append(list, File{Path: path, Regular: e.mode != modeLink && e.mode != modeSubmodule})
	}
	slices.SortFunc(list, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var regular []*File
	for i := range list {
		if list[i].Regular {
			regular = append(regular, &list[i])
			fmt.Fprintln(&hashes, tree[list[i].Path].hash)
		}
	}
	if len(regular) == 0 {
		return list, nil
	}
	// Their sizes come first: a large one is not read.
	var sizes bytes.Buffer
	if err := r.feed(ctx, hashes.Bytes(), &sizes, "cat-file", "--batch-check=%(objectsize)"); err != nil {
		return nil, fmt.Errorf("read the files of %s: %w", commit, err)
	}
	sum := 0
	each := strings.Fields(sizes.String())
	if len(each) != len(regular) {
		return nil, fmt.Errorf("read the files of %s: some are not in %s", commit, r.dir)
	}
	for i, f := range regular {
		size, err := strconv.Atoi(each[i])
		if err != nil {
			return nil, fmt.Errorf("read the files of %s: the size of %s is %q", commit, f.Path, each[i])
		}
		if sum += size; size > most || sum > maxContent {
			return nil, fmt.Errorf("read the files of %s: %s has %d bytes, which is too many", commit, f.Path, size)
		}
		f.Content = make([]byte, size)
	}
	var contents bytes.Buffer
	contents.Grow(sum)
	if err := r.feed(ctx, hashes.Bytes(), &contents, "cat-file", "--batch=%(objectsize)"); err != nil {
		return nil, fmt.Errorf("read the files of %s: %w", commit, err)
	}
	for _, f := range regular { // a line with the size, the content, a newline
		if _, err := contents.ReadBytes('\n'); err != nil || contents.Len() <= len(f.Content) {
			return nil, fmt.Errorf("read the files of %s: git ended in the middle of %s", commit, f.Path)
		}
		copy(f.Content, contents.Next(len(f.Content)))
		contents.Next(1)
	}
	return list, nil
}
