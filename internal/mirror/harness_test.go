package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

const sha = "0123456789abcdef0123456789abcdef01234567"

var quiet = slog.New(slog.DiscardHandler)

// site is one instance: its part of the log, and its queues.
type site struct {
	instance string
	dir      string
	log      *eventlog.Log
	pool     *pgxpool.Pool
	slugs    []string

	mu     sync.Mutex
	queues map[string]*queue.Queue
	// retired are those whose directory was removed under them.
	retired []*queue.Queue
}

func newSite(t testing.TB) *site {
	t.Helper()
	pool := pgtest.Migrated(t)
	log := eventlog.Open(pool, quiet)
	t.Cleanup(log.Close)
	s := &site{instance: "test", dir: filepath.Join(t.TempDir(), "queues"), log: log, pool: pool, slugs: []string{"web", "docs"}}
	t.Cleanup(s.close)
	return s
}

// open opens each queue once, as the daemon does.
func (s *site) open(slug string) (*queue.Queue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.queues[slug]; q != nil {
		if replaced, err := q.Replaced(); err != nil || !replaced {
			return q, err
		}
		s.retired = append(s.retired, q)
	}
	q, err := queue.Open(filepath.Join(s.dir, slug), quiet)
	if err != nil {
		return nil, err
	}
	if s.queues == nil {
		s.queues = map[string]*queue.Queue{}
	}
	s.queues[slug] = q
	return q, nil
}

// close is what the end of the process does to the queues.
func (s *site) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range slices.Concat(s.retired, slices.Collect(maps.Values(s.queues))) {
		_ = q.Close()
	}
	s.queues, s.retired = nil, nil
}

func (s *site) mirror() *Mirror {
	m := New(Options{Instance: s.instance, QueuesDir: s.dir, OpenQueue: s.open, Slugs: s.slugs, Log: s.log, Resume: projections.New(s.pool, s.log, quiet).Resume, Logger: quiet})
	return m
}

// run starts a mirror and returns what stops it.
func (s *site) run(t rapid.TB) (m *Mirror, stop func()) {
	t.Helper()
	m = s.mirror()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	var once sync.Once
	return m, func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func (s *site) append(t rapid.TB, transitions ...eventlog.Transition) []eventlog.Event {
	t.Helper()
	for i := range transitions {
		if transitions[i].Instance == "" {
			transitions[i].Instance = s.instance
		}
		transitions[i].Actor = "sam"
	}
	events, err := s.log.Append(context.Background(), eventlog.Group{Transitions: transitions})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func forwarded(delivery, slug string, attempt int) eventlog.Transition {
	return eventlog.Transition{DeliveryID: delivery, Deployment: slug, Attempt: attempt,
		Data: eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: sha, Rule: "r", ConfigDigest: "c", Forced: true}}}
}

func replayed(delivery string, attempt int, slugs ...string) eventlog.Transition {
	d := eventlog.Replayed{Reason: "again"}
	for _, slug := range slugs {
		d.Deployments = append(d.Deployments, eventlog.Assignment{Deployment: slug, Attempt: attempt, Order: eventlog.Order{Branch: "main", Commit: sha}})
	}
	return eventlog.Transition{DeliveryID: delivery, Attempt: attempt, Data: d}
}

func redelivered(delivery string, nth, attempt int, slugs ...string) eventlog.Transition {
	d := eventlog.Redelivered{Action: eventlog.ActionRetried}
	for _, slug := range slugs {
		d.Deployments = append(d.Deployments, eventlog.Assignment{Deployment: slug, Attempt: attempt, Order: eventlog.Order{Branch: "main", Commit: sha}})
	}
	return eventlog.Transition{DeliveryID: delivery, Attempt: nth, Data: d}
}

func deployed(delivery, slug string, attempt int) eventlog.Transition {
	return eventlog.Transition{DeliveryID: delivery, Deployment: slug, Attempt: attempt,
		Data: eventlog.Deployed{Commit: sha, Steps: []eventlog.Step{}}}
}

// caughtUp waits until m has applied everything in the log.
func (s *site) caughtUp(t rapid.TB, m *Mirror) {
	t.Helper()
	head, err := s.log.Head(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the mirror has caught up", func() bool { return m.Position() >= head })
}

// files lists what the queues hold: slug, delivery and attempt of each entry,
// in the order of the queue. Hidden files and quarantines are not listed.
func (s *site) files(t rapid.TB) []string {
	t.Helper()
	var out []string
	slugs, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, slug := range slugs {
		if !slug.IsDir() {
			continue
		}
		names, err := os.ReadDir(filepath.Join(s.dir, slug.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if name.IsDir() || strings.HasPrefix(name.Name(), ".") {
				continue
			}
			raw, err := os.ReadFile(filepath.Join(s.dir, slug.Name(), name.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue // a mirror is running
			}
			if err != nil {
				t.Fatal(err)
			}
			e, err := Decode(raw)
			if err != nil || e.Name() != name.Name() || e.Deployment != slug.Name() {
				t.Fatalf("%s/%s: %+v, %v", slug.Name(), name.Name(), e, err)
			}
			out = append(out, fmt.Sprintf("%s %s %d", e.Deployment, e.DeliveryID, e.Attempt))
		}
	}
	return out
}

func (s *site) expectFiles(t rapid.TB, want ...string) {
	t.Helper()
	if got := s.files(t); !slices.Equal(got, want) {
		t.Fatalf("queues hold\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// work ends the first entry of a queue, as a worker does: event, then file.
func (s *site) work(t rapid.TB, slug string) {
	t.Helper()
	q, entry := s.first(t, slug)
	raw, err := q.Read(entry)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	s.append(t, deployed(e.DeliveryID, slug, e.Attempt))
	if err := q.Remove(entry); err != nil { // the mirror may have been faster
		t.Fatal(err)
	}
}

func (s *site) first(t rapid.TB, slug string) (*queue.Queue, queue.Entry) {
	t.Helper()
	q, err := s.open(slug)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := q.List()
	if err != nil || len(entries) == 0 {
		t.Fatalf("list %s: %v, %v", slug, entries, err)
	}
	return q, entries[0]
}

func quarantined(t rapid.TB, s *site, slug string) []string {
	t.Helper()
	q, err := s.open(slug)
	if err != nil {
		t.Fatal(err)
	}
	names, err := q.Quarantined()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// scriptedLog is a log with events of the test's own.
type scriptedLog struct {
	Log
	head    func() int64
	batches [][]eventlog.Event
	begun   func(batch int)
	find    func(f eventlog.Filter)
}

func (l *scriptedLog) Head(ctx context.Context) (int64, error) {
	if l.head != nil {
		return l.head(), nil
	}
	return l.Log.Head(ctx)
}

func (l *scriptedLog) Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error] {
	if l.find != nil {
		l.find(f)
	}
	return l.Log.Find(ctx, f)
}

func (l *scriptedLog) Follow(ctx context.Context, after int64, apply func(context.Context, []eventlog.Event) error) error {
	if l.batches == nil {
		return l.Log.Follow(ctx, after, apply)
	}
	for i, events := range l.batches {
		if l.begun != nil {
			l.begun(i)
		}
		if err := apply(ctx, events); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}
