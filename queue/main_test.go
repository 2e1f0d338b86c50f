package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

// producerEnv makes the test binary a producer: "directory count tag".
const producerEnv = "QUEUE_TEST_PRODUCER"

func TestMain(m *testing.M) {
	if args := os.Getenv(producerEnv); args != "" {
		if err := produce(strings.Fields(args)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// produce puts entries and prints the name of each one that was acknowledged.
func produce(args []string) error {
	if len(args) != 3 {
		return errors.New("want: directory count tag")
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	q, err := Open(args[0], slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer q.Close() // the process ends
	for i := 0; i < count; i++ {
		id := fmt.Sprintf("%s-%d", args[2], i)
		e, err := q.Put(context.Background(), id, content(id))
		if err != nil {
			return err
		}
		fmt.Println(e.Name)
	}
	return nil
}

// content is long enough for several writes, and tells whether it is whole.
func content(id string) func(io.Writer) error {
	return func(w io.Writer) error {
		for range contentLines {
			if _, err := fmt.Fprintln(w, id); err != nil {
				return err
			}
		}
		return nil
	}
}

const contentLines = 5000

func isWhole(b []byte, id string) bool {
	return string(b) == strings.Repeat(id+"\n", contentLines)
}

func short(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

func put(tb testing.TB, q *Queue, id string) Entry {
	tb.Helper()
	e, err := q.Put(context.Background(), id, short(id))
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func watch(t testing.TB, q *Queue) *Watcher {
	t.Helper()
	w, err := q.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// eventually polls until the condition holds.
// unsynced leaves out the syncs, for tests that make many entries and crash
// nothing.
func unsynced(o *options) {
	o.durable = append(o.durable, durable.WithOps(func(ops durable.Ops) durable.Ops { return noSync{ops} }))
}

type noSync struct{ durable.Ops }

func (noSync) Sync() error { return nil }

func (n noSync) Create(name string, mode os.FileMode) (durable.File, error) {
	f, err := n.Ops.Create(name, mode)
	if err != nil {
		return nil, err
	}
	return noSyncFile{f}, nil
}

type noSyncFile struct{ durable.File }

func (noSyncFile) Sync() error { return nil }

// WithClock replaces time.Now as the source of the time in ULIDs.
func WithClock(now func() time.Time) Option {
	return func(o *options) { o.now = now }
}

// WithScanInterval sets how often a Watcher reads the whole directory, which is
// what it relies on; default 30 seconds.
func WithScanInterval(every time.Duration) Option {
	return func(o *options) { o.scanInterval = every }
}
