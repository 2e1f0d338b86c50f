package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

var errInjected = errors.New("injected failure")

// faults fails one kind of operation while armed, before or after its effect,
// and records the order of all.
type faults struct {
	op    string
	after bool
	armed bool
	err   error
	trace []string
}

func withFaults(f *faults) Option {
	return func(o *options) {
		o.durable = append(o.durable, durable.WithOps(func(ops durable.Ops) durable.Ops { return faultyDir{ops, f} }))
	}
}

func (f *faults) do(op string, effect func() error) error {
	f.trace = append(f.trace, op)
	hit := f.armed && f.op == op
	if hit && !f.after {
		return f.err
	}
	if err := effect(); err != nil {
		return err
	}
	if hit {
		return f.err
	}
	return nil
}

// faultyDir is one directory of the queue.
type faultyDir struct {
	durable.Ops
	*faults
}

func (f faultyDir) Create(name string, mode fs.FileMode) (durable.File, error) {
	var file durable.File
	if err := f.do("create", func() (err error) { file, err = f.Ops.Create(name, mode); return err }); err != nil {
		if file != nil {
			_ = file.Close()
		}
		return nil, err
	}
	return faultyFile{file, f.faults}, nil
}

func (f faultyDir) Publish(old string, to durable.Parent, name string) error {
	return f.do("publish", func() error { return f.Ops.Publish(old, to, name) })
}

func (f faultyDir) Replace(old, name string) error {
	return f.do("replace", func() error { return f.Ops.Replace(old, name) })
}

func (f faultyDir) Remove(name string) error {
	return f.do("remove", func() error { return f.Ops.Remove(name) })
}

func (f faultyDir) Sync() error { return f.do("dirsync", f.Ops.Sync) }

type faultyFile struct {
	durable.File
	f *faults
}

func (f faultyFile) Write(p []byte) (n int, err error) {
	err = f.f.do("write", func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f faultyFile) Sync() error { return f.f.do("filesync", f.File.Sync) }

// The order of the operations is the whole point: no crash between two of them
// shows half an entry or takes back one that was acknowledged.
func TestPutOrder(t *testing.T) {
	f := &faults{}
	q := open(t, t.TempDir(), withFaults(f))
	put(t, q, "first")
	if got := strings.Join(f.trace, " "); got != "create write filesync publish dirsync" {
		t.Error(got)
	}
	f.trace = nil
	if _, err := q.PutAs(context.Background(), ulid.ULID{1}, "x", short("x")); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(f.trace, " "); got != "create write filesync publish dirsync" {
		t.Error(got)
	}
	f.trace = nil
	if created, err := q.PutAs(context.Background(), ulid.ULID{1}, "x", short("x")); err != nil || created {
		t.Fatal(created, err)
	}
	// Its maker may have died before its sync.
	if got := strings.Join(f.trace, " "); got != "dirsync" {
		t.Error(got)
	}
}

// An entry that is set aside is not there again after a crash.
func TestQuarantineOrder(t *testing.T) {
	f := &faults{}
	q := open(t, t.TempDir(), withFaults(f))
	bad := put(t, q, "bad")
	f.trace = nil
	if err := q.Quarantine(bad, errors.New("bad")); err != nil {
		t.Fatal(err)
	}
	// The reason, and then the entry; a sync of the quarantine and one of the queue.
	if got := strings.Join(f.trace, " "); got != "create write filesync replace publish dirsync dirsync" {
		t.Error(got)
	}
}

// Each durable operation of a Put fails both ways. The entry is absent or
// whole, a watcher agrees with the directory, nothing else is left, and the
// queue goes on.
func TestPutFailures(t *testing.T) {
	type putter func(q *Queue) error
	puts := map[string]putter{
		"Put": func(q *Queue) error {
			_, err := q.Put(context.Background(), "victim", content("victim"))
			return err
		},
		"PutAs": func(q *Queue) error {
			_, err := q.PutAs(context.Background(), ulid.ULID{7}, "victim", content("victim"))
			return err
		},
	}
	for kind, try := range puts {
		for _, op := range []string{"create", "write", "filesync", "publish", "dirsync"} {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/after=%v", kind, op, after), func(t *testing.T) {
					f := &faults{op: op, after: after, err: errInjected}
					q := open(t, t.TempDir(), withFaults(f))
					put(t, q, "before")
					w := watch(t, q)
					f.armed = true
					if err := try(q); !errors.Is(err, errInjected) {
						t.Fatalf("reported %v", err)
					}
					f.armed = false
					there := op == "dirsync" || op == "publish" && after
					want := 1
					if there {
						want = 2
					}
					entries, err := q.List()
					if err != nil || len(entries) != want {
						t.Fatalf("entries %v, %v", entries, err)
					}
					for _, e := range entries {
						b, err := q.Read(e)
						if err != nil {
							t.Fatal(err)
						}
						if e.DeliveryID == "victim" && !isWhole(b, "victim") {
							t.Error("half an entry is visible")
						}
					}
					testkit.Wait(t, "the watcher sees what is there", func() bool { return len(w.Pending()) == want })
					raw, err := os.ReadDir(q.Dir())
					if err != nil || len(raw) != want {
						t.Errorf("the directory holds %v, %v", raw, err)
					}
					// The caller does it again, and now it is there.
					if err := try(q); err != nil {
						t.Fatal(err)
					}
				})
			}
		}
	}
}

// A small file system of its own, filled to the brim.
func TestPutOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	f := &faults{op: "write", after: true, err: unix.ENOSPC}
	options := []Option{withFaults(f)}
	mounted := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k") == nil
	if mounted { // else, not being root, the error is injected
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	q := open(t, filepath.Join(dir, "q"), options...)
	put(t, q, "first")
	f.armed = !mounted
	var err error
	for range 20 {
		if _, err = q.Put(context.Background(), "big", content("0123456789")); err != nil {
			break
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is full: %v", err)
	}
	f.armed = false
	entries, err := q.List()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadDir(q.Dir())
	if err != nil || len(raw) != len(entries) {
		t.Errorf("beside %d entries: %v, %v", len(entries), raw, err)
	}
	for _, e := range entries { // what frees the disk
		if err := q.Remove(e); err != nil {
			t.Fatal(err)
		}
	}
	put(t, q, "second")
}
