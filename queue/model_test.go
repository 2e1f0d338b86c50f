package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"
)

// machine runs a queue beside a model of it: a set of names with contents, and
// the greatest name that was ever put. A crash forgets everything but the disk.
type machine struct {
	dir   string
	clock *stepper
	q     *Queue
	w     *Watcher

	model  map[string]string // name to content
	jailed int
	last   string // the greatest name that q gave, or that was there when it was opened
	count  int
}

func (m *machine) open(t *rapid.T) {
	// Polled, because to end a watch of the kernel takes it milliseconds.
	q, err := Open(m.dir, slog.New(slog.DiscardHandler), unsynced, WithClock(m.clock.now), func(o *options) {
		o.pollInterval = time.Millisecond
		o.hints = func(string) (*hints, error) { return nil, errors.New("polled") }
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := q.Watch()
	if err != nil {
		t.Fatal(err)
	}
	m.q, m.w = q, w
}

func (m *machine) close(t *rapid.T) {
	if err := errors.Join(m.w.Close(), m.q.Close()); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) names() []string {
	names := make([]string, 0, len(m.model))
	for name := range m.model {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// any is one of the entries, if there is one.
func (m *machine) any(t *rapid.T) (e Entry, ok bool) {
	if len(m.model) == 0 {
		return e, false
	}
	e, err := ParseName(rapid.SampledFrom(m.names()).Draw(t, "entry"))
	if err != nil {
		t.Fatal(err)
	}
	return e, true
}

func (m *machine) Put(t *rapid.T) { m.put(t, m.q) }

func (m *machine) put(t *rapid.T, q *Queue) {
	m.count++
	id := fmt.Sprintf("d-%d", m.count)
	e, err := q.Put(context.Background(), id, short(id))
	if err != nil {
		t.Fatal(err)
	}
	if e.Name <= m.last {
		t.Fatalf("%s came after %s", e.Name, m.last)
	}
	m.last, m.model[e.Name] = e.Name, id
}

func (m *machine) PutAs(t *rapid.T) {
	// Of an early time, so that it does not move the order of Put.
	id := ulid.ULID{15: byte(rapid.IntRange(1, 5).Draw(t, "ulid"))}
	e, err := NewEntry(id, "as")
	if err != nil {
		t.Fatal(err)
	}
	m.count++
	content := fmt.Sprint(m.count)
	created, err := m.q.PutAs(context.Background(), id, "as", short(content))
	if err != nil {
		t.Fatal(err)
	}
	if _, there := m.model[e.Name]; created == there {
		t.Fatalf("created %v, although there: %v", created, there)
	}
	if created {
		m.model[e.Name] = content
	}
}

// PutByAnother puts as another process does, which knows what is there.
func (m *machine) PutByAnother(t *rapid.T) {
	own := m.last
	q, err := Open(m.dir, slog.New(slog.DiscardHandler), unsynced, WithClock(m.clock.now))
	if err != nil {
		t.Fatal(err)
	}
	m.last = m.greatest()
	m.put(t, q)
	m.put(t, q)
	m.last = own
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// greatest is the greatest name that is there.
func (m *machine) greatest() string {
	if names := m.names(); len(names) > 0 {
		return names[len(names)-1]
	}
	return ""
}

func (m *machine) StepClock(t *rapid.T) {
	step := rapid.Int64Range(-100_000, 1_000).Draw(t, "ms")
	m.clock.set(m.clock.now().Add(time.Duration(step) * time.Millisecond))
}

func (m *machine) Done(t *rapid.T) {
	e, ok := m.any(t)
	if !ok {
		return
	}
	if err := m.w.Done(e); err != nil {
		t.Fatal(err)
	}
	delete(m.model, e.Name)
}

func (m *machine) Quarantine(t *rapid.T) {
	e, ok := m.any(t)
	if !ok {
		return
	}
	if err := m.w.Quarantine(e, errors.New("because")); err != nil {
		t.Fatal(err)
	}
	delete(m.model, e.Name)
	m.jailed++
}

func (m *machine) RemovedByAnother(t *rapid.T) {
	e, ok := m.any(t)
	if !ok {
		return
	}
	if err := os.Remove(filepath.Join(m.dir, e.Name)); err != nil {
		t.Fatal(err)
	}
	delete(m.model, e.Name)
	if _, err := m.q.Read(e); !errors.Is(err, ErrGone) {
		t.Fatal(err)
	}
}

// Crash leaves an unfinished file. The order is promised for what is still there.
func (m *machine) Crash(t *rapid.T) {
	m.close(t)
	if err := os.WriteFile(filepath.Join(m.dir, ".tmp-dead"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.last = m.greatest()
	m.open(t)
}

func (m *machine) Check(t *rapid.T) {
	want := m.names()
	entries, err := m.q.List()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]string, 0, len(entries))
	for _, e := range entries {
		got = append(got, e.Name)
		if b, err := m.q.Read(e); err != nil || string(b) != m.model[e.Name] {
			t.Fatalf("%s holds %q, not %q: %v", e.Name, b, m.model[e.Name], err)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("the queue holds %v, not %v", got, want)
	}
	jailed, err := m.q.Quarantined()
	if err != nil || len(jailed) != m.jailed {
		t.Fatalf("%d are in quarantine, not %d: %v", len(jailed), m.jailed, err)
	}
	m.agree(t, want)
	if len(want) > 0 {
		entries, err := m.w.Next(context.Background(), 2)
		if err != nil || len(entries) > 2 || entries[0].Name != want[0] {
			t.Fatalf("next is %v, not %s: %v", entries, want[0], err)
		}
	}
	if _, err := os.Stat(filepath.Join(m.dir, ".tmp-dead")); err == nil {
		t.Fatal("the unfinished file is still there")
	}
}

// agree waits for the hints about what others did.
func (m *machine) agree(t *rapid.T, want []string) {
	var got []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
		got = got[:0]
		for _, e := range m.w.Pending() {
			got = append(got, e.Name)
		}
		if slices.Equal(got, want) {
			return
		}
	}
	t.Fatalf("pending is %v, not %v", got, want)
}

func TestQueueAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{
			dir:   t.TempDir(),
			clock: &stepper{at: time.UnixMilli(1_700_000_000_000)},
			model: map[string]string{},
		}
		m.open(rt)
		defer func() { m.close(rt) }()
		rt.Repeat(rapid.StateMachineActions(m))
	})
}
