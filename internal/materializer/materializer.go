package materializer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
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
	// Slugs are the configured deployments.
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
	// broken are the queues that could not be made equal to the log. The others go
	// on meanwhile. Only Run's goroutine uses it.
	broken map[string]*retry.Outage
	// pause is how long to wait before they are tried again.
	pause time.Duration
	// setAside are the entries in quarantine that were seen: what is still open was
	// written again once.
	setAside map[string]bool
	// look is how often the quarantines are looked at (default 30 s).
	look time.Duration
}

const (
	// marker is the hidden file that says that the directory is the one that was
	// made equal to the log. It goes where the directory goes, so a directory that
	// is deleted while we run (and perhaps made again, empty) is noticed.
	marker = ".materialized"

	// saveEvery is how many events without an assignment may pass before the
	// checkpoint is moved: reading them again costs little.
	saveEvery = 256

	// saveTimeout bounds the wait for a checkpoint, which may lag without harm.
	saveTimeout = 2 * time.Second
)

// errLog says that the log could not be read, which is no fault of a queue.
var errLog = errors.New("read the log")

// errLook says that it is time to look at the directories again.
var errLook = errors.New("time to look at the queues")

// errIncomplete says that a queue's directory is not the one that was written to.
var errIncomplete = errors.New("the queue's directory was lost")

// New returns a Materializer that has not started.
func New(o Options) *Materializer {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Materializer{o: o, broken: map[string]*retry.Outage{}, setAside: map[string]bool{}, look: 30 * time.Second}
}

// Position is the newest position whose files are durable, 0 before Run has
// found out.
func (m *Materializer) Position() int64 { return m.position.Load() }

// Run follows the log until ctx ends, and then returns nil. Errors of the disk
// and of the database are retried with a growing pause; those of one queue do not
// hold up the others. A hole in the log or an
// event that this binary does not know ends it with that error.
func (m *Materializer) Run(ctx context.Context) error {
	defer m.flush(ctx)
	outage := retry.New(m.o.Logger, slog.LevelWarn, "materializing paused")
	for ready := false; ; {
		var err error
		if !ready {
			if err = m.begin(ctx); err == nil {
				ready = true
				outage.Over()
			}
		}
		if ready {
			err = m.follow(ctx, outage)
			ready = !errors.Is(err, errIncomplete)
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errLook) {
			ready = len(m.broken) == 0 && !m.moreSetAside()
			continue
		}
		var hole *eventlog.HoleError
		var unknown *eventlog.UnknownEventError
		if errors.As(err, &hole) || errors.As(err, &unknown) || errors.Is(err, eventlog.ErrClosed) {
			return fmt.Errorf("materialize the queues: %w", err)
		}
		retry.Sleep(ctx, outage.Failed(err))
	}
}

// follow applies what comes, until it is time to look at the directories again.
func (m *Materializer) follow(ctx context.Context, outage *retry.Outage) error {
	wait := m.look
	if len(m.broken) > 0 {
		wait = m.pause
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errLook)
	defer cancel()
	err := m.o.Log.Follow(ctx, m.Position(), func(ctx context.Context, events []eventlog.Event) error {
		err := m.apply(ctx, events)
		if err == nil {
			outage.Over()
		}
		return err
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// settle notes whether a queue is as it should be. It returns the error that
// must hold up the others, too.
func (m *Materializer) settle(ctx context.Context, slug string, err error) error {
	outage := m.broken[slug]
	switch {
	case ctx.Err() != nil, errors.Is(err, errLog):
		return err
	case err == nil && outage == nil:
		return nil
	case err == nil:
		outage.Over()
		delete(m.broken, slug)
		return nil
	case outage == nil:
		outage = retry.New(m.o.Logger.With("deployment", slug), slog.LevelError, "a queue cannot be written for now; the others go on")
		m.broken[slug] = outage
	}
	m.pause = max(m.pause, outage.Failed(err))
	return nil
}

// moreSetAside says whether an entry was moved to quarantine that was not there
// before: the log may still owe its run.
func (m *Materializer) moreSetAside() bool {
	more := false
	slugs, _ := m.slugs() // what cannot be read is told of by the rebuild
	for _, slug := range slugs {
		files, _ := os.ReadDir(filepath.Join(m.o.QueuesDir, slug, queue.QuarantineDir))
		for _, f := range files {
			name := slug + "/" + f.Name()
			if _, err := queue.ParseName(f.Name()); err == nil && !m.setAside[name] {
				m.setAside[name], more = true, true
			}
		}
	}
	return more
}

// begin makes the directories equal to the log and finds the position to follow
// from. There is one way to recover, whatever was lost: it is the ordinary start.
func (m *Materializer) begin(ctx context.Context) error {
	head, err := m.rebuild(ctx)
	if err != nil {
		return err
	}
	m.moreSetAside()
	m.position.Store(head)
	m.saved = head
	return nil
}

// apply writes the files of a batch of events, in order, and then moves the
// checkpoint.
func (m *Materializer) apply(ctx context.Context, events []eventlog.Event) error {
	if len(events) == 0 {
		return nil
	}
	ended := map[run]bool{}
	for _, e := range events {
		if r, ends := endOf(e); ends && e.Instance == m.o.Instance {
			ended[r] = true
		}
	}
	wrote := false
	for _, e := range events {
		if e.Instance != m.o.Instance {
			continue
		}
		if !eventlog.Known(e.Type) {
			return &eventlog.UnknownEventError{Position: e.Position, Type: e.Type}
		}
		entries, err := entriesOf(e)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if ended[entry.run()] {
				continue // catching up: that work is done
			}
			if m.broken[entry.Deployment] != nil {
				continue // it is made equal to the log as a whole, once that can be done
			}
			err := m.put(ctx, entry)
			if errors.Is(err, errIncomplete) {
				return err
			}
			if err := m.settle(ctx, entry.Deployment, err); err != nil {
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
		m.unqueueable(e, err)
		return nil
	}
	if !m.marked(e.Deployment) {
		return fmt.Errorf("queue of %s: %w", e.Deployment, errIncomplete)
	}
	return m.with(e.Deployment, func(q *queue.Queue) error { return write(ctx, q, e) })
}

// unqueueable reports an assignment that no file can hold; nothing of ours makes
// one. It must not stop the others, and verify finds its file missing.
func (m *Materializer) unqueueable(e Entry, why error) {
	m.o.Logger.Error("an assignment of the log cannot be queued", "position", e.Position, "error", why)
}

// save moves the checkpoint to position. It may fail: what lies behind it is
// then applied once more, which changes nothing.
func (m *Materializer) save(ctx context.Context, position int64) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	place, err := readPlace(m.o.QueuesDir)
	if err == nil && place == "" {
		return // the directory was lost: the next start rebuilds
	}
	if err == nil {
		err = advanceCheckpoint(ctx, m.o.Pool, key{m.o.Instance, place}, position)
	}
	if err != nil {
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
