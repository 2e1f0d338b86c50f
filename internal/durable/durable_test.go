package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustOpen(t *testing.T, path string, opts ...Option) *Dir {
	t.Helper()
	d, err := Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

func names(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	return got
}

func publish(d *Dir, name, content string) error {
	s, err := d.Stage(text(content))
	if err != nil {
		return err
	}
	defer s.Discard()
	if err := s.Publish(name); err != nil {
		return err
	}
	return d.Sync()
}

func TestPublish_NeverReplaces(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		t.Run(fmt.Sprintf("link=%v", fallback), func(t *testing.T) {
			dir := t.TempDir()
			d := mustOpen(t, dir)
			d.sys.noRenameat2.Store(fallback)
			const writers = 16
			var wins atomic.Int32
			var wg sync.WaitGroup
			for i := range writers {
				wg.Go(func() {
					err := publish(d, "x", fmt.Sprint(i))
					switch {
					case err == nil:
						wins.Add(1)
					case !errors.Is(err, fs.ErrExist):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if wins.Load() != 1 {
				t.Errorf("%d writers won one name", wins.Load())
			}
			if got := names(t, dir); len(got) != 1 || got[0] != "x" {
				t.Errorf("the directory holds %q", got)
			}
		})
	}
}

// Every operation fails both ways. Whatever fails, a name holds either nothing
// or the whole content, success is reported only where nothing failed, and
// nothing but the name is left behind.
func TestPublish_Failures(t *testing.T) {
	for _, op := range []string{"create", "write", "filesync", "publish", "dirsync"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", op, after), func(t *testing.T) {
				dir := t.TempDir()
				f := &faults{op: op, after: after}
				d := mustOpen(t, dir, WithOps(func(o Ops) Ops { f.Ops = o; return f }))
				content := strings.Repeat("0123456789", 20_000)
				err := publish(d, "x", content)
				if !errors.Is(err, errInjected) {
					t.Fatalf("reported %v", err)
				}
				if f.hits == 0 {
					t.Fatal("nothing was injected")
				}
				named := op == "dirsync" || op == "publish" && after
				got := names(t, dir)
				if named != (len(got) == 1) || len(got) > 1 {
					t.Fatalf("the directory holds %q", got)
				}
				if named {
					if b, err := os.ReadFile(filepath.Join(dir, "x")); err != nil || string(b) != content {
						t.Fatalf("%d bytes under the name: %v", len(b), err)
					}
				}
			})
		}
	}
}

func TestWriteFile_IsAllOrNothing(t *testing.T) {
	for _, op := range []string{"create", "write", "filesync", "replace", "dirsync"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", op, after), func(t *testing.T) {
				dir := t.TempDir()
				if err := WriteFile(filepath.Join(dir, "state"), []byte("old"), 0); err != nil {
					t.Fatal(err)
				}
				f := &faults{op: op, after: after}
				d := mustOpen(t, dir, WithOps(func(o Ops) Ops { f.Ops = o; return f }))
				if err := d.write("state", []byte("new"), 0, (*Staged).Replace); !errors.Is(err, errInjected) {
					t.Fatalf("reported %v", err)
				}
				b, err := os.ReadFile(filepath.Join(dir, "state"))
				if err != nil {
					t.Fatal(err)
				}
				want := "old"
				if op == "dirsync" || op == "replace" && after {
					want = "new"
				}
				if string(b) != want {
					t.Errorf("the file holds %q, not %q", b, want)
				}
				if got := names(t, dir); len(got) != 1 {
					t.Errorf("the directory holds %q", got)
				}
			})
		}
	}
}

func TestCreateFile_IsAllOrNothing(t *testing.T) {
	for _, op := range []string{"create", "write", "filesync", "publish", "dirsync"} {
		for _, after := range []bool{false, true} {
			dir := t.TempDir()
			f := &faults{op: op, after: after}
			d := mustOpen(t, dir, WithOps(func(o Ops) Ops { f.Ops = o; return f }))
			if err := d.write("key", []byte("new"), 0o600, (*Staged).Publish); !errors.Is(err, errInjected) {
				t.Errorf("%s, after %v: reported %v", op, after, err)
			}
			named := op == "dirsync" || op == "publish" && after
			b, err := os.ReadFile(filepath.Join(dir, "key"))
			if named != (err == nil) || named && string(b) != "new" || len(names(t, dir)) > 1 {
				t.Errorf("%s, after %v: it holds %q, %v, in %q", op, after, b, err, names(t, dir))
			}
		}
	}
}

