package queue

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"
)

func TestPutRefuses(t *testing.T) {
	q := open(t, t.TempDir())
	boom := errors.New("boom")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	during, cancelDuring := context.WithCancel(context.Background())
	for name, c := range map[string]struct {
		ctx   context.Context
		id    string
		write func(io.Writer) error
		want  error
	}{
		"delivery ID": {context.Background(), "../x", short("x"), fs.ErrInvalid},
		"writer":      {context.Background(), "x", func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return boom }, boom},
		"too large": {context.Background(), "x", func(w io.Writer) error {
			chunk := make([]byte, 1<<20)
			for range 65 {
				if _, err := w.Write(chunk); err != nil {
					return err
				}
			}
			return nil
		}, ErrTooLarge},
		"ended context": {ended, "x", short("x"), context.Canceled},
		"context that ends meanwhile": {during, "x", func(io.Writer) error {
			cancelDuring()
			return nil
		}, context.Canceled},
	} {
		if _, err := q.Put(c.ctx, c.id, c.write); !errors.Is(err, c.want) {
			t.Errorf("%s: Put: %v", name, err)
		}
		if _, err := q.PutAs(c.ctx, ulid.ULID{1}, c.id, c.write); !errors.Is(err, c.want) {
			t.Errorf("%s: PutAs: %v", name, err)
		}
	}
	if raw, err := os.ReadDir(q.Dir()); err != nil || len(raw) != 0 {
		t.Errorf("left %v, %v", raw, err)
	}
}

// The listener and the worker are two users with one group.
func TestModes(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o770|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	q := open(t, dir)
	e := put(t, q, "x")
	bad := put(t, q, "bad")
	if err := q.Quarantine(bad, errors.New("bad")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		e.Name: 0o660, QuarantineDir: 0o770 | fs.ModeDir | fs.ModeSetgid,
		"quarantine/" + bad.Name: 0o660, "quarantine/" + bad.Name + ".reason": 0o660,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has %v, not %v", path, info.Mode(), want)
		}
	}
}

func TestReadAndRemove(t *testing.T) {
	q := open(t, t.TempDir())
	e := put(t, q, "x")
	if b, err := q.Read(e); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	for range 2 {
		if err := q.Remove(e); err != nil {
			t.Error(err)
		}
	}
	if _, err := q.Read(e); !errors.Is(err, ErrGone) || !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := q.Quarantine(e, nil); err != nil {
		t.Errorf("a missing entry: %v", err)
	}
}

// What is named as an entry and is none: reading it neither waits nor follows.
func TestImpostors(t *testing.T) {
	q := open(t, t.TempDir())
	huge := []Entry{}
	for i, make := range []func(path string) error{
		func(path string) error { return os.Mkdir(path, 0o700) },
		func(path string) error { return os.Symlink("/etc/passwd", path) },
		func(path string) error { return unix.Mkfifo(path, 0o600) },
		func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
		func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, MaxEntry+1))
		},
	} {
		e, err := NewEntry(ulid.ULID{byte(i + 1)}, "x")
		if err != nil {
			t.Fatal(err)
		}
		if err := make(filepath.Join(q.Dir(), e.Name)); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Read(e); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %v", e.Name, err)
		}
		huge = append(huge, e)
	}
	w := watch(t, q) // its scan moves all but the large one, which only a reader finds
	if p := w.Pending(); len(p) != 1 || p[0] != huge[4] {
		t.Errorf("pending %v", p)
	}
	if err := w.Quarantine(huge[4], ErrTooLarge); err != nil {
		t.Error(err)
	}
	if names, err := q.Quarantined(); err != nil || len(names) != 5 {
		t.Errorf("quarantined %v, %v", names, err)
	}
	if len(w.Pending()) != 0 {
		t.Error("it is still pending")
	}
}

func TestQuarantineReplacesNothing(t *testing.T) {
	q := open(t, t.TempDir())
	for i := range 3 {
		if _, err := q.PutAs(context.Background(), ulid.ULID{1}, "x", short(strings.Repeat("x", i))); err != nil {
			t.Fatal(err)
		}
		entries, err := q.List()
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Quarantine(entries[0], errors.New("because\x1b[31m "+strings.Repeat("y", i))); err != nil {
			t.Fatal(err)
		}
	}
	names, err := q.Quarantined()
	if err != nil || len(names) != 3 {
		t.Fatalf("%v, %v", names, err)
	}
	for i, name := range names {
		b, err := os.ReadFile(filepath.Join(q.Dir(), QuarantineDir, name))
		if err != nil || len(b) != i {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		r, err := os.ReadFile(filepath.Join(q.Dir(), QuarantineDir, name+reasonSuffix))
		if err != nil || string(r) != "because?[31m "+strings.Repeat("y", i)+"\n" {
			t.Errorf("%s: %q, %v", name, r, err)
		}
	}
}

// Reading commands may run as somebody who must not write.
func TestListChangesNothing(t *testing.T) {
	q := open(t, t.TempDir())
	e := put(t, q, "x")
	for _, name := range []string{"notes.txt", ".hidden", "zzz.json"} {
		if err := os.WriteFile(filepath.Join(q.Dir(), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if entries, err := q.List(); err != nil || len(entries) != 1 || entries[0] != e {
			t.Errorf("%v, %v", entries, err)
		}
	}
	if names, err := q.Quarantined(); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestOpenSweepsTheDead(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".tmp-dead"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	q := open(t, dir)
	if _, err := os.Stat(filepath.Join(dir, ".tmp-dead")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there")
	}
	// One that opens the queue while another writes leaves it alone.
	_, err := q.Put(context.Background(), "x", func(w io.Writer) error {
		open(t, dir)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
