package git

import (
	"crypto/sha1" //nolint:gosec // git's name of a file
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxNamed bounds how many files an error names.
const maxNamed = 10

// ObstructedError says that files which git does not track, ignored ones or not,
// are where a commit has something.
type ObstructedError struct {
	Dir string
	// Files are relative to Dir, in order.
	Files []string
}

func (e *ObstructedError) Error() string {
	return fmt.Sprintf("%s in the way of files of the commit in %s; move or delete what is not needed, then deploy again: %s",
		count(len(e.Files), "untracked file is", "untracked files are"), e.Dir, named(e.Files))
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// named lists the first of some files.
func named(list []string) string {
	var names []string
	for _, name := range list[:min(len(list), maxNamed)] {
		names = append(names, fmt.Sprintf("%q", name))
	}
	text := strings.Join(names, ", ")
	if more := len(list) - maxNamed; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// obstructed compares the files of a commit with what is on the disk, of which
// ours may be replaced.
func (r *Repo) obstructed(wanted, ours files) error {
	d := disk{root: r.dir, ours: ours, seen: map[string]fs.FileInfo{}}
	found := map[string]bool{}
	for name, want := range wanted {
		at, info, err := d.lookup(name)
		switch {
		case err != nil:
			return fmt.Errorf("look for untracked files in the way: %w", err)
		case info == nil, at != name && d.isOurs(at, info):
		case at != name:
			found[at] = true
		case info.IsDir():
			if want.mode == modeSubmodule {
				continue
			}
			if err := d.untrackedBelow(name, found); err != nil {
				return fmt.Errorf("look for untracked files in the way: %w", err)
			}
		case d.isOurs(name, info):
		default:
			same, err := d.same(name, info, want)
			if err != nil {
				return fmt.Errorf("look for untracked files in the way: %w", err)
			}
			if !same {
				found[name] = true
			}
		}
	}
	return r.obstructing(found)
}

// obstructedBelow is obstructed for a directory that something is cloned into.
func (r *Repo) obstructedBelow(name string) error {
	d, found := disk{root: r.dir}, map[string]bool{}
	if err := d.untrackedBelow(name, found); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for untracked files in the way: %w", err)
	}
	return r.obstructing(found)
}

func (r *Repo) obstructing(found map[string]bool) error {
	if len(found) == 0 {
		return nil
	}
	return &ObstructedError{Dir: r.dir, Files: slices.Sorted(maps.Keys(found))}
}

// removeStrays removes the files that a checkout which was cut short has made
// and that neither the index nor the wanted commit knows.
func (r *Repo) removeStrays(half, tracked, wanted files) error {
	d := disk{root: r.dir, seen: map[string]fs.FileInfo{}}
	for name, e := range half {
		if _, known := tracked[name]; known || e.mode == modeSubmodule {
			continue
		}
		if _, known := wanted[name]; known {
			continue
		}
		at, info, err := d.lookup(name)
		if err != nil {
			return fmt.Errorf("remove what an interrupted checkout left: %w", err)
		}
		if info == nil || at != name || info.IsDir() {
			continue
		}
		if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what an interrupted checkout left: %w", err)
		}
		for dir := path.Dir(name); dir != "." && os.Remove(d.path(dir)) == nil; dir = path.Dir(dir) {
		}
	}
	return nil
}

// disk looks at a working tree without following links.
type disk struct {
	root string
	// ours are the files that may be replaced, folded their names in lower case.
	ours   files
	folded map[string][]string
	// seen are the directories that were looked at; nil stands for nothing there.
	seen map[string]fs.FileInfo
}

func (d *disk) path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// lookup finds what is at name. Where something above it is no directory, that
// is what it finds; info is nil where there is nothing.
func (d *disk) lookup(name string) (at string, info fs.FileInfo, err error) {
	if dir := path.Dir(name); dir != "." {
		above, known := d.seen[dir]
		at = dir
		if !known {
			at, above, err = d.lookup(dir)
			if err != nil {
				return at, nil, err
			}
			if at == dir {
				d.seen[dir] = above
			}
		}
		if above == nil || !above.IsDir() {
			return at, above, nil
		}
	}
	info, err = os.Lstat(d.path(name))
	// A name that is too long for this file system: git will say so.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.ENOTDIR) {
		return name, nil, nil
	}
	return name, info, err
}

// isOurs says whether a file is among ours, also where the file system does not
// tell upper from lower case and ours has the name in the other.
func (d *disk) isOurs(name string, info fs.FileInfo) bool {
	if _, known := d.ours[name]; known {
		return true
	}
	if d.folded == nil {
		d.folded = map[string][]string{}
		for name := range d.ours {
			lower := strings.ToLower(name)
			d.folded[lower] = append(d.folded[lower], name)
		}
	}
	return slices.ContainsFunc(d.folded[strings.ToLower(name)], func(other string) bool {
		its, err := os.Lstat(d.path(other))
		return err == nil && os.SameFile(info, its)
	})
}

// untrackedBelow adds what is in a directory and not ours.
func (d *disk) untrackedBelow(dir string, found map[string]bool) error {
	return filepath.WalkDir(d.path(dir), func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.root, at)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if e.IsDir() {
			if e.Name() == ".git" { // a repository of somebody's
				found[name+"/"] = true
				return fs.SkipDir
			}
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !d.isOurs(name, info) {
			found[name] = true
		}
		return nil
	})
}

// same says whether a file on the disk is what the commit has there, so that
// nothing is lost when it is written.
func (d *disk) same(name string, info fs.FileInfo, want entry) (bool, error) {
	sum := sha1.New() //nolint:gosec // git's name of a file
	if len(want.hash) == hex.EncodedLen(sha256.Size) {
		sum = sha256.New()
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink && want.mode == modeLink:
		link, err := os.Readlink(d.path(name))
		if err != nil {
			return false, err
		}
		fmt.Fprintf(sum, "blob %d\x00%s", len(link), link)
	case info.Mode().IsRegular() && want.mode != modeLink && want.mode != modeSubmodule:
		f, err := os.Open(d.path(name))
		if err != nil {
			return false, err
		}
		defer func() { _ = f.Close() }()
		fmt.Fprintf(sum, "blob %d\x00", info.Size())
		if _, err := io.Copy(sum, f); err != nil {
			return false, err
		}
	default:
		return false, nil
	}
	return hex.EncodeToString(sum.Sum(nil)) == want.hash, nil
}
