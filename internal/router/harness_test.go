package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

var quiet = slog.New(slog.DiscardHandler)

// openLog opens the log of a fresh database.
func openLog(t testing.TB) (*eventlog.Log, *pgxpool.Pool) {
	t.Helper()
	return logOn(t, pgtest.Migrated(t))
}

func logOn(t testing.TB, pool *pgxpool.Pool) (*eventlog.Log, *pgxpool.Pool) {
	t.Helper()
	log := eventlog.Open(pool, quiet)
	t.Cleanup(log.Close)
	return log, pool
}

func openQueue(t testing.TB) *queue.Queue {
	t.Helper()
	q, err := queue.Open(t.TempDir(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

func put(t rapid.TB, q *queue.Queue, d delivery.Delivery) queue.Entry {
	t.Helper()
	d.Salt = delivery.NewSalt() // as the listener does, for each request
	e, err := q.Put(context.Background(), d.ID, d.EncodeTo)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// start runs a router on q and returns what stops it.
func start(t rapid.TB, q *queue.Queue, o Options) (stop func()) {
	t.Helper()
	w, err := Watch(q)
	if err != nil {
		t.Fatal(err)
	}
	switch around := o.Queue.(type) {
	case nil:
		o.Queue = w
	case *crashingQueue:
		around.Queue = w
	case *failingReads:
		around.Queue = w
	}
	if o.Instance == "" {
		o.Instance = "test"
	}
	if o.Rules == nil {
		o.Rules = func() []Rule { return rules }
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r := New(o)
	go func() {
		for r.Run(ctx) != nil && retry.Sleep(ctx, time.Millisecond) { // as the daemon does
		}
		close(ended)
	}()
	var once sync.Once
	return func() {
		once.Do(func() {
			cancel()
			<-ended
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func waitEmpty(t rapid.TB, q *queue.Queue) {
	t.Helper()
	testkit.Wait(t, "the queue is empty", func() bool {
		entries, err := q.List()
		if err != nil {
			t.Fatal(err)
		}
		return len(entries) == 0
	})
}

func events(t rapid.TB, log *eventlog.Log, f eventlog.Filter) []eventlog.Event {
	t.Helper()
	if f.Instance == "" {
		f.Instance = "test"
	}
	var all []eventlog.Event
	for e, err := range log.Find(context.Background(), f) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// summary is what a test compares: type, deployment and attempt of each event.
func summary(all []eventlog.Event) []string {
	var out []string
	for _, e := range all {
		out = append(out, fmt.Sprintf("%s %s %d", e.Type, e.DeploymentSlug(), e.Attempt))
	}
	return out
}

// crashingQueue forgets to remove files, as a process does that is killed
// between the commit and the removal.
type crashingQueue struct {
	Queue
	mu    sync.Mutex
	drops int
}

var errCrash = errors.New("crashed")

func (q *crashingQueue) Done(e queue.Entry) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.drops > 0 {
		q.drops--
		return errCrash
	}
	return q.Queue.Done(e)
}

// Rest is nothing: the process starts again.
func (q *crashingQueue) Rest(queue.Entry) (time.Duration, bool) { return 0, true }

// faultyLog is a log some of whose calls fail. Each function may be nil.
type faultyLog struct {
	Log
	// before may answer for the log; after may spoil what it answered.
	before func(groups []eventlog.Group) ([]eventlog.Result, error, bool)
	after  func(groups []eventlog.Group, results []eventlog.Result) error
	find   func() error
}

func (l *faultyLog) AppendAll(ctx context.Context, groups []eventlog.Group) ([]eventlog.Result, error) {
	if l.before != nil {
		if results, err, answered := l.before(groups); answered {
			return results, err
		}
	}
	results, err := l.Log.AppendAll(ctx, groups)
	if err == nil && l.after != nil {
		err = l.after(groups, results)
	}
	return results, err
}

func (l *faultyLog) FindEach(ctx context.Context, filters []eventlog.Filter) ([][]eventlog.Event, error) {
	if l.find != nil {
		if err := l.find(); err != nil {
			return nil, err
		}
	}
	return l.Log.FindEach(ctx, filters)
}

// refuse is a log's answer that refuses the groups of one delivery.
func refuse(ctx context.Context, log Log, id string, groups []eventlog.Group, refusal error) ([]eventlog.Result, error, bool) {
	results := make([]eventlog.Result, len(groups))
	for i, g := range groups {
		if g.Transitions[0].DeliveryID == id {
			results[i].Err = refusal
			continue
		}
		one, err := log.AppendAll(ctx, groups[i:i+1])
		if err != nil {
			return nil, err, true
		}
		results[i] = one[0]
	}
	return results, nil, true
}
