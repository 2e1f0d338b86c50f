package nginx

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

// kind is what a file is for: the name of its directory in a tree.
type kind string

const (
	sites    kind = "sites"
	snippets kind = "snippets"
)

var kinds = []kind{sites, snippets}

// file is one of the wanted set.
type file struct {
	kind kind
	name string
	path string // in the repository, for messages
	text []byte
}

const (
	treePrefix  = ".tree-"
	currentName = "current"
	keptTrees   = 3
)

// layout is where things stand: below live each tree in a directory of its own, and
// the link "current" to the one that serves; in dirs, which nginx reads, a link to
// each file of current.
type layout struct {
	live string
	dirs map[kind]string
	// python are the directories that links of the Python deployer lead to.
	python map[kind]string
	disk   disk
}

// target is where the link of a file leads to.
func (l layout) target(k kind, name string) string {
	return filepath.Join(l.live, currentName, string(k), name)
}

// ours is the file that a link of ours, or of the Python deployer, leads to.
func (l layout) ours(k kind, target string) (name string, is bool) {
	dir, name := filepath.Split(target)
	dir = filepath.Clean(dir)
	return name, name != "" && (dir == filepath.Join(l.live, currentName, string(k)) || dir == l.python[k])
}

// current is the name of the tree that the link leads to; "" where there is none.
func (l layout) current() (string, error) {
	target, err := os.Readlink(filepath.Join(l.live, currentName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && !treeName(target) {
		err = fmt.Errorf("%s leads to %q, which is no tree of ours: remove it", filepath.Join(l.live, currentName), target)
	}
	return target, err
}

func treeName(name string) bool {
	return strings.HasPrefix(name, treePrefix) && filepath.Base(name) == name
}

// holds says whether a tree has exactly these files.
func (l layout) holds(tree string, wanted []file) (bool, error) {
	if tree == "" {
		return false, nil
	}
	left := 0
	for _, k := range kinds {
		entries, err := os.ReadDir(filepath.Join(l.live, tree, string(k)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		left += len(entries)
	}
	for _, f := range wanted {
		name := filepath.Join(l.live, tree, string(f.kind), f.name)
		if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() {
			return false, nil //nolint:nilerr // it is not there as it should be
		}
		if text, err := os.ReadFile(name); err != nil || !bytes.Equal(text, f.text) {
			return false, nil //nolint:nilerr // the same
		}
		left--
	}
	return left == 0, nil
}

// stage writes a tree of the files, which nothing leads to yet, and returns its name.
func (l layout) stage(commit string, wanted []file) (tree string, err error) {
	if err := os.MkdirAll(l.live, 0o755); err != nil {
		return "", err
	}
	if info, err := os.Lstat(l.live); err != nil || !info.IsDir() {
		return "", fmt.Errorf("%s is no directory", l.live)
	}
	now, err := l.current()
	if err != nil {
		return "", err
	}
	if tree = treePrefix + commit; tree == now { // the filter has changed, or somebody has edited it
		tree += "-2"
	}
	root := filepath.Join(l.live, tree)
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	for _, k := range kinds {
		if err := mkdir(filepath.Join(root, string(k))); err != nil {
			return "", err
		}
	}
	for _, f := range wanted {
		if err := durable.WriteFile(filepath.Join(root, string(f.kind), f.name), f.text, 0o644); err != nil {
			return "", err
		}
	}
	return tree, errors.Join(syncDir(root), syncDir(l.live))
}

// mkdir makes a directory that everybody can enter, whatever the umask: nginx's
// workers may be asked to.
func mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755))
}

// change is of one link. An empty Old is no link before, an empty New none after.
type change struct {
	Kind kind   `json:"kind"`
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// linkChanges compares the links that stand with those of the wanted set. notes tell
// of what somebody did by hand and is left so.
func (l layout) linkChanges(wanted []file) (changes []change, notes []string, err error) {
	for _, k := range kinds {
		names := map[string]bool{}
		for _, f := range wanted {
			if f.kind == k {
				names[f.name] = true
			}
		}
		c, n, err := l.changesOf(k, names)
		if err != nil {
			return nil, nil, err
		}
		changes, notes = append(changes, c...), append(notes, n...)
	}
	return changes, notes, nil
}

func (l layout) changesOf(k kind, wanted map[string]bool) (changes []change, notes []string, err error) {
	dir := l.dirs[k]
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) && len(wanted) == 0 {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look at the links in %s: %w", dir, err)
	}
	standing := map[string]string{} // the targets of links; "" for what is none
	renamed := map[string]bool{}
	for _, entry := range entries {
		name := entry.Name()
		standing[name] = ""
		if entry.Type()&fs.ModeSymlink == 0 {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			return nil, nil, fmt.Errorf("look at the links in %s: %w", dir, err)
		}
		standing[name] = target
		leadsTo, is := l.ours(k, target)
		switch {
		case !is || wanted[name]:
		case wanted[leadsTo] && leadsTo != name:
			renamed[leadsTo] = true
			notes = append(notes, fmt.Sprintf("%s is a link to %s that somebody has renamed: it is left so", filepath.Join(dir, name), leadsTo))
		default:
			changes = append(changes, change{Kind: k, Name: name, Old: target})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		target, there := standing[name]
		want := l.target(k, name)
		_, is := l.ours(k, target)
		switch {
		case target == want, !there && renamed[name]:
		case there && !is:
			return nil, nil, fmt.Errorf("%s is there and is no link of ours: move it away, or rename the file in the repository", filepath.Join(dir, name))
		default:
			changes = append(changes, change{Kind: k, Name: name, Old: target, New: want})
		}
	}
	return changes, notes, nil
}

// prune removes trees but the newest and the current one.
func (l layout) prune() error {
	now, err := l.current()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(l.live)
	if err != nil {
		return err
	}
	type aged struct {
		name string
		at   time.Time
	}
	var old []aged
	for _, entry := range entries {
		if treeName(entry.Name()) && entry.Name() != now {
			if info, err := entry.Info(); err == nil {
				old = append(old, aged{entry.Name(), info.ModTime()})
			}
		}
	}
	slices.SortFunc(old, func(a, b aged) int { return b.at.Compare(a.at) })
	for _, tree := range old[min(len(old), keptTrees-1):] {
		if err := os.RemoveAll(filepath.Join(l.live, tree.name)); err != nil {
			return err
		}
	}
	return nil
}
