package materializer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// Log is what the materializer needs of the event log.
type Log interface {
	Head(ctx context.Context) (int64, error)
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
	Follow(ctx context.Context, after int64, apply func(ctx context.Context, events []eventlog.Event) error) error
}

// Options configure a Materializer. All but Slugs and Logger are required.
type Options struct {
	Instance string
	// QueuesDir is the directory that holds one directory a queue.
	QueuesDir string
	// OpenQueue returns the queue of a deployment, which stands at
	// QueuesDir/slug, made if missing. It is called often, with valid slugs only,
	// and also for deployments that are not configured any more. It keeps what it
	// opened and closes it after Run; where it returns the same *queue.Queue that
	// the worker watches, the worker is woken at once.
	OpenQueue func(slug string) (*queue.Queue, error)
	// Slugs are the configured deployments. A missing directory of one of them
	// is taken for a lost one.
	Slugs []string
	Log   Log
	// Pool is where the checkpoint is kept.
	Pool   *pgxpool.Pool
	Logger *slog.Logger
}

// Materializer writes the queues of one instance. Create it with New.
type Materializer struct {
	o        Options
	position atomic.Int64
	saved    int64 // only Run's goroutine uses it
}

const (
	// marker is the hidden file that says that the directory holds everything up
	// to the checkpoint. It goes where the directory goes, so a directory that
	// was deleted (and perhaps made again, empty) is noticed.
	marker = ".materialized"

	// saveEvery is how many events without an assignment may pass before the
	// checkpoint is moved: reading them again costs little.
	saveEvery = 256

	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
	// saveTimeout bounds the wait for a checkpoint, which may lag without harm.
	saveTimeout = 2 * time.Second
)

// errIncomplete says that a queue's directory is not the one that was written to.
var errIncomplete = errors.New("the queue's directory was lost")

// New returns a Materializer that has not started.
func New(o Options) *Materializer {
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Materializer{o: o}
}

// Position is the newest position whose files are durable, 0 before Run has
// found out.
func (m *Materializer) Position() int64 { return m.position.Load() }

// Run follows the log until ctx ends, and then returns nil. Errors of the disk
// and of the database are retried with a growing pause. A hole in the log or an
// event that this binary does not know ends it with that error.
func (m *Materializer) Run(ctx context.Context) error {
	defer m.flush(ctx)
	backoff := firstBackoff
	for ready, incomplete := false, false; ; {
		before := m.Position()
		err := m.follow(ctx, ready, incomplete)
		if ctx.Err() != nil {
			return nil
		}
		var hole *eventlog.HoleError
		var unknown *eventlog.UnknownEventError
		if errors.As(err, &hole) || errors.As(err, &unknown) {
			return fmt.Errorf("materialize the queues: %w", err)
		}
		incomplete = errors.Is(err, errIncomplete)
		ready = m.Position() > 0 && !incomplete
		if m.Position() > before {
			backoff = firstBackoff
		}
		m.o.Logger.Warn("materializing paused", "error", err, "retry_in", backoff, "position", m.Position())
		t := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// follow makes sure, unless ready, that the directories hold everything up to
// the checkpoint, and then applies what comes after it.
func (m *Materializer) follow(ctx context.Context, ready, incomplete bool) error {
	if !ready {
		if err := m.begin(ctx, incomplete); err != nil {
			return err
		}
	}
	return m.o.Log.Follow(ctx, m.Position(), m.apply)
}

// begin finds the position to follow from. There is one recovery: Rebuild.
func (m *Materializer) begin(ctx context.Context, incomplete bool) error {
	stored, found, err := loadCheckpoint(ctx, m.o.Pool, m.o.Instance)
	if err != nil {
		return err
	}
	head, err := m.o.Log.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the head of the log: %w", err)
	}
	why := ""
	switch lost := m.lost(); {
	case !found:
		why = "no checkpoint"
	case stored > head:
		why = "the checkpoint is beyond the log, which was restored from an older copy"
	case incomplete:
		why = errIncomplete.Error()
	case lost != "":
		why = "no queue directory that is known to be complete for " + lost
	}
	if why == "" {
		m.position.Store(stored)
		m.saved = stored
		return nil
	}
	m.o.Logger.Info("rebuilding the queues of the deployments", "because", why)
	head, err = m.rebuild(ctx)
	if err != nil {
		return err
	}
	m.position.Store(head)
	m.saved = head
	return nil
}

// lost names a deployment whose directory does not hold what it should.
func (m *Materializer) lost() string {
	slugs, err := m.slugs()
	if err != nil {
		return "any deployment" // unreadable: the rebuild names the error
	}
	for _, slug := range slugs {
		if !m.marked(slug) {
			return slug
		}
	}
	return ""
}

// apply writes the files of a batch of events, in order, and then moves the
// checkpoint.
func (m *Materializer) apply(ctx context.Context, events []eventlog.Event) error {
	if len(events) == 0 {
		return nil
	}
	ended := map[run]int{}
	for _, e := range events {
		if r, attempt, ends := endOf(e); ends && e.Instance == m.o.Instance {
			ended[r] = max(ended[r], attempt)
		}
	}
	wrote := false
	for _, e := range events {
		if e.Instance != m.o.Instance {
			continue
		}
		if !known(e.Type) {
			return &eventlog.UnknownEventError{Position: e.Position, Type: e.Type}
		}
		entries, err := entriesOf(e)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if ended[entry.run()] >= entry.Attempt {
				continue // catching up: that work is done
			}
			if err := m.put(ctx, entry); err != nil {
				return err
			}
			wrote = true
		}
	}
	position := events[len(events)-1].Position
	m.position.Store(position)
	if wrote || position-m.saved >= saveEvery {
		m.save(ctx, position)
	}
	return nil
}

