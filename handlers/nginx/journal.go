package nginx

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

const journalName = ".switch"

// journal is written before anything is changed that nginx reads, and removed when
// what was changed serves. One that is found is undone: a crash leaves the tree
// before it, whole.
type journal struct {
	// Old and New are trees; an empty Old is none before.
	Old   string   `json:"old,omitempty"`
	New   string   `json:"new"`
	Links []change `json:"links,omitempty"`
}

// disk are the changes that a switch is made of. A test wraps them to fail any,
// before or after its effect.
type disk interface {
	// Link makes a symbolic link, in the place of one that is there.
	Link(target, path string) error
	Remove(path string) error
	WriteFile(path string, data []byte) error
	Sync(dir string) error
}

// At no moment does a link lead to a file that is not there: nginx would refuse it.
func (l layout) apply(j journal) error {
	data, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := l.disk.WriteFile(filepath.Join(l.live, journalName), data); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	for _, c := range j.Links {
		if c.New == "" {
			if err := l.disk.Remove(l.path(c)); err != nil {
				return err
			}
		}
	}
	if err := l.disk.Link(j.New, filepath.Join(l.live, currentName)); err != nil {
		return err
	}
	for _, c := range j.Links {
		if c.New != "" {
			if err := l.disk.Link(c.New, l.path(c)); err != nil {
				return err
			}
		}
	}
	return l.sync()
}

// undo puts back what a journal says, where it was changed and is still as apply left it.
func (l layout) undo(j journal) error {
	for _, c := range j.Links {
		if c.Old == "" && l.leads(l.path(c), c.New) {
			if err := l.disk.Remove(l.path(c)); err != nil {
				return err
			}
		}
		if c.Old != "" && c.New != "" && l.leads(l.path(c), c.New) {
			if err := l.disk.Link(c.Old, l.path(c)); err != nil {
				return err
			}
		}
	}
	current := filepath.Join(l.live, currentName)
	var err error
	switch {
	case !l.leads(current, j.New):
	case j.Old == "":
		err = l.disk.Remove(current)
	default:
		err = l.disk.Link(j.Old, current)
	}
	if err != nil {
		return err
	}
	for _, c := range j.Links {
		if _, err := os.Lstat(l.path(c)); c.New == "" && errors.Is(err, fs.ErrNotExist) {
			if err := l.disk.Link(c.Old, l.path(c)); err != nil {
				return err
			}
		}
	}
	for _, dir := range []string{l.live, l.dirs[sites], l.dirs[snippets]} { // one that was about to take its place
		if err := l.disk.Remove(filepath.Join(dir, tempLink)); err != nil {
			return err
		}
	}
	if err := l.sync(); err != nil {
		return err
	}
	return l.forget()
}

// forget removes the journal.
func (l layout) forget() error {
	if err := l.disk.Remove(filepath.Join(l.live, journalName)); err != nil {
		return err
	}
	return l.disk.Sync(l.live)
}

// left is a journal that was not removed; nil where there is none.
func (l layout) left() (*journal, error) {
	name := filepath.Join(l.live, journalName)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var j journal
	if err := json.Unmarshal(data, &j); err != nil || !l.valid(j) {
		return nil, fmt.Errorf("%s is no journal of ours: look at the links in %s and %s, and remove it", name, l.dirs[sites], l.dirs[snippets])
	}
	return &j, nil
}

// valid keeps a journal from touching what is not ours.
func (l layout) valid(j journal) bool {
	if !treeName(j.New) || j.Old != "" && !treeName(j.Old) {
		return false
	}
	for _, c := range j.Links {
		_, oldOurs := l.ours(c.Kind, c.Old)
		if l.dirs[c.Kind] == "" || filepath.Base(c.Name) != c.Name || c.Name == ".." || c.Old == "" && c.New == "" ||
			c.Old != "" && !oldOurs || c.New != "" && c.New != l.target(c.Kind, c.Name) {
			return false
		}
	}
	return true
}

func (l layout) path(c change) string { return filepath.Join(l.dirs[c.Kind], c.Name) }

func (l layout) leads(link, target string) bool {
	got, err := os.Readlink(link)
	return err == nil && got == target
}

func (l layout) sync() error {
	errs := []error{l.disk.Sync(l.live)}
	for _, k := range kinds {
		if err := l.disk.Sync(l.dirs[k]); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// realDisk is the real disk.
type realDisk struct{}

// tempLink is hidden, so that nginx's globs do not take it.
const tempLink = ".durhack-deployer.link"

func (realDisk) Link(target, path string) error {
	temp := filepath.Join(filepath.Dir(path), tempLink)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func (realDisk) Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (realDisk) WriteFile(path string, data []byte) error {
	return durable.WriteFile(path, data, 0o644)
}

func (realDisk) Sync(dir string) error { return syncDir(dir) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
