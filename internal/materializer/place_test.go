package materializer

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// Two hosts work for one instance: what one of them has in its queues says
// nothing of the other's.
func TestEachHostHasItsOwnCheckpoint(t *testing.T) {
	s := newSite(t)
	other := &site{instance: s.instance, dir: filepath.Join(t.TempDir(), "queues"), log: s.log, pool: s.pool, slugs: s.slugs}
	t.Cleanup(other.close)
	m, stop := s.run(t)
	defer stop()
	second, stopSecond := other.run(t)
	s.append(t, forwarded("a", "web", 1))
	s.caughtUp(t, m)
	other.caughtUp(t, second)
	stopSecond()
	s.append(t, forwarded("b", "web", 1))
	s.caughtUp(t, m)
	testkit.Wait(t, "the one that is up has moved its checkpoint", func() bool { return s.checkpoint(t) == 2 })
	if got := other.checkpoint(t); got > 1 {
		t.Errorf("the one that is down is at %d", got)
	}
	second, stopSecond = other.run(t)
	defer stopSecond()
	other.caughtUp(t, second)
	other.expectFiles(t, s.files(t)...)
	if n := len(other.files(t)); n != 2 {
		t.Errorf("%d files, want 2", n)
	}
}

func TestPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "queues")
	if place, err := readPlace(dir); place != "" || err != nil {
		t.Errorf("of no directory: %q, %v", place, err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if place, err := makePlace(dir); place == "" || err != nil {
				t.Errorf("%q, %v", place, err)
			}
		})
	}
	wg.Wait()
	first, err := makePlace(dir)
	if again, err2 := readPlace(dir); first == "" || again != first || err != nil || err2 != nil {
		t.Errorf("%q, then %q: %v, %v", first, again, err, err2)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if info, err := os.Stat(filepath.Join(dir, placeName)); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// Cut short by a power loss, or damaged.
	for _, content := range []string{"", first, first + "\n\n", "../../x\n", "\x00"} {
		if err := os.WriteFile(filepath.Join(dir, placeName), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if place, err := readPlace(dir); place != "" || err != nil {
			t.Errorf("of %q: %q, %v", content, place, err)
		}
		if place, err := makePlace(dir); place == "" || place == first || err != nil {
			t.Errorf("in place of %q: %q, %v", content, place, err)
		}
	}
}

// A reader makes nothing.
func TestCheckpointOfQueuesThatWereNeverWritten(t *testing.T) {
	s := newSite(t)
	position, err := s.materializer().Checkpoint(context.Background())
	if _, statErr := os.Stat(s.dir); position != 0 || err != nil || !os.IsNotExist(statErr) {
		t.Error(position, err, statErr)
	}
}
