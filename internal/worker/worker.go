// Package worker runs one deployment: it takes the deployment's queue in order,
// under the deployment's lock, decides whether an assignment still makes sense,
// runs the handler's plan, and records what happened. It alone appends
// `started`, `deployed`, `failed` and `interrupted`.
//
// The order of its effects is the crash story: `started` is committed before
// the first step runs; the result is durable in a file beside the run log
// before it is appended; the queue file goes only after the end is committed.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// Queue is the part of a queue's watcher that the worker uses.
type Queue interface {
	Next(ctx context.Context, max int) ([]queue.Entry, error)
	Err() error
	Pending() []queue.Entry
	Done(e queue.Entry) error
	Quarantine(e queue.Entry, reason error) error
	// Rest keeps Next from returning the entry for a while, longer each time.
	Rest(e queue.Entry) (pause time.Duration, again bool)
}

// Files reads the content of queue entries.
type Files interface {
	Read(e queue.Entry) ([]byte, error)
}

// Log is the part of the event log that the worker uses.
type Log interface {
	Append(ctx context.Context, g eventlog.Group) ([]eventlog.Event, error)
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
}

// Locker excludes other workers of the same deployment, in this and in other
// processes. held ends, with a cause, when the lock is lost.
type Locker interface {
	Acquire(ctx context.Context, name string) (held context.Context, release func() error, err error)
}

// Repository answers what the stale check asks about the deployment's clone.
// None of its methods touches the working tree.
type Repository interface {
	// Knows says whether the clone has the commit and everything that led to it;
	// without a clone it does not.
	Knows(ctx context.Context, commit string) (bool, error)
	// FetchHistory makes the commit known with everything that led to it, by
	// cloning where there is no clone. out gets what git says.
	FetchHistory(ctx context.Context, branch, commit string, out io.Writer) error
	// IsAncestor compares with a commit that is known; one that is not is no
	// ancestor of it.
	IsAncestor(ctx context.Context, ancestor, of string) (bool, error)
	// Kin says which of the others led to a commit that is known, and which came from
	// it; unknown are those that are to be made known first.
	Kin(ctx context.Context, commit string, others []string) (before, after, unknown map[string]bool, err error)
	// TipAfter is the commit that the branch points to at the remote now, after a
	// push that moved it away from before; empty where the remote has no such branch.
	TipAfter(ctx context.Context, branch, before string, out io.Writer) (string, error)
}

// Deployment is the worker's view of one deployment's configuration.
type Deployment struct {
	Slug       string
	Repository string
	Path       string
	Enabled    bool
	// LatestOnly is pending = "latest": what waits behind a newer push is superseded.
	LatestOnly bool
	// RetryInterrupted is on_interrupt = "retry".
	RetryInterrupted bool
	// Restore is on_failure = "rollback": where a run fails, what was live before is run again.
	Restore bool
	// Nice is added to the niceness of the steps.
	Nice int
	// Timeout bounds a whole run and the questions before it; 0 means no bound.
	Timeout time.Duration
}

// Control tells what people have asked for: see mirror.Mirror.
type Control interface {
	// Holds are the newest freeze and pin of a deployment; ok is false where the log
	// was not read yet.
	Holds(slug string) (frozen, pinned *projections.Hold, ok bool)
	// Attempt is one that is open; it says whether it was canceled.
	Attempt(deliveryID, slug string, n int) (projections.Attempt, bool)
}

