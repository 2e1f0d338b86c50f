package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// host is a tree of control groups as the kernel would show it, and the files of /proc
// that lead to it.
type host struct {
	t               *testing.T
	self, root, own string
	mark            string
}

func newHost(t *testing.T, own string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, self: filepath.Join(dir, "self"), root: filepath.Join(dir, "cgroup"), mark: "1"}
	h.own = filepath.Join(h.root, own)
	h.put(filepath.Join(h.self, "cgroup"), "4:memory:/elsewhere\n0::"+own+"\n")
	h.put(filepath.Join(h.self, "mountinfo"), "22 1 0:1 / / rw - ext4 /dev/sda rw\n30 22 0:26 / "+h.root+" rw shared:4 - cgroup2 cgroup2 rw\n")
	h.put(filepath.Join(h.root, "cgroup.controllers"), "cpu memory pids\n")
	h.put(filepath.Join(h.own, "cgroup.controllers"), "memory pids\n")
	h.put(filepath.Join(h.own, "cgroup.procs"), "41\n")
	h.put(filepath.Join(h.own, "cgroup.subtree_control"), "")
	h.put(filepath.Join(h.own, leaf, "cgroup.procs"), "")
	return h
}

func (h *host) put(file, text string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) expect(file, want string) {
	h.t.Helper()
	if raw, err := os.ReadFile(filepath.Join(h.own, file)); err != nil || string(raw) != want {
		h.t.Errorf("%s holds %q, %v; want %q", file, raw, err, want)
	}
}

func (h *host) open() (*Tree, error) {
	return open(h.self, func(_, _ string, dest []byte) (int, error) {
		if h.mark == "" {
			return 0, unix.ENODATA
		}
		return copy(dest, h.mark), nil
	})
}

func TestOpen_MovesItsProcessesAndPassesTheControllersOn(t *testing.T) {
	t.Parallel()
	h := newHost(t, "/system.slice/deployer.service")
	if _, err := h.open(); err != nil {
		t.Fatal(err)
	}
	h.expect("daemon/cgroup.procs", "41")
	h.expect("cgroup.subtree_control", "+memory +pids")
	// A process that is in its leaf already divides the group above it.
	h.put(filepath.Join(h.self, "cgroup"), "0::/system.slice/deployer.service/daemon\n")
	if tree, err := h.open(); err != nil || tree.dir != h.own {
		t.Errorf("opened again: %+v, %v", tree, err)
	}
}

func TestOpen_TouchesNothingThatIsNotDelegated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		group string
		spoil func(h *host)
		want  string
	}{
		"a session":      {"/user.slice/session-1.scope", func(h *host) { h.mark = "" }, "is not delegated to this user; run it as a unit of systemd with Delegate=memory pids"},
		"a refused mark": {"/user.slice/session-1.scope", func(h *host) { h.mark = "0" }, "is not delegated"},
		"a container":    {"/", func(h *host) { h.mark = "" }, "is not delegated"},
		"no such files":  {"/a.service", func(h *host) { _ = os.Remove(filepath.Join(h.own, "cgroup.subtree_control")) }, "is not delegated"},
		"no controllers": {"/a.service", func(h *host) { h.put(filepath.Join(h.own, "cgroup.controllers"), "cpu io\n") }, "has neither of the controllers memory and pids"},
		"version 1":      {"/a.service", func(h *host) { h.put(filepath.Join(h.self, "cgroup"), "4:memory:/a.service\n") }, "find our control group"},
		"nothing is mounted": {"/a.service", func(h *host) {
			h.put(filepath.Join(h.self, "mountinfo"), "22 1 0:1 / / rw - ext4 /dev/sda rw\n")
		}, "find where control groups of version 2 are mounted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, c.group)
			c.spoil(h)
			if _, err := h.open(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			h.expect("daemon/cgroup.procs", "")
		})
	}
}

func TestGroup_LimitsAndTellsOfWhatItCounted(t *testing.T) {
	t.Parallel()
	h := newHost(t, "/deployer.service")
	tree, err := h.open()
	if err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(h.own, "run-web")
	for _, name := range []string{"memory.max", "memory.swap.max", "pids.max"} {
		h.put(filepath.Join(run, name), "")
	}
	h.put(filepath.Join(run, "memory.events"), "low 0\noom 7\noom_kill 3\noom_group_kill 0\n")
	g, err := tree.Group("run-web", Limits{Memory: 64 << 20, Tasks: 50})
	if err != nil {
		t.Fatal(err)
	}
	h.expect("run-web/memory.max", "67108864")
	h.expect("run-web/memory.swap.max", "0")
	h.expect("run-web/pids.max", "50")
	expect := func(wantMemory, wantTasks bool) {
		t.Helper()
		if memory, tasks := g.Exceeded(); memory != wantMemory || tasks != wantTasks {
			t.Errorf("exceeded %v %v, want %v %v", memory, tasks, wantMemory, wantTasks)
		}
	}
	expect(false, false) // what an earlier run did
	h.put(filepath.Join(run, "memory.events"), "low 0\noom 8\noom_kill 4\noom_group_kill 0\n")
	expect(true, false)
	h.put(filepath.Join(run, "pids.events"), "max 2\n")
	expect(false, true)
	expect(false, false)
	h.put(filepath.Join(run, "cgroup.procs"), "51\n52\n")
	if left := g.Close(); left != 2 {
		t.Errorf("%d are left, want 2", left)
	}
}

func TestGroup_RefusesWhatItHasNoControllerFor(t *testing.T) {
	t.Parallel()
	h := newHost(t, "/deployer.service")
	h.put(filepath.Join(h.own, "cgroup.controllers"), "pids\n")
	tree, err := h.open()
	if err != nil || !slices.Equal(tree.passedOn, []string{"pids"}) {
		t.Fatal(tree, err)
	}
	if _, err := tree.Group("run-web", Limits{Memory: 1 << 20}); err == nil || !strings.Contains(err.Error(), "has no controller memory") {
		t.Errorf("error %v", err)
	}
}

func TestAvailable_SaysWhatTheHostLacks(t *testing.T) {
	t.Parallel()
	h := newHost(t, "/a.service")
	if err := available(h.self, h.root); err != nil {
		t.Error(err)
	}
	if err := available(h.self, filepath.Join(h.root, "nonesuch")); err == nil || !strings.Contains(err.Error(), "systemd does not run here") {
		t.Errorf("without systemd: %v", err)
	}
	h.put(filepath.Join(h.root, "cgroup.controllers"), "cpu pids\n")
	if err := available(h.self, h.root); err == nil || !strings.Contains(err.Error(), "lack the controllers") {
		t.Errorf("without memory: %v", err)
	}
}
