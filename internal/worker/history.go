package worker

import (
	"context"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/materializer"
)

// history is what a worker needs to know of its deployment's past: a fold of
// the log, caught up each time the lock is taken, because another process may
// have held the lock in between.
type history struct {
	// position is that of the newest event folded. Only the types that a fence
	// counts are, so that it is the fence of the next start.
	position int64
	open     *run // a `started` without an end
	live     string
	// interruptions counts interrupted runs in a row of one delivery, so that a
	// deploy that takes the daemon down with it is not retried for ever.
	interruptions int
	interrupted   string
}

// run is one `started` as found in the log.
type run struct {
	position   int64
	deliveryID string
	attempt    int
	actor      string
	started    eventlog.Started
}

func (h *history) catchUp(ctx context.Context, log Log, instance, slug string) error {
	filter := eventlog.Filter{
		Instance: instance, Deployment: slug, After: h.position,
		Types: []eventlog.Type{
			eventlog.TypeStarted, eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeInterrupted,
		},
	}
	for e, err := range log.Find(ctx, filter) {
		if err != nil {
			return fmt.Errorf("read the history of %s: %w", slug, err)
		}
		if err := h.apply(e); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) apply(e eventlog.Event) error {
	if e.Position <= h.position {
		return nil // what an append returned was read back already
	}
	data, err := e.Decode()
	if err != nil {
		return err
	}
	switch d := data.(type) {
	case eventlog.Started:
		h.open = &run{position: e.Position, deliveryID: e.DeliveryID, attempt: e.Attempt, actor: e.Actor, started: d}
	case eventlog.Deployed:
		h.open, h.live, h.interruptions = nil, d.Commit, 0
	case eventlog.Failed:
		h.open, h.interruptions = nil, 0
	case eventlog.Interrupted:
		if h.interrupted != e.DeliveryID {
			h.interrupted, h.interruptions = e.DeliveryID, 0
		}
		h.open = nil
		h.interruptions++
	}
	h.position = e.Position
	return nil
}

// attempts is what the log says of one delivery's runs at one deployment.
type attempts struct {
	newest  int // highest attempt that is assigned or was run
	started int // highest attempt that was started
	ended   int // highest attempt with an end
	// ordered says that the log holds the order that a queue entry is made of.
	ordered bool
}

func (w *Worker) attempts(ctx context.Context, job materializer.Entry) (attempts, error) {
	var a attempts
	slug := w.o.Deployment.Slug
	for e, err := range w.o.Log.Find(ctx, eventlog.Filter{Instance: w.o.Instance, DeliveryID: job.DeliveryID}) {
		if err != nil {
			return a, fmt.Errorf("read the events of delivery %s: %w", job.DeliveryID, err)
		}
		orders, err := e.Assignments()
		if err != nil {
			return a, err
		}
		for _, o := range orders {
			if o.Deployment == slug {
				a.newest = max(a.newest, o.Attempt)
				a.ordered = a.ordered || e.ID == job.EventID && o == job.Assignment
			}
		}
		if e.DeploymentSlug() != slug {
			continue
		}
		switch e.Type {
		case eventlog.TypeStarted:
			a.started = max(a.started, e.Attempt)
		case eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeVoided:
			a.ended = max(a.ended, e.Attempt)
		}
		a.newest = max(a.newest, e.Attempt)
	}
	return a, nil
}

// next is the attempt number of the run that an assignment gets now: its own,
// or a new one when that was started already (and interrupted).
func (a attempts) next(assigned int) int {
	if a.started >= assigned {
		return a.newest + 1
	}
	return assigned
}
