package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// silent gives hints that never come by themselves, and the channels to send some.
func silent() (Option, chan fsnotify.Event, chan error) {
	events, failures := make(chan fsnotify.Event), make(chan error)
	return func(o *options) {
		o.scanInterval = time.Hour
		o.hints = func(string) (*hints, error) {
			return &hints{events: events, errors: failures, close: func() error { return nil }}, nil
		}
	}, events, failures
}

func next(t *testing.T, w *Watcher, max int) []Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	entries, err := w.Next(ctx, max)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestNext_PassesOverWhatIsHeld(t *testing.T) {
	q := open(t, t.TempDir())
	first, second := put(t, q, "1"), put(t, q, "2")
	w := watch(t, q)
	w.Hold(first)
	if got := next(t, w, 2); !slices.Equal(got, []Entry{second}) {
		t.Errorf("while it is held: %v", got)
	}
	if got := w.Pending(); len(got) != 2 {
		t.Errorf("pending: %v", got)
	}
	if err := w.Done(second); err != nil {
		t.Fatal(err)
	}
	taken := make(chan []Entry, 1)
	go func() {
		entries, _ := w.Next(t.Context(), 2)
		taken <- entries
	}()
	w.Release(first, second)
	if got := <-taken; !slices.Equal(got, []Entry{first}) {
		t.Errorf("once it is released: %v", got)
	}
}

func TestNextPassesOverWhatRests(t *testing.T) {
	q := open(t, t.TempDir())
	first, second := put(t, q, "1"), put(t, q, "2")
	w := watch(t, q)
	pause, again := w.Rest(first)
	if second, then := w.Rest(first); pause <= 0 || second != 2*pause || again || !then {
		t.Errorf("it rests for %v (%v), then for %v (%v)", pause, again, second, then)
	}
	restFor := func(pause time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.resting[first.Name] = rest{until: time.Now().Add(pause), pause: pause}
	}
	restFor(time.Hour)
	if got := next(t, w, 2); !slices.Equal(got, []Entry{second}) {
		t.Errorf("while it rests: %v", got)
	}
	if got := w.Pending(); len(got) != 2 {
		t.Errorf("pending: %v", got)
	}
	if err := w.Done(second); err != nil {
		t.Fatal(err)
	}
	restFor(firstRest)
	if got := next(t, w, 2); !slices.Equal(got, []Entry{first}) {
		t.Errorf("after its rest: %v", got)
	}
	if err := w.Done(first); err != nil || len(w.resting) != 0 {
		t.Errorf("%v, resting: %v", err, w.resting)
	}
	for range 20 {
		pause, _ = w.Rest(first)
	}
	if pause != lastRest {
		t.Errorf("at last it rests for %v", pause)
	}
}

func TestNextGivesTheSmallestUntilDone(t *testing.T) {
	q := open(t, t.TempDir())
	var want []Entry
	for i := range 5 {
		want = append(want, put(t, q, fmt.Sprint(i)))
	}
	w := watch(t, q)
	for range 2 {
		if got := next(t, w, 3); !slices.Equal(got, want[:3]) {
			t.Errorf("%v", got)
		}
	}
	if err := w.Done(want[1]); err != nil {
		t.Error(err)
	}
	if got := next(t, w, 100); !slices.Equal(got, slices.Concat(want[:1], want[2:])) {
		t.Errorf("%v", got)
	}
	if _, err := os.Stat(filepath.Join(q.Dir(), want[1].Name)); err == nil {
		t.Error("what is done is still on disk")
	}
	if _, err := w.Next(context.Background(), 0); err == nil {
		t.Error("none at a time")
	}
}

// Without any hint from the system, a put of the same process is seen at once.
func TestPutNudgesItsOwnWatchers(t *testing.T) {
	option, _, _ := silent()
	q := open(t, t.TempDir(), option)
	a, b := watch(t, q), watch(t, q)
	e := put(t, q, "x")
	for _, w := range []*Watcher{a, b} {
		if got := w.Pending(); len(got) != 1 || got[0] != e {
			t.Errorf("%v", got)
		}
	}
}

// A hint, late and doubled, does not bring back what is done.
func TestWatcher_LateHintsAreHarmless(t *testing.T) {
	option, events, _ := silent()
	q := open(t, t.TempDir(), option)
	w := watch(t, q)
	e := put(t, q, "x")
	if err := w.Done(e); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(q.Dir(), e.Name)
	for _, op := range []fsnotify.Op{fsnotify.Create, fsnotify.Create, fsnotify.Remove, fsnotify.Rename, fsnotify.Write} {
		events <- fsnotify.Event{Name: path, Op: op}
	}
	events <- fsnotify.Event{Name: "/etc/passwd", Op: fsnotify.Create}
	events <- fsnotify.Event{} // once it is taken the others are done
	if got := w.Pending(); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestWatcher_SeesAnotherProcessByHint(t *testing.T) {
	dir := t.TempDir()
	w := watch(t, open(t, dir))
	other := open(t, dir)
	e := put(t, other, "x")
	if got := next(t, w, 1); got[0] != e {
		t.Errorf("%v", got)
	}
	if err := other.Remove(e); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "a removal by another is seen", func() bool { return len(w.Pending()) == 0 })
}