// Options are a worker's parts. All are required unless a default is named.
type Options struct {
	Instance   string
	Host       string
	Deployment Deployment
	Handler    handlers.Handler
	Repository Repository
	Queue      Queue
	Files      Files
	Log        Log
	Locker     Locker
	// Slots are those of all workers of the process; nil is no bound.
	Slots *Slots
	// Waits says whether the order is known, from the log as far as the position at
	// least, to wait for its first run; see mirror.Mirror. Where it says no, and where
	// it is nil, the log is asked.
	Waits func(e mirror.Entry, position int64) bool
	// Control may be nil: then nobody asks for anything.
	Control Control
	// RunsDir is {state_dir}/runs; the worker makes its own folder in it.
	RunsDir string
	// Secrets are masked in run logs and output tails.
	Secrets []string
	// As is with whose rights programs run.
	As handlers.As
	// Vars are configured variables, NAME=value, for git and the steps.
	Vars []string
	// SearchPaths are looked at for programs before PATH.
	SearchPaths []string
	// Resumer tells of runs that were handed over to this process; nil where none are.
	Resumer handlers.Resumer
	// Root does for steps what only root may; nil where nothing does.
	Root handlers.Root
	// Limit bounds what the programs of the run that begins may use; nil where nothing is
	// bounded. On an error nothing is in this run, which goes on.
	Limit func() (handlers.Limits, error)
	// DrainGrace is how long a run may go on once Run's context ended (default 10 s).
	DrainGrace time.Duration
	// StepGrace is the time between TERM and KILL (default 5 s).
	StepGrace time.Duration
	// Idle, if not nil, is called after a run when nothing waits. Its context ends when
	// something comes, which waits until it returns.
	Idle   func(ctx context.Context)
	Logger *slog.Logger
}

// Worker runs one deployment. Create it with New, start it with Run, once.
type Worker struct {
	o    Options
	runs string
	seen history
	// current says that seen holds all that this process knows of; what another one
	// has run since refuses the next append.
	current bool
	// voided is the position of the newest void that this worker has recorded.
	voided int64
	// running is true from before `started` is appended until the run has ended.
	running atomic.Bool
	ran     bool // since Idle was called
	// overriding is the entry that was taken last although the deployment is frozen.
	overriding string
	left       handlers.Leftovers
	// resultGrace bounds the wait for the database at shutdown: the result is in
	// a file by then, and the next start appends it.
	resultGrace time.Duration
}

// New returns a worker that has not started.
func New(o Options) *Worker {
	if o.DrainGrace == 0 {
		o.DrainGrace = 10 * time.Second
	}
	if o.StepGrace == 0 {
		o.StepGrace = 5 * time.Second
	}
	o.Logger = o.Logger.With("deployment", o.Deployment.Slug)
	return &Worker{o: o, runs: filepath.Join(o.RunsDir, o.Deployment.Slug), resultGrace: 10 * time.Second}
}

// Run works until ctx ends, then lets a running deploy finish within
// DrainGrace and returns nil. Errors of one entry or of the database are
// retried; Run returns early only when its folder of run logs cannot be made, or
// with queue.ErrReplaced when the directory of the queue was taken away.
func (w *Worker) Run(ctx context.Context) error {
	defer w.left.Close()
	if err := os.MkdirAll(w.runs, 0o750); err != nil {
		return fmt.Errorf("make the folder of run logs: %w", err)
	}
	// Runs that a crash left open are ended before anything waits for new work, so
	// that nothing is reported as running that is not.
	if !w.outage("recover").Until(ctx, func() error { return w.locked(ctx, w.sweepResults) }) {
		return nil
	}
	for {
		stop := w.idle(ctx)
		entries, err := w.o.Queue.Next(ctx, 1)
		stop()
		if err == nil {
			entries[0], err = w.thawed(ctx, entries[0])
		}
		if ctx.Err() != nil || errors.Is(err, queue.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("take the next entry: %w", err)
		}
		if !w.outage("work on "+entries[0].Name).Until(ctx, func() error { return w.take(ctx, entries[0]) }) {
			return nil
		}
	}
}

