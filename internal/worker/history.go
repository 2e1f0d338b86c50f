package worker

import (
	"context"
	"fmt"
	"slices"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/projections"
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
	// liveDelivery is the one that put it there.
	liveDelivery string
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

// recent is how many of the newest run events tell all that a start must know but
// what is live: an interrupted attempt has two.
const recent = 2*maxInterruptions + 2

// catchUp folds what has happened since. The first time it reads only the newest
// events, however long the log is.
func (h *history) catchUp(ctx context.Context, log Log, instance, slug string) error {
	of := eventlog.Filter{Instance: instance, Deployment: slug, After: h.position, Types: eventlog.RunTypes()}
	if h.position == 0 {
		of.Newest, of.Limit = true, recent
		live := of
		live.Types, live.Limit = []eventlog.Type{eventlog.TypeDeployed}, 1
		if err := h.fold(ctx, log, live); err != nil {
			return err
		}
		h.position = 0
	}
	return h.fold(ctx, log, of)
}

func (h *history) fold(ctx context.Context, log Log, of eventlog.Filter) error {
	for e, err := range log.Find(ctx, of) {
		if err != nil {
			return fmt.Errorf("read the history of %s: %w", of.Deployment, err)
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
		h.liveDelivery = e.DeliveryID
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

// order is what the log says of the assignment that a queue entry is made of.
type order struct {
	// known says that the log holds it.
	known bool
	// newest is its newest attempt; the order has ended when that is not open.
	newest projections.Attempt
	// next is the number of the run that it gets now.
	next int
	// other is the instance that ordered it, where that is not this one.
	other string
}

func (w *Worker) order(ctx context.Context, job mirror.Entry, waits func(mirror.Entry, int64) bool) (order, error) {
	if waits != nil && waits(job, max(w.seen.position, w.voided)) {
		return order{known: true, next: job.Attempt, newest: projections.Attempt{Outcome: projections.OutcomeWaiting}}, nil
	}
	var o order
	position, highest := int64(0), 0
	slug, state := w.o.Deployment.Slug, projections.NewState()
	for e, err := range w.o.Log.Find(ctx, eventlog.Filter{Instance: w.o.Instance, DeliveryID: job.DeliveryID}) {
		if err != nil {
			return o, fmt.Errorf("read the events of delivery %s: %w", job.DeliveryID, err)
		}
		if err := state.Apply(&e); err != nil {
			return o, err
		}
		if e.ID != job.EventID {
			continue
		}
		assignments, err := e.Assignments()
		if err != nil {
			return o, err
		}
		o.known, position = slices.Contains(assignments, job.Assignment), e.Position
	}
	if !o.known {
		others, err := mirror.Others(ctx, w.o.Log, w.o.Instance, []string{job.DeliveryID})
		if err != nil {
			return o, err
		}
		o.other = others[job.EventID]
	}
	o.newest, _ = state.Newest(w.o.Instance, job.DeliveryID, slug, position)
	for _, a := range state.Attempts(w.o.Instance) {
		if a.Deployment == slug {
			highest = max(highest, a.Attempt)
		}
	}
	o.next = o.newest.Attempt
	if o.newest.StartedPosition != 0 { // interrupted: it goes on as a new attempt
		o.next = highest + 1
	}
	return o, nil
}