// The kernel drops hints when there are too many; the scan makes up for it.
func TestOverflowScans(t *testing.T) {
	option, _, failures := silent()
	dir := t.TempDir()
	q := open(t, dir, option)
	gone := put(t, q, "gone")
	w := watch(t, q)
	other := open(t, dir)
	e := put(t, other, "missed")
	if err := other.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if got := w.Pending(); len(got) != 1 || got[0] != gone {
		t.Fatalf("the hints are not silent: %v", got)
	}
	failures <- fsnotify.ErrEventOverflow
	testkit.Wait(t, "the scan agrees with the directory", func() bool {
		got := w.Pending()
		return len(got) == 1 && got[0] == e
	})
}

// Each way to be without hints ends in polling.
func TestPolling(t *testing.T) {
	poll := func(o *options) { o.pollInterval = 5 * time.Millisecond; o.scanInterval = time.Hour }
	closed, events, _ := silent()
	for name, options := range map[string][]Option{
		"refused": {poll, func(o *options) {
			o.hints = func(string) (*hints, error) { return nil, errors.New("too many watches") }
		}},
		"ended": {closed, poll},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := watch(t, open(t, dir, options...))
			if name == "ended" {
				close(events)
			}
			e := put(t, open(t, dir), "x")
			if got := next(t, w, 1); got[0] != e {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestScanQuarantinesForeignNames(t *testing.T) {
	option, _, failures := silent()
	q := open(t, t.TempDir(), option)
	w := watch(t, q)
	e := put(t, q, "x")
	for _, name := range []string{"notes.txt", "x.reason", ".hidden"} {
		if err := os.WriteFile(filepath.Join(q.Dir(), name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	failures <- fsnotify.ErrEventOverflow
	testkit.Wait(t, "foreign files are in quarantine", func() bool {
		names, err := q.Quarantined()
		return err == nil && slices.Equal(names, []string{"notes.txt", "x.reason_"})
	})
	if got := w.Pending(); len(got) != 1 || got[0] != e {
		t.Errorf("%v", got)
	}
	if _, err := os.Stat(filepath.Join(q.Dir(), ".hidden")); err != nil {
		t.Error(err)
	}
}

func TestNextEnds(t *testing.T) {
	q := open(t, t.TempDir())
	w, err := q.Watch()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	results := make(chan error, 2)
	go func() { _, err := w.Next(ctx, 1); results <- err }()
	cancel()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() { _, err := w.Next(context.Background(), 1); results <- err }()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := <-results; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	put(t, q, "x") // nobody listens
	if len(q.watchers) != 0 {
		t.Error("the queue still knows it")
	}
}

// Puts, scans, hints and Done race; nothing is lost, nothing comes back.
func TestWatcher_NothingIsLostOrComesBack(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, unsynced, func(o *options) { o.scanInterval = time.Millisecond })
	other := open(t, dir, unsynced)
	w := watch(t, q)
	const each = 400
	var producers sync.WaitGroup
	for p, queue := range []*Queue{q, other} {
		producers.Go(func() {
			for i := range each {
				if _, err := queue.Put(context.Background(), fmt.Sprintf("%d-%d", p, i), short("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[string]bool{}
	for len(seen) < 2*each {
		for _, e := range next(t, w, 7) {
			if seen[e.Name] {
				t.Fatalf("%s came back after it was done", e.Name)
			}
			if _, err := q.Read(e); err != nil {
				t.Fatal(err)
			}
			seen[e.Name] = true
			if err := w.Done(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	producers.Wait()
	if got := w.Pending(); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestPendingIsASortedSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p pending
		model := map[string]bool{}
		name := rapid.Custom(func(t *rapid.T) string {
			id := ulid.ULID{15: byte(rapid.IntRange(0, 60).Draw(t, "id"))}
			return id.String()
		})
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n := name.Draw(t, "name")
				if p.add(n) == model[n] {
					t.Fatalf("add %s", n)
				}
				model[n] = true
			},
			"add many": func(t *rapid.T) {
				names := rapid.SliceOfN(name, 0, 10).Draw(t, "names")
				fresh := false
				for _, n := range names {
					fresh = fresh || !model[n]
				}
				for _, n := range names {
					model[n] = true
				}
				if p.add(names...) != fresh {
					t.Fatalf("add %q", names)
				}
			},
			"remove": func(t *rapid.T) {
				n := name.Draw(t, "name")
				p.remove(n)
				delete(model, n)
			},
			"first": func(*rapid.T) {
				if len(p) > 0 {
					n := p[0]
					p.remove(n)
					delete(model, n)
				}
			},
			"": func(t *rapid.T) {
				if len(p) != len(model) || !slices.IsSorted(p) {
					t.Fatalf("%v", p)
				}
				for _, n := range p {
					if !model[n] || !p.has(n) {
						t.Fatalf("%s", n)
					}
				}
			},
		})
	})
}
