package nginx

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// With this in the environment the test binary switches to the tree that it is told,
// and kills itself at an operation of the disk.
const killedEnv = "NGINX_TEST_KILLED"

func TestMain(m *testing.M) {
	if at := os.Getenv(killedEnv); at != "" {
		os.Exit(switchAndDie(at))
	}
	os.Exit(testkit.MainNoLeaks(m))
}

var errInjected = errors.New("injected failure")

// faulty is a disk whose nth operation fails, before or after its effect; watch, if
// set, is called after each.
type faulty struct {
	disk
	at    int // from 1; 0 fails none
	after bool
	fail  func() error
	watch func()
	n     int
}

func (f *faulty) do(effect func() error) error {
	f.n++
	if f.n == f.at && !f.after {
		return f.fail()
	}
	err := effect()
	if f.watch != nil {
		f.watch()
	}
	if err == nil && f.n == f.at {
		return f.fail()
	}
	return err
}

func (f *faulty) Link(target, path string) error {
	return f.do(func() error { return f.disk.Link(target, path) })
}
func (f *faulty) Remove(path string) error { return f.do(func() error { return f.disk.Remove(path) }) }
func (f *faulty) WriteFile(path string, data []byte) error {
	return f.do(func() error { return f.disk.WriteFile(path, data) })
}
func (f *faulty) Sync(dir string) error { return f.do(func() error { return f.disk.Sync(dir) }) }

func newLayout(dir string) layout {
	path := filepath.Join(dir, "path")
	live := filepath.Join(path, "local-live")
	return layout{
		live: live, disk: realDisk{},
		dirs:   map[kind]string{sites: filepath.Join(dir, "conf.d"), snippets: filepath.Join(dir, "snippets")},
		python: map[kind]string{sites: live, snippets: filepath.Join(path, "snippets")},
	}
}

func (l layout) make(t testkit.TB) {
	t.Helper()
	for _, dir := range []string{l.live, l.dirs[sites], l.dirs[snippets], l.python[snippets]} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// picture is what nginx could read: the links, with what they lead to.
func (l layout) picture(t testkit.TB) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, k := range kinds {
		entries, err := os.ReadDir(l.dirs[k])
		if err != nil {
			t.Fatalf("%v", err)
		}
		for _, entry := range entries {
			name := filepath.Join(l.dirs[k], entry.Name())
			if strings.HasPrefix(entry.Name(), ".") {
				continue // nginx does not look at it
			}
			target, _ := os.Readlink(name)
			text, err := os.ReadFile(name)
			if err != nil {
				text = []byte("(dangling)")
			}
			seen[string(k)+"/"+entry.Name()] = target + " = " + string(text)
		}
	}
	return seen
}

func (l layout) switchTo(t testkit.TB, commit string, wanted []file) error {
	t.Helper()
	tree, err := l.stage(commit, wanted)
	if err != nil {
		t.Fatalf("%v", err)
	}
	old, err := l.current()
	if err != nil {
		t.Fatalf("%v", err)
	}
	moves, _, err := l.linkChanges(wanted)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return l.apply(journal{Old: old, New: tree, Links: moves})
}

func must(t testkit.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("%v", err)
	}
}

// drawSet draws a wanted set.
func drawSet(t *rapid.T, label string) []file {
	var list []file
	for _, k := range kinds {
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"[a].conf", "[b].nginxconf", "c.conf", "d.conf.disabled"}), 0, 4, rapid.ID).Draw(t, label+string(k)) {
			list = append(list, file{kind: k, name: name, text: fmt.Appendf(nil, "%s of %s", name, label)})
		}
	}
	return list
}

func (l layout) want(list []file, also map[string]string) map[string]string {
	want := maps.Clone(also)
	for _, f := range list {
		want[string(f.kind)+"/"+f.name] = l.target(f.kind, f.name) + " = " + string(f.text)
	}
	return want
}

