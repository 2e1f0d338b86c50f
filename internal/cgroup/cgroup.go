// Package cgroup bounds what the programs of a run may use: a control group (version 2)
// for each, below that which systemd delegates to the daemon's unit.
package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// leaf is the group of the daemon's own processes: a group whose controllers are
// passed on to those below it must have no process itself.
const leaf = "daemon"

// Limits bound a group; zero is no bound.
type Limits struct {
	Memory int64 // bytes
	Tasks  int
}

// controllers are those that the limits need.
func (l Limits) controllers() []string {
	var need []string
	if l.Memory > 0 {
		need = append(need, "memory")
	}
	if l.Tasks > 0 {
		need = append(need, "pids")
	}
	return need
}

// Tree is the group that is delegated to us, with groups for runs below it.
type Tree struct {
	dir      string
	passedOn []string // controllers
}

// Open prepares our own group for groups below it: all of its processes are moved into
// a leaf. Without a group that is delegated to us nothing is changed, and the error says so.
func Open() (*Tree, error) { return open("/proc/self", unix.Getxattr) }

// Available says why no process of this host can have such a group, as far as that can be
// told from outside of the daemon.
func Available() error { return available("/proc/self", "/run/systemd/system") }

func available(self, systemd string) error {
	mount, err := mounted(self)
	if err != nil {
		return err
	}
	has, err := words(filepath.Join(mount, "cgroup.controllers"))
	switch {
	case err != nil:
		return fmt.Errorf("read which controllers %s has: %w", mount, err)
	case !slices.Contains(has, "memory") || !slices.Contains(has, "pids"):
		return fmt.Errorf("the control groups of version 2 at %s lack the controllers memory and pids", mount)
	}
	if _, err := os.Stat(systemd); err != nil {
		return errors.New("systemd does not run here")
	}
	return nil
}

type getxattr func(path, name string, dest []byte) (int, error)

func open(self string, xattr getxattr) (*Tree, error) {
	dir, err := own(self)
	if err != nil {
		return nil, err
	}
	if filepath.Base(dir) == leaf { // moved before, by this process
		dir = filepath.Dir(dir)
	}
	if !delegated(dir, xattr) {
		return nil, fmt.Errorf("the control group %s is not delegated to this user; run it as a unit of systemd with Delegate=memory pids and without ProtectControlGroups", dir)
	}
	t := &Tree{dir: dir}
	has, err := words(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("read which controllers %s has: %w", dir, err)
	}
	for _, c := range []string{"memory", "pids"} {
		if slices.Contains(has, c) {
			t.passedOn = append(t.passedOn, c)
		}
	}
	if len(t.passedOn) == 0 {
		return nil, fmt.Errorf("the control group %s has neither of the controllers memory and pids", dir)
	}
	if err := t.makeRoom(); err != nil {
		return nil, fmt.Errorf("prepare the control group %s: %w", dir, err)
	}
	return t, nil
}

// own is the directory of our group.
func own(self string) (string, error) {
	path, err := field(filepath.Join(self, "cgroup"), func(line string) (string, bool) { return strings.CutPrefix(line, "0::") })
	if err != nil {
		return "", fmt.Errorf("find our control group: %w", err)
	}
	mount, err := mounted(self)
	return filepath.Join(mount, path), err
}

// mounted is where the control groups of version 2 are.
func mounted(self string) (string, error) {
	mount, err := field(filepath.Join(self, "mountinfo"), func(line string) (string, bool) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			return "", false
		}
		return fields[4], true
	})
	if err != nil {
		return "", fmt.Errorf("find where control groups of version 2 are mounted: %w", err)
	}
	return mount, nil
}

// field is what pick finds in the first line that it knows.
func field(file string, pick func(line string) (string, bool)) (string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		if text, ok := pick(lines.Text()); ok {
			return text, nil
		}
	}
	return "", fmt.Errorf("%s names none", file)
}

