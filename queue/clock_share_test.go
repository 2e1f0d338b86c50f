package queue

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// TestClockServesAllWhoWait lets callers gather while the turn is taken, some of
// whom give up: the others get one ID each, in the order of their coming.
func TestClockServesAllWhoWait(t *testing.T) {
	q := open(t, t.TempDir())
	c := q.clock
	c.turn <- struct{}{}
	gone, leave := context.WithCancel(context.Background())
	const callers = 40
	ids := make([]ulid.ULID, callers)
	var wg sync.WaitGroup
	for i := range callers {
		ctx := context.Background()
		if i%4 == 3 {
			ctx = gone
		}
		wg.Go(func() {
			id, err := c.next(ctx)
			switch {
			case ctx == gone && !errors.Is(err, context.Canceled):
				t.Errorf("caller %d gave up and got %s, %v", i, id, err)
			case ctx != gone && err != nil:
				t.Errorf("caller %d: %v", i, err)
			}
			ids[i] = id
		})
		testkit.Wait(t, "one more waits", func() bool { return gathered(c) == i+1 })
	}
	leave()
	testkit.Wait(t, "those who left are gone", func() bool { return gathered(c) == callers*3/4 })
	<-c.turn
	wg.Wait()
	var last ulid.ULID
	for i, id := range ids {
		if i%4 == 3 {
			continue
		}
		if id.Compare(last) <= 0 {
			t.Errorf("caller %d got %s, which does not follow %s", i, id, last)
		}
		last = id
	}
	if next, err := c.next(context.Background()); err != nil || next.Compare(last) <= 0 {
		t.Errorf("the next ID is %s (%v) after %s", next, err, last)
	}
	if n := gathered(c); n != 0 {
		t.Errorf("%d callers are left waiting", n)
	}
}

func gathered(c *clock) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}
