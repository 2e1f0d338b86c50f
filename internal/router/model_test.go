package router

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// TestRouterAgainstAModel feeds shuffled and doubled deliveries to routers that
// crash at every step, and compares the log with what plain counting expects.
func TestRouterAgainstAModel(t *testing.T) {
	log, _ := openLog(t)
	bodies := []string{
		body("refs/heads/main", sha, "octo/app"), body("refs/heads/main", sha, "octo/mixed"), body("refs/heads/dev", sha, "octo/app"),
		body("refs/heads/staging", sha, "octo/app"), body("refs/tags/v1", sha, "octo/app"), "{}", "",
	}
	root := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		instance := fmt.Sprint("model-", runs, "-", rand.Uint64())
		q, err := queue.Open(filepath.Join(root, instance), quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close() // a directory of this check alone
		content := rapid.SliceOfN(rapid.SampledFrom(bodies), 1, 6).Draw(t, "deliveries")
		copies := map[int]int{}
		rounds := rapid.IntRange(1, 3).Draw(t, "starts")
		for round := range rounds {
			for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(content)-1), 0, 8).Draw(t, "order") {
				put(t, q, named(fmt.Sprint("d-", i), content[i]))
				copies[i]++
			}
			// Fails before and after the commit, and around the removal of files.
			faults := rapid.SliceOfN(rapid.SampledFrom([]string{"", "find", "before", "after"}), 0, 3).Draw(t, "faults")
			var mu sync.Mutex
			next := func(kind string) error {
				mu.Lock()
				defer mu.Unlock()
				if len(faults) > 0 && (faults[0] == kind || faults[0] == "") {
					fails := faults[0] == kind
					faults = faults[1:]
					if fails {
						return errCrash
					}
				}
				return nil
			}
			faulty := &faultyLog{
				Log:  log,
				find: func() error { return next("find") },
				before: func([]eventlog.Group) ([]eventlog.Result, error, bool) {
					err := next("before")
					return nil, err, err != nil
				},
				after: func([]eventlog.Group, []eventlog.Result) error { return next("after") },
			}
			stop := start(t, q, Options{
				Instance: instance, Log: faulty, BatchSize: rapid.IntRange(1, 5).Draw(t, "batch"),
				Large: rapid.SampledFrom([]int64{1, 1 << 20}).Draw(t, "large"),
				Queue: &crashingQueue{drops: rapid.IntRange(0, 2).Draw(t, "drops")},
			})
			if last := round == rounds-1; last || rapid.Bool().Draw(t, "drain") {
				waitEmpty(t, q)
			}
			stop() // with work left, this is where it is cut off
		}
		check(t, log, instance, content, copies)
	})
}

func check(t *rapid.T, log *eventlog.Log, instance string, content []string, copies map[int]int) {
	t.Helper()
	for i, n := range copies {
		id := fmt.Sprint("d-", i)
		decision := Decide(named(id, content[i]), rules)
		want := []string{"received  1"}
		if decision.Void != nil {
			want = append(want, "voided  1")
		}
		for _, a := range decision.Forwards {
			want = append(want, fmt.Sprintf("forwarded %s 1", a.Deployment))
		}
		for k := 1; k < n; k++ {
			want = append(want, fmt.Sprintf("redelivered  %d", k))
		}
		if got := summary(events(t, log, eventlog.Filter{Instance: instance, DeliveryID: id})); !slices.Equal(got, want) {
			t.Fatalf("delivery %s, which came %d times, has events %q, want %q", id, n, got, want)
		}
	}
}
