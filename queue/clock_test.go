package queue

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestAfterRises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var last ulid.ULID
		copy(last[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "last"))
		if rapid.Bool().Draw(t, "full") { // the carry
			for i := rapid.IntRange(0, 15).Draw(t, "from"); i < 16; i++ {
				last[i] = 255
			}
		}
		now := time.UnixMilli(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "now"))
		id, err := after(last, now)
		if err != nil {
			if last[0] == 255 {
				return // there is none
			}
			t.Fatal(err)
		}
		if id.Compare(last) <= 0 || id == lastULID {
			t.Fatalf("%s follows %s", id, last)
		}
		if ms := now.UnixMilli(); ms > 0 && uint64(ms) > last.Time() && uint64(ms) <= ulid.MaxTime() && id.Time() != uint64(ms) {
			t.Fatalf("%s has not the time of the clock, %d", id, ms)
		}
	})
}

// stepper is a clock that somebody sets.
type stepper struct {
	mu sync.Mutex
	at time.Time
}

func (s *stepper) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

func (s *stepper) set(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = at
}

// The order holds over clock steps and restarts even where the directory is
// empty, and where the clock file was lost as long as an entry is there.
func TestOrderSurvives(t *testing.T) {
	for name, between := range map[string]func(t *testing.T, dir string, e Entry){
		"an empty directory": func(t *testing.T, dir string, e Entry) {
			if err := os.Remove(filepath.Join(dir, e.Name)); err != nil {
				t.Fatal(err)
			}
		},
		"a lost clock": func(t *testing.T, dir string, _ Entry) {
			if err := os.Remove(filepath.Join(dir, clockName)); err != nil {
				t.Fatal(err)
			}
		},
		"an old clock": func(t *testing.T, dir string, _ Entry) {
			if err := os.WriteFile(filepath.Join(dir, clockName), []byte("00000000010000000000000000\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a damaged clock": func(t *testing.T, dir string, _ Entry) {
			if err := os.WriteFile(filepath.Join(dir, clockName), []byte("garbage"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				clock := &stepper{at: time.UnixMilli(1_700_000_000_000)}
				q := open(t, dir, WithClock(clock.now))
				first := put(t, q, "first")
				between(t, dir, first)
				clock.set(clock.at.Add(-time.Hour))
				if restart {
					q = open(t, dir, WithClock(clock.now))
				}
				if second := put(t, q, "second"); second.Name <= first.Name {
					t.Errorf("%s came after %s", second.Name, first.Name)
				}
			})
		}
	}
}

// Two queues on one directory are as two processes: descriptors of their own.
func TestTwoClocksOneOrder(t *testing.T) {
	dir := t.TempDir()
	early := &stepper{at: time.UnixMilli(1_600_000_000_000)}
	a, b := open(t, dir, unsynced), open(t, dir, unsynced, WithClock(early.now))
	var last string
	for i := range 50 {
		q := a
		if i%2 == 1 {
			q = b
		}
		if i == 20 { // both must notice
			if err := os.Remove(filepath.Join(dir, clockName)); err != nil {
				t.Fatal(err)
			}
		}
		e := put(t, q, "x")
		if e.Name <= last {
			t.Fatalf("put %d: %s came after %s", i, e.Name, last)
		}
		last = e.Name
	}
	var wg sync.WaitGroup
	for _, q := range []*Queue{a, b, a, b} {
		wg.Go(func() {
			mine := last
			for range 100 {
				e, err := q.Put(context.Background(), "x", short("x"))
				if err != nil {
					t.Error(err)
					return
				}
				if e.Name <= mine {
					t.Errorf("%s came after %s", e.Name, mine)
				}
				mine = e.Name
			}
		})
	}
	wg.Wait()
	entries, err := a.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 450 {
		t.Errorf("%d entries of 450", len(entries))
	}
	if len(slices.CompactFunc(entries, func(a, b Entry) bool { return a.ID == b.ID })) != 450 {
		t.Error("two entries have one ULID")
	}
}

// A clock that was removed and made anew by another is taken up by the one that
// still has the old file open.
func TestReplacedClockIsNoticed(t *testing.T) {
	dir := t.TempDir()
	late := &stepper{at: time.Now().Add(time.Hour)}
	a := open(t, dir)
	put(t, a, "first")
	if err := os.Remove(filepath.Join(dir, clockName)); err != nil {
		t.Fatal(err)
	}
	second := put(t, open(t, dir, WithClock(late.now)), "second")
	if third := put(t, a, "third"); third.Name <= second.Name {
		t.Errorf("%s came after %s", third.Name, second.Name)
	}
}

// A lock that another process sits on must not hold a caller for ever.
func TestPutGivesUpOnAHeldClock(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	put(t, q, "first")
	f, err := os.Open(filepath.Join(dir, clockName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // opened to read
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := q.Put(ctx, "second", short("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	put(t, q, "third")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 { // two entries and the clock
		t.Errorf("the directory holds %v", entries)
	}
}