// idle calls Idle, if there was a run since it last did and nothing waits, and stops it.
func (w *Worker) idle(ctx context.Context) (stop func()) {
	if w.o.Idle == nil || !w.ran || len(w.o.Queue.Pending()) > 0 {
		return func() {}
	}
	w.ran = false
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.o.Idle(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// errTakenOver says that another worker has recorded something of this
// deployment's runs since our history was read, which must be read again.
var errTakenOver = errors.New("another worker has taken over")

// outdated says that another worker has gone on since the history was read.
func outdated(err error) bool {
	var conflict *eventlog.ConflictError
	return errors.Is(err, eventlog.ErrFenced) || errors.As(err, &conflict)
}

// outage is told of as what cannot be done for now.
func (w *Worker) outage(doing string) *retry.Outage {
	return retry.New(w.o.Logger.With("doing", doing), slog.LevelWarn, "will try again")
}

// locked runs f with the deployment's lock held, on a history in which no earlier
// run is open. It is read again only after an error: where another worker has gone
// on since, the fence refuses what f appends.
func (w *Worker) locked(ctx context.Context, f func(held context.Context) error) (err error) {
	// The end of ctx gives up the wait for the lock and all that reads the log,
	// but a run that has begun outlasts it: runContext drains it.
	hold, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !w.running.Load() {
			cancel()
		}
	})()
	held, release, err := w.o.Locker.Acquire(hold, w.o.Deployment.Slug)
	if err != nil {
		return fmt.Errorf("acquire the lock of %s: %w", w.o.Deployment.Slug, err)
	}
	defer func() {
		if rerr := release(); rerr != nil {
			w.o.Logger.Warn("release the lock", "error", rerr)
		}
	}()
	if !w.current {
		if err := w.seen.catchUp(held, w.o.Log, w.o.Instance, w.o.Deployment.Slug); err != nil {
			return err
		}
		w.current = true
	}
	defer func() { w.current = w.current && err == nil }()
	if w.seen.open != nil {
		if err := w.endOpenRun(held); err != nil {
			return err
		}
	}
	if w.o.Resumer != nil {
		w.o.Resumer.Settle()
	}
	return f(held)
}

// take brings one queue entry to its end. nil means that the entry is dealt
// with (or rests for the next start, when ctx ended); an error means try again.
func (w *Worker) take(ctx context.Context, e queue.Entry) error {
	raw, err := w.o.Files.Read(e)
	switch {
	case errors.Is(err, queue.ErrGone):
		return w.done(e)
	case errors.Is(err, queue.ErrUnreadable):
		return w.quarantine(e, err)
	case err != nil:
		return w.rest(e, err)
	}
	job, err := mirror.Decode(raw)
	if err != nil {
		return w.quarantine(e, err)
	}
	if job.Deployment != w.o.Deployment.Slug || job.Name() != e.Name {
		return w.quarantine(e, fmt.Errorf("it holds the entry %s of deployment %s", job.Name(), job.Deployment))
	}
	decide := func(waits func(mirror.Entry, int64) bool) error {
		return w.locked(ctx, func(held context.Context) error {
			if w.o.Slots != nil { // not before the lock, which another host may hold for long
				release, err := w.o.Slots.acquire(held, w.o.Deployment.Slug, w.o.Deployment.Repository)
				if err != nil {
					return err
				}
				defer release()
			}
			return w.decide(ctx, held, e, job, waits)
		})
	}
	if err = decide(w.o.Waits); outdated(err) {
		err = decide(nil) // on what the log says now
	}
	var unknown *eventlog.UnknownEventError
	switch {
	case eventlog.Refused(err) && !errors.Is(err, errRefused):
		return w.quarantine(e, err) // it never will be recorded, and others wait
	case errors.As(err, &unknown):
		return w.rest(e, err) // for a newer binary
	}
	return err
}

func (w *Worker) quarantine(e queue.Entry, reason error) error {
	w.o.Logger.Error("queue entry moved to quarantine", "entry", e.Name, "error", reason)
	if err := w.o.Queue.Quarantine(e, reason); err != nil {
		return w.rest(e, err)
	}
	return nil
}

func (w *Worker) done(e queue.Entry) error {
	if err := w.o.Queue.Done(e); err != nil {
		return w.rest(e, err)
	}
	return nil
}

// rest leaves an entry where it is, because what keeps it from being dealt with
// may pass, and goes on with the others.
func (w *Worker) rest(e queue.Entry, why error) error {
	if pause, again := w.o.Queue.Rest(e); !again {
		w.o.Logger.Warn("cannot handle an entry for now; it is tried again with growing pauses, and the others go on",
			"entry", e.Name, "retry_in", pause, "error", why)
	}
	return nil
}

// logPath is the path of an attempt's run log; the other files of the attempt
// stand beside it.
func (w *Worker) logPath(deliveryID string, attempt int) string {
	return filepath.Join(w.runs, handlers.RunLogName(deliveryID, attempt))
}

func (w *Worker) transition(deliveryID string, attempt int, actor string, d eventlog.Data) eventlog.Transition {
	return eventlog.Transition{
		Instance: w.o.Instance, DeliveryID: deliveryID, Deployment: w.o.Deployment.Slug,
		Attempt: attempt, Actor: actor, Data: d,
	}
}
