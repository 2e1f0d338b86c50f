package queue

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
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

// The order holds when the clock steps back: in one process though the directory
// is empty, and over a restart for what is still there.
func TestOrderSurvives(t *testing.T) {
	dir := t.TempDir()
	clock := &stepper{at: time.UnixMilli(1_700_000_000_000)}
	q := open(t, dir, WithClock(clock.now))
	first := put(t, q, "first")
	if err := os.Remove(filepath.Join(dir, first.Name)); err != nil {
		t.Fatal(err)
	}
	clock.set(clock.at.Add(-time.Hour))
	second := put(t, q, "second")
	if second.Name <= first.Name {
		t.Errorf("%s came after %s", second.Name, first.Name)
	}
	if third := put(t, open(t, dir, WithClock(clock.now)), "third"); third.Name <= second.Name {
		t.Errorf("after a restart, %s came after %s", third.Name, second.Name)
	}
}

// Queues that are opened on one directory are as several processes. Though the clock
// stands still before what is there, each rises and no two give the same ULID.
func TestQueuesOfOneDirectory(t *testing.T) {
	dir := t.TempDir()
	late := put(t, open(t, dir, unsynced), "late")
	still := func() time.Time { return time.UnixMilli(1_600_000_000_000) }
	queues := []*Queue{open(t, dir, unsynced, WithClock(still)), open(t, dir, unsynced, WithClock(still))}
	const each = 100
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			last := late.Name
			for range each {
				e, err := queues[i/2].Put(context.Background(), "x", short("x"))
				if err != nil {
					t.Error(err)
					return
				}
				if e.Name <= last {
					t.Errorf("%s came after %s", e.Name, last)
				}
				last = e.Name
			}
		})
	}
	wg.Wait()
	entries, err := queues[0].List()
	if err != nil {
		t.Fatal(err)
	}
	entries = slices.CompactFunc(entries, func(a, b Entry) bool { return a.ID == b.ID })
	if len(entries) != 1+4*each {
		t.Errorf("%d ULIDs of %d", len(entries), 1+4*each)
	}
}
