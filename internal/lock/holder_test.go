package lock

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

func TestHolder_OfAFreeLockIsNobody(t *testing.T) {
	if holder, err := NewFlock(t.TempDir()).Holder(within(t), "web"); holder != "" || err != nil {
		t.Errorf("got %q, %v", holder, err)
	}
}

// A worker takes the lock for a moment where a deployment is frozen.
func TestHolder_IsNobodyOrNamedWhereTheLockIsHeldForMoments(t *testing.T) {
	l := NewFlock(t.TempDir())
	var done atomic.Bool
	var others sync.WaitGroup
	defer others.Wait()
	defer done.Store(true)
	others.Go(func() {
		for !done.Load() {
			if _, release, err := l.Acquire(within(t), "web"); err != nil || release() != nil {
				t.Errorf("acquire: %v", err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})

	for range 2000 {
		if holder, err := l.Holder(within(t), "web"); err != nil || holder != "" && !strings.HasPrefix(holder, fmt.Sprintf("process %d (", os.Getpid())) {
			t.Fatalf("got %q, %v", holder, err)
		}
	}
}

func TestRedis_HolderIsWhoeverAcquired(t *testing.T) {
	server := miniredis.RunT(t)
	l, err := NewRedis("redis://"+server.Addr(), "test", time.Minute, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if holder, err := l.Holder(within(t), "web"); holder != "" || err != nil {
		t.Errorf("of a free lock: %q, %v", holder, err)
	}
	_, release, err := l.Acquire(within(t), "web")
	if err != nil {
		t.Fatal(err)
	}
	if holder, err := l.Holder(within(t), "web"); err != nil || !strings.HasPrefix(holder, fmt.Sprintf("process %d on ", os.Getpid())) {
		t.Errorf("the holder is %q, %v", holder, err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := l.Holder(within(t), "web"); err == nil || !strings.Contains(err.Error(), "the lock server does not answer") {
		t.Errorf("of a server that is away: %v", err)
	}
}