// Whichever operation fails, and whether it had its effect, no link ever leads
// nowhere, and recovery, which may itself be cut short anywhere, brings the whole of
// the old tree back.
func TestSwitch_FailuresAtEachOperation(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		l := newLayout(filepath.Join(base, strconv.Itoa(n)))
		defer os.RemoveAll(filepath.Join(base, strconv.Itoa(n)))
		l.make(t)
		strangers := map[string]string{}
		must(t, os.WriteFile(filepath.Join(l.dirs[sites], "default.conf"), []byte("debian"), 0o644))
		strangers["sites/default.conf"] = " = debian"
		if rapid.Bool().Draw(t, "from python") {
			must(t, os.WriteFile(filepath.Join(l.live, "[a].conf"), []byte("python"), 0o644),
				os.Symlink(filepath.Join(l.live, "[a].conf"), filepath.Join(l.dirs[sites], "[a].conf")),
				os.WriteFile(filepath.Join(l.python[snippets], "c.conf"), []byte("python"), 0o644),
				os.Symlink(filepath.Join(l.python[snippets], "c.conf"), filepath.Join(l.dirs[snippets], "c.conf")))
		} else if rapid.Bool().Draw(t, "from a tree") {
			old := drawSet(t, "old")
			must(t, l.switchTo(t, "old", old), l.forget())
		}
		before := l.picture(t)
		wanted := drawSet(t, "new")

		whole := func() {
			for name, leads := range l.picture(t) {
				if strings.HasSuffix(leads, "(dangling)") {
					t.Fatalf("%s: %s", name, leads)
				}
			}
		}
		injected := &faulty{disk: realDisk{}, fail: func() error { return errInjected }, watch: whole}
		broken := l
		broken.disk = injected
		injected.at, injected.after = rapid.IntRange(1, 12).Draw(t, "at"), rapid.Bool().Draw(t, "after")
		err := broken.switchTo(t, "new", wanted)
		if failed := injected.n >= injected.at; failed != errors.Is(err, errInjected) {
			t.Fatalf("operation %d of %d gave %v", injected.at, injected.n, err)
		}
		// Recovery fails a few times, too.
		for range 3 {
			injected.n, injected.at, injected.after = 0, rapid.IntRange(1, 12).Draw(t, "at"), rapid.Bool().Draw(t, "after")
			left, err := broken.left()
			must(t, err)
			if left != nil {
				_ = broken.undo(*left)
			}
		}
		left, err := l.left()
		must(t, err)
		if left != nil {
			must(t, l.undo(*left))
		}
		if after := l.picture(t); !maps.Equal(after, before) {
			t.Fatalf("afterwards there is %v, before there was %v", after, before)
		}
		must(t, l.switchTo(t, "new", wanted), l.forget(), l.prune())
		if got, want := l.picture(t), l.want(wanted, strangers); !maps.Equal(got, want) {
			t.Fatalf("there is %v, want %v", got, want)
		}
		if moves, _, err := l.linkChanges(wanted); err != nil || len(moves) > 0 {
			t.Fatalf("still to be changed: %v, %v", moves, err)
		}
	})
}

type killed struct {
	Dir   string
	At    int
	After bool
}

var killedSet = []file{{kind: sites, name: "[a].conf", text: []byte("a2")}, {kind: sites, name: "[c].conf", text: []byte("c2")}, {kind: snippets, name: "s.conf", text: []byte("s2")}}

func switchAndDie(text string) int {
	var k killed
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return 2
	}
	l := newLayout(k.Dir)
	l.disk = &faulty{disk: realDisk{}, at: k.At, after: k.After, fail: func() error { return unix.Kill(os.Getpid(), unix.SIGKILL) }}
	tree, err := l.stage("new", killedSet)
	if err != nil {
		return 3
	}
	old, _ := l.current()
	moves, _, err := l.linkChanges(killedSet)
	if err == nil {
		err = l.apply(journal{Old: old, New: tree, Links: moves})
	}
	if err == nil {
		err = l.forget()
	}
	if err != nil {
		return 4
	}
	return 0
}

// A real kill -9 before and after each operation of a switch: either nothing has
// begun, or the journal is found and undone, or the switch has come to its end.
func TestSwitch_KilledAtEachOperation(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		ended := true
		for _, after := range []bool{false, true} {
			l := newLayout(t.TempDir())
			l.make(t)
			must(t, l.switchTo(t, "old", []file{{kind: sites, name: "[a].conf", text: []byte("a1")}, {kind: sites, name: "[b].conf", text: []byte("b1")}}), l.forget())
			before := l.picture(t)
			spec, err := json.Marshal(killed{filepath.Dir(l.dirs[sites]), at, after})
			must(t, err)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), killedEnv+"="+string(spec))
			out, err := cmd.CombinedOutput()
			if err == nil {
				continue
			}
			if ended = false; err.Error() != "signal: killed" {
				t.Fatalf("operation %d: %v: %s", at, err, out)
			}
			left, err := l.left()
			must(t, err)
			if left != nil {
				temp := filepath.Join(l.dirs[sites], tempLink)
				must(t, os.Symlink("anywhere", temp)) // as a kill in the middle of an operation leaves it
				must(t, l.undo(*left))
				if _, err := os.Lstat(temp); err == nil {
					t.Errorf("killed at operation %d: %s is still there", at, tempLink)
				}
			}
			got, want := l.picture(t), l.want(killedSet, map[string]string{})
			if !maps.Equal(got, before) && (left != nil || !maps.Equal(got, want)) {
				t.Errorf("killed at operation %d (after it: %v): %v", at, after, got)
			}
		}
		if ended {
			if at < 8 {
				t.Errorf("a switch has only %d operations", at-1)
			}
			return
		}
	}
}