// delegated says whether the group is ours to divide. What root could write is not
// delegated to root for that: there systemd's mark decides.
func delegated(dir string, xattr getxattr) bool {
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if unix.Access(filepath.Join(dir, name), unix.W_OK) != nil {
			return false
		}
	}
	mark := make([]byte, 1)
	n, err := xattr(dir, "user.delegate", mark)
	return err == nil && n == 1 && mark[0] == '1' || os.Geteuid() != 0 && strings.HasSuffix(dir, ".service")
}

// makeRoom moves the group's processes into the leaf, and passes the controllers on.
func (t *Tree) makeRoom() error {
	if err := makeDir(filepath.Join(t.dir, leaf)); err != nil {
		return err
	}
	var err error
	for range 10 { // a process that forks meanwhile leaves another
		pids, readErr := words(filepath.Join(t.dir, "cgroup.procs"))
		if readErr != nil {
			return readErr
		}
		for _, pid := range pids {
			if err := write(filepath.Join(t.dir, leaf, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if err = write(filepath.Join(t.dir, "cgroup.subtree_control"), "+"+strings.Join(t.passedOn, " +")); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

// Group makes the group of that name, or takes the one that is there because a process
// of an earlier run lives in it.
func (t *Tree) Group(name string, l Limits) (*Group, error) {
	for _, need := range l.controllers() {
		if !slices.Contains(t.passedOn, need) {
			return nil, fmt.Errorf("the control group %s has no controller %s", t.dir, need)
		}
	}
	dir := filepath.Join(t.dir, name)
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	g := &Group{dir: dir}
	err := g.limit(l)
	if err == nil {
		g.file, err = os.Open(dir)
	}
	if err != nil {
		_ = os.Remove(dir)
		return nil, fmt.Errorf("limit the control group %s: %w", dir, err)
	}
	g.Exceeded() // what was counted before is not of this run
	return g, nil
}

// Group is the control group of a run.
type Group struct {
	dir           string
	file          *os.File
	killed, tasks int
}

func (g *Group) limit(l Limits) error {
	for _, one := range []struct {
		name  string
		value int64
	}{{"memory.max", l.Memory}, {"pids.max", int64(l.Tasks)}} {
		if one.value == 0 { // one that was there may have had a limit
			if err := write(filepath.Join(g.dir, one.name), "max"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if err := write(filepath.Join(g.dir, one.name), strconv.FormatInt(one.value, 10)); err != nil {
			return err
		}
	}
	if l.Memory == 0 {
		return nil
	}
	// Else what is too much would go to the swap. A kernel without swap has no such file.
	if err := write(filepath.Join(g.dir, "memory.swap.max"), "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Dir is the open directory, for a program to start in the group.
func (g *Group) Dir() *os.File { return g.file }

// Exceeded says which limits were met since it was asked last.
func (g *Group) Exceeded() (memory, tasks bool) {
	killed, refused := count(g.dir, "memory.events", "oom_kill"), count(g.dir, "pids.events", "max")
	memory, tasks = killed > g.killed, refused > g.tasks
	g.killed, g.tasks = killed, refused
	return memory, tasks
}

// Close removes the group. It stays, with its limits, where a process lives in it that
// made a session of its own to outlive the run, and left is the number of those.
func (g *Group) Close() (left int) {
	_ = g.file.Close()
	if os.Remove(g.dir) == nil {
		return 0
	}
	pids, _ := words(filepath.Join(g.dir, "cgroup.procs"))
	return len(pids)
}

func count(dir, file, name string) int {
	text, _ := field(filepath.Join(dir, file), func(line string) (string, bool) { return strings.CutPrefix(line, name+" ") })
	n, _ := strconv.Atoi(text) // without the file nothing was counted
	return n
}

func words(file string) ([]string, error) {
	raw, err := os.ReadFile(file)
	return strings.Fields(string(raw)), err
}

func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // control groups can be looked at by everybody
		return err
	}
	return nil
}

// write writes to a file that is there: the kernel makes them.
func write(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
