package router

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// Queue is what the router needs of the main queue; see Watch.
type Queue interface {
	// Next blocks until there is an entry and returns the first ones in order.
	// They stay pending until Done or Quarantine.
	Next(ctx context.Context, max int) ([]queue.Entry, error)
	Read(e queue.Entry) ([]byte, error)
	Open(e queue.Entry) (*os.File, error)
	Done(e queue.Entry) error
	Quarantine(e queue.Entry, reason error) error
	// Rest keeps Next from returning the entry for a while, longer each time.
	Rest(e queue.Entry) (pause time.Duration, again bool)
	// Hold keeps Next from returning the entry until Release.
	Hold(e queue.Entry)
	Release(entries ...queue.Entry)
}

// Log is what the router needs of the event log.
type Log interface {
	AppendAll(ctx context.Context, groups []eventlog.Group) ([]eventlog.Result, error)
	FindEach(ctx context.Context, filters []eventlog.Filter) ([][]eventlog.Event, error)
	Payload(ctx context.Context, digest string) (eventlog.Payload, error)
}

// Watched is a queue and a watcher of it: a Queue.
type Watched struct {
	*queue.Watcher
	files *queue.Queue
}

// Watch starts to watch q. The caller closes the result after Run has returned.
func Watch(q *queue.Queue) (*Watched, error) {
	w, err := q.Watch()
	if err != nil {
		return nil, fmt.Errorf("watch the main queue: %w", err)
	}
	return &Watched{Watcher: w, files: q}, nil
}

// Read implements Queue.
func (w *Watched) Read(e queue.Entry) ([]byte, error) { return w.files.Read(e) }

// Open implements Queue.
func (w *Watched) Open(e queue.Entry) (*os.File, error) { return w.files.Open(e) }

// Options configure a Router. All but Asked, BatchSize, BatchBytes, Large and Logger are required.
type Options struct {
	Instance string
	Queue    Queue
	Log      Log
	// Rules is asked once for each batch, so that it may follow a reload.
	Rules  func() []Rule
	Logger *slog.Logger
	// Asked, if not nil, says whether GitHub was asked to send the delivery again.
	Asked func(deliveryID string) bool
	// BatchSize bounds the deliveries that are appended in one commit (default 64).
	BatchSize int
	// BatchBytes bounds what their entries hold together, and so the memory of
	// a backlog (default 4 MiB).
	BatchBytes int
	// Large is the size from which an entry is routed beside the others (default 1 MiB).
	Large int64
}

// Router moves deliveries from the main queue into the log. Create it with New.
type Router struct {
	o Options

	mu sync.Mutex
	// conflicts counts, by entry, how often the log said otherwise.
	conflicts map[ulid.ULID]int
	aside     *aside // nil while no large entry is routed
}

const (
	defaultBatchSize  = 64
	defaultBatchBytes = 4 << 20
	defaultLarge      = 1 << 20

	// maxConflicts is how often an entry may meet a log that says otherwise: once
	// when two routers race, more only when something is wrong with it.
	maxConflicts = 3
)

// New returns a Router that has not started.
func New(o Options) *Router {
	if o.BatchSize <= 0 {
		o.BatchSize = defaultBatchSize
	}
	if o.BatchBytes <= 0 {
		o.BatchBytes = defaultBatchBytes
	}
	if o.Large <= 0 {
		o.Large = defaultLarge
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Router{o: o, conflicts: map[ulid.ULID]int{}}
}

// Run routes until ctx ends, and then returns nil. Entries that were not
// routed stay in the queue. Errors of the log and of the disk end it too, and it may be run
// again after a pause.
//
// Run twice at once on one queue is safe for the log (the loser of each race
// reads again), but has no use.
func (r *Router) Run(ctx context.Context) error {
	var large sync.WaitGroup
	defer r.release()
	defer large.Wait()
	for {
		entries, err := r.o.Queue.Next(ctx, r.o.BatchSize)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the main queue: %w", err)
		}
		if err := r.route(ctx, entries); err != nil && ctx.Err() == nil {
			return fmt.Errorf("routing paused; the deliveries wait in the queue: %w", err)
		}
		// After the batch, which may have older ones of the same repository.
		if begin := r.begin(ctx); begin != nil {
			large.Go(begin)
		}
	}
}