func TestCreateFile_NeverReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var wg sync.WaitGroup
	var made atomic.Int32
	for n := range 8 {
		wg.Go(func() {
			err := CreateFile(path, fmt.Append(nil, n), 0o600)
			switch {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	info, err := os.Stat(path)
	if err != nil || made.Load() != 1 || info.Mode() != 0o600 {
		t.Errorf("%d made it, %v, %v", made.Load(), info.Mode(), err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := CreateFile(path, []byte("other"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made again: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("it holds %q, %v; it held %q", after, err, before)
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("the directory holds %q", got)
	}
}

// The umask must not take away what the directory grants: two users share it.
func TestFile_ModeFollowsTheDirectory(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for dirMode, want := range map[fs.FileMode]fs.FileMode{0o750: 0o640, 0o770: 0o660, 0o700: 0o600, 0o777: 0o666} {
		dir := t.TempDir()
		if err := os.Chmod(dir, dirMode|fs.ModeSetgid); err != nil {
			t.Fatal(err)
		}
		d := mustOpen(t, dir)
		if err := publish(d, "x", "y"); err != nil {
			t.Fatal(err)
		}
		if err := d.write("secret", []byte("y"), 0o600, (*Staged).Replace); err != nil {
			t.Fatal(err)
		}
		sub, err := d.Sub("sub")
		if err != nil {
			t.Fatal(err)
		}
		_ = sub.Close()
		for name, want := range map[string]fs.FileMode{"x": want, "secret": 0o600, "sub": dirMode} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != want {
				t.Errorf("in a directory of %o, %s has %o, not %o", dirMode, name, info.Mode().Perm(), want)
			}
		}
	}
}

// What the superuser puts into the directory of a service is the service's.
func TestFile_OwnerFollowsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 65533, 65532
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	d := mustOpen(t, dir)
	if err := publish(d, "x", "y"); err != nil {
		t.Fatal(err)
	}
	sub, err := d.Sub("sub")
	if err != nil {
		t.Fatal(err)
	}
	_ = sub.Close()
	for _, name := range []string{"x", "sub"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		if int(st.Uid) != uid || int(st.Gid) != gid {
			t.Errorf("%s belongs to %d:%d, not %d:%d", name, st.Uid, st.Gid, uid, gid)
		}
	}
}

func TestPublish_WriterThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir)
	boom := errors.New("boom")
	if _, err := d.Stage(func(w io.Writer) error { _, _ = w.Write(make([]byte, 1<<20)); return boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left %q", got)
	}
}

func TestSweep_SparesTheLiving(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir)
	living, err := d.Stage(text("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer living.Discard()
	if removed, err := d.Sweep(living.temp); err != nil || removed {
		t.Fatalf("swept the file of a living writer: %v, %v", removed, err)
	}
	// What a killed process leaves is a file that nobody has locked.
	if err := os.WriteFile(filepath.Join(dir, ".tmp-dead"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if removed, err := d.Sweep(".tmp-dead"); err != nil || !removed {
		t.Fatalf("left the file of a dead writer: %v, %v", removed, err)
	}
	if removed, err := d.Sweep(".tmp-dead"); err != nil || removed {
		t.Fatalf("swept what is not there: %v, %v", removed, err)
	}
	if _, err := d.Sweep("entry"); err == nil {
		t.Error("would sweep any name")
	}
	if err := living.Publish("x"); err != nil {
		t.Error(err)
	}
}

// Sweepers that come between a creation and its lock must not cost an entry.
func TestSweep_WhileOthersCreate(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir, WithOps(func(o Ops) Ops { return unsynced{o} }))
	stop := make(chan struct{})
	var sweeper, writers sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := d.Scan(func(name string, _ fs.FileMode) error {
				if !IsTemp(name) {
					return nil
				}
				_, err := d.Sweep(name)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
	const each = 300
	for w := range 4 {
		writers.Go(func() {
			for i := range each {
				if err := publish(d, fmt.Sprintf("%d-%d", w, i), "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	sweeper.Wait()
	if got := len(names(t, dir)); got != 4*each {
		t.Errorf("%d of %d are there", got, 4*each)
	}
}

// unsynced leaves out what takes time and does not matter to the test.
type unsynced struct{ Ops }

func (unsynced) Sync() error { return nil }

func (u unsynced) Create(name string, mode fs.FileMode) (File, error) {
	f, err := u.Ops.Create(name, mode)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ File }

func (unsyncedFile) Sync() error { return nil }

func TestOpenFile_TakesRegularFilesOnly(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir)
	for name, err := range map[string]error{
		"directory": os.Mkdir(filepath.Join(dir, "directory"), 0o700),
		"link":      os.Symlink("/etc/passwd", filepath.Join(dir, "link")),
		"pipe":      unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		"socket":    unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
		for _, flag := range []int{os.O_RDONLY, os.O_RDWR} {
			if _, err := d.OpenFile(name, flag); !errors.Is(err, ErrNotRegular) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := d.OpenFile("missing", os.O_RDONLY); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sub("elsewhere"); err == nil {
		t.Error("followed a link to a directory")
	}
}

func TestDir_NamesStayInside(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir)
	for _, name := range []string{"", ".", "..", "a/b", "../x", "/etc/passwd", "a\x00b"} {
		if _, err := d.OpenFile(name, os.O_RDONLY); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("open %q: %v", name, err)
		}
		if err := d.Remove(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("remove %q: %v", name, err)
		}
		if err := publish(d, name, "x"); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("publish %q: %v", name, err)
		}
		if err := d.write(name, nil, 0, (*Staged).Replace); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("write %q: %v", name, err)
		}
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left %q", got)
	}
}

// A full disk gives an error and leaves no litter.
func TestPublish_FullDisk(t *testing.T) {
	dir := t.TempDir()
	f := &full{}
	d := mustOpen(t, dir, WithOps(func(o Ops) Ops { f.Ops = o; return f }))
	if _, err := d.Stage(text(strings.Repeat("x", 1<<20))); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left %q", got)
	}
}

type full struct{ Ops }

func (f *full) Create(name string, mode fs.FileMode) (File, error) {
	file, err := f.Ops.Create(name, mode)
	return fullFile{file}, err
}

type fullFile struct{ File }

func (f fullFile) Write(p []byte) (int, error) {
	n, _ := f.File.Write(p[:len(p)/2])
	return n, unix.ENOSPC
}