// put makes one entry's file durable in the queue of its deployment. It does
// so for deployments that are not configured any more, too: the log says that
// the work is owed, ls shows it, and it is done should the deployment come back.
func (m *Materializer) put(ctx context.Context, e Entry) error {
	if err := e.check(); err != nil {
		// No directory can have that name, and nothing of ours writes it. One such
		// event must not stop the others; verify reports that its file is missing.
		m.o.Logger.Error("an assignment of the log cannot be queued", "position", e.Position, "error", err)
		return nil
	}
	if !m.marked(e.Deployment) {
		return fmt.Errorf("queue of %s: %w", e.Deployment, errIncomplete)
	}
	q, err := m.open(e.Deployment)
	if err != nil {
		return err
	}
	return m.write(ctx, q, e)
}

func (m *Materializer) open(slug string) (*queue.Queue, error) {
	q, err := m.o.OpenQueue(slug)
	if err != nil {
		return nil, fmt.Errorf("open the queue of %s: %w", slug, err)
	}
	return q, nil
}

// write puts the entry into q, or, where the directory that q has open was
// deleted, into a new one in its place: one lost directory must not stop the
// other deployments.
func (m *Materializer) write(ctx context.Context, q *queue.Queue, e Entry) error {
	err := putEntry(ctx, q, e)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.o.Logger.Error("the directory of a queue was deleted; it is made again, but its worker sees that only after a restart",
		"deployment", e.Deployment, "error", err)
	fresh, err := queue.Open(filepath.Join(m.o.QueuesDir, e.Deployment), m.o.Logger)
	if err != nil {
		return fmt.Errorf("open the queue of %s: %w", e.Deployment, err)
	}
	return errors.Join(putEntry(ctx, fresh, e), fresh.Close())
}

func putEntry(ctx context.Context, q *queue.Queue, e Entry) error {
	id, err := ulid.ParseStrict(e.EventID)
	if err != nil {
		return fmt.Errorf("queue entry: %q is not an event ID: %w", e.EventID, err)
	}
	content, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = q.PutAs(ctx, id, e.DeliveryID, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	if err != nil {
		return fmt.Errorf("queue %s for %s: %w", e.Name(), e.Deployment, err)
	}
	return nil
}

func (m *Materializer) markerPath(slug string) string {
	return filepath.Join(m.o.QueuesDir, slug, marker)
}

func (m *Materializer) marked(slug string) bool {
	_, err := os.Lstat(m.markerPath(slug))
	return err == nil
}

func (m *Materializer) mark(slug string) error {
	// Made here where the directory was deleted while its queue was open.
	if err := os.MkdirAll(filepath.Join(m.o.QueuesDir, slug), 0o750); err != nil {
		return fmt.Errorf("mark the queue of %s as complete: %w", slug, err)
	}
	f, err := os.OpenFile(m.markerPath(slug), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark the queue of %s as complete: %w", slug, err)
	}
	return f.Close()
}

// save moves the checkpoint to position. It may fail: what lies behind it is
// then applied once more, which changes nothing.
func (m *Materializer) save(ctx context.Context, position int64) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	if err := advanceCheckpoint(ctx, m.o.Pool, m.o.Instance, position); err != nil {
		m.o.Logger.Debug("checkpoint not moved", "position", position, "error", err)
		return
	}
	m.saved = position
}

func (m *Materializer) flush(ctx context.Context) {
	if position := m.Position(); position > m.saved {
		m.save(context.WithoutCancel(ctx), position)
	}
}
