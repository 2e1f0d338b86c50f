package daemon

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// A user has 128 inotify instances, and the steps of a deploy need some.
func TestQueueSet_ManyQueuesTakeNoInotifyInstance(t *testing.T) {
	const many = 200
	s := newQueueSet(&config.Config{StateDir: t.TempDir()}, quiet)
	defer s.close()
	before := inotifyInstances(t)
	var last *queue.Watcher
	for i := range many {
		q, err := s.get(fmt.Sprint("web-", i))
		if err != nil {
			t.Fatal(err)
		}
		w, err := q.Watch()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		last = w
	}
	if n := inotifyInstances(t) - before; n != 0 {
		t.Errorf("%d queues take %d inotify instances", many, n)
	}
	q, err := s.get(fmt.Sprint("web-", many-1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.PutAs(t.Context(), ulid.Make(), "d", func(w io.Writer) error { _, err := io.WriteString(w, "{}"); return err }); err != nil {
		t.Fatal(err)
	}
	if entries, err := last.Next(t.Context(), 1); err != nil || len(entries) != 1 {
		t.Errorf("the worker was given %v: %v", entries, err)
	}
}

func inotifyInstances(t *testing.T) (n int) {
	t.Helper()
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range descriptors {
		if target, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && target == "anon_inode:inotify" {
			n++
		}
	}
	return n
}