func TestLinkChanges_LeaveWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	l := newLayout(t.TempDir())
	l.make(t)
	a := []file{{kind: sites, name: "[a].conf", text: []byte("a")}}
	must(t, l.switchTo(t, "1", a), l.forget())

	// A link that somebody renamed to switch a site off stays so.
	must(t, os.Rename(filepath.Join(l.dirs[sites], "[a].conf"), filepath.Join(l.dirs[sites], "[a].conf.disabled")))
	moves, notes, err := l.linkChanges(a)
	if err != nil || len(moves) > 0 || len(notes) != 1 || !strings.Contains(notes[0], "renamed") {
		t.Errorf("moves %v, notes %q, %v", moves, notes, err)
	}
	// Without the file, the link goes.
	moves, _, err = l.linkChanges(nil)
	if err != nil || len(moves) != 1 || moves[0].Name != "[a].conf.disabled" || moves[0].New != "" {
		t.Errorf("moves %v, %v", moves, err)
	}
	must(t, os.Remove(filepath.Join(l.dirs[sites], "[a].conf.disabled")))

	for name, occupy := range map[string]func(path string) error{
		"a file":         func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"a foreign link": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a directory":    func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		path := filepath.Join(l.dirs[sites], "[a].conf")
		must(t, occupy(path))
		if _, _, err := l.linkChanges(a); err == nil || !strings.Contains(err.Error(), path+" is there and is no link of ours") {
			t.Errorf("%s: %v", name, err)
		}
		if moves, _, err := l.linkChanges(nil); err != nil || len(moves) > 0 {
			t.Errorf("%s: moves %v, %v", name, moves, err)
		}
		must(t, os.Remove(path))
	}
}

// A journal is data from a directory that others may write to.
func TestJournal_OfAnotherShapeTouchesNothing(t *testing.T) {
	t.Parallel()
	l := newLayout(t.TempDir())
	l.make(t)
	target := l.target(sites, "a.conf")
	for _, j := range []journal{
		{New: "../../etc"}, {New: ".tree-1/../.."}, {New: ".tree-1", Old: "/etc"}, {},
		{New: ".tree-1", Links: []change{{Kind: sites, Name: "../x", New: target}}},
		{New: ".tree-1", Links: []change{{Kind: sites, Name: "..", New: target}}},
		{New: ".tree-1", Links: []change{{Kind: "etc", Name: "a.conf", New: target}}},
		{New: ".tree-1", Links: []change{{Kind: sites, Name: "a.conf", New: "/etc/shadow"}}},
		{New: ".tree-1", Links: []change{{Kind: sites, Name: "a.conf", Old: "/etc/shadow"}}},
		{New: ".tree-1", Links: []change{{Kind: sites, Name: "a.conf"}}},
	} {
		data, err := json.Marshal(j)
		must(t, err, os.WriteFile(filepath.Join(l.live, journalName), data, 0o644))
		if left, err := l.left(); err == nil {
			t.Errorf("%+v is taken for a journal: %+v", j, left)
		}
	}
	must(t, os.WriteFile(filepath.Join(l.live, journalName), []byte("{"), 0o644))
	if _, err := l.left(); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("half a journal: %v", err)
	}
}

func TestStage_TreesDoNotReplaceTheOneThatServes(t *testing.T) {
	t.Parallel()
	l := newLayout(t.TempDir())
	l.make(t)
	var trees []string
	for i := range 6 {
		wanted := []file{{kind: sites, name: "a.conf", text: []byte(strconv.Itoa(i))}}
		must(t, l.switchTo(t, "same", wanted), l.forget(), l.prune())
		tree, err := l.current()
		must(t, err)
		trees = append(trees, tree)
		if holds, err := l.holds(tree, wanted); err != nil || !holds {
			t.Errorf("%s does not hold what was staged: %v", tree, err)
		}
	}
	if want := []string{".tree-same", ".tree-same-2", ".tree-same", ".tree-same-2", ".tree-same", ".tree-same-2"}; !slices.Equal(trees, want) {
		t.Errorf("the trees were %q", trees)
	}
	for i := range 5 {
		must(t, l.switchTo(t, strconv.Itoa(i), nil), l.forget(), l.prune())
	}
	left, err := filepath.Glob(filepath.Join(l.live, ".tree-*"))
	if err != nil || len(left) != keptTrees {
		t.Errorf("left are %q, %v", left, err)
	}
}

// A tree that somebody has edited does not hold what is wanted.
func TestHolds_SeesEdits(t *testing.T) {
	t.Parallel()
	wanted := []file{{kind: sites, name: "a.conf", text: []byte("a")}, {kind: snippets, name: "s.conf", text: []byte("s")}}
	for name, edit := range map[string]func(tree string) error{
		"changed": func(tree string) error { return os.WriteFile(tree+"/sites/a.conf", []byte("b"), 0o644) },
		"removed": func(tree string) error { return os.Remove(tree + "/sites/a.conf") },
		"added":   func(tree string) error { return os.WriteFile(tree+"/snippets/b.conf", nil, 0o644) },
		"a link": func(tree string) error {
			return errors.Join(os.Rename(tree+"/sites/a.conf", tree+"/x"), os.Symlink(tree+"/x", tree+"/sites/a.conf"))
		},
		"all gone": func(tree string) error { return os.RemoveAll(tree) },
	} {
		l := newLayout(t.TempDir())
		l.make(t)
		must(t, l.switchTo(t, "1", wanted))
		must(t, edit(filepath.Join(l.live, ".tree-1")))
		if holds, err := l.holds(".tree-1", wanted); err != nil || holds {
			t.Errorf("%s: %v, %v", name, holds, err)
		}
	}
}
