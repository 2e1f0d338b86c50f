package durable

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// While one sync runs, all who come share the next one, and none of them is
// told before that one has ended.
func TestGroup_SharesTheNextSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, proceed := make(chan int), make(chan error)
		n := 0 // guarded by the group: one sync at a time
		g := newGroup(func() error {
			n++
			began <- n
			return <-proceed
		})
		var wg sync.WaitGroup
		results := make(chan error, 64)
		ask := func() { wg.Go(func() { results <- g.wait() }) }
		ask()
		<-began
		for range 63 {
			ask()
		}
		synctest.Wait() // all of them wait for the second
		if len(results) != 0 {
			t.Fatal("somebody was told while no sync had ended")
		}
		proceed <- nil
		if got := <-began; got != 2 {
			t.Fatalf("sync %d began", got)
		}
		synctest.Wait()
		if len(results) != 1 {
			t.Fatalf("%d were told by the first sync, which covers one", len(results))
		}
		boom := errors.New("boom")
		proceed <- boom
		wg.Wait()
		close(results)
		failed := 0
		for err := range results {
			if errors.Is(err, boom) {
				failed++
			}
		}
		if n != 2 || failed != 63 {
			t.Errorf("%d syncs, %d told of the failure; want 2 and 63", n, failed)
		}
	})
}

// A change made before the call is covered by a sync that began after it.
func TestGroup_CoversWhatWasBefore(t *testing.T) {
	var mu sync.Mutex
	changed, synced := 0, 0
	g := newGroup(func() error {
		mu.Lock()
		seen := changed
		mu.Unlock()
		mu.Lock()
		synced = seen
		mu.Unlock()
		return nil
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				mu.Lock()
				changed++
				mine := changed
				mu.Unlock()
				if err := g.wait(); err != nil {
					t.Error(err)
				}
				mu.Lock()
				if synced < mine {
					t.Errorf("change %d was acknowledged when %d were synced", mine, synced)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}
